// poll, select, epoll, eventfd, signalfd, pidfd: readiness from every side.
#include "check.h"
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/socket.h>

static int p[2], ep;
static struct epoll_event events[10];
static int add(int fd, uint32_t what) {
    struct epoll_event event = {what, {.fd = fd}};
    return epoll_ctl(ep, EPOLL_CTL_ADD, fd, &event);
}
static int ready(int timeout) { return epoll_wait(ep, events, 10, timeout); }

CASE(poll_forms) {
    pipe(p);
    struct pollfd set[3] = {{p[0], POLLIN, 0}, {-1, POLLIN, 55}, {99, POLLIN, 0}};
    CHECK(poll(set, 3, 0) == 1 && set[2].revents == POLLNVAL && set[1].revents == 0);
    double start = now();
    CHECK(poll(set, 1, 50) == 0);
    CHECK(now() - start >= 0.05);
    CHECK(poll(NULL, 0, 10) == 0);
    write(p[1], "x", 1);
    CHECK(poll(set, 1, -1) == 1 && set[0].revents == POLLIN);
    FAILS(poll((void *)16, 1, 0), EFAULT);
    struct timespec t = {0, 10000000};
    CHECK(ppoll(set, 1, &t, NULL) == 1);
    t.tv_nsec = -5;
    FAILS(ppoll(set, 1, &t, NULL), EINVAL);
    int file = open("f", O_RDWR | O_CREAT, 0600);
    set[0] = (struct pollfd){file, POLLIN | POLLOUT | POLLPRI, 0};
    CHECK(poll(set, 1, 0) == 1);
    note("regular file %#x", set[0].revents);
}

CASE(poll_wakes) {
    pipe(p);
    pid_t pid = CHILD({
        sleep_ms(40);
        write(p[1], "x", 1);
        sleep_ms(40);
    });
    close(p[1]);
    struct pollfd one = {p[0], POLLIN, 0};
    CHECK(poll(&one, 1, 5000) == 1 && one.revents == POLLIN);
    char c;
    read(p[0], &c, 1);
    CHECK(poll(&one, 1, 5000) == 1 && one.revents == POLLHUP);
    exit_of(pid);
}

static void on(int s) { (void)s; }

CASE(ppoll_mask) {
    signal(SIGUSR1, on);
    sigset_t set, empty;
    sigemptyset(&set);
    sigemptyset(&empty);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    raise(SIGUSR1);
    struct timespec t = {5, 0};
    FAILS(ppoll(NULL, 0, &t, &empty), EINTR);
    sigset_t seen;
    sigprocmask(SIG_BLOCK, NULL, &seen);
    CHECK(sigismember(&seen, SIGUSR1));
    raise(SIGUSR1);
    FAILS(pselect(0, NULL, NULL, NULL, &t, &empty), EINTR);
    ep = epoll_create1(0);
    raise(SIGUSR1);
    FAILS(epoll_pwait(ep, events, 10, 5000, &empty), EINTR);
    raise(SIGUSR1);
    t.tv_sec = 0;
    CHECK(ppoll(NULL, 0, &t, &set) == 0);
}

CASE(select_forms) {
    pipe(p);
    fd_set r, w, e;
    FD_ZERO(&r);
    FD_ZERO(&w);
    FD_ZERO(&e);
    FD_SET(p[0], &r), FD_SET(p[1], &w), FD_SET(p[0], &e);
    struct timeval t = {1, 0};
    CHECK(select(p[1] + 1, &r, &w, &e, &t) == 1);
    CHECK(!FD_ISSET(p[0], &r) && FD_ISSET(p[1], &w) && !FD_ISSET(p[0], &e));
    FD_ZERO(&r);
    FD_SET(p[0], &r);
    t = (struct timeval){0, 50000};
    CHECK(select(p[0] + 1, &r, NULL, NULL, &t) == 0);
    CHECK(t.tv_sec == 0 && t.tv_usec == 0 && !FD_ISSET(p[0], &r));
    write(p[1], "x", 1);
    FD_SET(p[0], &r), FD_SET(p[1], &w);
    CHECK(select(p[1] + 1, &r, &w, NULL, NULL) == 2);
    FD_ZERO(&r);
    FD_SET(20, &r);
    FAILS(select(21, &r, NULL, NULL, NULL), EBADF);
    FAILS(select(-1, NULL, NULL, NULL, NULL), EINVAL);
    t.tv_usec = -1;
    FAILS(select(0, NULL, NULL, NULL, &t), EINVAL);
    t = (struct timeval){0, 10000};
    CHECK(select(0, NULL, NULL, NULL, &t) == 0);
}

