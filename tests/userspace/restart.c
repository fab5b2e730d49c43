// Interruption and restart of every blocking call: EINTR without SA_RESTART, restarted with it where Linux restarts.
#include "check.h"
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>

static volatile int hits;
static int rescue[2]; /* what the second signal does to let a restarted call end */
static void (*finish)(void);
static void on_alarm(int s) {
    (void)s;
    if (++hits == 2 && finish) finish();
}

/* Run a call that blocks for ever; a signal comes after 40 ms, and 40 ms later a second one whose handler lets the call end. */
#define BLOCKS(name, call, let_go, restarts)                                                                                                         \
    static void finish_##name(void) { let_go; }                                                                                                      \
    static void try_##name(int flags, const char *what) {                                                                                            \
        struct sigaction action = {.sa_handler = on_alarm, .sa_flags = flags};                                                                       \
        sigaction(SIGALRM, &action, NULL);                                                                                                           \
        hits = 0;                                                                                                                                    \
        finish = finish_##name;                                                                                                                      \
        ualarm(40000, 40000);                                                                                                                        \
        errno = 0;                                                                                                                                   \
        long result = (call);                                                                                                                        \
        int error = errno;                                                                                                                           \
        int seen = hits;                                                                                                                             \
        ualarm(0, 0);                                                                                                                                \
        note("%s: %s after %d", what, result < 0 ? strerrorname_np(error) : "ended", seen > 1 ? 2 : seen);                                            \
    }                                                                                                                                                \
    CASE(name) {                                                                                                                                     \
        pipe(rescue);                                                                                                                                \
        try_##name(0, "plain");                                                                                                                      \
        try_##name(SA_RESTART, "SA_RESTART");                                                                                                        \
        (void)restarts;                                                                                                                              \
    }

static char byte;
static int unix_pair[2];
static int setup_pair(void) { return unix_pair[0] || socketpair(AF_UNIX, SOCK_STREAM, 0, unix_pair) == 0; }
static int fill(int fd) {
    static char junk[1 << 16];
    fcntl(fd, F_SETFL, O_NONBLOCK);
    while (write(fd, junk, sizeof junk) > 0) {}
    while (write(fd, junk, 1) > 0) {}
    fcntl(fd, F_SETFL, 0);
    return 1;
}
static void drain(int fd) {
    static char junk[1 << 16];
    fcntl(fd, F_SETFL, O_NONBLOCK);
    while (read(fd, junk, sizeof junk) > 0) {}
    fcntl(fd, F_SETFL, 0);
}

BLOCKS(pipe_read, read(rescue[0], &byte, 1), write(rescue[1], "x", 1), 1)
BLOCKS(pipe_write, (fill(rescue[1]), write(rescue[1], "x", 1)), drain(rescue[0]), 1)
BLOCKS(pipe_readv, readv(rescue[0], &(struct iovec){&byte, 1}, 1), write(rescue[1], "x", 1), 1)
BLOCKS(socket_recv, (setup_pair(), recv(unix_pair[0], &byte, 1, 0)), write(unix_pair[1], "x", 1), 1)
BLOCKS(socket_send, (setup_pair(), fill(unix_pair[0]), send(unix_pair[0], "x", 1, 0)), drain(unix_pair[1]), 1)
BLOCKS(poll_call, poll(&(struct pollfd){rescue[0], POLLIN, 0}, 1, -1), write(rescue[1], "x", 1), 0)
BLOCKS(poll_timeout, poll(&(struct pollfd){rescue[0], POLLIN, 0}, 1, 5000), write(rescue[1], "x", 1), 0)
BLOCKS(nanosleep_call, nanosleep(&(struct timespec){5, 0}, NULL), (void)0, 0)
BLOCKS(pause_call, pause(), (void)0, 0)

static long do_select(void) {
    fd_set set;
    FD_ZERO(&set);
    FD_SET(rescue[0], &set);
    return select(rescue[0] + 1, &set, NULL, NULL, NULL);
}
BLOCKS(select_call, do_select(), write(rescue[1], "x", 1), 0)

static long do_epoll(void) {
    static int epoll;
    struct epoll_event event = {EPOLLIN, {0}};
    if (!epoll) epoll = epoll_create1(0);
    epoll_ctl(epoll, EPOLL_CTL_ADD, rescue[0], &event);
    return epoll_wait(epoll, &event, 1, -1);
}
BLOCKS(epoll_call, do_epoll(), write(rescue[1], "x", 1), 0)

static int event_fd;
static long do_eventfd(void) {
    uint64_t value;
    if (!event_fd) event_fd = eventfd(0, 0);
    return read(event_fd, &value, 8);
}
BLOCKS(eventfd_read, do_eventfd(), eventfd_write(event_fd, 1), 1)

static int timer_fd;
static long do_timerfd(void) {
    uint64_t value;
    if (!timer_fd) timer_fd = timerfd_create(CLOCK_MONOTONIC, 0);
    struct itimerspec off = {{0, 0}, {0, 0}};
    timerfd_settime(timer_fd, 0, &off, NULL);
    return read(timer_fd, &value, 8);
}
static void arm_timer(void) {
    struct itimerspec soon = {{0, 0}, {0, 1000}};
    timerfd_settime(timer_fd, 0, &soon, NULL);
}
BLOCKS(timerfd_read, do_timerfd(), arm_timer(), 1)

