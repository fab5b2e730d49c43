// pthreads: creation, exit orders, locks, thread-local storage, exec and exit among threads.
#include "check.h"
#include <pthread.h>
#include <semaphore.h>
#include <sys/prctl.h>

static void *add(void *argument) {
    __atomic_fetch_add((long *)argument, 1, __ATOMIC_SEQ_CST);
    return argument;
}

CASE(create_and_join) {
    long counter = 0;
    for (int i = 0; i < 50; i++) {
        pthread_t thread;
        void *result;
        NEED(pthread_create(&thread, NULL, add, &counter) == 0);
        NEED(pthread_join(thread, &result) == 0);
        CHECK(result == &counter);
    }
    CHECK(counter == 50);
}

static pthread_barrier_t barrier;
static void *meet(void *argument) {
    pthread_barrier_wait(&barrier);
    return argument;
}

CASE(two_hundred_at_once) {
    enum { N = 200 };
    static pthread_t threads[N];
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 64 << 10);
    pthread_barrier_init(&barrier, NULL, N + 1);
    for (int i = 0; i < N; i++) NEED(pthread_create(&threads[i], &attributes, meet, NULL) == 0);
    pthread_barrier_wait(&barrier);
    for (int i = 0; i < N; i++) CHECK(pthread_join(threads[i], NULL) == 0);
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static long guarded;
static void *work(void *argument) {
    for (int i = 0; i < 20000; i++) {
        pthread_mutex_lock(&mutex);
        guarded++;
        pthread_mutex_unlock(&mutex);
    }
    return argument;
}

CASE(mutex_under_contention) {
    pthread_t threads[8];
    for (int i = 0; i < 8; i++) NEED(pthread_create(&threads[i], NULL, work, NULL) == 0);
    for (int i = 0; i < 8; i++) pthread_join(threads[i], NULL);
    CHECK(guarded == 160000);
}

static int turn;
static void *other_side(void *argument) {
    for (int i = 0; i < 200; i++) {
        pthread_mutex_lock(&mutex);
        while (turn != 1) pthread_cond_wait(&condition, &mutex);
        turn = 0;
        pthread_cond_broadcast(&condition);
        pthread_mutex_unlock(&mutex);
    }
    return argument;
}

CASE(condition_ping_pong) {
    pthread_t thread;
    NEED(pthread_create(&thread, NULL, other_side, NULL) == 0);
    for (int i = 0; i < 200; i++) {
        pthread_mutex_lock(&mutex);
        while (turn != 0) pthread_cond_wait(&condition, &mutex);
        turn = 1;
        pthread_cond_broadcast(&condition);
        pthread_mutex_unlock(&mutex);
    }
    CHECK(pthread_join(thread, NULL) == 0);
}

CASE(timed_wait_times_out) {
    struct timespec end;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_nsec += 100000000;
    if (end.tv_nsec >= 1000000000) end.tv_sec++, end.tv_nsec -= 1000000000;
    pthread_mutex_lock(&mutex);
    double start = now();
    CHECK(pthread_cond_timedwait(&condition, &mutex, &end) == ETIMEDOUT);
    CHECK(now() - start > 0.08);
    CHECK(pthread_mutex_timedlock(&mutex, &end) == ETIMEDOUT);
    pthread_mutex_unlock(&mutex);
}

static pthread_rwlock_t rwlock = PTHREAD_RWLOCK_INITIALIZER;
static void *reader(void *argument) {
    for (int i = 0; i < 2000; i++) {
        pthread_rwlock_rdlock(&rwlock);
        long copy = guarded;
        (void)copy;
        pthread_rwlock_unlock(&rwlock);
    }
    return argument;
}
static void *writer(void *argument) {
    for (int i = 0; i < 500; i++) {
        pthread_rwlock_wrlock(&rwlock);
        guarded++;
        pthread_rwlock_unlock(&rwlock);
    }
    return argument;
}

CASE(read_write_lock) {
    pthread_t threads[6];
    for (int i = 0; i < 6; i++) NEED(pthread_create(&threads[i], NULL, i % 3 ? reader : writer, NULL) == 0);
    for (int i = 0; i < 6; i++) pthread_join(threads[i], NULL);
    CHECK(guarded == 1000);
}

static sem_t semaphore;
static void *post(void *argument) {
    for (int i = 0; i < 100; i++) sem_post(&semaphore);
    return argument;
}

CASE(semaphore_between_threads) {
    sem_init(&semaphore, 0, 0);
    pthread_t thread;
    NEED(pthread_create(&thread, NULL, post, NULL) == 0);
    for (int i = 0; i < 100; i++) CHECK(sem_wait(&semaphore) == 0);
    FAILS(sem_trywait(&semaphore), EAGAIN);
    pthread_join(thread, NULL);
}

