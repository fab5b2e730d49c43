// mremap, madvise, msync, mincore, the mlock family, process_vm_readv, membarrier.
#include "check.h"
#include <linux/membarrier.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>

enum { P = 4096 };
#define RW (PROT_READ | PROT_WRITE)
static char *anonymous(size_t length, int protection) { return mmap(NULL, length, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); }
static sigjmp_buf back;
static void on_fault(int s) { siglongjmp(back, s); }
static int faults(volatile char *p) {
    signal(SIGSEGV, on_fault);
    signal(SIGBUS, on_fault);
    int s = sigsetjmp(back, 1);
    if (!s) *p;
    return s;
}
static char *numbered(int pages) {
    char *p = anonymous(pages * P, RW);
    for (int i = 0; i < pages; i++) p[i * P] = i + 1;
    return p;
}

CASE(grow_in_place_or_move) {
    char *p = numbered(4);
    char *q = mremap(p, 4 * P, 64 * P, MREMAP_MAYMOVE);
    NEED(q != MAP_FAILED);
    for (int i = 0; i < 4; i++) CHECK(q[i * P] == i + 1);
    CHECK(q[10 * P] == 0);
    q[63 * P] = 1;
}

CASE(grow_blocked) {
    char *p = numbered(8);
    FAILS(mremap(p, 4 * P, 6 * P, 0), ENOMEM);
    munmap(p + 4 * P, 4 * P);
    CHECK(mremap(p, 4 * P, 6 * P, 0) == p);
    CHECK(p[5 * P] == 0 && p[3 * P] == 4);
}

CASE(shrink) {
    char *p = numbered(8);
    CHECK(mremap(p, 8 * P, 3 * P, 0) == p);
    CHECK(faults(p + 3 * P) == SIGSEGV);
    CHECK(p[2 * P] == 3);
}

CASE(fixed) {
    char *p = numbered(4), *q = anonymous(8 * P, PROT_NONE);
    CHECK(mremap(p, 4 * P, 4 * P, MREMAP_MAYMOVE | MREMAP_FIXED, q + 2 * P) == q + 2 * P);
    for (int i = 0; i < 4; i++) CHECK(q[(i + 2) * P] == i + 1);
    CHECK(faults(p) == SIGSEGV);
    q[2 * P] = 9;
    FAILS(mremap(q + 2 * P, 4 * P, 4 * P, MREMAP_FIXED, q), EINVAL);
    FAILS(mremap(q + 2 * P, 4 * P, 4 * P, MREMAP_MAYMOVE | MREMAP_FIXED, q + 3 * P), EINVAL);
    FAILS(mremap(q + 2 * P, 4 * P, 4 * P, MREMAP_MAYMOVE | MREMAP_FIXED, q + 1), EINVAL);
}

CASE(dontunmap) {
    char *p = numbered(4);
    char *q = mremap(p, 4 * P, 4 * P, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 0);
    NEED(q != MAP_FAILED);
    for (int i = 0; i < 4; i++) CHECK(q[i * P] == i + 1 && p[i * P] == 0);
}

CASE(middle_of_a_map) {
    char *p = numbered(8);
    char *q = mremap(p + 2 * P, 2 * P, 16 * P, MREMAP_MAYMOVE);
    NEED(q != MAP_FAILED);
    CHECK(q[0] == 3 && q[P] == 4 && q[2 * P] == 0);
    CHECK(p[P] == 2 && p[4 * P] == 5);
    CHECK(faults(p + 2 * P) == SIGSEGV);
}

CASE(refused) {
    char *p = numbered(4);
    FAILS(mremap(p + 1, P, P, 0), EINVAL);
    FAILS(mremap(p, P, 0, 0), EINVAL);
    FAILS(mremap(p, P, P, 0x100), EINVAL);
    FAILS(mremap((void *)(16L * P), P, 2 * P, MREMAP_MAYMOVE), EFAULT);
    munmap(p + 2 * P, P);
    FAILS(mremap(p, 4 * P, 8 * P, MREMAP_MAYMOVE), EFAULT);
    FAILS(mremap(p, 0, P, MREMAP_MAYMOVE), EINVAL);
}

