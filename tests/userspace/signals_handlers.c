// Handlers: their arguments, masks, stacks and frames; what survives them and what they may change.
#include "check.h"
#include <immintrin.h>
#include <pthread.h>
#include <setjmp.h>
#include <sys/ucontext.h>

static volatile int count, last, order[16];
static siginfo_t last_info;
static volatile unsigned long mask_inside;

static void on(int signo, void (*handler)(int, siginfo_t *, void *), int flags) {
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = flags | SA_SIGINFO};
    sigemptyset(&action.sa_mask);
    NEED(sigaction(signo, &action, NULL) == 0);
}
static unsigned long current_mask(void) {
    sigset_t set;
    sigprocmask(SIG_BLOCK, NULL, &set);
    return *(unsigned long *)&set;
}
static void record(int signo, siginfo_t *info, void *context) {
    (void)context;
    last = signo;
    last_info = *info;
    if (count < 16) order[count] = signo;
    count++;
    mask_inside = current_mask();
}
#define BIT(signo) (1ul << ((signo) - 1))

CASE(kill_tells_who) {
    on(SIGUSR1, record, 0);
    CHECK(kill(getpid(), SIGUSR1) == 0);
    CHECK(count == 1 && last == SIGUSR1);
    CHECK(last_info.si_code == SI_USER && last_info.si_pid == getpid() && last_info.si_uid == getuid());
    CHECK(last_info.si_signo == SIGUSR1 && last_info.si_errno == 0);
    CHECK(raise(SIGUSR1) == 0);
    CHECK(count == 2 && last_info.si_code == SI_TKILL && last_info.si_pid == getpid());
}

CASE(sigqueue_carries_a_value) {
    on(SIGRTMIN + 1, record, 0);
    union sigval value = {.sival_ptr = (void *)0x123456789abcdef0};
    CHECK(sigqueue(getpid(), SIGRTMIN + 1, value) == 0);
    CHECK(count == 1 && last_info.si_code == SI_QUEUE && last_info.si_value.sival_ptr == value.sival_ptr);
    CHECK(last_info.si_pid == getpid() && last_info.si_uid == getuid());
}

CASE(forged_siginfo_reaches_only_oneself) {
    siginfo_t info = {.si_code = SI_QUEUE};
    info.si_pid = 77;
    on(SIGUSR2, record, 0);
    CHECK(syscall(SYS_rt_sigqueueinfo, getpid(), SIGUSR2, &info) == 0);
    CHECK(count == 1 && last_info.si_pid == 77 && last_info.si_signo == SIGUSR2);
    info.si_code = 42;
    CHECK(syscall(SYS_rt_sigqueueinfo, getpid(), SIGUSR2, &info) == 0);
    CHECK(count == 2 && last_info.si_code == 42);
    info.si_code = SI_USER;
    FAILS(syscall(SYS_rt_sigqueueinfo, getppid(), 0, &info), EPERM);
    info.si_code = SI_TKILL;
    FAILS(syscall(SYS_rt_sigqueueinfo, getppid(), 0, &info), EPERM);
    info.si_code = SI_QUEUE;
    CHECK(syscall(SYS_rt_sigqueueinfo, getppid(), 0, &info) == 0);
    FAILS(syscall(SYS_rt_sigqueueinfo, getpid(), 65, &info), EINVAL);
    FAILS(syscall(SYS_rt_sigqueueinfo, getpid(), 10, 8), EFAULT);
    FAILS(syscall(SYS_rt_tgsigqueueinfo, 0, getpid(), 10, &info), EINVAL);
    CHECK(syscall(SYS_rt_tgsigqueueinfo, getpid(), getpid(), SIGUSR2, &info) == 0);
    CHECK(count == 3);
}

CASE(mask_inside_a_handler) {
    struct sigaction action = {.sa_sigaction = record, .sa_flags = SA_SIGINFO};
    sigemptyset(&action.sa_mask);
    sigaddset(&action.sa_mask, SIGHUP);
    sigaddset(&action.sa_mask, SIGKILL);
    NEED(sigaction(SIGUSR1, &action, NULL) == 0);
    unsigned long before = current_mask();
    kill(getpid(), SIGUSR1);
    note("blocked inside: %#lx", mask_inside & ~before);
    CHECK(current_mask() == before);
    on(SIGUSR1, record, SA_NODEFER);
    kill(getpid(), SIGUSR1);
    note("with SA_NODEFER: %#lx", mask_inside & ~before);
    struct sigaction old;
    CHECK(sigaction(SIGUSR1, NULL, &old) == 0 && old.sa_sigaction == record && (old.sa_flags & ~0x04000000) == (SA_NODEFER | SA_SIGINFO));
}