CASE(epoll_level) {
    ep = epoll_create1(EPOLL_CLOEXEC);
    CHECK(fcntl(ep, F_GETFD) == FD_CLOEXEC);
    pipe(p);
    CHECK(add(p[0], EPOLLIN) == 0 && add(p[1], EPOLLOUT) == 0);
    CHECK(ready(0) == 1 && events[0].data.fd == p[1] && events[0].events == EPOLLOUT);
    write(p[1], "x", 1);
    CHECK(ready(0) == 2);
    CHECK(ready(0) == 2);
    char c;
    read(p[0], &c, 1);
    CHECK(ready(0) == 1);
    struct epoll_event event = {0, {.u64 = 7}};
    CHECK(epoll_ctl(ep, EPOLL_CTL_MOD, p[1], &event) == 0);
    CHECK(ready(0) == 0);
    close(p[1]);
    CHECK(ready(0) == 1 && events[0].events == EPOLLHUP && events[0].data.fd == p[0]);
    CHECK(epoll_ctl(ep, EPOLL_CTL_DEL, p[0], NULL) == 0);
    CHECK(ready(0) == 0);
}

CASE(epoll_errors) {
    ep = epoll_create1(0);
    pipe(p);
    int file = open("f", O_RDWR | O_CREAT, 0600);
    FAILS(add(file, EPOLLIN), EPERM);
    FAILS(add(99, EPOLLIN), EBADF);
    CHECK(add(p[0], EPOLLIN) == 0);
    FAILS(add(p[0], EPOLLIN), EEXIST);
    FAILS(add(ep, EPOLLIN), EINVAL);
    struct epoll_event event = {EPOLLIN, {0}};
    FAILS(epoll_ctl(ep, EPOLL_CTL_MOD, p[1], &event), ENOENT);
    FAILS(epoll_ctl(ep, EPOLL_CTL_DEL, p[1], &event), ENOENT);
    FAILS(epoll_ctl(ep, 9, p[0], &event), EINVAL);
    FAILS(epoll_ctl(p[0], EPOLL_CTL_ADD, p[1], &event), EINVAL);
    FAILS(syscall(SYS_epoll_ctl, ep, EPOLL_CTL_ADD, p[1], 16), EFAULT);
    FAILS(epoll_wait(ep, events, 0, 0), EINVAL);
    FAILS(epoll_wait(p[0], events, 1, 0), EINVAL);
    FAILS(epoll_wait(99, events, 1, 0), EBADF);
    FAILS(epoll_create(0), EINVAL);
    FAILS(epoll_create1(0x1), EINVAL);
    write(p[1], "x", 1);
    FAILS(epoll_wait(ep, (void *)16, 1, 0), EFAULT);
}

CASE(epoll_edge) {
    ep = epoll_create1(0);
    pipe(p);
    add(p[0], EPOLLIN | EPOLLET);
    write(p[1], "x", 1);
    CHECK(ready(0) == 1);
    CHECK(ready(0) == 0);
    write(p[1], "y", 1);
    CHECK(ready(0) == 1);
    char c;
    read(p[0], &c, 1);
    CHECK(ready(0) == 0);
    write(p[1], "y", 1);
    CHECK(ready(0) == 1);
    struct epoll_event event = {EPOLLIN | EPOLLET, {.fd = p[0]}};
    epoll_ctl(ep, EPOLL_CTL_MOD, p[0], &event);
    CHECK(ready(0) == 1);
}

CASE(epoll_oneshot) {
    ep = epoll_create1(0);
    pipe(p);
    add(p[0], EPOLLIN | EPOLLONESHOT);
    write(p[1], "x", 1);
    CHECK(ready(0) == 1);
    write(p[1], "x", 1);
    CHECK(ready(0) == 0);
    struct epoll_event event = {EPOLLIN | EPOLLONESHOT, {.fd = p[0]}};
    CHECK(epoll_ctl(ep, EPOLL_CTL_MOD, p[0], &event) == 0);
    CHECK(ready(0) == 1);
}

CASE(epoll_nested) {
    ep = epoll_create1(0);
    pipe(p);
    add(p[0], EPOLLIN);
    int inner = ep, outer = epoll_create1(0);
    ep = outer;
    CHECK(add(inner, EPOLLIN) == 0);
    CHECK(ready(0) == 0);
    write(p[1], "x", 1);
    CHECK(ready(1000) == 1 && events[0].data.fd == inner);
    struct pollfd poll_inner = {inner, POLLIN, 0};
    CHECK(poll(&poll_inner, 1, 0) == 1);
    ep = inner;
    FAILS(add(outer, EPOLLIN), ELOOP);
    char c;
    read(p[0], &c, 1);
    CHECK(poll(&poll_inner, 1, 0) == 0);
}

