// EFAULT from every pointer argument: null, unmapped, read-only and kernel addresses, never a crash.
#include "check.h"
#include <linux/futex.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <termios.h>

#define BAD ((void *)0x10)
static int fd, p[2], s[2], ep, tfd, efd;
static char page[4096] __attribute__((aligned(4096)));
static void prepare(void) {
    fd = open("f", O_RDWR | O_CREAT, 0600);
    write(fd, "0123456789", 10);
    lseek(fd, 0, SEEK_SET);
    pipe(p);
    write(p[1], "0123456789", 10);
    socketpair(AF_UNIX, SOCK_STREAM, 0, s);
    write(s[1], "0123456789", 10);
    ep = epoll_create1(0);
    struct epoll_event event = {EPOLLIN, {0}};
    epoll_ctl(ep, EPOLL_CTL_ADD, p[0], &event);
    tfd = timerfd_create(CLOCK_MONOTONIC, 0);
    efd = eventfd(1, 0);
    mkdir("d", 0755);
    symlink("f", "link");
}
#define BADS(...)                                                                                                                                    \
    do {                                                                                                                                             \
        void *const bad_pointers[] = {BAD, (void *)0x7fffffffe000, (void *)0xffff800000000000, (void *)-8};                                         \
        for (int bad_i = 0; bad_i < 4; bad_i++) {                                                                                                    \
            void *const X = bad_pointers[bad_i];                                                                                                     \
            FAILS(syscall(__VA_ARGS__), EFAULT);                                                                                                     \
        }                                                                                                                                            \
    } while (0)

CASE(input_output) {
    prepare();
    BADS(SYS_read, fd, X, 5);
    BADS(SYS_write, fd, X, 5);
    BADS(SYS_pread64, fd, X, 5, 0);
    BADS(SYS_pwrite64, fd, X, 5, 0);
    BADS(SYS_readv, fd, X, 1);
    BADS(SYS_writev, fd, X, 1);
    BADS(SYS_preadv, fd, X, 1, 0, 0);
    BADS(SYS_read, p[0], X, 5);
    BADS(SYS_write, p[1], X, 5);
    BADS(SYS_read, s[0], X, 5);
    BADS(SYS_write, s[1], X, 5);
    FAILS(syscall(SYS_read, efd, BAD, 8), EFAULT);
    BADS(SYS_write, efd, X, 8);
    BADS(SYS_ioctl, p[0], FIONREAD, X);
    BADS(SYS_ioctl, p[0], FIONBIO, X);
    BADS(SYS_pipe, X);
    BADS(SYS_pipe2, X, 0);
    BADS(SYS_sendfile, p[1], fd, X, 5);
    BADS(SYS_splice, fd, X, p[1], NULL, 5, 0);
    BADS(SYS_copy_file_range, fd, X, fd, NULL, 5, 0);
    BADS(SYS_getdents64, open("d", O_RDONLY), X, 4096);
    BADS(SYS_fcntl, fd, F_GETLK, X);
    BADS(SYS_fcntl, fd, F_SETLK, X);
    struct iovec v = {BAD, 5};
    FAILS(syscall(SYS_readv, fd, &v, 1), EFAULT);
    FAILS(syscall(SYS_writev, fd, &v, 1), EFAULT);
}

