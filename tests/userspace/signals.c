// Signals: dispositions, masks, delivery, siginfo, frames, queues, sigaltstack, AVX state across handlers.
#include "check.h"
#include <pthread.h>
#include <setjmp.h>
#include <sys/resource.h>
#include <ucontext.h>

static volatile int count, last;
static siginfo_t last_info;
static void plain(int s) {
    count++;
    last = s;
}
static void detailed(int s, siginfo_t *info, void *context) {
    plain(s);
    last_info = *info;
    (void)context;
}
static void handle(int s, int flags) {
    struct sigaction action = {.sa_sigaction = detailed, .sa_flags = flags | SA_SIGINFO};
    sigaction(s, &action, NULL);
}
static sigset_t set_of(int s) {
    sigset_t set;
    sigemptyset(&set);
    if (s) sigaddset(&set, s);
    return set;
}
static void block(int s) {
    sigset_t set = set_of(s);
    sigprocmask(SIG_BLOCK, &set, NULL);
}
static void unblock(int s) {
    sigset_t set = set_of(s);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
}

CASE(kill_self_runs_the_handler_before_kill_returns) {
    for (int s = 1; s <= 64; s++) {
        if (s == SIGKILL || s == SIGSTOP || s == 32 || s == 33) continue;
        handle(s, 0);
        count = 0;
        CHECK(kill(getpid(), s) == 0);
        CHECK(count == 1 && last == s);
        CHECK(last_info.si_signo == s && last_info.si_code == SI_USER && last_info.si_pid == getpid() && last_info.si_uid == getuid());
    }
}

CASE(codes_by_sender) {
    handle(SIGUSR1, 0);
    raise(SIGUSR1);
    CHECK(last_info.si_code == SI_TKILL && last_info.si_pid == getpid());
    union sigval value = {.sival_int = 1234};
    sigqueue(getpid(), SIGUSR1, value);
    CHECK(last_info.si_code == SI_QUEUE && last_info.si_value.sival_int == 1234);
    pid_t pid = CHILD({ kill(getppid(), SIGUSR1); });
    CHECK(exit_of(pid) == 0);
    CHECK(last_info.si_code == SI_USER && last_info.si_pid == pid);
}

CASE(sigchld_info) {
    handle(SIGCHLD, 0);
    pid_t pid = fork();
    if (!pid) _exit(23);
    exit_of(pid);
    CHECK(count == 1 && last_info.si_pid == pid && last_info.si_code == CLD_EXITED && last_info.si_status == 23);
    pid = fork();
    if (!pid) {
        kill(getpid(), SIGSTOP);
        _exit(0);
    }
    int status;
    waitpid(pid, &status, WUNTRACED);
    CHECK(last_info.si_code == CLD_STOPPED && last_info.si_status == SIGSTOP);
    kill(pid, SIGCONT);
    exit_of(pid);
    count = 0;
    handle(SIGCHLD, SA_NOCLDSTOP);
    pid = fork();
    if (!pid) {
        kill(getpid(), SIGSTOP);
        _exit(0);
    }
    waitpid(pid, &status, WUNTRACED);
    CHECK(count == 0);
    kill(pid, SIGCONT);
    exit_of(pid);
    CHECK(count == 1);
}

CASE(mask_and_pending) {
    handle(SIGUSR1, 0);
    block(SIGUSR1);
    kill(getpid(), SIGUSR1);
    kill(getpid(), SIGUSR1);
    CHECK(count == 0);
    sigset_t pending;
    sigpending(&pending);
    CHECK(sigismember(&pending, SIGUSR1) == 1 && sigismember(&pending, SIGUSR2) == 0);
    unblock(SIGUSR1);
    CHECK(count == 1); /* standard signals don't queue */
    sigpending(&pending);
    CHECK(sigismember(&pending, SIGUSR1) == 0);
}

CASE(real_time_signals_queue_in_order) {
    static int values[20], n;
    void record(int, siginfo_t *, void *);
    struct sigaction action = {.sa_sigaction = record, .sa_flags = SA_SIGINFO};
    (void)values, (void)n;
    sigfillset(&action.sa_mask);
    sigaction(SIGRTMIN, &action, NULL);
    sigaction(SIGRTMIN + 1, &action, NULL);
    block(SIGRTMIN);
    block(SIGRTMIN + 1);
    for (int i = 0; i < 5; i++) {
        sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = 100 + i});
        sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = i});
    }
    sigset_t both = set_of(SIGRTMIN);
    sigaddset(&both, SIGRTMIN + 1);
    sigprocmask(SIG_UNBLOCK, &both, NULL);
}
void record(int s, siginfo_t *info, void *context) {
    note("signal %d value %d", s - SIGRTMIN, info->si_value.sival_int);
    (void)context;
}

