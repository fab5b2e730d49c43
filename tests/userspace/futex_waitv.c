// futex_waitv: waiting for any of several words.
#include "check.h"
#include <linux/futex.h>

static int *words; /* shared with children */
static struct futex_waitv vector[128];
static long waitv(unsigned count, const struct timespec *until, int clock) { return syscall(SYS_futex_waitv, vector, count, 0, until, clock); }
static void begin(void) {
    words = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < 128; i++) vector[i] = (struct futex_waitv){.val = 0, .uaddr = (uintptr_t)&words[i], .flags = FUTEX_32};
    if (waitv(0, NULL, 0) < 0 && errno == ENOSYS) SKIP("no futex_waitv");
}
static struct timespec in_ms(int clock, long ms) {
    struct timespec t;
    clock_gettime(clock, &t);
    t.tv_nsec += ms * 1000000;
    t.tv_sec += t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    return t;
}

CASE(any_of_them_wakes) {
    begin();
    int wanted[] = {0, 2, 127};
    for (int i = 0; i < 3; i++) {
        pid_t child = CHILD(CHECK(waitv(128, NULL, 0) == wanted[i]));
        CHECK(wait_for_state(child, 'S'));
        CHECK(syscall(SYS_futex, &words[wanted[i]], FUTEX_WAKE, 99, NULL, NULL, 0) == 1);
        CHECK(exit_of(child) == 0);
    }
    CHECK(syscall(SYS_futex, &words[1], FUTEX_WAKE, 99, NULL, NULL, 0) == 0); /* nobody is left in a queue */
}

CASE(one_waiter_is_woken_once) {
    begin();
    pid_t child = CHILD(CHECK(waitv(2, NULL, 0) >= 0));
    CHECK(wait_for_state(child, 'S'));
    kill(child, SIGSTOP);
    CHECK(wait_for_state(child, 'T'));
    long first = syscall(SYS_futex, &words[0], FUTEX_WAKE, 1, NULL, NULL, 0);
    kill(child, SIGCONT);
    if (!first) {
        CHECK(wait_for_state(child, 'S'));
        first = syscall(SYS_futex, &words[0], FUTEX_WAKE, 1, NULL, NULL, 0);
    }
    CHECK(first == 1 && exit_of(child) == 0);
}

CASE(values_and_timeouts) {
    begin();
    struct timespec soon = in_ms(CLOCK_MONOTONIC, 30);
    FAILS(waitv(3, &soon, CLOCK_MONOTONIC), ETIMEDOUT);
    soon = in_ms(CLOCK_REALTIME, 30);
    FAILS(waitv(3, &soon, CLOCK_REALTIME), ETIMEDOUT);
    words[2] = 5;
    FAILS(waitv(3, NULL, 0), EAGAIN);
    vector[2].val = 5;
    FAILS(waitv(3, &(struct timespec){0, 0}, CLOCK_MONOTONIC), ETIMEDOUT);
}

static void nothing(int signo) { (void)signo; }

CASE(signals) {
    begin();
    pid_t child = CHILD({
        sigaction(SIGUSR1, &(struct sigaction){.sa_handler = nothing}, NULL);
        FAILS(waitv(2, NULL, 0), EINTR);
        sigaction(SIGUSR1, &(struct sigaction){.sa_handler = nothing, .sa_flags = SA_RESTART}, NULL);
        CHECK(waitv(2, NULL, 0) == 1);
    });
    for (int i = 0; i < 2; i++) {
        CHECK(wait_for_state(child, 'S'));
        kill(child, SIGUSR1);
        sleep_ms(50);
    }
    CHECK(wait_for_state(child, 'S'));
    CHECK(syscall(SYS_futex, &words[1], FUTEX_WAKE, 1, NULL, NULL, 0) == 1 && exit_of(child) == 0);
}

CASE(arguments) {
    begin();
    FAILS(waitv(0, NULL, 0), EINVAL);
    FAILS(waitv(129, NULL, 0), EINVAL);
    FAILS(syscall(SYS_futex_waitv, vector, 1, 1, NULL, 0), EINVAL);
    FAILS(syscall(SYS_futex_waitv, NULL, 1, 0, NULL, 0), EINVAL);
    FAILS(syscall(SYS_futex_waitv, 8, 1, 0, NULL, 0), EFAULT);
    FAILS(waitv(1, &(struct timespec){1, 0}, CLOCK_BOOTTIME), EINVAL);
    vector[1].flags = 0;
    FAILS(waitv(2, NULL, 0), EINVAL);
    vector[1].flags = FUTEX_32 | FUTEX_PRIVATE_FLAG;
    vector[1].__reserved = 1;
    FAILS(waitv(2, NULL, 0), EINVAL);
    vector[1].__reserved = 0;
    vector[1].uaddr++;
    FAILS(waitv(2, NULL, 0), EINVAL);
    vector[1].uaddr = 8;
    FAILS(waitv(2, NULL, 0), EFAULT);
}
