// Finer points of futexes: PI locks with signals and deadlines, requeueing to them, robust lists at exec and exit, odd arguments.
#include "check.h"
#include <linux/futex.h>
#include <limits.h>
#include <pthread.h>

static int word, other;
static long futex(int *address, int op, int value, void *timeout, int *address2, int value3) {
    return syscall(SYS_futex, address, op, value, timeout, address2, value3);
}
static struct timespec from_now(int clock, double seconds) {
    struct timespec t;
    clock_gettime(clock, &t);
    long ns = t.tv_nsec + (long)(seconds * 1e9);
    return (struct timespec){t.tv_sec + ns / 1000000000, ns % 1000000000};
}

struct call {
    int *address, op, value;
    struct timespec *timeout;
    int *address2, value3;
    volatile int tid;
    long result;
    int error;
    pthread_t thread;
};
static void *run_call(void *argument) {
    struct call *call = argument;
    call->tid = gettid();
    errno = 0;
    call->result = futex(call->address, call->op, call->value, call->timeout, call->address2, call->value3);
    call->error = errno;
    return NULL;
}
static void start(struct call *call) {
    NEED(pthread_create(&call->thread, NULL, run_call, call) == 0);
    while (!call->tid) usleep(100);
    CHECK(wait_for_state(call->tid, 'S'));
}

CASE(odd_arguments) {
    word = 1;
    struct timespec t = {0, 1000000000}, negative = {-1, 0}, zero = {0, 0};
    FAILS(futex(&word, FUTEX_WAIT, 1, &t, NULL, 0), EINVAL);
    FAILS(futex(&word, FUTEX_WAIT, 1, &negative, NULL, 0), EINVAL);
    FAILS(futex(&word, FUTEX_WAIT, 1, &zero, NULL, 0), ETIMEDOUT);
    FAILS(futex(&word, FUTEX_WAIT, 0, &zero, NULL, 0), EAGAIN);
    FAILS(futex(&word, FUTEX_WAIT, 1, (void *)16, NULL, 0), EFAULT);
    FAILS(futex((int *)((char *)&word + 1), FUTEX_WAIT, 1, NULL, NULL, 0), EINVAL);
    FAILS(futex((int *)((char *)&word + 2), FUTEX_WAKE, 1, NULL, NULL, 0), EINVAL);
    FAILS(futex((int *)16, FUTEX_WAIT, 1, NULL, NULL, 0), EFAULT);
    FAILS(futex(NULL, FUTEX_WAIT, 1, NULL, NULL, 0), EFAULT);
    FAILS(futex(&word, FUTEX_WAIT_BITSET, 1, NULL, NULL, 0), EINVAL);
    FAILS(futex(&word, FUTEX_WAKE_BITSET, 1, NULL, NULL, 0), EINVAL);
    FAILS(futex(&word, 99, 1, NULL, NULL, 0), ENOSYS);
    FAILS(futex(&word, FUTEX_FD, 1, NULL, NULL, 0), ENOSYS);
    FAILS(futex(&word, FUTEX_WAIT | FUTEX_CLOCK_REALTIME, 1, &zero, NULL, 0), ENOSYS);
    FAILS(futex(&word, FUTEX_CMP_REQUEUE, 1, (void *)1, &other, 99), EAGAIN);
    FAILS(futex(&word, FUTEX_CMP_REQUEUE, -1, (void *)1, &other, 1), EINVAL);
    FAILS(futex(&word, FUTEX_WAKE_OP, 1, (void *)1, &other, 7 << 28), ENOSYS);
    FAILS(futex(&word, FUTEX_WAKE_OP, 1, (void *)1, (int *)16, 0), EFAULT);
    CHECK(futex(&word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0) == 0);
    CHECK(futex(&word, FUTEX_WAKE, 0, NULL, NULL, 0) == 0);
}