CASE(handler_masks) {
    static volatile int depth, deepest;
    void nest(int);
    struct sigaction action = {.sa_handler = nest};
    (void)depth, (void)deepest;
    sigaction(SIGUSR1, &action, NULL);
    sigset_t before, after;
    sigprocmask(SIG_BLOCK, NULL, &before);
    raise(SIGUSR1);
    sigprocmask(SIG_BLOCK, NULL, &after);
    CHECK(!memcmp(&before, &after, 8));
    CHECK(count == 2 && last == 1);
    count = 0;
    action.sa_flags = SA_NODEFER;
    sigaction(SIGUSR1, &action, NULL);
    raise(SIGUSR1);
    CHECK(count == 2 && last == 2);
}
void nest(int s) {
    static int depth;
    depth++;
    if (depth > last) last = depth;
    count++;
    if (count < 2) kill(getpid(), s);
    depth--;
}

CASE(sa_mask_blocks_others_during_the_handler) {
    void outer(int);
    struct sigaction action = {.sa_handler = outer, .sa_mask = set_of(SIGUSR2)};
    sigaction(SIGUSR1, &action, NULL);
    handle(SIGUSR2, 0);
    raise(SIGUSR1);
    CHECK(count == 1 && last == SIGUSR2);
}
void outer(int s) {
    raise(SIGUSR2);
    CHECK(count == 0);
    last = s;
}

CASE(resethand) {
    struct sigaction action = {.sa_handler = plain, .sa_flags = SA_RESETHAND};
    sigaction(SIGUSR1, &action, NULL);
    raise(SIGUSR1);
    CHECK(count == 1);
    sigaction(SIGUSR1, NULL, &action);
    CHECK(action.sa_handler == SIG_DFL);
    pid_t pid = CHILD({ raise(SIGUSR1); });
    CHECK(exit_of(pid) == 128 + SIGUSR1);
}

CASE(ignored) {
    signal(SIGUSR1, SIG_IGN);
    raise(SIGUSR1);
    block(SIGUSR1);
    raise(SIGUSR1);
    sigset_t pending;
    signal(SIGUSR1, SIG_IGN);
    sigpending(&pending);
    CHECK(!sigismember(&pending, SIGUSR1));
    handle(SIGUSR1, 0);
    unblock(SIGUSR1);
    CHECK(count == 0);
}

CASE(refused) {
    struct sigaction action = {.sa_handler = plain};
    FAILS(sigaction(SIGKILL, &action, NULL), EINVAL);
    FAILS(sigaction(SIGSTOP, &action, NULL), EINVAL);
    CHECK(syscall(SYS_rt_sigaction, SIGKILL, NULL, &action, 8) == 0);
    FAILS(syscall(SYS_rt_sigaction, 65, NULL, NULL, 8), EINVAL);
    FAILS(syscall(SYS_rt_sigaction, 0, NULL, NULL, 8), EINVAL);
    FAILS(syscall(SYS_rt_sigaction, SIGUSR1, NULL, NULL, 16), EINVAL);
    FAILS(syscall(SYS_rt_sigprocmask, 77, &action, NULL, 8), EINVAL);
    FAILS(syscall(SYS_rt_sigprocmask, SIG_BLOCK, 16, NULL, 8), EFAULT);
    FAILS(kill(getpid(), 65), EINVAL);
    FAILS(kill(getpid(), -1), EINVAL);
    FAILS(kill(999999, 0), ESRCH);
    FAILS(kill(-999999, SIGTERM), ESRCH);
    CHECK(kill(getpid(), 0) == 0);
    FAILS(syscall(SYS_tgkill, getpid(), 999999, 0), ESRCH);
    FAILS(syscall(SYS_tgkill, 1, gettid(), 0), getpid() == 1 ? 0 : ESRCH);
    FAILS(syscall(SYS_tgkill, 0, gettid(), 0), EINVAL);
    FAILS(syscall(SYS_tkill, -1, 0), EINVAL);
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    sigprocmask(SIG_BLOCK, NULL, &all);
    CHECK(!sigismember(&all, SIGKILL) && !sigismember(&all, SIGSTOP));
}

