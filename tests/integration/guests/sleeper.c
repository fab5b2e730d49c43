// Suspends its container, with an alarm to wake it after two seconds, and checks what clocks and timers make of that. Prints what is wrong; exits 0 when nothing is.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define MS 1000000L
#define ASLEEP (2000 * MS)
#define MARGIN (800 * MS) // what a busy machine may add
#define CHECK(...)                                                     \
    do {                                                               \
        if (!(__VA_ARGS__)) printf("line %d: " #__VA_ARGS__ "\n", __LINE__), failed = 1; \
    } while (0)

static int failed;
static volatile sig_atomic_t signals[65];
static void on_signal(int number) { signals[number]++; }

static long of(struct timespec time) { return time.tv_sec * 1000000000L + time.tv_nsec; }
static long vdso(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return of(time);
}
static long direct(clockid_t clock) {
    struct timespec time;
    syscall(SYS_clock_gettime, clock, &time);
    return of(time);
}

static int timer(clockid_t clock, long value, int flags) {
    int fd = timerfd_create(clock, TFD_NONBLOCK);
    struct itimerspec setting = {.it_value = {value / 1000000000, value % 1000000000}};
    if (fd < 0 || timerfd_settime(fd, flags, &setting, 0) < 0) perror("timerfd"), exit(1);
    return fd;
}
static int expired(int fd, int timeout) { return poll(&(struct pollfd){fd, POLLIN}, 1, timeout) == 1; }
static long left(int fd) {
    struct itimerspec setting;
    timerfd_gettime(fd, &setting);
    return of(setting.it_value);
}

static timer_t posix_timer(clockid_t clock, int signal) {
    timer_t id;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = signal};
    struct itimerspec setting = {.it_value = {ASLEEP / 2 / 1000000000, ASLEEP / 2 % 1000000000}};
    timer_create(clock, &event, &id);
    timer_settime(id, 0, &setting, 0);
    return id;
}

/* A thread that waits in some call until `clock` has moved on by ASLEEP / 2, and how long CLOCK_BOOTTIME says that it took. */
struct waiter {
    int kind;
    long took;
    pthread_t thread;
};
static int waiting;
enum { NANOSLEEP, SLEEP_BOOTTIME, SLEEP_REALTIME_ABSOLUTE, POLL, FUTEX, FUTEX_REALTIME, KINDS };
static void *wait_for_it(void *argument) {
    struct waiter *waiter = argument;
    long begin = vdso(CLOCK_BOOTTIME), half = ASLEEP / 2, then = vdso(CLOCK_REALTIME) + half;
    struct timespec relative = {half / 1000000000, half % 1000000000}, absolute = {then / 1000000000, then % 1000000000};
    static uint32_t word;
    __atomic_fetch_add(&waiting, 1, __ATOMIC_SEQ_CST);
    switch (waiter->kind) {
    case NANOSLEEP: nanosleep(&relative, 0); break;
    case SLEEP_BOOTTIME: clock_nanosleep(CLOCK_BOOTTIME, 0, &relative, 0); break;
    case SLEEP_REALTIME_ABSOLUTE: clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &absolute, 0); break;
    case POLL: poll(0, 0, half / MS); break;
    case FUTEX: syscall(SYS_futex, &word, FUTEX_WAIT, 0, &relative); break;
    case FUTEX_REALTIME: syscall(SYS_futex, &word, FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME, 0, &absolute, 0, ~0); break;
    }
    waiter->took = vdso(CLOCK_BOOTTIME) - begin;
    return 0;
}