CASE(shared_file_moves) {
    int fd = open("f", O_RDWR | O_CREAT, 0600);
    ftruncate(fd, 8 * P);
    char *p = mmap(NULL, 2 * P, RW, MAP_SHARED, fd, 0);
    p[0] = 'a';
    char *q = mremap(p, 2 * P, 8 * P, MREMAP_MAYMOVE);
    NEED(q != MAP_FAILED);
    q[7 * P] = 'z';
    char c;
    CHECK(pread(fd, &c, 1, 7 * P) == 1 && c == 'z');
    CHECK(q[0] == 'a');
}

CASE(duplicate_shared_with_old_size_zero) {
    char *p = mmap(NULL, 2 * P, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    char *q = mremap(p, 0, 2 * P, MREMAP_MAYMOVE);
    NEED(q != MAP_FAILED && q != p);
    p[5] = 1;
    CHECK(q[5] == 1);
}

CASE(grown_map_survives_fork) {
    char *p = numbered(4);
    p = mremap(p, 4 * P, 100 * P, MREMAP_MAYMOVE);
    p[99 * P] = 5;
    IN_CHILD({ CHECK(p[99 * P] == 5 && p[2 * P] == 3); });
}

CASE(dontneed) {
    char *p = numbered(8);
    CHECK(madvise(p + 2 * P, 2 * P, MADV_DONTNEED) == 0);
    CHECK(p[P] == 2 && p[2 * P] == 0 && p[3 * P] == 0 && p[4 * P] == 5);
    put("f", "contents");
    char *q = mmap(NULL, P, RW, MAP_PRIVATE, open("f", O_RDONLY), 0);
    q[0] = 'X';
    CHECK(madvise(q, P, MADV_DONTNEED) == 0);
    CHECK(q[0] == 'c');
    char *s = mmap(NULL, P, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    s[0] = 7;
    CHECK(madvise(s, P, MADV_DONTNEED) == 0);
    CHECK(s[0] == 7);
}

CASE(dontneed_after_fork) {
    char *p = numbered(64);
    int pipes[2];
    pipe(pipes);
    pid_t pid = CHILD({
        char c;
        read(pipes[0], &c, 1);
        for (int i = 0; i < 64; i++) CHECK(p[i * P] == i + 1);
    });
    CHECK(madvise(p, 64 * P, MADV_DONTNEED) == 0);
    CHECK(p[5 * P] == 0);
    write(pipes[1], "x", 1);
    CHECK(exit_of(pid) == 0);
}

CASE(free_keeps_or_zeroes) {
    char *p = numbered(4);
    CHECK(madvise(p, 4 * P, MADV_FREE) == 0);
    for (int i = 0; i < 4; i++) CHECK(p[i * P] == i + 1 || p[i * P] == 0);
    p[0] = 9;
    CHECK(p[0] == 9);
}

CASE(dontfork_and_wipeonfork) {
    char *p = numbered(4), *q = numbered(4);
    CHECK(madvise(p, 2 * P, MADV_DONTFORK) == 0);
    CHECK(madvise(q, 4 * P, MADV_WIPEONFORK) == 0);
    IN_CHILD({
        CHECK(faults(p) == SIGSEGV);
        CHECK(p[2 * P] == 3);
        CHECK(q[0] == 0 && q[3 * P] == 0);
    });
    CHECK(p[0] == 1 && q[0] == 1);
    CHECK(madvise(p, 2 * P, MADV_DOFORK) == 0);
    CHECK(madvise(q, 4 * P, MADV_KEEPONFORK) == 0);
    IN_CHILD({ CHECK(p[0] == 1 && q[0] == 1); });
}

CASE(populate) {
    char *p = anonymous(8 * P, RW);
    unsigned char seen[8];
    CHECK(madvise(p, 8 * P, MADV_POPULATE_WRITE) == 0);
    CHECK(mincore(p, 8 * P, seen) == 0 && (seen[0] & 1) && (seen[7] & 1));
    char *r = anonymous(P, PROT_READ);
    CHECK(madvise(r, P, MADV_POPULATE_READ) == 0);
    FAILS(madvise(r, P, MADV_POPULATE_WRITE), EINVAL);
}

CASE(advice_errors) {
    char *p = numbered(4);
    CHECK(madvise(p, 4 * P, MADV_NORMAL) == 0);
    CHECK(madvise(p, 4 * P, MADV_SEQUENTIAL) == 0);
    CHECK(madvise(p, 4 * P, MADV_WILLNEED) == 0 || errno == EBADF);
    FAILS(madvise(p + 1, P, MADV_NORMAL), EINVAL);
    FAILS(madvise(p, P, 9999), EINVAL);
    munmap(p + P, P);
    FAILS(madvise(p, 4 * P, MADV_DONTNEED), ENOMEM);
    CHECK(p[0] == 0 && p[2 * P] == 0); /* applied to what is mapped all the same */
    CHECK(madvise(p, 0, MADV_DONTNEED) == 0);
}

CASE(remove_punches_shared) {
    char *p = mmap(NULL, 4 * P, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    p[0] = p[P] = 5;
    CHECK(madvise(p, P, MADV_REMOVE) == 0);
    CHECK(p[0] == 0 && p[P] == 5);
}

CASE(mincore_sees_presence) {
    char *p = anonymous(8 * P, RW);
    unsigned char seen[8] = {9, 9, 9, 9, 9, 9, 9, 9};
    p[2 * P] = 1;
    CHECK(mincore(p, 8 * P, seen) == 0);
    CHECK((seen[2] & 1) == 1 && (seen[0] & 1) == 0);
    FAILS(mincore(p + 1, P, seen), EINVAL);
    FAILS(mincore(p, 8 * P, (void *)16), EFAULT);
    munmap(p, P);
    FAILS(mincore(p, P, seen), ENOMEM);
}

CASE(msync_errors) {
    char *p = numbered(4);
    CHECK(msync(p, 4 * P, MS_SYNC) == 0);
    CHECK(msync(p, 4 * P, MS_ASYNC) == 0);
    FAILS(msync(p, P, MS_SYNC | MS_ASYNC), EINVAL);
    FAILS(msync(p + 1, P, MS_SYNC), EINVAL);
    FAILS(msync(p, P, 0x100), EINVAL);
    munmap(p + P, P);
    FAILS(msync(p, 4 * P, MS_SYNC), ENOMEM);
}

CASE(locks) {
    char *p = numbered(4);
    CHECK(mlock(p, 4 * P) == 0);
    CHECK(munlock(p, 4 * P) == 0);
    CHECK(mlock2(p, P, MLOCK_ONFAULT) == 0);
    FAILS(mlock2(p, P, 0x10), EINVAL);
    munmap(p + P, P);
    FAILS(mlock(p, 4 * P), ENOMEM);
    CHECK(mlockall(MCL_CURRENT) == 0 || errno == ENOMEM || errno == EPERM);
    FAILS(mlockall(0), EINVAL);
    FAILS(mlockall(99), EINVAL);
    CHECK(munlockall() == 0);
}

CASE(process_vm) {
    char *p = numbered(4), *shared = mmap(NULL, P, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t pid = CHILD({
        p[0] = 77;
        shared[0] = 1;
        while (shared[0] == 1) sleep_ms(5);
        CHECK(p[P] == 66);
    });
    while (shared[0] == 0) sleep_ms(2);
    char buffer[16] = "";
    struct iovec here[2] = {{buffer, 4}, {buffer + 4, 4}}, there = {p, 8};
    CHECK(process_vm_readv(pid, here, 2, &there, 1, 0) == 8);
    CHECK(buffer[0] == 77);
    buffer[0] = 66;
    struct iovec one = {buffer, 1}, target = {p + P, 1};
    CHECK(process_vm_writev(pid, &one, 1, &target, 1, 0) == 1);
    target.iov_base = (void *)16;
    FAILS(process_vm_readv(pid, &one, 1, &target, 1, 0), EFAULT);
    FAILS(process_vm_readv(pid, &one, 1, &target, 1, 5), EINVAL);
    FAILS(process_vm_readv(999999, &one, 1, &target, 1, 0), ESRCH);
    shared[0] = 2;
    CHECK(exit_of(pid) == 0);
}

static volatile int barrier_flag, barrier_seen, barrier_quit;

static void *watch_flag(void *unused) {
    while (!barrier_quit) barrier_seen = barrier_flag;
    return unused;
}

/* Store, barrier, load on one side and plain loads on the other: how liburcu uses it. Here: it returns, many times, while a sibling never makes a call. */
CASE(membarrier_beside_a_sibling_that_computes) {
    pthread_t thread;
    if (syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) < 0) SKIP("no membarrier");
    barrier_quit = 0;
    NEED(pthread_create(&thread, NULL, watch_flag, NULL) == 0);
    for (int i = 1; i <= 50; i++) {
        barrier_flag = i;
        CHECK(syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) == 0);
    }
    while (barrier_seen != 50) sched_yield();
    barrier_quit = 1;
    CHECK(pthread_join(thread, NULL) == 0);
}

CASE(membarrier_commands) {
    long commands = syscall(SYS_membarrier, MEMBARRIER_CMD_QUERY, 0, 0);
    if (commands < 0) SKIP("no membarrier");
    CHECK(commands & MEMBARRIER_CMD_GLOBAL);
    CHECK(syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) == 0);
    FAILS(syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0), EPERM);
    CHECK(syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0);
    CHECK(syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) == 0);
    FAILS(syscall(SYS_membarrier, 1 << 30, 0, 0), EINVAL);
}

