// alarm, setitimer, POSIX timers, timerfd, the clocks, sleeping.
#include "check.h"
#include <pthread.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/times.h>

static volatile int count;
static siginfo_t last;
static void on(int s, siginfo_t *info, void *context) {
    count++;
    last = *info;
    (void)s, (void)context;
}
static void handle(int s) {
    struct sigaction action = {.sa_sigaction = on, .sa_flags = SA_SIGINFO};
    sigaction(s, &action, NULL);
}

CASE(alarm_counts_down) {
    CHECK(alarm(100) != 0); /* check.h's own */
    CHECK(alarm(50) == 100);
    CHECK(alarm(0) == 50);
    CHECK(alarm(0) == 0);
}

CASE(real_timer) {
    handle(SIGALRM);
    struct itimerval timer = {{0, 20000}, {0, 30000}}, seen;
    CHECK(setitimer(ITIMER_REAL, &timer, NULL) == 0);
    CHECK(getitimer(ITIMER_REAL, &seen) == 0);
    CHECK(seen.it_interval.tv_usec == 20000 && seen.it_value.tv_usec > 0 && seen.it_value.tv_usec <= 30000);
    double start = now();
    while (count < 5) pause();
    CHECK(now() - start > 0.09 && now() - start < 1);
    CHECK(last.si_code == SI_KERNEL);
    timer = (struct itimerval){{0, 0}, {0, 0}};
    CHECK(setitimer(ITIMER_REAL, &timer, &seen) == 0 && seen.it_interval.tv_usec == 20000);
    int before = count;
    sleep_ms(60);
    CHECK(count == before);
    timer.it_value.tv_usec = 1000000;
    FAILS(setitimer(ITIMER_REAL, &timer, NULL), EINVAL);
    FAILS(setitimer(7, &timer, NULL), EINVAL);
    FAILS(getitimer(7, &timer), EINVAL);
    FAILS(syscall(SYS_getitimer, ITIMER_REAL, 16), EFAULT);
}

CASE(virtual_and_prof_timers) {
    int kinds[] = {ITIMER_VIRTUAL, ITIMER_PROF}, signals[] = {SIGVTALRM, SIGPROF};
    for (int i = 0; i < 2; i++) {
        handle(signals[i]);
        count = 0;
        struct itimerval timer = {{0, 0}, {0, 50000}};
        CHECK(setitimer(kinds[i], &timer, NULL) == 0);
        sleep_ms(120);
        CHECK(count == 0);
        double start = now();
        while (!count && now() - start < 5) {}
        CHECK(count == 1);
    }
}

CASE(posix_timer_signals) {
    handle(SIGRTMIN);
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN, .sigev_value.sival_int = 55};
    timer_t timer;
    CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
    struct itimerspec spec = {{0, 0}, {0, 20000000}}, seen;
    CHECK(timer_settime(timer, 0, &spec, NULL) == 0);
    CHECK(timer_gettime(timer, &seen) == 0 && seen.it_value.tv_nsec > 0);
    pause();
    CHECK(count == 1 && last.si_code == SI_TIMER && last.si_value.sival_int == 55);
    CHECK(timer_gettime(timer, &seen) == 0 && seen.it_value.tv_nsec == 0 && seen.it_value.tv_sec == 0);
    CHECK(timer_delete(timer) == 0);
    FAILS(syscall(SYS_timer_delete, 12345), EINVAL);
    event.sigev_signo = 99;
    FAILS(timer_create(CLOCK_MONOTONIC, &event, &timer), EINVAL);
    event.sigev_signo = SIGRTMIN;
    FAILS(timer_create(77, &event, &timer), EINVAL);
}

CASE(posix_timer_overrun) {
    handle(SIGRTMIN);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    sigprocmask(SIG_BLOCK, &set, NULL);
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};
    timer_t timer;
    CHECK(timer_create(CLOCK_REALTIME, &event, &timer) == 0);
    struct itimerspec spec = {{0, 10000000}, {0, 10000000}};
    CHECK(timer_settime(timer, 0, &spec, NULL) == 0);
    sleep_ms(105);
    siginfo_t info;
    CHECK(sigwaitinfo(&set, &info) == SIGRTMIN);
    CHECK(info.si_overrun >= 7 && info.si_overrun <= 30);
    CHECK(timer_getoverrun(timer) == info.si_overrun);
}