CASE(queueinfo_codes) {
    siginfo_t info = {.si_signo = SIGUSR1, .si_code = SI_USER};
    handle(SIGUSR1, 0);
    pid_t pid = CHILD({
        for (;;) pause();
    });
    FAILS(syscall(SYS_rt_sigqueueinfo, pid, SIGUSR1, &info), EPERM); /* another's, with a kernel's code */
    info.si_code = -10;
    CHECK(syscall(SYS_rt_sigqueueinfo, pid, 0, &info) == 0);
    CHECK(syscall(SYS_rt_sigqueueinfo, getpid(), SIGUSR1, &info) == 0);
    CHECK(last_info.si_code == -10);
    CHECK(syscall(SYS_rt_tgsigqueueinfo, getpid(), gettid(), SIGUSR1, &info) == 0);
    CHECK(count == 2);
    kill(pid, SIGKILL);
    reap(pid);
}

CASE(sigsuspend_swaps_the_mask) {
    handle(SIGALRM, 0);
    block(SIGALRM);
    ualarm(30000, 0);
    sigset_t none = set_of(0), seen;
    FAILS(sigsuspend(&none), EINTR);
    CHECK(count == 1);
    sigprocmask(SIG_BLOCK, NULL, &seen);
    CHECK(sigismember(&seen, SIGALRM) == 1);
    raise(SIGALRM);
    FAILS(sigsuspend(&none), EINTR);
    CHECK(count == 2);
}

CASE(pause_returns_after_a_handler) {
    handle(SIGALRM, SA_RESTART);
    ualarm(30000, 0);
    FAILS(pause(), EINTR);
    CHECK(count == 1);
}

CASE(sigtimedwait_takes_signals) {
    sigset_t set = set_of(SIGUSR1);
    sigaddset(&set, SIGRTMIN);
    sigprocmask(SIG_BLOCK, &set, NULL);
    struct timespec zero = {0, 0}, some = {0, 50000000};
    siginfo_t info;
    FAILS(sigtimedwait(&set, &info, &zero), EAGAIN);
    double start = now();
    FAILS(sigtimedwait(&set, &info, &some), EAGAIN);
    CHECK(now() - start > 0.045);
    sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = 3});
    kill(getpid(), SIGUSR1);
    CHECK(sigtimedwait(&set, &info, &some) == SIGUSR1);
    CHECK(sigwaitinfo(&set, &info) == SIGRTMIN && info.si_value.sival_int == 3);
    pid_t pid = CHILD({
        sleep_ms(40);
        kill(getppid(), SIGUSR1);
    });
    int got;
    CHECK(sigwait(&set, &got) == 0 && got == SIGUSR1);
    exit_of(pid);
    handle(SIGALRM, 0);
    ualarm(30000, 0);
    FAILS(sigwaitinfo(&set, &info), EINTR);
    some.tv_nsec = -1;
    FAILS(sigtimedwait(&set, &info, &some), EINVAL);
}

static stack_t alternate;
static volatile uintptr_t handler_stack;
static void where(int s) {
    int local;
    handler_stack = (uintptr_t)&local;
    stack_t now_stack;
    sigaltstack(NULL, &now_stack);
    last = now_stack.ss_flags;
    stack_t other = {.ss_flags = SS_DISABLE};
    if (last == SS_ONSTACK) FAILS(sigaltstack(&other, NULL), EPERM);
    (void)s;
}

CASE(alternate_stack) {
    stack_t old;
    CHECK(sigaltstack(NULL, &old) == 0 && old.ss_flags == SS_DISABLE);
    alternate = (stack_t){.ss_sp = malloc(65536), .ss_size = 65536};
    CHECK(sigaltstack(&alternate, NULL) == 0);
    struct sigaction action = {.sa_handler = where, .sa_flags = SA_ONSTACK};
    sigaction(SIGUSR1, &action, NULL);
    raise(SIGUSR1);
    CHECK(handler_stack >= (uintptr_t)alternate.ss_sp && handler_stack < (uintptr_t)alternate.ss_sp + 65536);
    CHECK(last == SS_ONSTACK);
    action.sa_flags = 0;
    sigaction(SIGUSR1, &action, NULL);
    raise(SIGUSR1);
    CHECK(!(handler_stack >= (uintptr_t)alternate.ss_sp && handler_stack < (uintptr_t)alternate.ss_sp + 65536));
    CHECK(last == 0);
    stack_t small = {.ss_sp = alternate.ss_sp, .ss_size = 100};
    FAILS(sigaltstack(&small, NULL), ENOMEM);
    small.ss_flags = 77;
    FAILS(sigaltstack(&small, NULL), EINVAL);
    IN_CHILD({
        stack_t seen;
        sigaltstack(NULL, &seen);
        CHECK(seen.ss_sp == alternate.ss_sp);
    });
}

