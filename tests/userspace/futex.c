// futex: every operation, its errors and its counts, without glibc between.
#include "check.h"
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>

static long futex(void *word, int operation, uint32_t value, const void *timeout, void *word2, uint32_t value3) {
    return syscall(SYS_futex, word, operation, value, timeout, word2, value3);
}
static uint32_t a, b;
static int woken;

static void *wait_a(void *argument) {
    long result = futex(&a, FUTEX_WAIT | (argument ? FUTEX_PRIVATE_FLAG : 0), 0, NULL, NULL, 0);
    __atomic_fetch_add(&woken, 1, __ATOMIC_SEQ_CST);
    return (void *)(result < 0 ? -(long)errno : result);
}
static void *wait_b(void *argument) {
    futex(&b, FUTEX_WAIT, 0, NULL, NULL, 0);
    __atomic_fetch_add(&woken, 1, __ATOMIC_SEQ_CST);
    return argument;
}
static pthread_t threads[10];
static void start(int n, void *(*function)(void *), void *argument) {
    for (int i = 0; i < n; i++) pthread_create(&threads[i], NULL, function, argument);
    sleep_ms(60);
}
static void join(int n) {
    for (int i = 0; i < n; i++) pthread_join(threads[i], NULL);
}

static int are_woken(int n) {
    for (int i = 0; woken < n && i < 500; i++) sleep_ms(10);
    sleep_ms(30);  // for one more, if there is
    return woken == n;
}

CASE(wait_with_another_value) {
    FAILS(futex(&a, FUTEX_WAIT, 1, NULL, NULL, 0), EAGAIN);
    FAILS(futex((void *)((char *)&a + 1), FUTEX_WAIT, 0, NULL, NULL, 0), EINVAL);
    FAILS(futex((void *)16, FUTEX_WAIT, 0, NULL, NULL, 0), EFAULT);
    FAILS(futex(&a, 99, 0, NULL, NULL, 0), ENOSYS);
    FAILS(futex(&a, FUTEX_WAIT_BITSET, 0, NULL, NULL, 0), EINVAL);
    FAILS(futex(&a, FUTEX_WAKE_BITSET, 1, NULL, NULL, 0), EINVAL);
}

CASE(timeouts) {
    struct timespec t = {0, 50000000};
    double begin = now();
    FAILS(futex(&a, FUTEX_WAIT, 0, &t, NULL, 0), ETIMEDOUT);
    CHECK(now() - begin >= 0.05 && now() - begin < 2);
    t.tv_nsec = 1000000000;
    FAILS(futex(&a, FUTEX_WAIT, 0, &t, NULL, 0), EINVAL);
    t.tv_nsec = 0;
    t.tv_sec = -1;
    FAILS(futex(&a, FUTEX_WAIT, 0, &t, NULL, 0), EINVAL);
    FAILS(futex(&a, FUTEX_WAIT, 0, (void *)16, NULL, 0), EFAULT);
    clock_gettime(CLOCK_MONOTONIC, &t);
    FAILS(futex(&a, FUTEX_WAIT_BITSET, 0, &t, NULL, FUTEX_BITSET_MATCH_ANY), ETIMEDOUT);
    clock_gettime(CLOCK_REALTIME, &t);
    FAILS(futex(&a, FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME, 0, &t, NULL, FUTEX_BITSET_MATCH_ANY), ETIMEDOUT);
}

CASE(wake_counts) {
    CHECK(futex(&a, FUTEX_WAKE, 1, NULL, NULL, 0) == 0);
    start(5, wait_a, NULL);
    CHECK(futex(&a, FUTEX_WAKE, 2, NULL, NULL, 0) == 2);
    CHECK(are_woken(2));
    CHECK(futex(&a, FUTEX_WAKE, INT_MAX, NULL, NULL, 0) == 3);
    join(5);
}

CASE(private_and_shared_do_not_meet_across_words) {
    start(2, wait_a, (void *)1);
    CHECK(futex(&b, FUTEX_WAKE_PRIVATE, 5, NULL, NULL, 0) == 0);
    CHECK(futex(&a, FUTEX_WAKE_PRIVATE, 5, NULL, NULL, 0) == 2);
    join(2);
}

CASE(requeue) {
    start(5, wait_a, NULL);
    CHECK(futex(&a, FUTEX_REQUEUE, 1, (void *)2, &b, 0) == 3);
    CHECK(are_woken(1));
    CHECK(futex(&b, FUTEX_WAKE, 10, NULL, NULL, 0) == 2);
    CHECK(futex(&a, FUTEX_WAKE, 10, NULL, NULL, 0) == 2);
    join(5);
}