static void send_again(int signo, siginfo_t *info, void *context) {
    record(signo, info, context);
    if (count < 3) {
        int before = count;
        raise(signo);
        note("level %d saw %d", before, count);
    }
}
CASE(a_handler_is_not_interrupted_by_its_own_signal) {
    on(SIGUSR1, send_again, 0);
    raise(SIGUSR1);
    note("count %d", count);
}
CASE(nodefer_nests) {
    on(SIGUSR1, send_again, SA_NODEFER);
    raise(SIGUSR1);
    note("count %d", count);
}

CASE(resethand_works_once) {
    on(SIGUSR1, record, SA_RESETHAND);
    raise(SIGUSR1);
    struct sigaction old;
    CHECK(sigaction(SIGUSR1, NULL, &old) == 0 && old.sa_handler == SIG_DFL);
    note("flags %#x", old.sa_flags & ~0x04000000);
    CHECK(count == 1);
    CHECK(exit_of(CHILD(raise(SIGUSR1))) == 128 + SIGUSR1);
}

CASE(pending_signals_come_lowest_first) {
    int signals[] = {SIGRTMIN + 2, SIGUSR2, SIGUSR1, SIGHUP, SIGRTMIN};
    sigset_t set;
    sigemptyset(&set);
    for (int i = 0; i < 5; i++) {
        struct sigaction action = {.sa_sigaction = record, .sa_flags = SA_SIGINFO};
        sigfillset(&action.sa_mask);
        sigaction(signals[i], &action, NULL);
        sigaddset(&set, signals[i]);
    }
    sigprocmask(SIG_BLOCK, &set, NULL);
    for (int i = 0; i < 5; i++) raise(signals[i]);
    CHECK(count == 0);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    // the frames are stacked, so the last one built runs first
    for (int i = 0; i < count; i++) note("%d", order[i] >= 32 ? order[i] - SIGRTMIN + 1000 : order[i]);
}

CASE(default_actions) {
    for (int signo = 1; signo <= 64; signo++) {
        if (signo == 32 || signo == 33) continue;
        pid_t pid = fork();
        if (!pid) {
            raise(signo);
            _exit(7);
        }
        int status;
        CHECK(waitpid(pid, &status, WUNTRACED) == pid);
        if (WIFSTOPPED(status)) {
            note("%d stops", signo);
            kill(pid, SIGKILL);
            waitpid(pid, &status, 0);
        } else if (WIFEXITED(status))
            note("%d is ignored", signo);
        else
            note("%d ends", WTERMSIG(status));
    }
}

CASE(sigaction_errors) {
    struct sigaction action = {.sa_handler = SIG_IGN}, old;
    FAILS(syscall(SYS_rt_sigaction, SIGKILL, &action, NULL, 8), EINVAL);
    FAILS(syscall(SYS_rt_sigaction, SIGSTOP, &action, NULL, 8), EINVAL);
    FAILS(syscall(SYS_rt_sigaction, 0, &action, NULL, 8), EINVAL);
    FAILS(syscall(SYS_rt_sigaction, 65, &action, NULL, 8), EINVAL);
    FAILS(syscall(SYS_rt_sigaction, SIGUSR1, &action, NULL, 4), EINVAL);
    FAILS(syscall(SYS_rt_sigaction, SIGUSR1, 8, NULL, 8), EFAULT);
    FAILS(syscall(SYS_rt_sigaction, SIGUSR1, NULL, 8, 8), EFAULT);
    CHECK(sigaction(SIGKILL, NULL, &old) == 0 && old.sa_handler == SIG_DFL);
    FAILS(syscall(SYS_rt_sigprocmask, 7, &action, NULL, 8), EINVAL);
    FAILS(syscall(SYS_rt_sigprocmask, SIG_BLOCK, &action, NULL, 16), EINVAL);
    FAILS(syscall(SYS_rt_sigprocmask, SIG_BLOCK, 8, NULL, 8), EFAULT);
    CHECK(syscall(SYS_rt_sigprocmask, 7, NULL, NULL, 8) == 0);
}

// -- frames ------------------------------------------------------------------------------------------------------------------