CASE(names) {
    prepare();
    BADS(SYS_open, X, O_RDONLY);
    BADS(SYS_openat, AT_FDCWD, X, O_RDONLY);
    BADS(SYS_openat2, AT_FDCWD, "f", X, 24);
    BADS(SYS_stat, X, page);
    BADS(SYS_stat, "f", X);
    BADS(SYS_lstat, X, page);
    BADS(SYS_fstat, fd, X);
    BADS(SYS_newfstatat, AT_FDCWD, X, page, 0);
    BADS(SYS_newfstatat, AT_FDCWD, "f", X, 0);
    BADS(SYS_statx, AT_FDCWD, "f", 0, 0xfff, X);
    BADS(SYS_statfs, X, page);
    BADS(SYS_statfs, ".", X);
    BADS(SYS_fstatfs, fd, X);
    BADS(SYS_access, X, 0);
    BADS(SYS_chdir, X);
    BADS(SYS_mkdir, X, 0755);
    BADS(SYS_rmdir, X);
    BADS(SYS_unlink, X);
    BADS(SYS_unlinkat, AT_FDCWD, X, 0);
    BADS(SYS_link, X, "y");
    BADS(SYS_link, "f", X);
    BADS(SYS_symlink, X, "y");
    BADS(SYS_symlink, "y", X);
    BADS(SYS_rename, X, "y");
    BADS(SYS_rename, "f", X);
    BADS(SYS_readlink, X, page, 10);
    BADS(SYS_readlink, "link", X, 10);
    BADS(SYS_chmod, X, 0644);
    BADS(SYS_chown, X, 0, 0);
    BADS(SYS_truncate, X, 0);
    BADS(SYS_mknod, X, S_IFIFO, 0);
    BADS(SYS_utimensat, AT_FDCWD, X, NULL, 0);
    BADS(SYS_utimensat, AT_FDCWD, "f", X, 0);
    BADS(SYS_utimes, "f", X);
    BADS(SYS_utime, "f", X);
    BADS(SYS_getcwd, X, 4096);
    BADS(SYS_getxattr, X, "user.a", page, 10);
    BADS(SYS_setxattr, "f", X, page, 10, 0);
    BADS(SYS_setxattr, "f", "user.a", X, 10, 0);
    BADS(SYS_listxattr, X, page, 10);
    BADS(SYS_memfd_create, X, 0);
    BADS(SYS_chroot, X);
}

CASE(waiting) {
    prepare();
    BADS(SYS_poll, X, 1, 0);
    BADS(SYS_ppoll, page, 1, X, NULL, 8);
    BADS(SYS_select, 5, X, NULL, NULL, NULL);
    BADS(SYS_select, 0, NULL, NULL, NULL, X);
    BADS(SYS_pselect6, 0, NULL, NULL, NULL, X, NULL);
    BADS(SYS_epoll_ctl, ep, EPOLL_CTL_ADD, efd, X);
    BADS(SYS_epoll_wait, ep, X, 1, 0);
    BADS(SYS_timerfd_settime, tfd, 0, X, NULL);
    BADS(SYS_timerfd_gettime, tfd, X);
    BADS(SYS_signalfd4, -1, X, 8, 0);
    BADS(SYS_nanosleep, X, NULL);
    BADS(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, X, NULL);
    BADS(SYS_futex, X, FUTEX_WAIT, 0, NULL, NULL, 0);
    BADS(SYS_futex, page, FUTEX_WAIT, 0, X, NULL, 0);
    pid_t pid = fork();
    if (!pid) _exit(0);
    sleep_ms(30);
    BADS(SYS_waitid, P_PID, pid, X, WEXITED | WNOWAIT, NULL);
    FAILS(syscall(SYS_wait4, pid, BAD, 0, NULL), EFAULT);
}

CASE(signals_and_time) {
    BADS(SYS_rt_sigaction, SIGUSR1, X, NULL, 8);
    BADS(SYS_rt_sigaction, SIGUSR1, NULL, X, 8);
    BADS(SYS_rt_sigprocmask, SIG_BLOCK, X, NULL, 8);
    BADS(SYS_rt_sigprocmask, SIG_BLOCK, NULL, X, 8);
    BADS(SYS_rt_sigpending, X, 8);
    BADS(SYS_rt_sigsuspend, X, 8);
    BADS(SYS_rt_sigtimedwait, X, NULL, NULL, 8);
    BADS(SYS_rt_sigqueueinfo, getpid(), SIGUSR1, X);
    BADS(SYS_sigaltstack, X, NULL);
    BADS(SYS_sigaltstack, NULL, X);
    BADS(SYS_clock_gettime, CLOCK_MONOTONIC, X);
    BADS(SYS_clock_getres, CLOCK_MONOTONIC, X);
    BADS(SYS_gettimeofday, X, NULL);
    BADS(SYS_time, X);
    BADS(SYS_times, X);
    BADS(SYS_setitimer, ITIMER_REAL, X, NULL);
    BADS(SYS_getitimer, ITIMER_REAL, X);
    BADS(SYS_timer_create, CLOCK_MONOTONIC, X, page);
    BADS(SYS_timer_create, CLOCK_MONOTONIC, NULL, X);
    BADS(SYS_getrusage, RUSAGE_SELF, X);
}

