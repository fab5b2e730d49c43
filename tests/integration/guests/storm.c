/*
 * storm ROUNDS SEED: a process that outlives its children, whatever happens to them. Each child does one of the things in
 * the middle of which a restricted process may die; it must end well or by SIGKILL, and never otherwise.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define WELL 7    /* all went well */
#define BEREFT 8  /* a child of its own was killed */
#define PARALLEL 4

static char **arguments;

static void handler(int number) { (void)number; }

/* 0 for a good end, 1 for SIGKILL; anything else is told. */
static int killed(int status)
{
    if (WIFEXITED(status) && (WEXITSTATUS(status) == WELL || WEXITSTATUS(status) == BEREFT))
        return WEXITSTATUS(status) == BEREFT;
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
        return 1;
    printf("storm: strange status %x\n", status);
    return 2;
}

static int await(pid_t pid)
{
    int status;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR) {
            printf("storm: waitpid: %s\n", strerror(errno));
            return 2;
        }
    return killed(status);
}

static int end(int verdict) { return verdict == 0 ? WELL : verdict == 1 ? BEREFT : 9; }

static void *thread(void *argument)
{
    char *memory = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory != MAP_FAILED) {
        memset(memory, 1, 65536);
        munmap(memory, 1 << 20);
    }
    return argument;
}

static int threads(void)
{
    pthread_t all[4];
    int count = 0;
    while (count < 4 && pthread_create(&all[count], NULL, thread, NULL) == 0)
        count++;
    for (int index = 0; index < count; index++)
        pthread_join(all[index], NULL);
    return WELL;
}

static int maps(void)
{
    for (int round = 0; round < 20; round++) {
        char *memory = mmap(NULL, 1 << 18, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED)
            return 9;
        memset(memory, round, 1 << 14);
        mprotect(memory + 4096, 8192, PROT_READ);
        munmap(memory + (1 << 16), 1 << 16);
        if (memory[8000] != round)
            return 9;
    }
    return WELL;
}

static int grandchildren(void)
{
    int verdict = 0;
    for (int round = 0; round < 2; round++) {
        pid_t pid = fork();
        if (pid < 0)
            return 9;
        if (pid == 0)
            _exit(maps());
        verdict |= await(pid);
    }
    return end(verdict);
}

static int pipes(void)
{
    int ends[2];
    char byte;
    if (pipe(ends) < 0)
        return 9;
    pid_t pid = fork();
    if (pid < 0)
        return 9;
    if (pid == 0) {
        close(ends[0]);
        for (int round = 0; round < 20; round++)
            if (write(ends[1], "x", 1) != 1)
                _exit(9);
        _exit(WELL);
    }
    close(ends[1]);
    while (read(ends[0], &byte, 1) == 1)
        ;
    return end(await(pid));
}

static int spawn(void)
{
    pid_t pid = vfork();
    if (pid < 0)
        return 9;
    if (pid == 0) {
        execl(arguments[0], arguments[0], "leaf", NULL);
        _exit(9);
    }
    return end(await(pid));
}

static int signals(void)
{
    signal(SIGUSR1, handler);
    for (int round = 0; round < 5; round++)
        raise(SIGUSR1);
    pid_t pid = fork();
    if (pid == 0) {
        for (;;)
            pause();
    }
    usleep(500);
    kill(pid, SIGKILL);
    int status;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL ? WELL : 9;
}

static int child(int what)
{
    switch (what % 7) {
    case 0: return threads();
    case 1: return maps();
    case 2: return grandchildren();
    case 3: return pipes();
    case 4: return spawn();
    case 5: return signals();
    default: execl(arguments[0], arguments[0], "leaf", NULL); return 9;
    }
}

int main(int count, char **strings)
{
    arguments = strings;
    if (count == 2)
        return maps(); /* a leaf */
    int rounds = atoi(strings[1]), lost = 0, running = 0, failed = 0;
    pid_t own[PARALLEL] = {0};
    srand((unsigned)atoi(strings[2]));
    for (int round = 0; round < rounds || running; ) {
        if (round < rounds && running < PARALLEL) {
            int what = rand();
            pid_t pid = fork();
            if (pid == 0)
                _exit(child(what));
            round++;
            if (pid < 0)
                printf("storm: fork: %s\n", strerror(errno)), failed = 1;
            else {
                int place = 0;
                while (own[place])
                    place++;
                own[place] = pid;
                running++;
            }
            continue;
        }
        int status;
        pid_t pid = waitpid(-1, &status, 0);
        if (pid < 0) {
            printf("storm: wait: %s\n", strerror(errno));
            return 1;
        }
        int place = 0;
        while (place < PARALLEL && own[place] != pid)
            place++;
        if (place == PARALLEL)
            continue; /* an orphan: we may be pid 1 */
        own[place] = 0;
        running--;
        int verdict = killed(status);
        if (verdict == 2)
            failed = 1;
        lost += verdict != 0;
    }
    printf("storm %s: %d of %d lost one\n", failed ? "failed" : "survived", lost, rounds);
    return failed;
}