static __thread int local = 5;
static void *use_local(void *argument) {
    local += (int)(long)argument;
    sleep_ms(5);
    return (void *)(long)local;
}

CASE(thread_local_storage) {
    pthread_t threads[10];
    for (long i = 0; i < 10; i++) NEED(pthread_create(&threads[i], NULL, use_local, (void *)i) == 0);
    for (long i = 0; i < 10; i++) {
        void *result;
        pthread_join(threads[i], &result);
        CHECK((long)result == 5 + i);
    }
    CHECK(local == 5);
}

static void *ids(void *argument) {
    pid_t *out = argument;
    out[0] = getpid();
    out[1] = gettid();
    out[2] = getppid();
    return NULL;
}

CASE(ids_of_threads) {
    pid_t seen[3];
    pthread_t thread;
    NEED(pthread_create(&thread, NULL, ids, seen) == 0);
    pthread_join(thread, NULL);
    CHECK(seen[0] == getpid() && seen[1] != getpid() && seen[2] == getppid());
    CHECK(gettid() == getpid());
}

static void *linger(void *argument) {
    sleep_ms((long)argument);
    _exit(13);
}

CASE(leader_exits_first) {
    pid_t pid = fork();
    if (!pid) {
        pthread_t thread;
        pthread_create(&thread, NULL, linger, (void *)200);
        syscall(SYS_exit, 99);
    }
    sleep_ms(80);
    CHECK(state_of(pid) == 'Z');
    CHECK(waitpid(pid, NULL, WNOHANG) == 0);
    CHECK(exit_of(pid) == 13);
}

static void *end_thread(void *argument) {
    syscall(SYS_exit, (long)argument);
    return NULL;
}

static void *end_after_leader(void *argument) {
    while (state_of(getpid()) != 'Z')
        sleep_ms(1);
    return end_thread(argument);
}

CASE(status_is_the_last_threads) {
    pid_t pid = fork();
    if (!pid) {
        pthread_t thread;
        pthread_create(&thread, NULL, end_after_leader, (void *)44);
        syscall(SYS_exit, 33);
    }
    CHECK(exit_of(pid) == 44);
    pid = fork();
    if (!pid) {
        pthread_t thread;
        pthread_create(&thread, NULL, end_thread, (void *)44);
        pthread_join(thread, NULL);
        _exit(55);
    }
    CHECK(exit_of(pid) == 55);
    pid = fork();
    if (!pid) {
        pthread_t thread;
        pthread_create(&thread, NULL, end_after_leader, (void *)44);
        pthread_exit(NULL);
    }
    CHECK(exit_of(pid) == 44);
}

static void *forever(void *argument) {
    for (;;) pause();
    return argument;
}
static void *spin(void *argument) {
    for (volatile long i = 0;; i++) {}
    return argument;
}

CASE(exit_group_ends_blocked_and_running_threads) {
    for (int i = 0; i < 5; i++) {
        pid_t pid = fork();
        if (!pid) {
            pthread_t thread;
            for (int n = 0; n < 5; n++) pthread_create(&thread, NULL, n % 2 ? forever : spin, NULL);
            sleep_ms(5);
            _exit(i);
        }
        CHECK(exit_of(pid) == i);
    }
}

static void *exec_true(void *argument) {
    sleep_ms(20);
    execl("/bin/sh", "sh", "-c", argument, NULL);
    return NULL;
}

CASE(exec_from_a_thread_becomes_the_leader) {
    pid_t pid = fork();
    if (!pid) {
        pthread_t thread;
        for (int n = 0; n < 3; n++) pthread_create(&thread, NULL, n % 2 ? forever : spin, NULL);
        char script[100];
        snprintf(script, sizeof script, "[ $$ = %d ] && ls /proc/self/task | wc -l && exit 8", getpid());
        pthread_create(&thread, NULL, exec_true, script);
        for (;;) pause();
    }
    CHECK(exit_of(pid) == 8);
}

CASE(exec_from_the_leader_ends_the_others) {
    pid_t pid = fork();
    if (!pid) {
        pthread_t thread;
        for (int n = 0; n < 4; n++) pthread_create(&thread, NULL, n % 2 ? forever : spin, NULL);
        exec_true("exit 9");
    }
    CHECK(exit_of(pid) == 9);
}

CASE(exec_after_the_leader_is_gone) {
    pid_t pid = fork();
    if (!pid) {
        pthread_t thread;
        pthread_create(&thread, NULL, exec_true, "exit 10");
        syscall(SYS_exit, 1);
    }
    CHECK(exit_of(pid) == 10);
}

