// System calls in hot loops, which polynix takes without a trap (addrspace/text_store.py): all that a call must leave alone or bring about holds on
// that way too. `heat` makes the C library's text hot before each case.
#include "check.h"
#include <immintrin.h>
#include <pthread.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <ucontext.h>

static void heat(void) {
    for (int i = 0; i < 300; i++) getppid();
}

static volatile int ticks_seen;
static void count_tick(int signo) { (void)signo, ticks_seen++; }

static void on_signal(int signo, void (*handler)(int), int flags) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
    sigaction(signo, &action, NULL);
}

static void storm(int every_us) {
    struct itimerval timer = {{0, every_us}, {0, every_us}};
    setitimer(ITIMER_REAL, &timer, NULL);
}

CASE(signals_in_a_loop_of_calls) {
    heat();
    on_signal(SIGALRM, count_tick, 0);
    storm(300);
    pid_t parent = getppid(), self = getpid();
    for (long i = 0; ticks_seen < 300; i++) {
        CHECK(getppid() == parent);
        CHECK(syscall(SYS_getpid) == self);
        CHECK(close(-1) == -1 && errno == EBADF);
    }
    storm(0);
}

CASE(signals_to_self_arrive_before_the_call_returns) {
    heat();
    on_signal(SIGUSR1, count_tick, 0);
    for (int i = 0; i < 500; i++) {
        CHECK(kill(getpid(), SIGUSR1) == 0);
        CHECK(ticks_seen == i + 1);
    }
}

CASE(restart_and_eintr) {
    heat();
    int ends[2];
    NEED(pipe(ends) == 0);
    char byte;
    on_signal(SIGALRM, count_tick, 0);
    for (int i = 0; i < 20; i++) {
        storm(0), setitimer(ITIMER_REAL, &(struct itimerval){{0, 0}, {0, 2000}}, NULL);
        FAILS(read(ends[0], &byte, 1), EINTR);
        CHECK(ticks_seen == i + 1);
    }
    on_signal(SIGALRM, count_tick, SA_RESTART);
    for (int i = 0; i < 20; i++) {
        pid_t child = fork();
        if (child == 0) {
            kill(getppid(), SIGALRM);
            usleep(2000);
            kill(getppid(), SIGALRM);
            usleep(2000);
            _exit(write(ends[1], "x", 1) != 1);
        }
        CHECK(read(ends[0], &byte, 1) == 1);
        while (waitpid(child, NULL, 0) < 0)
            ;
    }
    CHECK(ticks_seen > 40);
}

static sigjmp_buf jump_to;
static void jump_out(int signo) { siglongjmp(jump_to, signo); }

CASE(siglongjmp_out_of_a_blocked_call) {
    heat();
    int ends[2];
    NEED(pipe(ends) == 0);
    on_signal(SIGALRM, jump_out, 0);
    static volatile int jumps;
    while (jumps < 30) {
        if (sigsetjmp(jump_to, 1) == 0) {
            setitimer(ITIMER_REAL, &(struct itimerval){{0, 0}, {0, 1000}}, NULL);
            char byte;
            read(ends[0], &byte, 1);
            CHECK(!"read returned");
        }
        jumps++;
    }
    CHECK(getppid() > 0);
}

static char other_stack[65536];
static volatile int on_other_stack;
static void look_where(int signo) {
    char here;
    (void)signo;
    on_other_stack += &here > other_stack && &here < other_stack + sizeof other_stack && getppid() > 0;
}

CASE(handlers_on_an_alternate_stack) {
    heat();
    stack_t stack = {.ss_sp = other_stack, .ss_size = sizeof other_stack};
    NEED(sigaltstack(&stack, NULL) == 0);
    on_signal(SIGUSR1, look_where, SA_ONSTACK);
    for (int i = 0; i < 100; i++) CHECK(kill(getpid(), SIGUSR1) == 0);
    CHECK(on_other_stack == 100);
}

static volatile int well_placed, handled;
static void look_at_context(int signo, siginfo_t *information, void *context) {
    const greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const unsigned char *before = (unsigned char *)registers[REG_RIP] - 2;
    (void)signo, (void)information;
    handled++;
    well_placed += before[0] == 0x0f && before[1] == 0x05 && registers[REG_RAX] == 0;
}

CASE(handlers_see_the_guests_own_syscall) {
    heat();
    struct sigaction action = {.sa_sigaction = look_at_context, .sa_flags = SA_SIGINFO};
    sigaction(SIGUSR1, &action, NULL);
    for (int i = 0; i < 100; i++) kill(getpid(), SIGUSR1);
    CHECK(handled == 100 && well_placed == 100);
}

