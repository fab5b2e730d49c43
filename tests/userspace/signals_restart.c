// Interrupted calls: EINTR, restart, remainders; with handlers, without, and across stops.
#include "check.h"
#include <poll.h>
#include <pthread.h>
#include <sys/select.h>
#include <sys/time.h>

static volatile int count;
static void handler(int signo) {
    (void)signo;
    count++;
}
static void on(int signo, int flags) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
    NEED(sigaction(signo, &action, NULL) == 0);
}
// A child that, once this process sleeps, does something to it.
#define LATER(...)                                                                                                                                   \
    ({                                                                                                                                               \
        pid_t parent = getpid();                                                                                                                     \
        CHILD({                                                                                                                                      \
            wait_for_state(parent, 'S');                                                                                                             \
            __VA_ARGS__;                                                                                                                             \
        });                                                                                                                                          \
    })

CASE(read_is_interrupted) {
    int pipes[2];
    NEED(pipe(pipes) == 0);
    on(SIGUSR1, 0);
    pid_t pid = LATER(kill(parent, SIGUSR1));
    char c;
    FAILS(read(pipes[0], &c, 1), EINTR);
    CHECK(count == 1);
    reap(pid);
}

CASE(read_is_restarted) {
    int pipes[2];
    NEED(pipe(pipes) == 0);
    on(SIGUSR1, SA_RESTART);
    pid_t pid = LATER({
        kill(parent, SIGUSR1);
        sleep_ms(30);
        wait_for_state(parent, 'S');
        CHECK(write(pipes[1], "x", 1) == 1);
    });
    char c = 0;
    CHECK(read(pipes[0], &c, 1) == 1 && c == 'x');
    CHECK(count == 1);
    reap(pid);
}

CASE(an_ignored_signal_does_not_interrupt) {
    int pipes[2];
    NEED(pipe(pipes) == 0);
    signal(SIGUSR1, SIG_IGN);
    pid_t pid = LATER({
        kill(parent, SIGUSR1);
        kill(parent, SIGCHLD);
        kill(parent, SIGWINCH);
        kill(parent, SIGCONT);
        sleep_ms(20);
        CHECK(write(pipes[1], "x", 1) == 1);
    });
    char c = 0;
    CHECK(read(pipes[0], &c, 1) == 1 && c == 'x');
    reap(pid);
}

CASE(a_partial_write_is_not_restarted) {
    int pipes[2];
    NEED(pipe(pipes) == 0);
    on(SIGUSR1, SA_RESTART);
    static char big[1 << 20];
    pid_t pid = LATER(kill(parent, SIGUSR1));
    ssize_t n = write(pipes[1], big, sizeof big);
    note("wrote %zd", n);
    CHECK(count == 1);
    reap(pid);
}

CASE(waitpid_restarts) {
    on(SIGUSR1, SA_RESTART);
    pid_t parent = getpid();
    pid_t pid = CHILD({
        wait_for_state(parent, 'S');
        kill(parent, SIGUSR1);
        sleep_ms(30);
        _exit(9);
    });
    int status = 0;
    CHECK(waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 9 && count == 1);
    on(SIGUSR1, 0);
    pid = CHILD({
        wait_for_state(parent, 'S');
        kill(parent, SIGUSR1);
        sleep_ms(200);
    });
    FAILS(waitpid(pid, &status, 0), EINTR);
    reap(pid);
}

CASE(nanosleep_tells_the_rest) {
    on(SIGUSR1, SA_RESTART); // makes no difference
    pid_t pid = LATER({
        sleep_ms(50);
        kill(parent, SIGUSR1);
    });
    struct timespec request = {5, 0}, rest = {0, 0};
    double start = now();
    FAILS(nanosleep(&request, &rest), EINTR);
    CHECK(rest.tv_sec >= 1 && rest.tv_sec < 5 && now() - start < 4);
    CHECK(now() - start + rest.tv_sec + rest.tv_nsec * 1e-9 > 4.99);
    reap(pid);
    request = (struct timespec){0, 1000000000};
    FAILS(nanosleep(&request, NULL), EINVAL);
    request = (struct timespec){-1, 0};
    FAILS(nanosleep(&request, NULL), EINVAL);
    FAILS(syscall(SYS_nanosleep, 8, NULL), EFAULT);
}

CASE(clock_nanosleep_forms) {
    struct timespec t, rest = {77, 77};
    on(SIGUSR1, SA_RESTART);
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += 5;
    pid_t pid = LATER(kill(parent, SIGUSR1));
    CHECK(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, &rest) == EINTR);
    CHECK(rest.tv_sec == 77);
    reap(pid);
    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_nsec += 50000000;
    if (t.tv_nsec >= 1000000000) t.tv_sec++, t.tv_nsec -= 1000000000;
    double start = now();
    CHECK(clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &t, NULL) == 0);
    CHECK(now() - start > 0.04 && now() - start < 4);
    t = (struct timespec){0, 0};
    CHECK(clock_nanosleep(CLOCK_BOOTTIME, TIMER_ABSTIME, &t, NULL) == 0);
    FAILS(syscall(SYS_clock_nanosleep, CLOCK_THREAD_CPUTIME_ID, 0, &t, NULL), EOPNOTSUPP);
    FAILS(syscall(SYS_clock_nanosleep, 99, 0, &t, NULL), EINVAL);
    FAILS(syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC_RAW, 0, &t, NULL), EOPNOTSUPP);
}