CASE(failed_exec_leaves_threads_alive) {
    long counter = 0;
    pthread_t thread;
    NEED(pthread_create(&thread, NULL, forever, NULL) == 0);
    FAILS(execl("/nonexistent", "x", NULL), ENOENT);
    CHECK(pthread_kill(thread, 0) == 0);
    pthread_t second;
    NEED(pthread_create(&second, NULL, add, &counter) == 0);
    pthread_join(second, NULL);
    CHECK(counter == 1);
}

static void *fork_in_thread(void *argument) {
    pid_t pid = fork();
    if (!pid) _exit(gettid() == getpid() ? 21 : 22);
    *(int *)argument = exit_of(pid);
    return NULL;
}

CASE(fork_from_a_thread) {
    pthread_t other, thread;
    NEED(pthread_create(&other, NULL, spin, NULL) == 0);
    int result = 0;
    NEED(pthread_create(&thread, NULL, fork_in_thread, &result) == 0);
    pthread_join(thread, NULL);
    CHECK(result == 21);
}

CASE(a_thread_waits_for_a_child_of_another) {
    int result = -1;
    pid_t pid = fork();
    if (!pid) _exit(31);
    pthread_t thread;
    void *wait_in_thread(void *);
    NEED(pthread_create(&thread, NULL, wait_in_thread, &pid) == 0);
    void *value;
    pthread_join(thread, &value);
    result = (long)value;
    CHECK(result == 31);
    pid = fork();
    if (!pid) _exit(0);
    FAILS(waitpid(pid + 1000, NULL, __WNOTHREAD), ECHILD);
    CHECK(exit_of(pid) == 0);
}
void *wait_in_thread(void *argument) { return (void *)(long)exit_of(*(pid_t *)argument); }

static void *cancellable(void *argument) {
    pthread_cleanup_push((void (*)(void *))add, argument);
    for (;;) pause();
    pthread_cleanup_pop(0);
}

CASE(cancel) {
    long cleaned = 0;
    pthread_t thread;
    NEED(pthread_create(&thread, NULL, cancellable, &cleaned) == 0);
    sleep_ms(20);
    CHECK(pthread_cancel(thread) == 0);
    void *result;
    CHECK(pthread_join(thread, &result) == 0 && result == PTHREAD_CANCELED);
    CHECK(cleaned == 1);
}

CASE(detached_threads) {
    static long counter;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    for (int i = 0; i < 30; i++) {
        pthread_t thread;
        NEED(pthread_create(&thread, &attributes, add, &counter) == 0);
    }
    for (int i = 0; i < 500 && __atomic_load_n(&counter, __ATOMIC_SEQ_CST) < 30; i++) sleep_ms(5);
    CHECK(counter == 30);
}

CASE(names_of_threads) {
    char name[16];
    CHECK(pthread_setname_np(pthread_self(), "a name") == 0);
    CHECK(pthread_getname_np(pthread_self(), name, sizeof name) == 0 && !strcmp(name, "a name"));
    CHECK(!strcmp(content("/proc/self/comm"), "a name\n"));
    pthread_t thread;
    NEED(pthread_create(&thread, NULL, forever, NULL) == 0);
    CHECK(pthread_setname_np(thread, "other") == 0);
    CHECK(pthread_getname_np(thread, name, sizeof name) == 0 && !strcmp(name, "other"));
    CHECK(pthread_setname_np(thread, "longer than fifteen") == ERANGE);
}

CASE(stack_guard_faults) {
    void *overflow(void *);
    pid_t pid = fork();
    if (!pid) {
        pthread_t thread;
        pthread_create(&thread, NULL, overflow, NULL);
        pthread_join(thread, NULL);
        _exit(0);
    }
    CHECK(exit_of(pid) == 128 + SIGSEGV);
}
static volatile char *deep;
__attribute__((noinline)) static int recurse(int n) {
    volatile char block[4096];
    block[0] = n;
    deep = block;
    return recurse(n + 1) + block[0];
}
void *overflow(void *argument) {
    recurse(0);
    return argument;
}

static pthread_mutex_t robust;
static void *die_with_lock(void *argument) {
    pthread_mutex_lock(&robust);
    return argument;
}

CASE(robust_mutex) {
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&robust, &attributes);
    pthread_t thread;
    NEED(pthread_create(&thread, NULL, die_with_lock, NULL) == 0);
    pthread_join(thread, NULL);
    CHECK(pthread_mutex_lock(&robust) == EOWNERDEAD);
    CHECK(pthread_mutex_consistent(&robust) == 0);
    CHECK(pthread_mutex_unlock(&robust) == 0);
}

CASE(robust_mutex_between_processes) {
    pthread_mutex_t *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(shared, &attributes);
    _Atomic int *locked = (_Atomic int *)(shared + 1);
    pid_t pid = CHILD({
        pthread_mutex_lock(shared);
        *locked = 1;
        sleep_ms(60);
        kill(getpid(), SIGKILL);
    });
    while (!*locked)
        sleep_ms(1);
    CHECK(pthread_mutex_lock(shared) == EOWNERDEAD);
    pthread_mutex_consistent(shared);
    pthread_mutex_unlock(shared);
    CHECK(exit_of(pid) == 128 + SIGKILL);
}