static void *seen_sp;
static struct {
    unsigned long flags;
    unsigned magic1, magic2, extended, size;
    unsigned long aligned, features;
    unsigned mxcsr;
    unsigned short fcw;
} frame_facts;

static void look(int signo, siginfo_t *info, void *context) {
    (void)signo, (void)info;
    ucontext_t *uc = context;
    frame_facts.flags = uc->uc_flags;
    char *fp = (char *)uc->uc_mcontext.fpregs;
    memcpy(&frame_facts.magic1, fp + 464, 4);
    memcpy(&frame_facts.extended, fp + 468, 4);
    memcpy(&frame_facts.features, fp + 472, 8);
    memcpy(&frame_facts.size, fp + 480, 4);
    memcpy(&frame_facts.magic2, fp + frame_facts.size, 4);
    frame_facts.aligned = (unsigned long)fp % 64;
    seen_sp = __builtin_frame_address(0);
    __asm__ volatile("stmxcsr %0; fnstcw %1" : "=m"(frame_facts.mxcsr), "=m"(frame_facts.fcw));
    CHECK((char *)uc < fp && (char *)info > (char *)uc && (char *)info < fp);
    CHECK((unsigned long)__builtin_frame_address(0) % 16 == 0);
}

CASE(frame_layout) {
    on(SIGUSR1, look, 0);
    unsigned mxcsr = 0x7f80, back;
    __asm__ volatile("ldmxcsr %0" ::"m"(mxcsr));
    raise(SIGUSR1);
    __asm__ volatile("stmxcsr %0" : "=m"(back));
    note("uc_flags %#lx, magic %#x %#x, extended - size %u, misaligned %lu", frame_facts.flags, frame_facts.magic1, frame_facts.magic2,
         frame_facts.extended - frame_facts.size, frame_facts.aligned);
    note("mxcsr %#x fcw %#x in the handler, %#x after it", frame_facts.mxcsr, frame_facts.fcw, back);
    note("%u bytes of state", frame_facts.size);
}

static void spoil(int signo, siginfo_t *info, void *context) {
    (void)signo, (void)info, (void)context;
    __asm__ volatile("pxor %%xmm0, %%xmm0; pxor %%xmm7, %%xmm7; pxor %%xmm15, %%xmm15; fldpi" ::: "xmm0", "xmm7", "xmm15");
    if (__builtin_cpu_supports("avx")) __asm__ volatile("vzeroall");
    count++;
}
CASE(vector_registers_survive) {
    on(SIGUSR1, spoil, 0);
    long pid = getpid(), sig = SIGUSR1, result = SYS_kill;
    double in[2] = {1.5, -2.25}, out[2] = {0}, out15[2] = {0};
    __asm__ volatile("movupd %[in], %%xmm7; movupd %[in], %%xmm15; syscall; movupd %%xmm7, %[out]; movupd %%xmm15, %[out15]"
                     : [out] "=m"(out), [out15] "=m"(out15), "+a"(result)
                     : [in] "m"(in), "D"(pid), "S"(sig)
                     : "rcx", "r11", "xmm7", "xmm15", "memory");
    CHECK(result == 0 && count == 1);
    CHECK(!memcmp(in, out, 16) && !memcmp(in, out15, 16));
}
__attribute__((target("avx"))) static void avx_round(void) {
    long pid = getpid(), sig = SIGUSR1, result = SYS_kill;
    double in[4] = {1, 2, 3, 4}, out[4] = {0};
    __asm__ volatile("vmovupd %[in], %%ymm9; syscall; vmovupd %%ymm9, %[out]"
                     : [out] "=m"(out), "+a"(result)
                     : [in] "m"(in), "D"(pid), "S"(sig)
                     : "rcx", "r11", "xmm9", "memory");
    CHECK(result == 0 && count == 1);
    CHECK(!memcmp(in, out, 32));
}
CASE(wide_vector_registers_survive) {
    if (!__builtin_cpu_supports("avx")) SKIP("no AVX");
    on(SIGUSR1, spoil, 0);
    avx_round();
}