static sigjmp_buf back;
static void escape(int s) { siglongjmp(back, s); }
__attribute__((noinline)) static int deepen(int n) {
    volatile char block[1 << 16];
    block[0] = n;
    return n < 0 ? 0 : deepen(n + 1) + block[0];
}

CASE(stack_overflow_is_caught_on_the_alternate_stack) {
    alternate = (stack_t){.ss_sp = malloc(65536), .ss_size = 65536};
    sigaltstack(&alternate, NULL);
    struct sigaction action = {.sa_handler = escape, .sa_flags = SA_ONSTACK};
    sigaction(SIGSEGV, &action, NULL);
    if (!sigsetjmp(back, 1)) {
        deepen(0);
        CHECK(!"reached");
    }
    IN_CHILD({
        struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        pid_t pid = CHILD({
            signal(SIGSEGV, plain); /* no alternate stack: no room for the frame */
            deepen(0);
        });
        CHECK(exit_of(pid) == 128 + SIGSEGV);
    });
}

static volatile long seen_registers[4];
static void change_registers(int s, siginfo_t *info, void *context) {
    ucontext_t *u = context;
    seen_registers[0] = u->uc_mcontext.gregs[REG_R12];
    seen_registers[1] = u->uc_mcontext.gregs[REG_TRAPNO];
    seen_registers[2] = u->uc_mcontext.gregs[REG_ERR];
    seen_registers[3] = u->uc_mcontext.gregs[REG_CR2];
    u->uc_mcontext.gregs[REG_R12] = 4321;
    if (s == SIGSEGV || s == SIGILL || s == SIGFPE) u->uc_mcontext.gregs[REG_RIP] += 3;
    (void)info;
}

CASE(handler_reads_and_edits_registers) {
    struct sigaction action = {.sa_sigaction = change_registers, .sa_flags = SA_SIGINFO};
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGSEGV, &action, NULL);
    long result;
    asm volatile("mov $1234, %%r12\n mov $39, %%eax\n syscall\n mov %%eax, %%edi\n mov %%eax, %%esi\n mov $10, %%edx\n mov $234, %%eax\n syscall\n mov %%r12, %0"
                 : "=r"(result)
                 :
                 : "rax", "rcx", "rdx", "rdi", "rsi", "r11", "r12", "memory");
    CHECK(seen_registers[0] == 1234 && result == 4321);
    /* mov (%rax),%rbx with a wild rax is 48 8b 18: three bytes, stepped over by the handler */
    asm volatile("mov $77, %%r12\n mov $0x123450, %%eax\n .byte 0x48, 0x8b, 0x18\n mov %%r12, %0" : "=r"(result) : : "rax", "rbx", "r12", "memory");
    CHECK(seen_registers[0] == 77 && result == 4321);
    CHECK(seen_registers[1] == 14 && (seen_registers[2] & 7) == 4 && seen_registers[3] == 0x123450);
}

static void step_over(int s, siginfo_t *info, void *context) {
    ucontext_t *u = context;
    last_info = *info;
    last = s;
    u->uc_mcontext.gregs[REG_RIP] += s == SIGILL ? 2 : s == SIGFPE ? 2 : s == SIGSEGV ? 1 : 0;
}

