// Clocks, alarms, interval timers, POSIX timers.
#include "check.h"
#include <pthread.h>
#include <sys/time.h>
#include <sys/times.h>
#include <sys/timex.h>

static volatile int count;
static siginfo_t last_info;
static volatile pid_t handler_tid;
static void record(int signo, siginfo_t *info, void *context) {
    (void)signo, (void)context;
    last_info = *info;
    handler_tid = syscall(SYS_gettid);
    count++;
}
static void on(int signo) {
    struct sigaction action = {.sa_sigaction = record, .sa_flags = SA_SIGINFO | SA_RESTART};
    NEED(sigaction(signo, &action, NULL) == 0);
}
static bool happened(int wanted, double seconds) {
    double end = now() + seconds;
    while (count < wanted && now() < end) sleep_ms(1);
    return count >= wanted;
}
static double seconds(struct timespec t) { return t.tv_sec + t.tv_nsec * 1e-9; }

CASE(clocks) {
    int ids[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_PROCESS_CPUTIME_ID, CLOCK_THREAD_CPUTIME_ID, CLOCK_MONOTONIC_RAW, CLOCK_REALTIME_COARSE,
                 CLOCK_MONOTONIC_COARSE, CLOCK_BOOTTIME, CLOCK_TAI};
    for (unsigned i = 0; i < sizeof ids / sizeof *ids; i++) {
        struct timespec a, b, resolution = {-1, -1};
        CHECK(syscall(SYS_clock_gettime, ids[i], &a) == 0);
        CHECK(syscall(SYS_clock_gettime, ids[i], &b) == 0);
        CHECK(seconds(b) >= seconds(a));
        CHECK(syscall(SYS_clock_getres, ids[i], &resolution) == 0);
        note("clock %d resolution %ld.%09ld", ids[i], (long)resolution.tv_sec, resolution.tv_nsec);
    }
    struct timespec t = {1, 0};
    FAILS(syscall(SYS_clock_gettime, 99, &t), EINVAL);
    FAILS(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, 8), EFAULT);
    FAILS(syscall(SYS_clock_getres, 99, &t), EINVAL);
    FAILS(syscall(SYS_clock_settime, CLOCK_MONOTONIC, &t), EINVAL);
    struct timespec direct, vdso;
    CHECK(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &direct) == 0 && clock_gettime(CLOCK_MONOTONIC, &vdso) == 0);
    CHECK(seconds(vdso) - seconds(direct) >= 0 && seconds(vdso) - seconds(direct) < 1);
    struct timeval v;
    CHECK(syscall(SYS_gettimeofday, &v, NULL) == 0 && syscall(SYS_time, NULL) - v.tv_sec <= 1);
    FAILS(syscall(SYS_gettimeofday, 8, NULL), EFAULT);
}

CASE(cpu_time_advances_with_work) {
    struct timespec a, b, thread;
    CHECK(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a) == 0);
    for (volatile long i = 0; i < 50000000; i++) {}
    CHECK(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b) == 0 && clock_gettime(CLOCK_THREAD_CPUTIME_ID, &thread) == 0);
    CHECK(seconds(b) - seconds(a) > 0.005);
    CHECK(seconds(thread) <= seconds(b) + 0.01);
    clockid_t clock;
    CHECK(clock_getcpuclockid(0, &clock) == 0 && clock_gettime(clock, &a) == 0 && seconds(a) >= seconds(b));
    CHECK(pthread_getcpuclockid(pthread_self(), &clock) == 0 && clock_gettime(clock, &a) == 0);
    CHECK(clock_getcpuclockid(0x3ffffff, &clock) == ESRCH);
    double before = now();
    struct timespec start;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &start);
    sleep_ms(100);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
    CHECK(now() - before >= 0.1 && seconds(b) - seconds(start) < 0.095);
}

CASE(alarm_rings) {
    on(SIGALRM);
    alarm(100);
    CHECK(alarm(1) == 100);
    double start = now();
    pause();
    CHECK(count == 1 && now() - start > 0.9 && now() - start < 8);
    CHECK(last_info.si_code == SI_KERNEL);
    CHECK(alarm(0) == 0);
}