static long advise(int pidfd, char *at, size_t length, int advice, int flags) {
    struct iovec pieces[2] = {{at, length}, {at + 2 * 4096, 4096}};
    return syscall(SYS_process_madvise, pidfd, pieces, 2, advice, flags);
}

CASE(advice_about_other_processes) {
    char *at = mmap(NULL, 4 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int self = syscall(SYS_pidfd_open, getpid(), 0);
    CHECK(advise(self, at, 4096, MADV_COLD, 0) == 8192);
    FAILS(advise(self, at, 4096, MADV_COLD, 1), EINVAL);
    FAILS(advise(self, at, 4096, 999, 0), EINVAL);
    FAILS(advise(self, at + 1, 4096, MADV_COLD, 0), EINVAL);
    FAILS(advise(0, at, 4096, MADV_COLD, 0), EBADF);
    pid_t parent = getpid();
    IN_CHILD({
        if (geteuid() != 0) _exit(0);
        int pidfd = syscall(SYS_pidfd_open, parent, 0);
        CHECK(advise(pidfd, at, 4096, MADV_WILLNEED, 0) == 8192);
        FAILS(advise(pidfd, at, 4096, MADV_DONTNEED, 0), EINVAL);
        munmap(at, 4 * 4096); /* it is about the parent's */
        CHECK(advise(pidfd, at, 4096, MADV_PAGEOUT, 0) == 8192);
    });
    munmap(at + 2 * 4096, 4096);
    CHECK(advise(self, at, 4096, MADV_COLD, 0) == 4096);
    munmap(at, 4096);
    FAILS(advise(self, at, 4096, MADV_COLD, 0), ENOMEM);
}