static int gate[2];
static pid_t held;
static long do_wait(void) {
    if (!held) {
        pipe(gate);
        held = fork();
        if (!held) {
            close(gate[1]);
            alarm(0);
            read(gate[0], &byte, 1);
            _exit(0);
        }
    }
    return waitpid(held, NULL, 0);
}
BLOCKS(wait_call, do_wait(), write(gate[1], "x", 1), 1)

static int listener = -1;
static long do_accept(void) {
    if (listener < 0) {
        struct sockaddr_un name = {AF_UNIX, "socket"};
        listener = socket(AF_UNIX, SOCK_STREAM, 0);
        if (bind(listener, (void *)&name, sizeof name) < 0 || listen(listener, 5) < 0) return -1;
    }
    return accept(listener, NULL, NULL);
}
static void do_connect(void) {
    struct sockaddr_un name = {AF_UNIX, "socket"};
    connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&name, sizeof name);
}
BLOCKS(accept_call, do_accept(), do_connect(), 1)

static int lock_gate[2];
static pid_t locker;
static int lock_fd;
static void hold_lock(int kind) {
    int ready[2];
    pipe(ready);
    pipe(lock_gate);
    lock_fd = open("lock", O_RDWR | O_CREAT, 0600);
    locker = fork();
    if (!locker) {
        alarm(0);
        int fd = open("lock", O_RDWR);
        struct flock lock = {.l_type = F_WRLCK};
        if (kind)
            flock(fd, LOCK_EX);
        else
            fcntl(fd, F_SETLKW, &lock);
        write(ready[1], "x", 1);
        read(lock_gate[0], &byte, 1);
        _exit(0);
    }
    read(ready[0], &byte, 1);
}
static long do_flock(void) {
    if (!locker) hold_lock(1);
    return flock(lock_fd, LOCK_EX);
}
static long do_fcntl_lock(void) {
    if (!locker) hold_lock(0);
    struct flock lock = {.l_type = F_WRLCK};
    return fcntl(lock_fd, F_SETLKW, &lock);
}
BLOCKS(flock_call, do_flock(), write(lock_gate[1], "x", 1), 1)
BLOCKS(fcntl_lock_call, do_fcntl_lock(), write(lock_gate[1], "x", 1), 1)

static long open_fifo(void) {
    mkfifo("fifo", 0600);
    return open("fifo", O_RDONLY);
}
BLOCKS(fifo_open, open_fifo(), open("fifo", O_RDWR | O_NONBLOCK), 1)

CASE(nanosleep_remainder) {
    struct sigaction action = {.sa_handler = on_alarm};
    sigaction(SIGALRM, &action, NULL);
    ualarm(50000, 0);
    struct timespec request = {1, 0}, left = {0, 0};
    FAILS(nanosleep(&request, &left), EINTR);
    CHECK(left.tv_sec == 0 && left.tv_nsec > 800000000 && left.tv_nsec < 960000000);
    ualarm(50000, 0);
    CHECK(clock_nanosleep(CLOCK_MONOTONIC, 0, &request, &left) == EINTR);
    CHECK(left.tv_nsec > 800000000 && left.tv_nsec < 960000000);
    clock_gettime(CLOCK_MONOTONIC, &request);
    request.tv_sec++;
    left.tv_nsec = 5;
    ualarm(50000, 0);
    CHECK(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &request, &left) == EINTR);
    CHECK(left.tv_nsec == 5);
}

CASE(stop_and_continue_restart_without_a_handler) {
    int p[2];
    pipe(p);
    pid_t pid = CHILD({
        char c;
        CHECK(read(p[0], &c, 1) == 1);
        struct timespec t = {0, 200000000};
        CHECK(nanosleep(&t, NULL) == 0);
        CHECK(poll(&(struct pollfd){p[0], POLLIN, 0}, 1, 300) == 0);
    });
    int status;
    for (int i = 0; i < 3; i++) {
        wait_for_state(pid, 'S');
        kill(pid, SIGSTOP);
        CHECK(waitpid(pid, &status, WUNTRACED) == pid);
        kill(pid, SIGCONT);
        CHECK(waitpid(pid, &status, WCONTINUED) == pid);
        if (i == 0) write(p[1], "x", 1);
        sleep_ms(20);
    }
    CHECK(exit_of(pid) == 0);
}

CASE(partial_write_is_not_restarted) {
    int p[2];
    pipe(p);
    struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
    sigaction(SIGALRM, &action, NULL);
    static char big[1 << 20];
    ualarm(50000, 0);
    ssize_t n = write(p[1], big, sizeof big);
    note("%zd", n);
}

CASE(ignored_signals_do_not_interrupt) {
    signal(SIGUSR1, SIG_IGN);
    pid_t parent = getpid();
    pid_t pid = CHILD({
        sleep_ms(40);
        kill(parent, SIGUSR1);
    });
    struct timespec t = {0, 120000000};
    double start = now();
    CHECK(nanosleep(&t, NULL) == 0);
    CHECK(now() - start >= 0.12);
    exit_of(pid);
}