CASE(processes) {
    BADS(SYS_execve, X, NULL, NULL);
    BADS(SYS_execve, "/bin/true", X, NULL);
    BADS(SYS_execve, "/bin/true", NULL, X);
    BADS(SYS_clone3, X, 88);
    BADS(SYS_getrlimit, RLIMIT_NOFILE, X);
    BADS(SYS_setrlimit, RLIMIT_NOFILE, X);
    BADS(SYS_prlimit64, 0, RLIMIT_NOFILE, X, NULL);
    BADS(SYS_uname, X);
    BADS(SYS_sysinfo, X);
    BADS(SYS_getrandom, X, 10, 0);
    BADS(SYS_getresuid, X, page, page + 8);
    BADS(SYS_getresgid, page, X, page + 8);
    BADS(SYS_sched_getaffinity, 0, 128, X);
    BADS(SYS_sched_setaffinity, 0, 128, X);
    BADS(SYS_sched_getparam, 0, X);
    BADS(SYS_arch_prctl, 0x1003, X);
    BADS(SYS_getcpu, X, NULL, NULL);
    BADS(SYS_capget, X, page);
    BADS(SYS_process_vm_readv, getpid(), X, 1, page, 1, 0);
    BADS(SYS_mincore, page, 4096, X);
    BADS(SYS_get_robust_list, 0, X, page);
}

CASE(sockets) {
    prepare();
    BADS(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, X);
    BADS(SYS_bind, socket(AF_UNIX, SOCK_STREAM, 0), X, 10);
    BADS(SYS_connect, socket(AF_UNIX, SOCK_STREAM, 0), X, 10);
    *(int *)page = 16;
    BADS(SYS_getsockname, s[0], X, page);
    BADS(SYS_getsockname, s[0], page, X);
    BADS(SYS_sendto, s[0], X, 10, 0, NULL, 0);
    BADS(SYS_recvfrom, s[0], X, 5, 0, NULL, NULL);
    BADS(SYS_sendmsg, s[0], X, 0);
    BADS(SYS_recvmsg, s[0], X, 0);
    BADS(SYS_getsockopt, s[0], SOL_SOCKET, SO_TYPE, X, page);
    BADS(SYS_setsockopt, s[0], SOL_SOCKET, SO_SNDBUF, X, 4);
}

CASE(read_only_memory_is_not_written) {
    prepare();
    char *ro = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    FAILS(read(fd, ro, 5), EFAULT);
    FAILS(syscall(SYS_pipe, ro), EFAULT);
    FAILS(syscall(SYS_uname, ro), EFAULT);
    CHECK(write(fd, ro, 5) == 5);
    char *none = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    FAILS(write(fd, none, 5), EFAULT);
    FAILS(open(none, O_RDONLY), EFAULT);
    CHECK(ro[0] == 0);
}

CASE(strings_that_run_off_the_map) {
    char *two = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(two + 4096, 4096);
    memset(two, 'x', 4096);
    FAILS(open(two + 4090, O_RDONLY), EFAULT);
    two[4095] = 0;
    FAILS(open(two + 4090, O_RDONLY), ENOENT);
    close(creat("f", 0600));
    strcpy(two + 4096 - 2, "f");
    CHECK(open(two + 4096 - 2, O_RDONLY) >= 0);
}

CASE(memory_is_committed_by_reads) {
    char *p0 = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int zero = open("/dev/zero", O_RDONLY), urandom = open("/dev/urandom", O_RDONLY);
    CHECK(read(zero, p0, 1 << 20) == 1 << 20);
    CHECK(read(urandom, p0 + 100, 5000) == 5000);
    int null = open("/dev/null", O_WRONLY);
    CHECK(write(null, p0, 1 << 20) == 1 << 20);
    char *q0 = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int out = open("zeros", O_RDWR | O_CREAT, 0600);
    CHECK(write(out, q0, 1 << 16) == 1 << 16); /* never touched: zeroes */
}
