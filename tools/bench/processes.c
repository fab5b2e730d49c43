/* Processes and threads: fork, vfork and exec, pipes between processes, thread creation, conditions. */
#include "measure.h"
#include <pthread.h>

static void fork_wait(void) {
    pid_t pid = fork();
    if (pid == 0) _exit(0);
    if (pid < 0 || waitpid(pid, NULL, 0) != pid) fail("fork");
}

static char *dirty(size_t size) {
    char *heap = malloc(size);
    if (!heap) fail("malloc");
    memset(heap, 1, size);
    __asm__ volatile("" : : "r"(heap) : "memory"); /* or the compiler leaves all this out */
    return heap;
}

static void do_fork(void) {
    dirty(1 << 20);
    for (int i = 0; i < 20; i++) fork_wait();
    MEASURE_TIMES(1000, fork_wait());
}

static void *sleeper(void *argument) {
    for (;;) pause();
    return argument;
}

static void do_fork_large(void) {
    dirty(100 << 20);
    for (int i = 0; i < 8; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, sleeper, NULL)) fail("pthread_create");
    }
    for (int i = 0; i < 3; i++) fork_wait();
    MEASURE_TIMES(30, fork_wait());
}

static void do_vfork_exec(void) {
    char *argv[] = {"/proc/self/exe", "nothing", NULL}, *envp[] = {NULL};
    for (int i = 0; i < 10; i++)
        if (!fork()) _exit(0); else wait(NULL);
    MEASURE_TIMES(200, {
        pid_t pid = vfork();
        if (pid == 0) {
            execve("/proc/self/exe", argv, envp);
            _exit(127);
        }
        int status;
        if (waitpid(pid, &status, 0) != pid || status) fail("vfork");
    });
}

static void do_nothing(void) {}

static void ping_pong(int apart) {
    int a[2], b[2];
    if (pipe(a) || pipe(b)) fail("pipe");
    cpu_set_t mine;
    int first = -1, second = -1;
    if (apart && sched_getaffinity(0, sizeof mine, &mine) == 0)
        for (int i = 0; i < CPU_SETSIZE && second < 0; i++)
            if (CPU_ISSET(i, &mine)) *(first < 0 ? &first : &second) = i;
    cpu_set_t one;
    char c = 0;
    pid_t pid = fork();
    if (pid == 0) {
        if (second >= 0) {
            CPU_ZERO(&one);
            CPU_SET(second, &one);
            sched_setaffinity(0, sizeof one, &one);
        }
        close(a[1]);
        while (read(a[0], &c, 1) == 1) write(b[1], &c, 1);
        _exit(0);
    }
    if (second >= 0) {
        CPU_ZERO(&one);
        CPU_SET(first, &one);
        sched_setaffinity(0, sizeof one, &one);
    }
    MEASURE({
        write(a[1], &c, 1);
        if (read(b[0], &c, 1) != 1) fail("read");
    });
    close(a[1]);
    waitpid(pid, NULL, 0);
}

static void do_pipe_ping_pong(void) { ping_pong(0); }
static void do_pipe_ping_pong_apart(void) { ping_pong(1); }

static void *finish(void *argument) { return argument; }

static void do_thread_create_join(void) {
    MEASURE({
        pthread_t thread;
        if (pthread_create(&thread, NULL, finish, NULL)) fail("pthread_create");
        pthread_join(thread, NULL);
    });
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static int turn;

static void *other_side(void *argument) {
    pthread_mutex_lock(&mutex);
    for (;;) {
        while (turn != 1) pthread_cond_wait(&condition, &mutex);
        turn = 0;
        pthread_cond_signal(&condition);
    }
    return argument;
}

static void do_cond_ping_pong(void) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, other_side, NULL)) fail("pthread_create");
    MEASURE({
        pthread_mutex_lock(&mutex);
        turn = 1;
        pthread_cond_signal(&condition);
        while (turn != 0) pthread_cond_wait(&condition, &mutex);
        pthread_mutex_unlock(&mutex);
    });
    fflush(stdout);
    _exit(0);
}

ROWS({"fork", do_fork}, {"fork_large", do_fork_large}, {"vfork_exec", do_vfork_exec}, {"nothing", do_nothing},
     {"pipe_ping_pong", do_pipe_ping_pong}, {"pipe_ping_pong_apart", do_pipe_ping_pong_apart},
     {"thread_create_join", do_thread_create_join}, {"cond_ping_pong", do_cond_ping_pong})