CASE(synchronous_faults) {
    struct sigaction action = {.sa_sigaction = step_over, .sa_flags = SA_SIGINFO};
    int all[] = {SIGILL, SIGFPE, SIGTRAP, SIGSEGV, SIGBUS};
    for (int i = 0; i < 5; i++) sigaction(all[i], &action, NULL);
    asm volatile("ud2");
    CHECK(last == SIGILL && last_info.si_code == ILL_ILLOPN && last_info.si_addr != NULL);
    asm volatile("xor %%edx, %%edx\n mov $1, %%eax\n xor %%ecx, %%ecx\n div %%ecx" : : : "rax", "rcx", "rdx");
    CHECK(last == SIGFPE && last_info.si_code == FPE_INTDIV && last_info.si_addr != NULL);
    asm volatile("int3");
    CHECK(last == SIGTRAP && last_info.si_code == SI_KERNEL);
    asm volatile("hlt");
    CHECK(last == SIGSEGV && last_info.si_code == SI_KERNEL && last_info.si_addr == NULL);
}

CASE(blocked_or_ignored_synchronous_faults_kill) {
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    pid_t pid = CHILD({
        block(SIGSEGV);
        *(volatile int *)16 = 1;
    });
    CHECK(exit_of(pid) == 128 + SIGSEGV);
    pid = CHILD({
        signal(SIGSEGV, SIG_IGN);
        *(volatile int *)16 = 1;
    });
    CHECK(exit_of(pid) == 128 + SIGSEGV);
    pid = CHILD({
        signal(SIGILL, SIG_IGN);
        asm volatile("ud2");
    });
    CHECK(exit_of(pid) == 128 + SIGILL);
}

static void clobber(int s) {
    asm volatile("pxor %%xmm0, %%xmm0\n pxor %%xmm15, %%xmm15\n fninit\n fldz" : : : "xmm0", "xmm15", "memory");
    if (__builtin_cpu_supports("avx")) asm volatile("vzeroall" : : : "memory");
    plain(s);
}

CASE(vector_state_survives_handlers) {
    struct sigaction action = {.sa_handler = clobber};
    sigaction(SIGALRM, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);
    unsigned char in[32], out[32];
    for (int i = 0; i < 32; i++) in[i] = i * 7 + 1;
    long pid = getpid();
    double x = 0;
    if (__builtin_cpu_supports("avx")) {
        asm volatile("vmovdqu (%1), %%ymm15\n fldpi\n mov $62, %%eax\n mov %2, %%rdi\n mov $10, %%esi\n syscall\n vmovdqu %%ymm15, (%3)\n fstpl %0"
                     : "=m"(x)
                     : "r"(in), "r"(pid), "r"(out)
                     : "rax", "rcx", "rdi", "rsi", "r11", "memory");
        CHECK(!memcmp(in, out, 32));
        CHECK(x > 3.14159 && x < 3.1416);
        CHECK(count == 1);
    }
    ualarm(20000, 0);
    count = 0;
    asm volatile("movdqu (%1), %%xmm15\n 1: pause\n cmpl $0, %0\n je 1b\n movdqu %%xmm15, (%2)" : : "m"(count), "r"(in), "r"(out) : "memory");
    CHECK(!memcmp(in, out, 16));
}

CASE(vector_state_survives_calls_and_fork) {
    unsigned char in[32], out[32];
    for (int i = 0; i < 32; i++) in[i] = i * 5 + 3;
    if (!__builtin_cpu_supports("avx")) SKIP("no AVX");
    long pid;
    asm volatile("vmovdqu (%1), %%ymm9\n mov $57, %%eax\n syscall\n mov %%rax, %0\n vmovdqu %%ymm9, (%2)"
                 : "=&r"(pid)
                 : "r"(in), "r"(out)
                 : "rax", "rcx", "r11", "memory");
    if (pid == 0) _exit(memcmp(in, out, 32) ? 1 : 0);
    CHECK(!memcmp(in, out, 32));
    CHECK(exit_of(pid) == 0);
    for (int i = 0; i < 100; i++) {
        memset(out, 0, 32);
        asm volatile("vmovdqu (%0), %%ymm3\n mov $110, %%eax\n syscall\n vmovdqu %%ymm3, (%1)" : : "r"(in), "r"(out) : "rax", "rcx", "r11", "memory");
        if (memcmp(in, out, 32)) CHECK(!"ymm3 kept");
    }
}

