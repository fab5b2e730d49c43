// mmap, munmap, mprotect, brk: every form of a map, its protection, and what a fault reports.
// flags: -O0
#include "check.h"
#include <setjmp.h>
#include <sys/resource.h>

enum { P = 4096 };
static sigjmp_buf back;
static siginfo_t fault;
static void on_fault(int s, siginfo_t *info, void *context) {
    fault = *info;
    (void)context;
    siglongjmp(back, s);
}
static void catch(void) {
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
}
#define FAULTS(expression, signal, code, address)                                                                                                    \
    do {                                                                                                                                             \
        int check_signal = sigsetjmp(back, 1);                                                                                                       \
        if (!check_signal) {                                                                                                                         \
            expression;                                                                                                                              \
            CHECK(!#expression " did not fault");                                                                                                    \
        } else                                                                                                                                       \
            CHECK(check_signal == signal && fault.si_code == code && fault.si_addr == (void *)(address));                                            \
    } while (0)
static char *anonymous(size_t length, int protection) { return mmap(NULL, length, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); }
#define RW (PROT_READ | PROT_WRITE)

CASE(anonymous_is_zero_and_private) {
    char *p = anonymous(16 * P, RW);
    NEED(p != MAP_FAILED);
    for (int i = 0; i < 16 * P; i++)
        if (p[i]) CHECK(!"zero");
    memset(p, 1, 16 * P);
    IN_CHILD({ p[0] = 2; });
    CHECK(p[0] == 1);
    CHECK(munmap(p, 16 * P) == 0);
}

CASE(unmapped_faults) {
    catch();
    volatile char *p = anonymous(4 * P, RW);
    p[P] = 1;
    CHECK(munmap((void *)(p + P), P) == 0);
    FAULTS(p[P] = 1, SIGSEGV, SEGV_MAPERR, p + P);
    FAULTS(p[P + 17], SIGSEGV, SEGV_MAPERR, p + P + 17);
    p[0] = p[2 * P] = 1;
    volatile char *null = NULL;
    FAULTS(*null = 1, SIGSEGV, SEGV_MAPERR, 0);
    CHECK(mmap((void *)(p + P), P, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == p + P);
    CHECK(p[P] == 0);
}

CASE(protection_faults) {
    catch();
    volatile char *p = anonymous(P, PROT_READ);
    FAULTS(p[3] = 1, SIGSEGV, SEGV_ACCERR, p + 3);
    CHECK(mprotect((void *)p, P, RW) == 0);
    p[3] = 7;
    CHECK(mprotect((void *)p, P, PROT_NONE) == 0);
    FAULTS(p[3], SIGSEGV, SEGV_ACCERR, p + 3);
    CHECK(mprotect((void *)p, P, PROT_READ) == 0);
    CHECK(p[3] == 7);
    FAULTS(((void (*)(void))p)(), SIGSEGV, SEGV_ACCERR, p);
    FAULTS((*(volatile char *)0x8000000000000000), SIGSEGV, SI_KERNEL, 0);
}

CASE(execute) {
    unsigned char code[] = {0xb8, 42, 0, 0, 0, 0xc3};
    char *p = anonymous(P, RW);
    memcpy(p, code, sizeof code);
    CHECK(mprotect(p, P, PROT_READ | PROT_EXEC) == 0);
    CHECK(((int (*)(void))p)() == 42);
    p = anonymous(P, RW | PROT_EXEC);
    memcpy(p, code, sizeof code);
    CHECK(((int (*)(void))p)() == 42);
    p[1] = 43;
    CHECK(((int (*)(void))p)() == 43);
}

CASE(refused) {
    FAILS(mmap(NULL, 0, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), EINVAL);
    FAILS(mmap(NULL, P, RW, MAP_ANONYMOUS, -1, 0), EINVAL);
    FAILS(mmap(NULL, P, RW, MAP_PRIVATE, -1, 0), EBADF);
    FAILS(mmap((void *)1, P, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), EINVAL);
    FAILS(mmap(NULL, 1UL << 47, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), ENOMEM);
    FAILS(mmap(NULL, -1UL, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), ENOMEM);
    FAILS(mmap((void *)(1UL << 50), P, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), ENOMEM);
    FAILS(munmap((void *)1, P), EINVAL);
    FAILS(munmap((void *)P, 0), EINVAL);
    CHECK(munmap((void *)(P * 16L), P) == 0);
    FAILS(mprotect((void *)(P * 16L), P, PROT_READ), ENOMEM);
    FAILS(mprotect((void *)1, P, PROT_READ), EINVAL);
    CHECK(mprotect((void *)(P * 16L), 0, PROT_READ) == 0);
    int fd = open("f", O_RDWR | O_CREAT, 0600);
    FAILS(mmap(NULL, P, PROT_READ, MAP_PRIVATE, fd, 1), EINVAL);
    int readonly = open("f", O_RDONLY), writeonly = open("f", O_WRONLY);
    FAILS(mmap(NULL, P, RW, MAP_SHARED, readonly, 0), EACCES);
    FAILS(mmap(NULL, P, PROT_READ, MAP_PRIVATE, writeonly, 0), EACCES);
    CHECK(mmap(NULL, P, RW, MAP_PRIVATE, readonly, 0) != MAP_FAILED);
    FAILS(mmap(NULL, P, PROT_READ, MAP_PRIVATE, open(".", O_RDONLY), 0), ENODEV);
    int pipes[2];
    pipe(pipes);
    FAILS(mmap(NULL, P, PROT_READ, MAP_PRIVATE, pipes[0], 0), ENODEV);
    FAILS(mmap(NULL, P, PROT_READ, MAP_PRIVATE, open("f", O_PATH), 0), EBADF);
}

CASE(fixed_noreplace) {
    char *p = anonymous(4 * P, RW);
    munmap(p + P, P);
    CHECK(mmap(p + P, P, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == p + P);
    FAILS(mmap(p + P, P, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0), EEXIST);
    FAILS(mmap(p, 8 * P, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0), EEXIST);
}

CASE(hint_is_taken_when_free) {
    char *p = anonymous(64 * P, RW);
    munmap(p, 64 * P);
    CHECK(mmap(p + 8 * P, P, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == p + 8 * P);
    char *other = mmap(p + 8 * P, P, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(other != MAP_FAILED && other != p + 8 * P);
    CHECK(mmap(p + 8 * P, P, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == p + 8 * P);
    char *low = mmap(NULL, P, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    CHECK((uintptr_t)low < 1UL << 31);
}

CASE(file_private) {
    put("f", "0123456789");
    int fd = open("f", O_RDWR);
    char *p = mmap(NULL, P, RW, MAP_PRIVATE, fd, 0);
    NEED(p != MAP_FAILED);
    CHECK(!memcmp(p, "0123456789\0\0", 12));
    p[0] = 'x';
    CHECK(!strcmp(content("f"), "0123456789"));
    CHECK(pwrite(fd, "abc", 3, 3) == 3);
    CHECK(p[0] == 'x');
    char *q = mmap(NULL, P, PROT_READ, MAP_PRIVATE, fd, 0);
    CHECK(!memcmp(q, "012abc6789", 10));
}

CASE(file_shared_is_coherent) {
    put("f", "0123456789");
    int fd = open("f", O_RDWR);
    char *p = mmap(NULL, P, RW, MAP_SHARED, fd, 0), *q = mmap(NULL, P, PROT_READ, MAP_SHARED, fd, 0);
    NEED(p != MAP_FAILED && q != MAP_FAILED);
    p[0] = 'x';
    CHECK(q[0] == 'x');
    CHECK(!strcmp(content("f"), "x123456789"));
    CHECK(pwrite(fd, "abc", 3, 3) == 3);
    CHECK(!memcmp(p, "x12abc6789", 10));
    IN_CHILD({ p[9] = 'c'; });
    CHECK(q[9] == 'c');
    close(fd);
    CHECK(p[1] == '1');
    unlink("f");
    p[1] = 'u';
    CHECK(q[1] == 'u');
    CHECK(msync(p, P, MS_SYNC) == 0);
}

CASE(beyond_the_end_of_a_file) {
    catch();
    put("f", "0123456789");
    int fd = open("f", O_RDWR);
    volatile char *p = mmap(NULL, 4 * P, RW, MAP_SHARED, fd, 0);
    NEED(p != MAP_FAILED);
    p[P - 1] = 1;
    FAULTS(p[P] = 1, SIGBUS, BUS_ADRERR, p + P);
    CHECK(ftruncate(fd, 2 * P) == 0);
    p[P] = 2;
    CHECK(ftruncate(fd, P) == 0);
    FAULTS(p[P], SIGBUS, BUS_ADRERR, p + P);
    CHECK(ftruncate(fd, 2 * P) == 0);
    CHECK(p[P] == 0);
    volatile char *q = mmap(NULL, 4 * P, RW, MAP_PRIVATE, fd, 0);
    FAULTS(q[3 * P], SIGBUS, BUS_ADRERR, q + 3 * P);
    CHECK(ftruncate(fd, 5) == 0);
    CHECK(p[7] == 0);
}

CASE(system_calls_on_maps_beyond_the_end) {
    put("f", "0123456789");
    int fd = open("f", O_RDWR), null = open("/dev/null", O_WRONLY), p[2];
    char *map = mmap(NULL, 4 * P, RW, MAP_SHARED, fd, 0);
    pipe(p);
    FAILS(write(p[1], map + 2 * P, 10), EFAULT);
    FAILS(write(p[1], map + P - 10, 20), EFAULT); /* a pipe takes a buffer of a page whole or not at all */
    CHECK(write(open("g", O_WRONLY | O_CREAT, 0600), map + P - 10, 20) == 10);
    FAILS(read(open("/dev/zero", O_RDONLY), map + P, 10), EFAULT);
    (void)null;
}

CASE(offset_maps) {
    int fd = open("f", O_RDWR | O_CREAT, 0600);
    for (int i = 0; i < 8; i++) {
        char page[P];
        memset(page, 'a' + i, P);
        write(fd, page, P);
    }
    char *p = mmap(NULL, 2 * P, PROT_READ, MAP_SHARED, fd, 3 * P);
    CHECK(p[0] == 'd' && p[P] == 'e');
    munmap(p, P);
    CHECK(p[P] == 'e');
    char *q = mmap(p + P, P, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 7 * P);
    CHECK(q[0] == 'h');
}

CASE(shared_anonymous_across_fork) {
    int *p = mmap(NULL, 16 * P, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(p[0] == 0);
    IN_CHILD({
        p[0] = 5;
        p[15 * 1024] = 6;
        IN_CHILD({ p[1] = 7; });
    });
    CHECK(p[0] == 5 && p[15 * 1024] == 6 && p[1] == 7);
}

CASE(maps_split_and_merge) {
    char *p = anonymous(10 * P, RW);
    for (int i = 1; i < 10; i += 2) CHECK(mprotect(p + i * P, P, PROT_READ) == 0);
    for (int i = 0; i < 10; i += 2) p[i * P] = i;
    CHECK(mprotect(p, 10 * P, RW) == 0);
    for (int i = 0; i < 10; i++) p[i * P] = i;
    char command[100];
    snprintf(command, sizeof command, "grep -c '^%lx-%lx rw-p' /proc/%d/maps", (long)p, (long)p + 10 * P, getpid());
    int found = system(command);
    (void)found; /* neighbours may merge with it; the count is not the point */
    CHECK(munmap(p + 3 * P, 4 * P) == 0);
    p[2 * P] = p[7 * P] = 1;
}

CASE(many_maps) {
    enum { N = 2000 };
    char *p = anonymous(N * 2 * P, PROT_NONE);
    NEED(p != MAP_FAILED);
    for (int i = 0; i < N; i++) NEED(mprotect(p + i * 2 * P, P, RW) == 0);
    for (int i = 0; i < N; i++) p[i * 2 * P] = i;
    for (int i = 0; i < N; i++) CHECK(p[i * 2 * P] == (char)i);
    CHECK(munmap(p, N * 2 * P) == 0);
}

CASE(large_sparse) {
    size_t length = 64UL << 30;
    char *p = mmap(NULL, length, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    NEED(p != MAP_FAILED);
    for (size_t i = 0; i < length; i += 1UL << 30) p[i] = 1;
    for (size_t i = 0; i < length; i += 1UL << 30) CHECK(p[i] == 1 && p[i + P] == 0);
    CHECK(munmap(p, length) == 0);
    p = mmap(NULL, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(p != MAP_FAILED);
}

CASE(populate_and_locked) {
    char *p = mmap(NULL, 16 * P, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    NEED(p != MAP_FAILED);
    unsigned char seen[16];
    CHECK(mincore(p, 16 * P, seen) == 0);
    for (int i = 0; i < 16; i++) CHECK(seen[i] & 1);
}

CASE(stack_grows) {
    volatile char big[2 << 20];
    for (size_t i = sizeof big; i >= P; i -= P) big[i - 1] = 1;
    CHECK(big[sizeof big - 1] == 1);
}

static int recurse(int n) {
    volatile char block[P * 4];
    block[0] = n;
    return n == 0 ? 0 : recurse(n - 1) + block[0] * 0;
}

CASE(stack_limit_is_kept) {
    struct rlimit limit;
    getrlimit(RLIMIT_STACK, &limit);
    note("stack limit %ld", (long)limit.rlim_cur);
    pid_t pid = fork();
    if (!pid) {
        recurse(400); /* 6.4 MB of 8 */
        _exit(0);
    }
    CHECK(exit_of(pid) == 0);
    pid = fork();
    if (!pid) {
        recurse(100000);
        _exit(0);
    }
    CHECK(exit_of(pid) == 128 + SIGSEGV);
}

CASE(growsdown) {
    char *p = anonymous(300 * P, PROT_NONE);
    munmap(p, 300 * P);
    char *stack = mmap(p + 290 * P, 4 * P, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_GROWSDOWN, -1, 0);
    NEED(stack != MAP_FAILED);
    for (int i = 0; i < 10; i++) stack[-1 - i * P] = 1;
    CHECK(stack[-1] == 1);
}

CASE(brk_moves) {
    char *start = sbrk(0);
    CHECK(sbrk(10 * P) == start);
    memset(start, 1, 10 * P);
    CHECK(sbrk(0) == start + 10 * P);
    CHECK(brk(start + 2 * P) == 0);
    CHECK(start[P] == 1);
    CHECK(brk(start + 10 * P) == 0);
    CHECK(start[5 * P] == 0);
    CHECK(syscall(SYS_brk, 0) == (long)start + 10 * P);
    CHECK(syscall(SYS_brk, 1UL << 48) == (long)start + 10 * P);
    catch();
    brk(start + P);
    FAULTS(*(volatile char *)(start + 3 * P) = 1, SIGSEGV, SEGV_MAPERR, start + 3 * P);
}

CASE(zeroes_after_unmap_and_remap) {
    for (int i = 0; i < 20; i++) {
        char *p = anonymous(8 * P, RW);
        for (int j = 0; j < 8 * P; j += 64)
            if (p[j]) CHECK(!"stale data");
        memset(p, 0xff, 8 * P);
        munmap(p, 8 * P);
    }
}

CASE(mprotect_across_a_hole) {
    char *p = anonymous(4 * P, RW);
    munmap(p + 2 * P, P);
    FAILS(mprotect(p, 4 * P, PROT_READ), ENOMEM);
    catch();
    FAULTS(*(volatile char *)p = 1, SIGSEGV, SEGV_ACCERR, p); /* what came before the hole changed */
    p[3 * P] = 1;
}

CASE(readonly_shared_file_stays_readonly) {
    put("f", "text");
    char *p = mmap(NULL, P, PROT_READ, MAP_SHARED, open("f", O_RDONLY), 0);
    FAILS(mprotect(p, P, RW), EACCES);
    char *q = mmap(NULL, P, PROT_READ, MAP_PRIVATE, open("f", O_RDONLY), 0);
    CHECK(mprotect(q, P, RW) == 0);
    q[0] = 'T';
    CHECK(!strcmp(content("f"), "text"));
}

CASE(dev_zero_maps) {
    int fd = open("/dev/zero", O_RDWR);
    char *p = mmap(NULL, 2 * P, RW, MAP_PRIVATE, fd, 0);
    CHECK(p != MAP_FAILED && p[P] == 0);
    p[0] = 1;
    char *q = mmap(NULL, 2 * P, RW, MAP_SHARED, fd, 0);
    CHECK(q != MAP_FAILED && q[0] == 0);
    IN_CHILD({ q[0] = 9; });
    CHECK(q[0] == 9);
}

CASE(address_space_limit) {
    IN_CHILD({
        struct rlimit limit = {256 << 20, 256 << 20};
        NEED(setrlimit(RLIMIT_AS, &limit) == 0);
        FAILS(mmap(NULL, 512 << 20, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), ENOMEM);
        CHECK(mmap(NULL, 64 << 20, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
    });
    IN_CHILD({
        struct rlimit limit = {1 << 20, 1 << 20};
        NEED(setrlimit(RLIMIT_DATA, &limit) == 0);
        char *old = sbrk(0);
        CHECK(sbrk(16 << 20) == (void *)-1 && sbrk(0) == old);
    });
}

CASE(instruction_fault_reports_pc) {
    catch();
    FAULTS(((void (*)(void))0x1000)(), SIGSEGV, SEGV_MAPERR, 0x1000);
}

CASE(code_is_mapped_from_a_file_that_changes_later) {
    static char buffer[1 << 20];
    int in = open("/bin/true", O_RDONLY), out = open("copy", O_RDWR | O_CREAT, 0755);
    ssize_t n = read(in, buffer, sizeof buffer);
    write(out, buffer, n);
    char *p = mmap(NULL, P, PROT_READ | PROT_EXEC, MAP_PRIVATE, out, 0);
    CHECK(!memcmp(p, buffer, P));
    char *q = mmap(NULL, n, PROT_READ, MAP_SHARED, in, 0);
    CHECK(!memcmp(q, buffer, n));
}