CASE(pi_lock_times_out_and_is_interrupted) {
    word = 0;
    CHECK(futex(&word, FUTEX_LOCK_PI, 0, NULL, NULL, 0) == 0 && word == gettid());
    FAILS(futex(&word, FUTEX_LOCK_PI, 0, NULL, NULL, 0), EDEADLK);
    struct timespec soon = from_now(CLOCK_REALTIME, 0.05);
    struct call call = {.address = &word, .op = FUTEX_LOCK_PI, .timeout = &soon};
    start(&call);
    pthread_join(call.thread, NULL);
    CHECK(call.result == -1 && call.error == ETIMEDOUT);
    struct call tries = {.address = &word, .op = FUTEX_TRYLOCK_PI};
    NEED(pthread_create(&tries.thread, NULL, run_call, &tries) == 0);
    pthread_join(tries.thread, NULL);
    CHECK(tries.result == -1 && tries.error == EAGAIN);
    struct call strange = {.address = &word, .op = FUTEX_UNLOCK_PI};
    NEED(pthread_create(&strange.thread, NULL, run_call, &strange) == 0);
    pthread_join(strange.thread, NULL);
    CHECK(strange.result == -1 && strange.error == EPERM);
    CHECK(futex(&word, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0) == 0 && word == 0);
    FAILS(futex(&word, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0), EPERM);
    word = 4000000;
    FAILS(futex(&word, FUTEX_LOCK_PI, 0, NULL, NULL, 0), ESRCH);
}

static void *take_and_die(void *argument) {
    *(int *)argument = gettid();
    futex(&word, FUTEX_LOCK_PI, 0, NULL, NULL, 0);
    usleep(100000);
    return NULL;
}

CASE(pi_owner_dies) {
    word = 0;
    pthread_t thread;
    volatile int tid = 0;
    pthread_create(&thread, NULL, take_and_die, (void *)&tid);
    while (!word) usleep(100);
    CHECK(futex(&word, FUTEX_LOCK_PI, 0, NULL, NULL, 0) == 0);
    CHECK((word & FUTEX_TID_MASK) == (unsigned)gettid() && word & FUTEX_OWNER_DIED);
    pthread_join(thread, NULL);
}

CASE(requeue_to_a_pi_lock) {
    word = other = 0;
    CHECK(futex(&other, FUTEX_LOCK_PI, 0, NULL, NULL, 0) == 0);
    struct call calls[3];
    memset(calls, 0, sizeof calls);
    for (int i = 0; i < 3; i++) {
        calls[i] = (struct call){.address = &word, .op = FUTEX_WAIT_REQUEUE_PI, .address2 = &other};
        start(&calls[i]);
    }
    FAILS(futex(&word, FUTEX_WAKE, 1, NULL, NULL, 0), EINVAL);
    FAILS(futex(&word, FUTEX_CMP_REQUEUE_PI, 1, (void *)1, &word, 0), EINVAL);
    FAILS(futex(&word, FUTEX_CMP_REQUEUE_PI, 2, (void *)1, &other, 0), EINVAL);
    FAILS(futex(&word, FUTEX_CMP_REQUEUE_PI, 1, (void *)1, &other, 1), EAGAIN);
    CHECK(futex(&word, FUTEX_CMP_REQUEUE_PI, 1, (void *)(long)INT_MAX, &other, 0) == 3);
    CHECK((unsigned)other == ((unsigned)gettid() | FUTEX_WAITERS));
    CHECK(futex(&other, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0) == 0);
    for (int i = 0; i < 2; i++) {
        // Each owner in turn has no more to do than to end; its lock passes on, marked.
        pthread_join(calls[i].thread, NULL);
        CHECK(calls[i].result == 0);
    }
    pthread_join(calls[2].thread, NULL);
    CHECK(calls[2].result == 0);
}

CASE(requeue_pi_deadline) {
    word = other = 0;
    struct timespec soon = from_now(CLOCK_MONOTONIC, 0.05);
    FAILS(futex(&word, FUTEX_WAIT_REQUEUE_PI, 1, &soon, &other, 0), EAGAIN);
    FAILS(futex(&word, FUTEX_WAIT_REQUEUE_PI, 0, &soon, &word, 0), EINVAL);
    FAILS(futex(&word, FUTEX_WAIT_REQUEUE_PI, 0, &soon, &other, 0), ETIMEDOUT);
}