CASE(cmp_requeue) {
    FAILS(futex(&a, FUTEX_CMP_REQUEUE, 1, (void *)2, &b, 7), EAGAIN);
    start(4, wait_a, NULL);
    CHECK(futex(&a, FUTEX_CMP_REQUEUE, 1, (void *)(long)INT_MAX, &b, 0) == 4);
    CHECK(futex(&a, FUTEX_WAKE, 10, NULL, NULL, 0) == 0);
    CHECK(futex(&b, FUTEX_WAKE, 10, NULL, NULL, 0) == 3);
    join(4);
}

CASE(wake_op) {
    start(2, wait_a, NULL);
    b = 5;
    CHECK(futex(&a, FUTEX_WAKE_OP, 1, (void *)1, &b, FUTEX_OP(FUTEX_OP_ADD, 3, FUTEX_OP_CMP_EQ, 99)) == 1);
    CHECK(b == 8);
    b = 0;
    pthread_t thread;
    pthread_create(&thread, NULL, wait_b, NULL);
    sleep_ms(50);
    CHECK(futex(&a, FUTEX_WAKE_OP, 1, (void *)1, &b, FUTEX_OP(FUTEX_OP_OR, 4, FUTEX_OP_CMP_EQ, 0)) == 2);
    CHECK(b == 4);
    pthread_join(thread, NULL);
    join(2);
    CHECK(futex(&a, FUTEX_WAKE_OP, 1, (void *)1, &b, FUTEX_OP(FUTEX_OP_ANDN, 4, FUTEX_OP_CMP_GT, 0)) == 0 && b == 0);
    CHECK(futex(&a, FUTEX_WAKE_OP, 1, (void *)1, &b, FUTEX_OP(FUTEX_OP_XOR, 6, FUTEX_OP_CMP_NE, 0)) == 0 && b == 6);
    CHECK(futex(&a, FUTEX_WAKE_OP, 1, (void *)1, &b, FUTEX_OP((FUTEX_OP_SET | FUTEX_OP_OPARG_SHIFT), 3, FUTEX_OP_CMP_LT, 0)) == 0 && b == 8);
}

static void *wait_bits(void *argument) {
    futex(&a, FUTEX_WAIT_BITSET, 0, NULL, NULL, (long)argument);
    __atomic_fetch_add(&woken, (long)argument, __ATOMIC_SEQ_CST);
    return NULL;
}

CASE(bitset) {
    pthread_create(&threads[0], NULL, wait_bits, (void *)1);
    pthread_create(&threads[1], NULL, wait_bits, (void *)2);
    pthread_create(&threads[2], NULL, wait_bits, (void *)4);
    sleep_ms(60);
    CHECK(futex(&a, FUTEX_WAKE_BITSET, 10, NULL, NULL, 2) == 1);
    CHECK(are_woken(2));
    CHECK(futex(&a, FUTEX_WAKE_BITSET, 10, NULL, NULL, 8) == 0);
    CHECK(futex(&a, FUTEX_WAKE_BITSET, 10, NULL, NULL, 5) == 2);
    join(3);
}

CASE(shared_across_fork) {
    uint32_t *word = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t pid = CHILD({
        while (*(volatile uint32_t *)word == 0) futex(word, FUTEX_WAIT, 0, NULL, NULL, 0);
    });
    wait_for_state(pid, 'S');
    *word = 1;
    CHECK(futex(word, FUTEX_WAKE, 1, NULL, NULL, 0) == 1);
    CHECK(exit_of(pid) == 0);
}

CASE(shared_by_file_at_two_addresses) {
    int fd = open("words", O_RDWR | O_CREAT, 0600);
    ftruncate(fd, 8192);
    uint32_t *one = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    uint32_t *two = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 4096);
    pid_t pid = CHILD({ CHECK(futex(two, FUTEX_WAIT, 0, NULL, NULL, 0) == 0); });
    wait_for_state(pid, 'S');
    CHECK(futex(one, FUTEX_WAKE, 1, NULL, NULL, 0) == 0);
    CHECK(futex(one + 1024, FUTEX_WAKE, 1, NULL, NULL, 0) == 1);
    CHECK(exit_of(pid) == 0);
}

CASE(private_memory_is_not_shared_across_fork) {
    pid_t pid = CHILD({
        struct timespec t = {0, 200000000};
        FAILS(futex(&a, FUTEX_WAIT, 0, &t, NULL, 0), ETIMEDOUT);
    });
    sleep_ms(50);
    CHECK(futex(&a, FUTEX_WAKE, 1, NULL, NULL, 0) == 0);
    CHECK(exit_of(pid) == 0);
}

static void on_signal(int s) { (void)s; }