CASE(a_stop_does_not_end_nanosleep) {
    pid_t sleeper = CHILD({
        struct timespec request = {0, 300000000};
        double start = now();
        CHECK(nanosleep(&request, NULL) == 0);
        CHECK(now() - start >= 0.3);
    });
    wait_for_state(sleeper, 'S');
    int status;
    CHECK(kill(sleeper, SIGSTOP) == 0);
    CHECK(waitpid(sleeper, &status, WUNTRACED) == sleeper && WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
    kill(sleeper, SIGCONT);
    CHECK(exit_of(sleeper) == 0);
}

CASE(a_stop_does_not_end_a_read) {
    int pipes[2];
    NEED(pipe(pipes) == 0);
    pid_t reader = CHILD({
        char c;
        CHECK(read(pipes[0], &c, 1) == 1 && c == 'y');
    });
    wait_for_state(reader, 'S');
    int status;
    kill(reader, SIGSTOP);
    CHECK(waitpid(reader, &status, WUNTRACED) == reader && WIFSTOPPED(status));
    CHECK(write(pipes[1], "y", 1) == 1);
    sleep_ms(20);
    CHECK(state_of(reader) == 'T');
    kill(reader, SIGCONT);
    CHECK(exit_of(reader) == 0);
}

CASE(sigcont_with_a_handler_interrupts) {
    pid_t sleeper = CHILD({
        on(SIGCONT, 0);
        struct timespec request = {10, 0}, rest = {0};
        FAILS(nanosleep(&request, &rest), EINTR);
        CHECK(count == 1 && rest.tv_sec >= 5 && rest.tv_sec < 10);
    });
    wait_for_state(sleeper, 'S');
    int status;
    kill(sleeper, SIGSTOP);
    CHECK(waitpid(sleeper, &status, WUNTRACED) == sleeper);
    kill(sleeper, SIGCONT);
    CHECK(exit_of(sleeper) == 0);
}

CASE(pause_and_sigsuspend) {
    on(SIGUSR1, SA_RESTART);
    pid_t pid = LATER(kill(parent, SIGUSR1));
    FAILS(pause(), EINTR);
    CHECK(count == 1);
    reap(pid);
    sigset_t set, empty, after;
    sigemptyset(&empty);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    raise(SIGUSR1);
    CHECK(count == 1);
    FAILS(sigsuspend(&empty), EINTR); // pending already: no lost wake-up
    CHECK(count == 2);
    sigprocmask(SIG_BLOCK, NULL, &after);
    CHECK(sigismember(&after, SIGUSR1));
    FAILS(syscall(SYS_rt_sigsuspend, &empty, 4), EINVAL);
    FAILS(syscall(SYS_rt_sigsuspend, 8, 8), EFAULT);
}

CASE(ppoll_lets_signals_through) {
    on(SIGUSR1, SA_RESTART);
    sigset_t set, empty, after;
    sigemptyset(&empty);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    raise(SIGUSR1);
    struct timespec timeout = {5, 0};
    double start = now();
    FAILS(ppoll(NULL, 0, &timeout, &empty), EINTR);
    CHECK(count == 1 && now() - start < 2);
    sigprocmask(SIG_BLOCK, NULL, &after);
    CHECK(sigismember(&after, SIGUSR1));
    raise(SIGUSR1);
    int pipes[2];
    NEED(pipe(pipes) == 0 && write(pipes[1], "x", 1) == 1);
    struct pollfd poll = {pipes[0], POLLIN, 0};
    int ready = ppoll(&poll, 1, &timeout, NULL);
    CHECK(ready == 1 && count == 1);
    FAILS(pselect(0, NULL, NULL, NULL, &timeout, &empty), EINTR);
    CHECK(count == 2);
}

CASE(poll_is_never_restarted) {
    on(SIGUSR1, SA_RESTART);
    pid_t pid = LATER(kill(parent, SIGUSR1));
    FAILS(poll(NULL, 0, 5000), EINTR);
    reap(pid);
    pid = LATER(kill(parent, SIGUSR1));
    FAILS(select(0, NULL, NULL, NULL, &(struct timeval){5, 0}), EINTR);
    reap(pid);
}

CASE(restart_syscall_out_of_the_blue) { FAILS(syscall(SYS_restart_syscall), EINTR); }

static void *lock_again(void *argument) {
    pthread_mutex_lock(argument);
    return NULL;
}
CASE(a_futex_wait_survives_signals) {
    on(SIGUSR1, 0);
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&mutex);
    pthread_t thread;
    NEED(pthread_create(&thread, NULL, lock_again, &mutex) == 0);
    sleep_ms(20);
    for (int i = 0; i < 5; i++) {
        pthread_kill(thread, SIGUSR1);
        while (count == i) sleep_ms(1); /* a signal that comes before the last was taken is the same one */
    }
    pthread_mutex_unlock(&mutex);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(count == 5);
}