CASE(system_calls_keep_registers) {
    long registers[6];
    asm volatile("mov $11, %%rdi\n mov $22, %%rsi\n mov $33, %%rdx\n mov $44, %%r10\n mov $55, %%r8\n mov $66, %%r9\n mov $39, %%eax\n syscall\n"
                 "mov %%rdi, (%0)\n mov %%rsi, 8(%0)\n mov %%rdx, 16(%0)\n mov %%r10, 24(%0)\n mov %%r8, 32(%0)\n mov %%r9, 40(%0)"
                 :
                 : "r"(registers)
                 : "rax", "rcx", "rdx", "rdi", "rsi", "r8", "r9", "r10", "r11", "memory");
    note("%ld %ld %ld %ld %ld %ld", registers[0], registers[1], registers[2], registers[3], registers[4], registers[5]);
    long flags_in = 0x246, flags_out;
    asm volatile("mov $39, %%eax\n stc\n syscall\n pushf\n pop %0\n" : "=r"(flags_out) : "r"(flags_in) : "rax", "rcx", "r11", "memory");
    CHECK(flags_out & 1);
}

CASE(mask_in_ucontext_is_restored) {
    void edit_mask(int, siginfo_t *, void *);
    struct sigaction action = {.sa_sigaction = edit_mask, .sa_flags = SA_SIGINFO};
    sigaction(SIGUSR1, &action, NULL);
    raise(SIGUSR1);
    sigset_t mask;
    sigprocmask(SIG_BLOCK, NULL, &mask);
    CHECK(sigismember(&mask, SIGUSR2) == 1 && sigismember(&mask, SIGUSR1) == 0);
}
void edit_mask(int s, siginfo_t *info, void *context) {
    sigaddset(&((ucontext_t *)context)->uc_sigmask, SIGUSR2);
    (void)s, (void)info;
}

static void *thread_waits(void *argument) {
    sigset_t set = set_of(SIGUSR1);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    *(pid_t *)argument = gettid();
    for (int i = 0; i < 300 && !count; i++) sleep_ms(10);
    return NULL;
}
static volatile pid_t ran_in;
static void remember_thread(int s) {
    ran_in = gettid();
    plain(s);
}

CASE(thread_directed_and_process_directed) {
    signal(SIGUSR1, remember_thread);
    block(SIGUSR1);
    pid_t tid = 0;
    pthread_t thread;
    pthread_create(&thread, NULL, thread_waits, &tid);
    while (!*(volatile pid_t *)&tid) sleep_ms(1);
    kill(getpid(), SIGUSR1); /* only the thread has it unblocked */
    pthread_join(thread, NULL);
    CHECK(count == 1 && ran_in == tid);
    count = 0;
    tid = 0;
    pthread_create(&thread, NULL, thread_waits, &tid);
    while (!*(volatile pid_t *)&tid) sleep_ms(1);
    CHECK(syscall(SYS_tgkill, getpid(), gettid(), SIGUSR1) == 0); /* pending for this thread alone */
    sleep_ms(50);
    CHECK(count == 0);
    CHECK(pthread_kill(thread, SIGUSR1) == 0);
    pthread_join(thread, NULL);
    CHECK(count == 1 && ran_in == tid);
    unblock(SIGUSR1);
    CHECK(count == 2 && ran_in == getpid());
}

CASE(spinning_guest_gets_signals) {
    handle(SIGALRM, 0);
    ualarm(20000, 20000);
    while (count < 10) {}
    ualarm(0, 0);
    CHECK(count >= 10);
    pid_t pid = fork();
    if (!pid)
        for (;;) {}
    sleep_ms(30);
    kill(pid, SIGKILL);
    CHECK(exit_of(pid) == 128 + SIGKILL);
    pid = fork();
    if (!pid)
        for (;;) {}
    kill(pid, SIGSTOP);
    int status;
    CHECK(waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status));
    kill(pid, SIGCONT);
    CHECK(waitpid(pid, &status, WCONTINUED) == pid && WIFCONTINUED(status));
    kill(pid, SIGTERM);
    CHECK(exit_of(pid) == 128 + SIGTERM);
}

CASE(stop_signals_and_cont_discard_each_other) {
    pid_t pid = fork();
    if (!pid) {
        block(SIGTSTP);
        block(SIGCONT);
        handle(SIGCONT, 0);
        raise(SIGCONT);
        sigset_t pending;
        raise(SIGTSTP);
        sigpending(&pending);
        if (!sigismember(&pending, SIGTSTP) || sigismember(&pending, SIGCONT)) _exit(1);
        raise(SIGCONT);
        sigpending(&pending);
        if (sigismember(&pending, SIGTSTP) || !sigismember(&pending, SIGCONT)) _exit(2);
        unblock(SIGTSTP);
        unblock(SIGCONT);
        _exit(count == 1 ? 0 : 3);
    }
    CHECK(exit_of(pid) == 0);
}