int main(int argc, char **argv) {
    static const clockid_t stopping[] = {CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_MONOTONIC_COARSE}, others[] = {CLOCK_BOOTTIME, CLOCK_REALTIME};
    setvbuf(stdout, 0, _IOLBF, 0);
    int state = open("/sys/power/state", O_WRONLY);
    if (state < 0) perror("/sys/power/state"), exit(1);
    signal(SIGRTMIN, on_signal), signal(SIGRTMIN + 1, on_signal), signal(SIGALRM, on_signal);
    struct waiter waiters[KINDS];
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, 0);
    for (int kind = 0; kind < KINDS; kind++) {
        waiters[kind].kind = kind;
        pthread_create(&waiters[kind].thread, 0, wait_for_it, &waiters[kind]);
    }
    pthread_sigmask(SIG_UNBLOCK, &all, 0);
    while (__atomic_load_n(&waiting, __ATOMIC_SEQ_CST) < KINDS) usleep(1000);
    usleep(50000); // so that they are in their calls

    int monotonic = timer(CLOCK_MONOTONIC, ASLEEP / 2, 0), boottime = timer(CLOCK_BOOTTIME, ASLEEP / 2, 0);
    int realtime = timer(CLOCK_REALTIME, vdso(CLOCK_REALTIME) + ASLEEP / 2, TFD_TIMER_ABSTIME), relative = timer(CLOCK_REALTIME, ASLEEP / 2, 0);
    int later = timer(CLOCK_BOOTTIME, 10 * ASLEEP, 0);
    posix_timer(CLOCK_MONOTONIC, SIGRTMIN), posix_timer(CLOCK_BOOTTIME, SIGRTMIN + 1);
    setitimer(ITIMER_REAL, &(struct itimerval){.it_value = {ASLEEP / 2 / 1000000000, ASLEEP / 2 % 1000000000 / 1000}}, 0);
    int alarm = timer(CLOCK_BOOTTIME_ALARM, ASLEEP, 0);

    long before[3], before_direct[3], others_before[2];
    for (int i = 0; i < 3; i++) before[i] = vdso(stopping[i]), before_direct[i] = direct(stopping[i]);
    for (int i = 0; i < 2; i++) others_before[i] = vdso(others[i]);
    const char *name = argc > 1 ? argv[1] : "mem";
    if (write(state, name, strlen(name)) != (ssize_t)strlen(name)) perror("write"), exit(1);
    for (int i = 0; i < 3; i++) {
        CHECK(vdso(stopping[i]) - before[i] >= 0 && vdso(stopping[i]) - before[i] < MARGIN);
        CHECK(direct(stopping[i]) - before_direct[i] >= 0 && direct(stopping[i]) - before_direct[i] < MARGIN);
        CHECK(labs(direct(stopping[i]) - vdso(stopping[i])) < MARGIN / 10);
    }
    for (int i = 0; i < 2; i++) CHECK(vdso(others[i]) - others_before[i] >= ASLEEP - MARGIN && direct(others[i]) - others_before[i] >= ASLEEP - MARGIN);

    CHECK(signals[SIGRTMIN] == 0 && signals[SIGALRM] == 0);
    CHECK(left(monotonic) > ASLEEP / 2 - MARGIN && left(relative) > ASLEEP / 2 - MARGIN && !expired(monotonic, 0) && !expired(relative, 0));
    CHECK(expired(boottime, 2000) && expired(realtime, 2000) && expired(alarm, 2000));
    CHECK(left(later) < 9 * ASLEEP + MARGIN && !expired(later, 0));
    for (int i = 0; i < 100 && !signals[SIGRTMIN + 1]; i++) poll(0, 0, 1);
    CHECK(signals[SIGRTMIN + 1] == 1);
    while (poll(&(struct pollfd){monotonic, POLLIN}, 1, 5000) < 0) {}
    while (poll(&(struct pollfd){relative, POLLIN}, 1, 5000) < 0) {}
    CHECK(expired(monotonic, 0) && expired(relative, 0));
    for (int i = 0; i < 100 && !(signals[SIGRTMIN] && signals[SIGALRM]); i++) usleep(10000);
    CHECK(signals[SIGRTMIN] == 1 && signals[SIGALRM] == 1);

    for (int kind = 0; kind < KINDS; kind++) {
        pthread_join(waiters[kind].thread, 0);
        int goes_on = kind == SLEEP_BOOTTIME || kind == SLEEP_REALTIME_ABSOLUTE || kind == FUTEX_REALTIME;
        if (goes_on ? waiters[kind].took > ASLEEP + MARGIN : waiters[kind].took < ASLEEP + ASLEEP / 2 - MARGIN)
            printf("waiter %d took %ld ms\n", kind, waiters[kind].took / MS), failed = 1;
    }
    return failed;
}