static void change(int signo, siginfo_t *info, void *context) {
    (void)signo, (void)info;
    ucontext_t *uc = context;
    uc->uc_mcontext.gregs[REG_R12] = 0x1122334455667788;
    double two = 2.0;
    memcpy((char *)uc->uc_mcontext.fpregs + 160 + 16 * 3, &two, 8); // xmm3
}
CASE(a_handler_may_change_registers) {
    on(SIGUSR1, change, 0);
    long pid = getpid(), sig = SIGUSR1, result = SYS_kill;
    double x = 1.0, y = 0;
    register long r12 __asm__("r12") = 1;
    __asm__ volatile("movsd %[x], %%xmm3; syscall; movsd %%xmm3, %[y]"
                     : [y] "=m"(y), "+a"(result), "+r"(r12)
                     : [x] "m"(x), "D"(pid), "S"(sig)
                     : "rcx", "r11", "xmm3", "memory");
    CHECK(r12 == 0x1122334455667788 && y == 2.0 && result == 0);
}

CASE(red_zone_is_left_alone) {
    on(SIGUSR1, record, 0);
    long pid = getpid(), result = SYS_kill, sum = 0;
    __asm__ volatile("movq $0x55, -8(%%rsp); movq $0x66, -64(%%rsp); movq $0x77, -128(%%rsp); syscall;"
                     "movq -8(%%rsp), %%rcx; addq -64(%%rsp), %%rcx; addq -128(%%rsp), %%rcx; movq %%rcx, %[sum]"
                     : "+a"(result), [sum] "=r"(sum)
                     : "D"(pid), "S"((long)SIGUSR1)
                     : "rcx", "r11", "memory");
    CHECK(count == 1 && sum == 0x55 + 0x66 + 0x77);
}

static sigjmp_buf jump;
static void leap(int signo, siginfo_t *info, void *context) {
    record(signo, info, context);
    siglongjmp(jump, signo);
}
CASE(faults_tell_where) {
    on(SIGSEGV, leap, 0);
    on(SIGFPE, leap, 0);
    on(SIGILL, leap, 0);
    on(SIGTRAP, record, 0);
    on(SIGBUS, leap, 0);
    char *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!sigsetjmp(jump, 1)) *(volatile char *)0x10 = 1;
    note("null: code %d address %p", last_info.si_code, last_info.si_addr);
    if (!sigsetjmp(jump, 1)) *(volatile char *)page = 1;
    note("read-only: code %d address is %s", last_info.si_code, last_info.si_addr == page ? "right" : "wrong");
    volatile int zero = 0;
    if (!sigsetjmp(jump, 1)) zero = 1 / zero;
    note("divide: signal %d code %d", last, last_info.si_code);
    if (!sigsetjmp(jump, 1)) __asm__ volatile("ud2");
    note("ud2: signal %d code %d", last, last_info.si_code);
    __asm__ volatile("int3");
    note("int3: signal %d code %d", last, last_info.si_code);
    if (!sigsetjmp(jump, 1)) __asm__ volatile("hlt");
    note("hlt: signal %d code %d address %p", last, last_info.si_code, last_info.si_addr);
    if (!sigsetjmp(jump, 1)) *(volatile char *)0x8000000000000000 = 1;
    note("non-canonical: signal %d code %d address %p", last, last_info.si_code, last_info.si_addr);
    put("short", "x");
    int fd = open("short", O_RDWR);
    char *beyond = mmap(NULL, 8192, PROT_READ, MAP_SHARED, fd, 0);
    if (!sigsetjmp(jump, 1)) zero = beyond[4096];
    note("beyond the end: signal %d code %d address is %s", last, last_info.si_code, last_info.si_addr == beyond + 4096 ? "right" : "wrong");
}

static void skip(int signo, siginfo_t *info, void *context) {
    (void)info;
    ucontext_t *uc = context;
    note("signal %d trap %lld error %lld cr2 %#llx", signo, uc->uc_mcontext.gregs[REG_TRAPNO], uc->uc_mcontext.gregs[REG_ERR],
         uc->uc_mcontext.gregs[REG_CR2]);
    uc->uc_mcontext.gregs[REG_RIP] += 2;
}
CASE(a_fault_can_be_stepped_over) {
    on(SIGSEGV, skip, 0);
    on(SIGILL, skip, 0);
    long a = 0x40;
    __asm__ volatile("movb %%al, (%%rax)" : "+a"(a)::"memory"); // two bytes
    __asm__ volatile("ud2");
}

CASE(a_blocked_fault_is_deadly) {
    pid_t pid = CHILD({
        on(SIGSEGV, record, 0);
        sigset_t set;
        sigfillset(&set);
        sigprocmask(SIG_SETMASK, &set, NULL);
        *(volatile char *)0 = 1;
    });
    CHECK(exit_of(pid) == 128 + SIGSEGV);
    pid = CHILD({
        signal(SIGSEGV, SIG_IGN);
        *(volatile char *)0 = 1;
    });
    CHECK(exit_of(pid) == 128 + SIGSEGV);
}