CASE(priority_inheritance_mutex) {
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    CHECK(pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT) == 0);
    pthread_mutex_t pi;
    CHECK(pthread_mutex_init(&pi, &attributes) == 0);
    long counter = 0;
    void *locker(void *);
    struct { pthread_mutex_t *mutex; long *counter; } argument = {&pi, &counter};
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) NEED(pthread_create(&threads[i], NULL, locker, &argument) == 0);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    CHECK(counter == 4000);
}
void *locker(void *argument) {
    struct { pthread_mutex_t *mutex; long *counter; } *shared = argument;
    for (int i = 0; i < 1000; i++) {
        if (pthread_mutex_lock(shared->mutex)) return NULL;
        ++*shared->counter;
        pthread_mutex_unlock(shared->mutex);
    }
    return NULL;
}

static pthread_mutex_t *process_mutex;
static pthread_cond_t *process_condition;

CASE(shared_between_processes) {
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    process_mutex = (void *)page;
    process_condition = (void *)(page + 128);
    int *value = (int *)(page + 512);
    pthread_mutexattr_t mutex_attributes;
    pthread_mutexattr_init(&mutex_attributes);
    pthread_mutexattr_setpshared(&mutex_attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(process_mutex, &mutex_attributes);
    pthread_condattr_t condition_attributes;
    pthread_condattr_init(&condition_attributes);
    pthread_condattr_setpshared(&condition_attributes, PTHREAD_PROCESS_SHARED);
    pthread_cond_init(process_condition, &condition_attributes);
    pid_t pid = CHILD({
        for (int i = 0; i < 50; i++) {
            pthread_mutex_lock(process_mutex);
            while (*value % 2 == 0) pthread_cond_wait(process_condition, process_mutex);
            ++*value;
            pthread_cond_signal(process_condition);
            pthread_mutex_unlock(process_mutex);
        }
    });
    for (int i = 0; i < 50; i++) {
        pthread_mutex_lock(process_mutex);
        while (*value % 2 == 1) pthread_cond_wait(process_condition, process_mutex);
        ++*value;
        pthread_cond_signal(process_condition);
        pthread_mutex_unlock(process_mutex);
    }
    CHECK(exit_of(pid) == 0);
    CHECK(*value == 100);
}

CASE(blocked_io_in_one_thread_does_not_hold_the_others) {
    static int p[2];
    NEED(pipe(p) == 0);
    void *read_one(void *);
    pthread_t threads[5];
    for (int i = 0; i < 5; i++) NEED(pthread_create(&threads[i], NULL, read_one, &p[0]) == 0);
    sleep_ms(30);
    CHECK(write(p[1], "abcde", 5) == 5);
    int sum = 0;
    for (int i = 0; i < 5; i++) {
        void *result;
        pthread_join(threads[i], &result);
        sum += (long)result;
    }
    CHECK(sum == 'a' + 'b' + 'c' + 'd' + 'e');
}
void *read_one(void *argument) {
    char c = 0;
    read(*(int *)argument, &c, 1);
    return (void *)(long)c;
}

CASE(proc_task_lists_threads) {
    pthread_t thread;
    for (int i = 0; i < 3; i++) NEED(pthread_create(&thread, NULL, forever, NULL) == 0);
    FILE *f = popen("true", "r");
    if (f) pclose(f);
    char command[64];
    snprintf(command, sizeof command, "ls /proc/%d/task | wc -l; grep Threads /proc/%d/status", getpid(), getpid());
    CHECK(system(command) == 0);
}

static void *make_a_child(void *go_on) {
    int *ends = go_on;
    char byte;
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGUSR1);
        write(ends[1], "x", 1);
        pause();
        _exit(0);
    }
    read(ends[0], &byte, 1);
    return (void *)(long)child;
}

/* PR_SET_PDEATHSIG is about the thread that made the process. */
CASE(parent_death_signal_at_a_threads_end) {
    pthread_t thread;
    int ends[2];
    void *child;
    pipe(ends);
    pthread_create(&thread, NULL, make_a_child, ends);
    pthread_join(thread, &child);
    CHECK(exit_of((long)child) == 128 + SIGUSR1);
    /* A process that another thread made lives on. */
    child = make_a_child(ends);
    pthread_create(&thread, NULL, (void *(*)(void *))getppid, NULL);
    pthread_join(thread, NULL);
    sleep_ms(50);
    CHECK(waitpid((long)child, NULL, WNOHANG) == 0 && kill((long)child, SIGKILL) == 0);
    CHECK(exit_of((long)child) == 128 + SIGKILL);
}