CASE(epoll_follows_the_description_not_the_number) {
    ep = epoll_create1(0);
    pipe(p);
    add(p[0], EPOLLIN);
    int copy = dup(p[0]);
    close(p[0]);
    write(p[1], "x", 1);
    CHECK(ready(0) == 1);
    close(copy);
    CHECK(ready(0) == 0);
}

CASE(epoll_exclusive) {
    ep = epoll_create1(0);
    pipe(p);
    CHECK(add(p[0], EPOLLIN | EPOLLEXCLUSIVE) == 0);
    struct epoll_event event = {EPOLLIN | EPOLLEXCLUSIVE, {0}};
    FAILS(epoll_ctl(ep, EPOLL_CTL_MOD, p[0], &event), EINVAL);
    write(p[1], "x", 1);
    CHECK(ready(0) == 1);
}

CASE(epoll_blocks_and_wakes) {
    ep = epoll_create1(0);
    pipe(p);
    add(p[0], EPOLLIN);
    pid_t pid = CHILD({
        sleep_ms(40);
        write(p[1], "x", 1);
    });
    CHECK(ready(5000) == 1);
    exit_of(pid);
    double start = now();
    char c;
    read(p[0], &c, 1);
    CHECK(ready(50) == 0 && now() - start >= 0.05);
    struct timespec t = {0, 30000000};
    CHECK(syscall(SYS_epoll_pwait2, ep, events, 10, &t, NULL, 8) == 0);
}

CASE(epoll_maxevents_rotates) {
    ep = epoll_create1(0);
    int fds[6], seen = 0;
    for (int i = 0; i < 6; i++) {
        fds[i] = eventfd(1, 0);
        add(fds[i], EPOLLIN);
    }
    for (int round = 0; round < 3; round++) {
        CHECK(epoll_wait(ep, events, 2, 0) == 2);
        for (int i = 0; i < 2; i++) seen |= 1 << (events[i].data.fd - fds[0]);
    }
    CHECK(seen == 0x3f);
}

CASE(eventfd_counts) {
    int fd = eventfd(3, EFD_NONBLOCK | EFD_CLOEXEC);
    uint64_t value;
    CHECK(read(fd, &value, 8) == 8 && value == 3);
    FAILS(read(fd, &value, 8), EAGAIN);
    FAILS(read(fd, &value, 4), EINVAL);
    value = 5;
    CHECK(write(fd, &value, 8) == 8 && write(fd, &value, 8) == 8);
    CHECK(read(fd, &value, 100) == 8 && value == 10);
    value = -1;
    FAILS(write(fd, &value, 8), EINVAL);
    value = -2;
    CHECK(write(fd, &value, 8) == 8);
    struct pollfd one = {fd, POLLIN | POLLOUT, 0};
    CHECK(poll(&one, 1, 0) == 1 && one.revents == POLLIN);
    value = 1;
    FAILS(write(fd, &value, 8), EAGAIN);
    FAILS(eventfd(0, 0x4), EINVAL);
}

CASE(eventfd_semaphore) {
    int fd = eventfd(2, EFD_SEMAPHORE | EFD_NONBLOCK);
    uint64_t value;
    CHECK(read(fd, &value, 8) == 8 && value == 1);
    CHECK(read(fd, &value, 8) == 8 && value == 1);
    FAILS(read(fd, &value, 8), EAGAIN);
}

CASE(eventfd_blocks) {
    int fd = eventfd(0, 0);
    pid_t pid = CHILD({
        sleep_ms(40);
        uint64_t one = 1;
        write(fd, &one, 8);
    });
    uint64_t value;
    CHECK(read(fd, &value, 8) == 8 && value == 1);
    exit_of(pid);
}