// -- stacks ------------------------------------------------------------------------------------------------------------------

static char stack_memory[1 << 16];
static stack_t stack_inside;
static void look_at_stack(int signo, siginfo_t *info, void *context) {
    (void)signo, (void)info;
    ucontext_t *uc = context;
    seen_sp = __builtin_frame_address(0);
    sigaltstack(NULL, &stack_inside);
    note("uc_stack: flags %#x size %zu", uc->uc_stack.ss_flags, uc->uc_stack.ss_size);
    stack_t other = {.ss_sp = stack_memory, .ss_size = sizeof stack_memory};
    note("changing it: %d", syscall(SYS_sigaltstack, &other, NULL) < 0 ? errno : 0);
    count++;
}
static bool on_alternate(void) { return (char *)seen_sp >= stack_memory && (char *)seen_sp < stack_memory + sizeof stack_memory; }

CASE(alternate_stack) {
    stack_t stack = {.ss_sp = stack_memory, .ss_size = sizeof stack_memory}, old;
    CHECK(sigaltstack(NULL, &old) == 0 && old.ss_flags == SS_DISABLE);
    CHECK(sigaltstack(&stack, &old) == 0);
    on(SIGUSR1, look_at_stack, SA_ONSTACK);
    raise(SIGUSR1);
    CHECK(on_alternate());
    note("inside: flags %#x", stack_inside.ss_flags);
    on(SIGUSR1, look_at_stack, 0);
    raise(SIGUSR1);
    CHECK(!on_alternate());
    CHECK(sigaltstack(NULL, &old) == 0 && old.ss_flags == 0 && old.ss_sp == stack_memory && old.ss_size == sizeof stack_memory);
    stack.ss_flags = SS_DISABLE;
    CHECK(sigaltstack(&stack, NULL) == 0);
    on(SIGUSR1, look_at_stack, SA_ONSTACK);
    raise(SIGUSR1);
    CHECK(!on_alternate());
    stack = (stack_t){.ss_sp = stack_memory, .ss_size = 100};
    FAILS(sigaltstack(&stack, NULL), ENOMEM);
    stack = (stack_t){.ss_sp = stack_memory, .ss_flags = 4, .ss_size = sizeof stack_memory};
    FAILS(sigaltstack(&stack, NULL), EINVAL);
    FAILS(syscall(SYS_sigaltstack, 8, NULL), EFAULT);
}

CASE(autodisarm) {
    stack_t stack = {.ss_sp = stack_memory, .ss_flags = 1 << 31, .ss_size = sizeof stack_memory}, old;
    CHECK(syscall(SYS_sigaltstack, &stack, NULL) == 0);
    on(SIGUSR1, look_at_stack, SA_ONSTACK);
    raise(SIGUSR1);
    CHECK(on_alternate());
    note("inside: flags %#x", stack_inside.ss_flags);
    CHECK(sigaltstack(NULL, &old) == 0);
    note("after: flags %#x", old.ss_flags);
}

static void leap_from_stack(int signo, siginfo_t *info, void *context) {
    seen_sp = __builtin_frame_address(0);
    leap(signo, info, context);
}
__attribute__((noinline)) static int deeper(int depth) {
    volatile char room[8192];
    room[0] = (char)depth;
    if (depth < 0) return 0;
    return deeper(depth + 1) + room[0];
}
CASE(stack_overflow_is_caught_on_the_alternate_stack) {
    stack_t stack = {.ss_sp = stack_memory, .ss_size = sizeof stack_memory};
    sigaltstack(&stack, NULL);
    on(SIGSEGV, leap_from_stack, SA_ONSTACK);
    if (!sigsetjmp(jump, 1)) deeper(0);
    CHECK(last == SIGSEGV && on_alternate());
    note("code %d", last_info.si_code == SEGV_MAPERR || last_info.si_code == SEGV_ACCERR);
}

CASE(no_room_for_a_frame_is_deadly) {
    pid_t pid = CHILD({
        on(SIGSEGV, record, 0);
        on(SIGUSR1, record, 0);
        long self = getpid();
        __asm__ volatile("xor %%esp, %%esp; syscall; hlt" ::"a"(SYS_kill), "D"(self), "S"((long)SIGUSR1) : "rcx", "r11", "memory");
    });
    CHECK(exit_of(pid) == 128 + SIGSEGV);
    pid = CHILD({
        on(SIGSEGV, record, 0);
        deeper(0);
    });
    CHECK(exit_of(pid) == 128 + SIGSEGV);
}