CASE(interval_timer) {
    on(SIGALRM);
    struct itimerval timer = {{0, 10000}, {0, 20000}}, old;
    CHECK(setitimer(ITIMER_REAL, &timer, &old) == 0);
    CHECK(happened(5, 5));
    CHECK(getitimer(ITIMER_REAL, &old) == 0 && old.it_interval.tv_usec == 10000 && old.it_value.tv_usec > 0);
    CHECK(old.it_value.tv_sec == 0 && old.it_value.tv_usec <= 10000);
    struct itimerval off = {0};
    CHECK(setitimer(ITIMER_REAL, &off, NULL) == 0);
    int seen = count;
    sleep_ms(40);
    CHECK(count == seen);
    CHECK(getitimer(ITIMER_REAL, &old) == 0 && !old.it_value.tv_sec && !old.it_value.tv_usec);
    timer.it_value.tv_usec = 1000000;
    FAILS(setitimer(ITIMER_REAL, &timer, NULL), EINVAL);
    FAILS(getitimer(3, &old), EINVAL);
    FAILS(syscall(SYS_setitimer, 3, &off, NULL), EINVAL);
    FAILS(syscall(SYS_setitimer, ITIMER_REAL, 8, NULL), EFAULT);
}

CASE(virtual_and_profiling_timers) {
    on(SIGVTALRM);
    struct itimerval timer = {{0, 0}, {0, 50000}};
    CHECK(setitimer(ITIMER_VIRTUAL, &timer, NULL) == 0);
    sleep_ms(120);
    CHECK(count == 0);
    double end = now() + 10;
    while (!count && now() < end) {}
    CHECK(count == 1);
    on(SIGPROF);
    timer.it_interval.tv_usec = 20000;
    CHECK(setitimer(ITIMER_PROF, &timer, NULL) == 0);
    while (count < 4 && now() < end) {}
    CHECK(count >= 4);
}

CASE(timers_do_not_survive_fork) {
    struct itimerval timer = {{0, 0}, {100, 0}}, other;
    setitimer(ITIMER_REAL, &timer, NULL);
    timer_t id;
    CHECK(timer_create(CLOCK_MONOTONIC, NULL, &id) == 0);
    IN_CHILD({
        CHECK(getitimer(ITIMER_REAL, &other) == 0 && other.it_value.tv_sec == 0);
        struct itimerspec spec;
        FAILS(syscall(SYS_timer_gettime, 0, &spec), EINVAL);
    });
}

CASE(posix_timer_sends_its_value) {
    on(SIGRTMIN + 2);
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 2, .sigev_value.sival_ptr = (void *)&count};
    timer_t id;
    NEED(timer_create(CLOCK_MONOTONIC, &event, &id) == 0);
    struct itimerspec spec = {{0, 0}, {0, 20000000}}, left;
    CHECK(timer_gettime(id, &left) == 0 && seconds(left.it_value) == 0);
    CHECK(timer_settime(id, 0, &spec, NULL) == 0);
    CHECK(timer_gettime(id, &left) == 0 && seconds(left.it_value) > 0 && seconds(left.it_value) <= 0.02);
    CHECK(happened(1, 5));
    CHECK(last_info.si_code == SI_TIMER && last_info.si_value.sival_ptr == &count && last_info.si_overrun == 0);
    CHECK(timer_gettime(id, &left) == 0 && seconds(left.it_value) == 0);
    CHECK(timer_delete(id) == 0);
    FAILS(syscall(SYS_timer_delete, 0), EINVAL);
    FAILS(syscall(SYS_timer_settime, 0, 0, &spec, NULL), EINVAL);
}

CASE(posix_timer_counts_what_it_missed) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    timer_t id;
    NEED(timer_create(CLOCK_REALTIME, &event, &id) == 0);
    struct itimerspec spec = {{0, 1000000}, {0, 1000000}};
    CHECK(timer_settime(id, 0, &spec, NULL) == 0);
    sleep_ms(50);
    siginfo_t info;
    CHECK(sigwaitinfo(&set, &info) == SIGUSR1);
    CHECK(info.si_overrun >= 40 && info.si_overrun < 5000);
    CHECK(timer_getoverrun(id) == info.si_overrun);
    CHECK(sigwaitinfo(&set, &info) == SIGUSR1);
    spec = (struct itimerspec){0};
    CHECK(timer_settime(id, 0, &spec, NULL) == 0);
    timer_delete(id);
}