// A hot site of our own: registers around it are in our hands.
static long call(long number, long a, long b, long c) {
    register long r10 __asm__("r10") = 10, r8 __asm__("r8") = 8, r9 __asm__("r9") = 9;
    long result;
    __asm__ volatile("syscall" : "=a"(result), "+r"(r10), "+r"(r8), "+r"(r9) : "0"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    CHECK(r10 == 10 && r8 == 8 && r9 == 9);
    return result;
}

CASE(any_entry_gives_the_same) {
    heat();
    for (int i = 0; i < 300; i++) {
        CHECK(call(SYS_getppid, 1, 2, 3) == getppid());
        CHECK(syscall(SYS_getppid) == getppid());
    }
}

// A site of the program itself, in the form that can be patched.
__attribute__((noinline)) static long own_site(void) {
    long result;
    __asm__ volatile("mov $110, %%eax\n syscall" : "=a"(result) : : "rcx", "r11", "memory");
    return result;
}

static void heat_own_site(void) {
    pid_t parent = getppid();
    for (int i = 0; i < 300; i++) CHECK(own_site() == parent);
}

static uintptr_t start_of_text(void) {
    unsigned long start = 0, end;
    char line[512];
    FILE *maps = fopen("/proc/self/maps", "r");
    while (fgets(line, sizeof line, maps))
        if (sscanf(line, "%lx-%lx", &start, &end) == 2 && (uintptr_t)own_site >= start && (uintptr_t)own_site < end) break;
    fclose(maps);
    return start;
}

CASE(own_text) {
    on_signal(SIGALRM, count_tick, 0);
    storm(500);
    for (int i = 0; i < 10; i++) heat_own_site();
    storm(0);
    for (int i = 0; i < 10; i++) {
        pid_t child = fork();
        if (child == 0) {
            heat_own_site();
            _exit(check_failures);
        }
        CHECK(exit_of(child) == 0);
    }
}

CASE(maps_where_trampolines_of_own_text_may_be) {
    heat_own_site();
    char *below = (char *)start_of_text() - 0x400000;
    size_t length = 0x400000 - 0x100000;
    for (int round = 0; round < 3; round++) {
        char *place = mmap(below, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
        if (place != below) SKIP("something lies there");
        for (size_t i = 0; i < length; i += 4096) CHECK(place[i] == 0);
        memset(place, 0xcc, length);
        heat_own_site();
        pid_t child = fork();
        if (child == 0) {
            heat_own_site();
            _exit(check_failures || place[5] != (char)0xcc);
        }
        CHECK(exit_of(child) == 0);
        CHECK(munmap(place, length) == 0);
        heat_own_site();
    }
    // Two maps around the place, and one call that unmaps both and all between.
    CHECK(mmap(below, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == below);
    CHECK(mmap(below + length, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == below + length);
    heat_own_site();
    CHECK(munmap(below, length + 4096) == 0);
    heat_own_site();
}

__attribute__((target("avx2"))) static void keep_vectors(void) {
    long sums[4];
    __m256i value = _mm256_set_epi64x(4, 3, 2, 1), one = _mm256_set1_epi64x(1);
    on_signal(SIGALRM, count_tick, 0);
    storm(500);
    long rounds = 0;
    while (ticks_seen < 100) {
        long result;
        __asm__ volatile("vpaddq %3, %1, %1\n call getppid" : "=a"(result), "+x"(value) : "0"(0), "x"(one) : "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory");
        rounds++;
    }
    storm(0);
    _mm256_storeu_si256((__m256i *)sums, value);
    for (int i = 0; i < 4; i++) CHECK(sums[i] == rounds + i + 1);
}

CASE(vector_registers_survive) {
    if (!__builtin_cpu_supports("avx2")) SKIP("no AVX2");
    heat();
    keep_vectors();
}

CASE(flags_and_red_zone_survive) {
    heat();
    // getppid is a leaf that begins with its call: what lies below the stack here is as in a red zone.
    for (int i = 0; i < 300; i++) {
        unsigned long flags, below;
        __asm__ volatile(
            "sub $128, %%rsp\n mov $1234567, %%rcx\n mov %%rcx, -64(%%rsp)\n stc\n std\n call getppid\n pushfq\n cld\n pop %0\n mov -64(%%rsp), %1\n add $128, %%rsp"
            : "=&r"(flags), "=&r"(below)
            :
            : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory", "cc");
        CHECK((flags & 0x401) == 0x401 && below == 1234567);
    }
}

static void *many_calls(void *argument) {
    pid_t parent = *(pid_t *)argument, tid = gettid();
    for (int i = 0; i < 3000; i++)
        if (getppid() != parent || gettid() != tid) return argument;
    return NULL;
}

CASE(threads) {
    heat();
    pid_t parent = getppid();
    on_signal(SIGALRM, count_tick, SA_RESTART);
    storm(500);
    for (int round = 0; round < 3; round++) {
        pthread_t threads[6];
        for (int i = 0; i < 6; i++) NEED(pthread_create(&threads[i], NULL, many_calls, &parent) == 0);
        for (int i = 0; i < 6; i++) {
            void *result;
            pthread_join(threads[i], &result);
            CHECK(result == NULL);
        }
    }
    storm(0);
}

CASE(fork_and_exec) {
    heat();
    for (int i = 0; i < 20; i++) {
        pid_t child = fork();
        if (child == 0) {
            pid_t parent = getppid();
            for (int j = 0; j < 200; j++)
                if (getppid() != parent) _exit(1);
            if (i & 1) execl("/bin/sh", "sh", "-c", "exit 0", NULL);
            _exit(0);
        }
        CHECK(exit_of(child) == 0);
    }
}

CASE(calls_that_copy_or_replace_the_registers) {
    heat();
    for (int i = 0; i < 300; i++) CHECK(syscall(SYS_getppid) == getppid());
    CHECK(syscall(SYS_mmap, 0L, 4096L, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1L, 0L) != -1);
    for (int i = 0; i < 20; i++) {
        double kept = i + 0.5;
        pid_t child = i & 1 ? syscall(SYS_fork) : syscall(SYS_clone, SIGCHLD, 0L, 0L, 0L, 0L);
        if (child == 0) {
            CHECK(kept == i + 0.5 && syscall(SYS_getppid) > 0);
            if (i % 3 == 0) syscall(SYS_execve, "/bin/sh", (char *[]){"sh", "-c", "exit 0", NULL}, environ);
            syscall(i % 3 == 1 ? SYS_exit : SYS_exit_group, check_failures);
        }
        CHECK(exit_of(child) == 0 && kept == i + 0.5);
    }
}

static volatile int trapped_well;
static void on_filtered(int signo, siginfo_t *information, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const unsigned char *behind = information->si_call_addr;
    (void)signo;
    trapped_well += behind == (unsigned char *)registers[REG_RIP] && behind[-2] == 0x0f && behind[-1] == 0x05 && information->si_syscall == SYS_getppid &&
                    registers[REG_RAX] == SYS_getppid;
    registers[REG_RAX] = 4242;
}

CASE(filters_see_the_guests_own_syscall) {
    heat();
    struct sigaction action = {.sa_sigaction = on_filtered, .sa_flags = SA_SIGINFO};
    sigaction(SIGSYS, &action, NULL);
    uintptr_t low = (uintptr_t)getppid & 0xffffffff;
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 4),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer)),
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, low, 0, 2),
        BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, low + 32, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    NEED(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    NEED(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
    for (int i = 0; i < 200; i++) {
        CHECK(getppid() == 4242);
        CHECK(syscall(SYS_getppid) != 4242);
    }
    CHECK(trapped_well == 200);
}

static uintptr_t text_page(void) { return (uintptr_t)getppid & -4096L; }

CASE(text_made_writable_and_back) {
    heat();
    unsigned char *code = (unsigned char *)getppid, copy[16];
    memcpy(copy, code, sizeof copy);
    NEED(mprotect((void *)text_page(), 8192, PROT_READ | PROT_WRITE | PROT_EXEC) == 0);
    for (int i = 0; i < 300; i++) CHECK(getppid() > 0);
    NEED(mprotect((void *)text_page(), 8192, PROT_READ | PROT_EXEC) == 0);
    for (int i = 0; i < 300; i++) CHECK(getppid() > 0);
}

CASE(calls_that_read_text_see_the_file) {
    heat();
    char name[] = "/proc/self/maps", line[512], path[256] = "";
    unsigned long start, end, offset;
    FILE *maps = fopen(name, "r");
    while (fgets(line, sizeof line, maps))
        if (sscanf(line, "%lx-%lx %*s %lx %*s %*s %255s", &start, &end, &offset, path) == 4 && (uintptr_t)getppid >= start && (uintptr_t)getppid < end) break;
    fclose(maps);
    NEED(path[0] == '/' && strstr(path, "libc"));
    char from_file[32], from_memory[32];
    int file = open(path, O_RDONLY), ends[2];
    NEED(file >= 0 && pipe(ends) == 0);
    CHECK(pread(file, from_file, 32, (uintptr_t)getppid - start + offset) == 32);
    CHECK(write(ends[1], (void *)getppid, 32) == 32 && read(ends[0], from_memory, 32) == 32);
    CHECK(memcmp(from_file, from_memory, 32) == 0);
}

CASE(trampolines_are_not_the_guests) {
    heat();
    long size = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512];
    while (fgets(line, sizeof line, maps)) size += strstr(line, "libc") && strstr(line, "r-xp");
    fclose(maps);
    CHECK(size == 1);
    void *all = mmap(NULL, 1 << 30, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(all != MAP_FAILED);
    for (int i = 0; i < 300; i++) CHECK(getppid() > 0);
    CHECK(munmap(all, 1 << 30) == 0);
    for (int i = 0; i < 300; i++) CHECK(getppid() > 0);
}