CASE(garbage_for_sigreturn_is_deadly) {
    pid_t pid = CHILD(__asm__ volatile("mov $0x1000, %%rsp; syscall; hlt" ::"a"(SYS_rt_sigreturn) : "memory"));
    CHECK(exit_of(pid) == 128 + SIGSEGV);
    static char zeros[4096];
    pid = CHILD(__asm__ volatile("mov %0, %%rsp; syscall; hlt" ::"r"(zeros + 1024), "a"(SYS_rt_sigreturn) : "memory"));
    CHECK(exit_of(pid) == 128 + SIGSEGV);
}

static void spoil_state(int signo, siginfo_t *info, void *context) {
    (void)signo, (void)info;
    ucontext_t *uc = context;
    memset((char *)uc->uc_mcontext.fpregs + 464, 0, 4); // no magic: only the fxsave part counts
    count++;
}
CASE(a_frame_without_magic_keeps_the_legacy_state) {
    on(SIGUSR1, spoil_state, 0);
    long pid = getpid(), sig = SIGUSR1, result = SYS_kill;
    double in[2] = {1.5, -2.25}, out[2] = {0};
    __asm__ volatile("movupd %[in], %%xmm7; syscall; movupd %%xmm7, %[out]"
                     : [out] "=m"(out), "+a"(result)
                     : [in] "m"(in), "D"(pid), "S"(sig)
                     : "rcx", "r11", "xmm7", "memory");
    CHECK(result == 0 && count == 1 && !memcmp(in, out, 16));
}

static void drop_state(int signo, siginfo_t *info, void *context) {
    (void)signo, (void)info;
    ((ucontext_t *)context)->uc_mcontext.fpregs = NULL;
    count++;
}
CASE(a_frame_without_state_resets_it) {
    on(SIGUSR1, drop_state, 0);
    long pid = getpid(), sig = SIGUSR1, result = SYS_kill;
    double in[2] = {1.5, -2.25}, out[2] = {1, 1}, zero[2] = {0, 0};
    __asm__ volatile("movupd %[in], %%xmm7; syscall; movupd %%xmm7, %[out]"
                     : [out] "=m"(out), "+a"(result)
                     : [in] "m"(in), "D"(pid), "S"(sig)
                     : "rcx", "r11", "xmm7", "memory");
    CHECK(result == 0 && count == 1 && !memcmp(out, zero, 16));
}

static void change_mask(int signo, siginfo_t *info, void *context) {
    (void)signo, (void)info;
    sigaddset(&((ucontext_t *)context)->uc_sigmask, SIGHUP);
}
CASE(a_handler_may_change_the_mask_to_restore) {
    on(SIGUSR1, change_mask, 0);
    raise(SIGUSR1);
    CHECK(current_mask() & BIT(SIGHUP));
}

static volatile long spins;
static void tick(int signo, siginfo_t *info, void *context) {
    (void)signo, (void)info, (void)context;
    count++;
}
CASE(a_computing_program_is_interrupted) {
    on(SIGUSR1, tick, 0);
    pid_t parent = getpid();
    pid_t pid = CHILD({
        for (int i = 0; i < 5; i++) {
            sleep_ms(10);
            kill(parent, SIGUSR1);
        }
    });
    double end = now() + 10;
    while (count < 3 && now() < end) spins++;
    CHECK(count >= 3);
    reap(pid);
}

static void *sender(void *argument) {
    pthread_t target = *(pthread_t *)argument;
    for (int i = 0; i < 200; i++) pthread_kill(target, SIGUSR1);
    return NULL;
}
CASE(a_barrage_corrupts_nothing) {
    on(SIGUSR1, spoil, 0);
    pthread_t self = pthread_self(), thread;
    NEED(pthread_create(&thread, NULL, sender, &self) == 0);
    double sum = 0;
    long wrong = 0;
    for (long i = 0; i < 2000000; i++) {
        double x = (double)i * 0.5;
        sum += x;
        if (x * 2 != (double)i) wrong++;
    }
    pthread_join(thread, NULL);
    CHECK(wrong == 0 && sum == 0.5 * (1999999.0 * 2000000.0 / 2));
    CHECK(count >= 1);
}