CASE(sigkill_of_a_stopped_process) {
    pid_t pid = fork();
    if (!pid) {
        raise(SIGSTOP);
        _exit(0);
    }
    int status;
    waitpid(pid, &status, WUNTRACED);
    kill(pid, SIGTERM);
    sleep_ms(30);
    CHECK(waitpid(pid, &status, WNOHANG) == 0);
    kill(pid, SIGKILL);
    CHECK(exit_of(pid) == 128 + SIGKILL);
}

CASE(kill_forms) {
    handle(SIGUSR1, 0);
    pid_t pid = CHILD({
        signal(SIGUSR1, SIG_IGN);
        setpgid(0, 0);
        for (;;) pause();
    });
    setpgid(pid, pid);
    CHECK(kill(0, SIGUSR1) == 0);
    CHECK(count == 1);
    CHECK(kill(-pid, SIGTERM) == 0);
    CHECK(exit_of(pid) == 128 + SIGTERM);
    CHECK(killpg(getpgrp(), 0) == 0);
}

CASE(no_permission_to_signal) {
    if (getuid()) SKIP("needs root");
    int p[2];
    pipe(p);
    pid_t pid = CHILD({
        write(p[1], "x", 1);
        for (;;) pause();
    });
    char c;
    read(p[0], &c, 1);
    IN_CHILD({
        NEED(setresuid(65534, 65534, 65534) == 0);
        FAILS(kill(pid, SIGTERM), EPERM);
        FAILS(kill(pid, 0), EPERM);
    });
    kill(pid, SIGKILL);
    reap(pid);
}

CASE(queue_limit) {
    IN_CHILD({
        if (!getuid()) {
            uid_t nobody_else = 100000 + getpid(); /* the limit counts a user's signals */
            NEED(setresuid(nobody_else, nobody_else, nobody_else) == 0);
        }
        struct rlimit limit = {10, 10};
        NEED(setrlimit(RLIMIT_SIGPENDING, &limit) == 0);
        block(SIGRTMIN);
        int sent = 0;
        while (sent < 100 && sigqueue(getpid(), SIGRTMIN, (union sigval){0}) == 0) sent++;
        CHECK(sent <= 11 && sent >= 9 && errno == EAGAIN);
    });
}

CASE(sigpipe) {
    int p[2];
    pipe(p);
    close(p[0]);
    handle(SIGPIPE, 0);
    FAILS(write(p[1], "x", 1), EPIPE);
    CHECK(count == 1);
    pid_t pid = CHILD({
        signal(SIGPIPE, SIG_DFL);
        write(p[1], "x", 1);
    });
    CHECK(exit_of(pid) == 128 + SIGPIPE);
    signal(SIGPIPE, SIG_IGN);
    FAILS(write(p[1], "x", 1), EPIPE);
}

CASE(longjmp_out_of_a_handler) {
    struct sigaction action = {.sa_handler = escape};
    sigaction(SIGALRM, &action, NULL);
    for (volatile int i = 0; i < 3; i++) {
        if (!sigsetjmp(back, 1)) {
            ualarm(10000, 0);
            for (;;) pause();
        }
    }
}

CASE(cpu_limit_sends_sigxcpu) {
    pid_t pid = CHILD({
        struct rlimit limit = {1, 3};
        setrlimit(RLIMIT_CPU, &limit);
        for (;;) {}
    });
    CHECK(exit_of(pid) == 128 + SIGXCPU);
}

CASE(file_size_limit_sends_sigxfsz) {
    handle(SIGXFSZ, 0);
    struct rlimit limit = {1000, RLIM_INFINITY};
    setrlimit(RLIMIT_FSIZE, &limit);
    int fd = open("f", O_WRONLY | O_CREAT, 0600);
    char data[800];
    memset(data, 'x', sizeof data);
    CHECK(write(fd, data, 800) == 800);
    CHECK(write(fd, data, 800) == 200);
    CHECK(count == 0);
    FAILS(write(fd, data, 800), EFBIG);
    CHECK(count == 1);
    FAILS(ftruncate(fd, 2000), EFBIG);
    CHECK(count == 2);
}