CASE(interrupted_by_a_signal) {
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGALRM, &action, NULL);
    ualarm(50000, 0);
    FAILS(futex(&a, FUTEX_WAIT, 0, NULL, NULL, 0), EINTR);
    action.sa_flags = SA_RESTART;
    sigaction(SIGALRM, &action, NULL);
    ualarm(50000, 0);
    struct timespec t = {0, 200000000};
    FAILS(futex(&a, FUTEX_WAIT, 0, &t, NULL, 0), EINTR); /* a restart block: never restarted after a handler */
    pid_t pid = CHILD({
        ualarm(50000, 0);
        FAILS(futex(&a, FUTEX_WAIT, 0, NULL, NULL, 0), EAGAIN);
    });
    sleep_ms(150);
    CHECK(kill(pid, 0) == 0); /* restarted, still waiting */
    CHECK(waitpid(pid, NULL, WNOHANG) == 0);
    kill(pid, SIGKILL);
    reap(pid);
}

CASE(pi_lock) {
    uint32_t word = 0;
    CHECK(futex(&word, FUTEX_LOCK_PI, 0, NULL, NULL, 0) == 0);
    CHECK(word == (uint32_t)gettid());
    FAILS(futex(&word, FUTEX_LOCK_PI, 0, NULL, NULL, 0), EDEADLK);
    FAILS(futex(&word, FUTEX_TRYLOCK_PI, 0, NULL, NULL, 0), EDEADLK);
    CHECK(futex(&word, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0) == 0);
    CHECK(word == 0);
    FAILS(futex(&word, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0), EPERM);
    word = 0x3fffffff & 0x123456;
    FAILS(futex(&word, FUTEX_LOCK_PI, 0, NULL, NULL, 0), ESRCH);
}

static void *take_pi(void *argument) {
    long result = futex(&b, FUTEX_LOCK_PI, 0, NULL, NULL, 0);
    bool mine = (b & FUTEX_TID_MASK) == (uint32_t)gettid();
    futex(&b, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0);
    (void)argument;
    return (void *)(long)(result == 0 && mine);
}

CASE(pi_lock_handed_over) {
    b = 0;
    CHECK(futex(&b, FUTEX_LOCK_PI, 0, NULL, NULL, 0) == 0);
    start(2, take_pi, NULL);
    CHECK(b == ((uint32_t)gettid() | FUTEX_WAITERS));
    CHECK(futex(&b, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0) == 0);
    for (int i = 0; i < 2; i++) {
        void *result;
        pthread_join(threads[i], &result);
        CHECK(result == (void *)1);
    }
    struct timespec past = {1, 0};
    CHECK((b & FUTEX_TID_MASK) == 0);
    pthread_t holder;
    void *hold_pi(void *);
    b = 0;
    pthread_create(&holder, NULL, hold_pi, NULL);
    sleep_ms(50);
    FAILS(futex(&b, FUTEX_LOCK_PI, 0, &past, NULL, 0), ETIMEDOUT);
    pthread_join(holder, NULL);
}
void *hold_pi(void *argument) {
    futex(&b, FUTEX_LOCK_PI, 0, NULL, NULL, 0);
    sleep_ms(200);
    futex(&b, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0);
    return argument;
}

CASE(robust_list_calls) {
    struct robust_list_head *head;
    size_t length;
    CHECK(syscall(SYS_get_robust_list, 0, &head, &length) == 0 && length == sizeof *head);
    FAILS(syscall(SYS_set_robust_list, head, 3), EINVAL);
    FAILS(syscall(SYS_get_robust_list, 0, 16, &length), EFAULT);
    FAILS(syscall(SYS_get_robust_list, 999999, &head, &length), ESRCH);
    CHECK(syscall(SYS_set_robust_list, head, sizeof *head) == 0);
}

CASE(robust_list_marks_owner_died) {
    struct { struct robust_list list; uint32_t word; } *lock = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t pid = CHILD({
        static struct robust_list_head head;
        head.list.next = &lock->list;
        lock->list.next = &head.list;
        head.futex_offset = offsetof(typeof(*lock), word);
        lock->word = gettid() | FUTEX_WAITERS;
        CHECK(syscall(SYS_set_robust_list, &head, sizeof head) == 0);
        sleep_ms(100);
    });
    sleep_ms(30);
    uint32_t seen = lock->word;
    CHECK(futex(&lock->word, FUTEX_WAIT, seen, NULL, NULL, 0) == 0);
    CHECK(lock->word == (FUTEX_OWNER_DIED | FUTEX_WAITERS));
    CHECK(exit_of(pid) == 0);
}

CASE(thread_exit_clears_and_wakes_tid) {
    static char stack[65536] __attribute__((aligned(16)));
    static uint32_t tid = 1;
    int quiet(void *);
    int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_CHILD_CLEARTID;
    NEED(clone(quiet, stack + sizeof stack, flags, NULL, NULL, NULL, &tid) > 0);
    while (__atomic_load_n(&tid, __ATOMIC_SEQ_CST)) futex(&tid, FUTEX_WAIT, 1, NULL, NULL, 0);
    CHECK(tid == 0);
}
int quiet(void *argument) {
    (void)argument;
    sleep_ms(30);
    syscall(SYS_exit, 0);
    return 0;
}