CASE(posix_timer_absolute_and_none) {
    struct sigevent event = {.sigev_notify = SIGEV_NONE};
    timer_t timer;
    CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
    struct itimerspec spec = {{0, 0}, {0, 0}}, seen;
    clock_gettime(CLOCK_MONOTONIC, &spec.it_value);
    spec.it_value.tv_sec += 10;
    CHECK(timer_settime(timer, TIMER_ABSTIME, &spec, NULL) == 0);
    CHECK(timer_gettime(timer, &seen) == 0 && seen.it_value.tv_sec == 9);
    spec.it_value.tv_nsec = -1;
    FAILS(timer_settime(timer, 0, &spec, NULL), EINVAL);
    IN_CHILD({ FAILS(timer_gettime(timer, &seen), EINVAL); }); /* timers don't pass fork */
}

static volatile int thread_ran;
static void in_thread(union sigval value) { thread_ran = value.sival_int; }

CASE(posix_timer_in_a_thread) {
    struct sigevent event = {.sigev_notify = SIGEV_THREAD, .sigev_notify_function = in_thread, .sigev_value.sival_int = 3};
    timer_t timer;
    CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
    struct itimerspec spec = {{0, 0}, {0, 20000000}};
    CHECK(timer_settime(timer, 0, &spec, NULL) == 0);
    for (int i = 0; i < 200 && !thread_ran; i++) sleep_ms(10);
    CHECK(thread_ran == 3);
}

CASE(cpu_timer) {
    handle(SIGRTMIN);
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};
    timer_t timer;
    CHECK(timer_create(CLOCK_PROCESS_CPUTIME_ID, &event, &timer) == 0);
    struct itimerspec spec = {{0, 0}, {0, 50000000}};
    CHECK(timer_settime(timer, 0, &spec, NULL) == 0);
    double start = now();
    while (!count && now() - start < 5) {}
    CHECK(count == 1);
}

CASE(timerfd_expires) {
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    uint64_t value = 0;
    FAILS(read(fd, &value, 8), EAGAIN);
    struct itimerspec spec = {{0, 10000000}, {0, 20000000}}, seen;
    CHECK(timerfd_settime(fd, 0, &spec, NULL) == 0);
    CHECK(timerfd_gettime(fd, &seen) == 0 && seen.it_interval.tv_nsec == 10000000 && seen.it_value.tv_nsec > 0);
    struct pollfd p = {fd, POLLIN, 0};
    CHECK(poll(&p, 1, 0) == 0);
    CHECK(poll(&p, 1, 1000) == 1 && p.revents == POLLIN);
    sleep_ms(55);
    CHECK(read(fd, &value, 8) == 8 && value >= 5 && value < 30);
    FAILS(read(fd, &value, 8), EAGAIN);
    FAILS(read(fd, &value, 7), EINVAL);
    FAILS(write(fd, &value, 8), EINVAL);
    spec = (struct itimerspec){{0, 0}, {0, 0}};
    CHECK(timerfd_settime(fd, 0, &spec, &seen) == 0 && seen.it_interval.tv_nsec == 10000000);
    clock_gettime(CLOCK_MONOTONIC, &spec.it_value);
    CHECK(timerfd_settime(fd, TFD_TIMER_ABSTIME, &spec, NULL) == 0);
    CHECK(poll(&p, 1, 1000) == 1);
    FAILS(timerfd_create(77, 0), EINVAL);
    FAILS(timerfd_create(CLOCK_REALTIME, 1), EINVAL);
    FAILS(timerfd_settime(0, 0, &spec, NULL), EINVAL);
    FAILS(timerfd_settime(99, 0, &spec, NULL), EBADF);
    spec.it_value.tv_nsec = 1000000000;
    FAILS(timerfd_settime(fd, 0, &spec, NULL), EINVAL);
}

