/*
 * hostile HOW [ADDRESS...]: does its worst in a child, and says how the child ended. Exit status 0 when the parent lived to tell.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static uint64_t number(const char *text) { return strtoull(text, NULL, 0); }

static int jump(char **how)
{
    uint64_t start = number(how[0]), size = number(how[1]);
    for (uint64_t offset = 0; offset < size; offset += 3) {
        pid_t pid = fork();
        if (pid == 0) {
            setitimer(ITIMER_REAL, &(struct itimerval){{0, 0}, {0, 20000}}, NULL);
            __asm__ volatile("mov %0, %%rcx; xor %%edi, %%edi; xor %%esi, %%esi; mov $60, %%eax; jmp *%%rcx"
                             : : "r"(start + offset) : "rcx", "rax", "rdi", "rsi", "memory");
        }
        if (waitpid(pid, NULL, 0) != pid)
            return 1;
    }
    return 0;
}

static int int80(char **how)
{
    (void)how;
    for (long call = 0; call < 460; call++) {
        long result;
        __asm__ volatile("int $0x80" : "=a"(result) : "a"(call), "b"(0L), "c"(0L), "d"(0L), "S"(0L), "D"(0L) : "memory", "r8", "r9", "r10", "r11");
        if (result != -ENOSYS)
            return 1;
    }
    return 0;
}

static int vsyscall(char **how)
{
    (void)how;
    struct timeval now = {0, 0};
    long (*get)(struct timeval *, void *) = (void *)0xffffffffff600000;
    long (*seconds)(long *) = (void *)0xffffffffff600400;
    get(&now, NULL);
    seconds(NULL);
    return 0;
}

static int vsyscall_inside(char **how)
{
    (void)how;
    ((void (*)(void))0xffffffffff600003)();
    return 0;
}

static int scribble(char **how)
{
    uint64_t start = number(how[0]), size = number(how[1]);
    srand(1);
    for (int round = 0; round < 20; round++) {
        pid_t pid = fork();
        if (pid == 0) {
            for (uint64_t offset = 0; offset < size; offset += 4) {
                volatile uint32_t *word = (uint32_t *)(start + offset);
                *word = round % 3 == 0 ? 0 : round % 3 == 1 ? 0xffffffff : (uint32_t)rand();
            }
            for (;;)
                getppid();
        }
        usleep(20000);
        kill(pid, SIGKILL);
        if (waitpid(pid, NULL, 0) != pid)
            return 1;
    }
    return 0;
}

static int unmap_all(char **how)
{
    return munmap((void *)0, number(how[0])) ? 2 : 3;
}

static int map_over_all(char **how)
{
    mmap((void *)0x10000, number(how[0]) - 0x10000, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    return 3;
}

static int protect_all(char **how)
{
    (void)how;
    for (uint64_t page = 0x400000; page < 0x800000; page += 4096)
        mprotect((void *)page, 4096, PROT_NONE);
    mprotect((void *)((uint64_t)&how & ~4095UL), 4096, PROT_NONE);
    return 3;
}

static int ends[2];

static void *block(void *argument)
{
    char byte;
    (void)!read(ends[0], &byte, 1);
    return argument;
}

static int exit_among_blocked(char **how)
{
    pthread_t thread;
    if (pipe(ends))
        return 2;
    for (int count = 0; count < 30; count++)
        pthread_create(&thread, NULL, block, NULL);
    usleep(1000);
    if (how[0])
        syscall(SYS_exit_group, 0);
    _exit(0);
}

static int fork_bomb(char **how)
{
    (void)how;
    int failures = 0;
    while (failures < 100) {
        pid_t pid = fork();
        if (pid < 0)
            failures++;
    }
    return 0;
}

static int exhaust(char **how)
{
    (void)how;
    for (;;) {
        char *memory = mmap(NULL, 16 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED)
            return 4;
        memset(memory, 1, 16 << 20);
    }
}

static int exhaust_by_kernel(char **how)
{
    (void)how;
    int fd = memfd_create("hog", 0);
    static char buffer[1 << 20];
    for (;;)
        if (write(fd, buffer, sizeof buffer) <= 0)
            return errno == ENOSPC || errno == ENOMEM ? 0 : 5;
}

static int stack_overflow(char **how)
{
    volatile char frame[65536];
    frame[0] = 1;
    return stack_overflow(how) + frame[0];
}

static char stacks[2][65536] __attribute__((aligned(16)));
static volatile pid_t *middle; /* shared with the helper */

static int last_child(void *argument)
{
    usleep(100000);
    return argument != NULL;
}

static int middle_child(void *argument)
{
    (void)argument;
    *middle = getpid();
    clone(last_child, stacks[1] + sizeof stacks[1], CLONE_VM | CLONE_VFORK | SIGCHLD, NULL);
    return 0;
}

/* Who lent its thread to a child that lent it on, and died, must get it back all the same. */
static int nested_vfork(char **how)
{
    int status;
    (void)how;
    middle = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    for (int round = 0; round < 3; round++) {
        pid_t helper = fork();
        if (helper == 0) {
            usleep(40000);
            kill(*middle, SIGKILL);
            _exit(0);
        }
        pid_t pid = clone(middle_child, stacks[0] + sizeof stacks[0], CLONE_VM | CLONE_VFORK | SIGCHLD, NULL);
        if (pid < 0 || waitpid(pid, &status, 0) != pid)
            return 1;
        kill(helper, SIGKILL);
        waitpid(helper, NULL, 0);
        usleep(150000);
    }
    return 0;
}

static const struct { const char *name; int (*act)(char **); } acts[] = {
    {"jump", jump}, {"int80", int80}, {"vsyscall", vsyscall}, {"vsyscall_inside", vsyscall_inside}, {"scribble", scribble},
    {"unmap_all", unmap_all}, {"map_over_all", map_over_all}, {"protect_all", protect_all},
    {"exit_among_blocked", exit_among_blocked}, {"fork_bomb", fork_bomb}, {"exhaust", exhaust}, {"exhaust_by_kernel", exhaust_by_kernel},
    {"stack_overflow", stack_overflow}, {"nested_vfork", nested_vfork},
};

int main(int count, char **strings)
{
    for (size_t index = 0; count > 1 && index < sizeof acts / sizeof *acts; index++)
        if (!strcmp(acts[index].name, strings[1])) {
            int status;
            pid_t pid = fork();
            if (pid == 0)
                _exit(acts[index].act(strings + 2));
            if (waitpid(pid, &status, 0) != pid)
                return 1;
            if (WIFEXITED(status))
                printf("exited %d\n", WEXITSTATUS(status));
            else
                printf("killed by %d\n", WTERMSIG(status));
            return 0;
        }
    return 2;
}