CASE(signalfd_reads) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGRTMIN);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    struct signalfd_siginfo info[4];
    FAILS(read(fd, info, sizeof info), EAGAIN);
    FAILS(read(fd, info, 20), EINVAL);
    struct pollfd one = {fd, POLLIN, 0};
    CHECK(poll(&one, 1, 0) == 0);
    kill(getpid(), SIGUSR1);
    sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = 42});
    CHECK(poll(&one, 1, 0) == 1);
    CHECK(read(fd, info, sizeof info) == 2 * sizeof *info);
    CHECK(info[0].ssi_signo == SIGUSR1 && info[0].ssi_pid == (uint32_t)getpid() && info[0].ssi_code == SI_USER);
    CHECK(info[1].ssi_signo == (uint32_t)SIGRTMIN && info[1].ssi_int == 42 && info[1].ssi_code == SI_QUEUE);
    sigdelset(&set, SIGUSR1);
    CHECK(signalfd(fd, &set, 0) == fd);
    kill(getpid(), SIGUSR1);
    CHECK(poll(&one, 1, 0) == 0);
    FAILS(signalfd(p[0] = 0, &set, 0), EINVAL);
    FAILS(signalfd(99, &set, 0), EBADF);
    FAILS(signalfd(-1, &set, 0x1), EINVAL);
}

CASE(signalfd_wakes_epoll) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int fd = signalfd(-1, &set, 0);
    ep = epoll_create1(0);
    add(fd, EPOLLIN);
    pid_t pid = CHILD({ sleep_ms(40); });
    CHECK(ready(5000) == 1);
    struct signalfd_siginfo info;
    CHECK(read(fd, &info, sizeof info) == sizeof info && info.ssi_pid == (uint32_t)pid && info.ssi_code == CLD_EXITED);
    exit_of(pid);
}

CASE(pidfd_calls) {
    pid_t pid = CHILD({
        for (;;) pause();
    });
    int fd = syscall(SYS_pidfd_open, pid, 0);
    NEED(fd >= 0);
    CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC);
    struct pollfd one = {fd, POLLIN, 0};
    CHECK(poll(&one, 1, 0) == 0);
    CHECK(syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0) == 0);
    FAILS(syscall(SYS_pidfd_send_signal, fd, 100, NULL, 0), EINVAL);
    FAILS(syscall(SYS_pidfd_send_signal, 0, SIGTERM, NULL, 0), EBADF);
    CHECK(syscall(SYS_pidfd_send_signal, fd, SIGTERM, NULL, 0) == 0);
    CHECK(poll(&one, 1, 5000) == 1);
    siginfo_t info;
    CHECK(waitid(P_PIDFD, fd, &info, WEXITED) == 0 && info.si_status == SIGTERM && info.si_code == CLD_KILLED);
    FAILS(syscall(SYS_pidfd_send_signal, fd, SIGTERM, NULL, 0), ESRCH);
    FAILS(syscall(SYS_pidfd_open, 999999, 0), ESRCH);
    FAILS(syscall(SYS_pidfd_open, -1, 0), EINVAL);
    FAILS(syscall(SYS_pidfd_open, getpid(), 0x1), EINVAL);
    FAILS(waitid(P_PIDFD, 0, &info, WEXITED), EBADF);
}

CASE(pidfd_getfd_takes_a_descriptor) {
    pipe(p);
    int gate[2];
    pipe(gate);
    pid_t pid = CHILD({
        char c;
        close(gate[1]);
        close(p[0]);
        read(gate[0], &c, 1);
    });
    int write_end = p[1];
    close(p[1]);
    int pidfd = syscall(SYS_pidfd_open, pid, 0);
    int fd = syscall(SYS_pidfd_getfd, pidfd, write_end, 0);
    if (fd < 0 && errno == EPERM) SKIP("may not ptrace");
    NEED(fd >= 0);
    CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC);
    char c;
    CHECK(write(fd, "x", 1) == 1 && read(p[0], &c, 1) == 1);
    FAILS(syscall(SYS_pidfd_getfd, pidfd, 999, 0), EBADF);
    FAILS(syscall(SYS_pidfd_getfd, pidfd, write_end, 1), EINVAL);
    close(gate[1]);
    exit_of(pid);
}

static void *poller(void *argument) {
    struct pollfd one = {*(int *)argument, POLLIN, 0};
    return (void *)(long)poll(&one, 1, 5000);
}

CASE(many_waiters_on_one_pipe) {
    pipe(p);
    pthread_t threads[8];
    for (int i = 0; i < 8; i++) pthread_create(&threads[i], NULL, poller, &p[0]);
    sleep_ms(40);
    write(p[1], "x", 1);
    for (int i = 0; i < 8; i++) {
        void *result;
        pthread_join(threads[i], &result);
        CHECK(result == (void *)1);
    }
}

CASE(poll_limit) {
    struct rlimit limit = {20, 20};
    setrlimit(RLIMIT_NOFILE, &limit);
    static struct pollfd many[30];
    for (int i = 0; i < 30; i++) many[i].fd = -1;
    FAILS(poll(many, 30, 0), EINVAL);
}