CASE(clocks_move) {
    clockid_t clocks[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_MONOTONIC_RAW, CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE, CLOCK_TAI};
    for (unsigned i = 0; i < sizeof clocks / sizeof *clocks; i++) {
        struct timespec a, b, r;
        CHECK(clock_gettime(clocks[i], &a) == 0);
        sleep_ms(15);
        CHECK(clock_gettime(clocks[i], &b) == 0);
        CHECK(b.tv_sec > a.tv_sec || b.tv_nsec > a.tv_nsec);
        CHECK(clock_getres(clocks[i], &r) == 0);
        struct timespec c;
        CHECK(syscall(SYS_clock_gettime, clocks[i], &c) == 0);
        CHECK(labs(c.tv_sec - b.tv_sec) <= 1);
    }
    FAILS(clock_gettime(99, NULL), EINVAL);
    FAILS(clock_settime(CLOCK_MONOTONIC, &(struct timespec){1, 0}), EINVAL);
    struct timespec r;
    FAILS(clock_getres(99, &r), EINVAL);
    CHECK(syscall(SYS_clock_getres, CLOCK_MONOTONIC, &r) == 0 && r.tv_nsec == 1);
}

CASE(cpu_clocks_follow_work) {
    struct timespec a, b;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
    sleep_ms(100);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
    CHECK((b.tv_sec - a.tv_sec) * 1000000000L + b.tv_nsec - a.tv_nsec < 60000000);
    do clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a); /* by its own clock: the machine may be busy with others */
    while ((a.tv_sec - b.tv_sec) * 1000000000L + a.tv_nsec - b.tv_nsec < 100000000);
    CHECK((a.tv_sec - b.tv_sec) * 1000000000L + a.tv_nsec - b.tv_nsec > 30000000);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
    CHECK(b.tv_nsec > 30000000 || b.tv_sec > 0);
    clockid_t other;
    CHECK(clock_getcpuclockid(getpid(), &other) == 0);
    CHECK(clock_gettime(other, &b) == 0 && (b.tv_nsec > 30000000 || b.tv_sec > 0));
    struct tms t;
    CHECK(times(&t) != (clock_t)-1 && t.tms_utime + t.tms_stime >= 3);
    struct rusage usage;
    CHECK(getrusage(RUSAGE_SELF, &usage) == 0 && usage.ru_utime.tv_usec + usage.ru_stime.tv_usec > 30000);
    CHECK(getrusage(RUSAGE_THREAD, &usage) == 0);
    FAILS(getrusage(55, &usage), EINVAL);
}

CASE(gettimeofday_and_time_agree) {
    struct timeval tv;
    struct timespec ts;
    CHECK(gettimeofday(&tv, NULL) == 0);
    clock_gettime(CLOCK_REALTIME, &ts);
    CHECK(labs(ts.tv_sec - tv.tv_sec) <= 1);
    CHECK(labs(time(NULL) - ts.tv_sec) <= 1);
    CHECK(labs(syscall(SYS_time, NULL) - ts.tv_sec) <= 1);
    CHECK(syscall(SYS_gettimeofday, &tv, NULL) == 0 && labs(tv.tv_sec - ts.tv_sec) <= 1);
    CHECK(ts.tv_sec > 1700000000);
}

CASE(sleeping) {
    double start = now();
    CHECK(nanosleep(&(struct timespec){0, 30000000}, NULL) == 0);
    CHECK(now() - start >= 0.03 && now() - start < 1);
    FAILS(nanosleep(&(struct timespec){0, 1000000000}, NULL), EINVAL);
    FAILS(nanosleep(&(struct timespec){-1, 0}, NULL), EINVAL);
    FAILS(syscall(SYS_nanosleep, 16, NULL), EFAULT);
    struct timespec end;
    clock_gettime(CLOCK_REALTIME, &end);
    CHECK(clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &end, NULL) == 0);
    CHECK(clock_nanosleep(CLOCK_THREAD_CPUTIME_ID, 0, &end, NULL) == EINVAL);
    CHECK(usleep(1000) == 0 && sleep(0) == 0);
}

CASE(alarm_survives_in_parent_not_child) {
    handle(SIGALRM);
    ualarm(50000, 0);
    IN_CHILD({
        struct itimerval seen;
        getitimer(ITIMER_REAL, &seen);
        CHECK(seen.it_value.tv_usec == 0 && seen.it_value.tv_sec == 0);
        struct timespec t = {0, 80000000};
        CHECK(nanosleep(&t, NULL) == 0);
        CHECK(count == 0);
    });
    CHECK(count == 1);
}