CASE(pi_mutex_and_condition) {
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT);
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK);
    pthread_mutex_t mutex;
    CHECK(pthread_mutex_init(&mutex, &attributes) == 0);
    CHECK(pthread_mutex_lock(&mutex) == 0);
    CHECK(pthread_mutex_lock(&mutex) == EDEADLK);
    struct timespec soon = from_now(CLOCK_REALTIME, 0.03);
    pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
    CHECK(pthread_cond_timedwait(&condition, &mutex, &soon) == ETIMEDOUT);
    CHECK(pthread_mutex_unlock(&mutex) == 0);
    CHECK(pthread_mutex_unlock(&mutex) == EPERM);
}

struct shared {
    pthread_mutex_t mutex;
    int value;
};
static struct shared *robust_mutex(bool pi) {
    struct shared *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    if (pi) pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT);
    pthread_mutex_init(&shared->mutex, &attributes);
    return shared;
}

CASE(robust_mutex_of_a_killed_process) {
    for (int pi = 0; pi < 2; pi++) {
        struct shared *shared = robust_mutex(pi);
        pid_t pid = fork();
        if (!pid) {
            pthread_mutex_lock(&shared->mutex);
            shared->value = 1;
            pause();
        }
        while (!*(volatile int *)&shared->value) usleep(100);
        CHECK(pthread_mutex_trylock(&shared->mutex) == EBUSY);
        pid_t waiting = CHILD({
            CHECK(pthread_mutex_lock(&shared->mutex) == EOWNERDEAD);
            CHECK(pthread_mutex_consistent(&shared->mutex) == 0);
            CHECK(pthread_mutex_unlock(&shared->mutex) == 0);
        });
        CHECK(wait_for_state(waiting, 'S'));
        kill(pid, SIGKILL);
        reap(pid);
        CHECK(exit_of(waiting) == 0);
        CHECK(pthread_mutex_lock(&shared->mutex) == 0);
        CHECK(pthread_mutex_unlock(&shared->mutex) == 0);
    }
}

CASE(robust_mutex_at_exec) {
    struct shared *shared = robust_mutex(false);
    pid_t pid = fork();
    if (!pid) {
        pthread_mutex_lock(&shared->mutex);
        execl("/bin/sleep", "sleep", "0.5", NULL);
        _exit(1);
    }
    usleep(200000);
    CHECK(pthread_mutex_lock(&shared->mutex) == EOWNERDEAD);
    CHECK(exit_of(pid) == 0);
}

static void *lock_and_end(void *argument) {
    pthread_mutex_lock(argument);
    return NULL;
}

CASE(robust_mutex_of_an_ended_thread) {
    struct shared *shared = robust_mutex(false);
    pthread_t thread;
    pthread_create(&thread, NULL, lock_and_end, &shared->mutex);
    pthread_join(thread, NULL);
    CHECK(pthread_mutex_lock(&shared->mutex) == EOWNERDEAD);
    CHECK(pthread_mutex_unlock(&shared->mutex) == 0);
    CHECK(pthread_mutex_lock(&shared->mutex) == ENOTRECOVERABLE);
}

static volatile int signalled;
static void on_signal(int signo) { signalled = signo; }

CASE(timed_wait_goes_on_after_a_stop) {
    word = 0;
    int gate[2];
    pipe(gate);
    pid_t pid = CHILD({
        struct timespec timeout = {0, 400000000};
        double began = now();
        write(gate[1], "x", 1);
        FAILS(futex(&word, FUTEX_WAIT, 0, &timeout, NULL, 0), ETIMEDOUT);
        double took = now() - began;
        CHECK(took >= 0.4 && took < 2);
    });
    char c;
    read(gate[0], &c, 1);
    CHECK(wait_for_state(pid, 'S'));
    kill(pid, SIGSTOP);
    CHECK(wait_for_state(pid, 'T'));
    usleep(50000);
    kill(pid, SIGCONT);
    CHECK(exit_of(pid) == 0);
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigaction(SIGALRM, &action, NULL);
    struct timespec timeout = {5, 0};
    ualarm(50000, 0);
    FAILS(futex(&word, FUTEX_WAIT, 0, &timeout, NULL, 0), EINTR);
    CHECK(signalled == SIGALRM);
}