CASE(posix_timer_forms) {
    timer_t id;
    struct sigevent event = {.sigev_notify = SIGEV_NONE};
    NEED(timer_create(CLOCK_MONOTONIC, &event, &id) == 0);
    struct itimerspec spec = {{0, 30000000}, {0, 10000000}}, left;
    CHECK(timer_settime(id, 0, &spec, NULL) == 0);
    sleep_ms(25);
    CHECK(timer_gettime(id, &left) == 0 && seconds(left.it_value) > 0 && seconds(left.it_value) <= 0.03);
    event = (struct sigevent){.sigev_notify = SIGEV_SIGNAL, .sigev_signo = 65};
    FAILS(timer_create(CLOCK_MONOTONIC, &event, &id), EINVAL);
    event = (struct sigevent){.sigev_notify = 77, .sigev_signo = SIGUSR1};
    FAILS(syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &id), EINVAL);
    FAILS(syscall(SYS_timer_create, 99, NULL, &id), EINVAL);
    FAILS(syscall(SYS_timer_create, CLOCK_MONOTONIC, 8, &id), EFAULT);
    FAILS(syscall(SYS_timer_create, CLOCK_MONOTONIC, NULL, 8), EFAULT);
    on(SIGALRM);
    NEED(timer_create(CLOCK_MONOTONIC, NULL, &id) == 0); // SIGALRM by default
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    spec = (struct itimerspec){{0, 0}, {t.tv_sec - 1, 0}}; // long past
    CHECK(timer_settime(id, TIMER_ABSTIME, &spec, NULL) == 0);
    CHECK(happened(1, 5) && last_info.si_code == SI_TIMER);
    spec.it_value.tv_nsec = 1000000000;
    FAILS(timer_settime(id, 0, &spec, NULL), EINVAL);
}

static volatile pid_t thread_tid;
static volatile bool done;
static void *idle(void *argument) {
    (void)argument;
    thread_tid = syscall(SYS_gettid);
    while (!done) sleep_ms(1);
    return NULL;
}
CASE(posix_timer_for_one_thread) {
    on(SIGUSR1);
    pthread_t thread;
    NEED(pthread_create(&thread, NULL, idle, NULL) == 0);
    while (!thread_tid) sleep_ms(1);
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR1};
    event._sigev_un._tid = thread_tid;
    timer_t id;
    NEED(timer_create(CLOCK_MONOTONIC, &event, &id) == 0);
    struct itimerspec spec = {{0, 0}, {0, 1000000}};
    timer_settime(id, 0, &spec, NULL);
    CHECK(happened(1, 5) && handler_tid == thread_tid);
    event._sigev_un._tid = 1;
    if (getpid() != 1) FAILS(timer_create(CLOCK_MONOTONIC, &event, &id), EINVAL);
    done = true;
    pthread_join(thread, NULL);
}

static volatile int thread_calls;
static void call(union sigval value) { thread_calls += value.sival_int; }
CASE(posix_timer_that_starts_threads) {
    struct sigevent event = {.sigev_notify = SIGEV_THREAD, .sigev_value.sival_int = 3, .sigev_notify_function = call};
    timer_t id;
    NEED(timer_create(CLOCK_MONOTONIC, &event, &id) == 0);
    struct itimerspec spec = {{0, 0}, {0, 5000000}};
    timer_settime(id, 0, &spec, NULL);
    for (int i = 0; i < 1000 && !thread_calls; i++) sleep_ms(2);
    CHECK(thread_calls == 3);
    timer_delete(id);
}

CASE(posix_timer_on_cpu_time) {
    on(SIGUSR1);
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    timer_t id;
    NEED(timer_create(CLOCK_PROCESS_CPUTIME_ID, &event, &id) == 0);
    struct itimerspec spec = {{0, 0}, {0, 30000000}};
    CHECK(timer_settime(id, 0, &spec, NULL) == 0);
    sleep_ms(60);
    CHECK(count == 0);
    double end = now() + 10;
    while (!count && now() < end) {}
    CHECK(count == 1);
}

CASE(sleeping_takes_the_time_it_should) {
    double start = now();
    usleep(20000);
    CHECK(now() - start >= 0.02 && now() - start < 1);
    struct timespec none = {0, 0};
    CHECK(nanosleep(&none, NULL) == 0);
}

CASE(the_clock_is_not_ours_to_set) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    IN_CHILD({
        if (!getuid()) NEED(setresuid(1234, 1234, 1234) == 0);
        FAILS(clock_settime(CLOCK_REALTIME, &t), EPERM);
        FAILS(settimeofday(&(struct timeval){t.tv_sec, 0}, NULL), EPERM);
        struct timex state = {.modes = ADJ_FREQUENCY};
        FAILS(adjtimex(&state), EPERM);
    });
}
