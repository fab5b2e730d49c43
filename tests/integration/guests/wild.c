/*
 * wild FIRST LAST ROUNDS SEED: every system call number in [FIRST, LAST] with arguments of the worst sort, each batch in a child of its own,
 * which may come to any end. Afterwards the parent must still find the world in order.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static uint64_t state;

static uint64_t chance(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static char *page, *read_only, *edge;

static void prepare(void)
{
    page = mmap(NULL, 8 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(page + 4 * 4096, 4 * 4096);
    edge = page + 4 * 4096 - 5;
    read_only = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int index = 0; index < 4 * 4096; index++)
        page[index] = (char)chance();
    strcpy(page, "/tmp/wild");
    strcpy(page + 64, "/proc/self/status");
    strcpy(page + 128, ".");
    uint64_t *vector = (uint64_t *)(page + 256);
    vector[0] = (uint64_t)page, vector[1] = 16, vector[2] = 0x123, vector[3] = 1 << 20, vector[4] = (uint64_t)edge, vector[5] = 64;
    vector[6] = ~0UL, vector[7] = ~0UL;
    int ends[2];
    if (pipe(ends) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0 && socketpair(AF_UNIX, SOCK_DGRAM, 0, ends) == 0)
        eventfd(1, 0);
    epoll_create1(0);
    timerfd_create(CLOCK_MONOTONIC, 0);
    open("/tmp/wild", O_RDWR | O_CREAT, 0600);
    open("/", O_RDONLY | O_DIRECTORY);
    open("/proc/self/maps", O_RDONLY);
    open("/dev/null", O_RDWR);
    open("/dev/ptmx", O_RDWR | O_NOCTTY);
    memfd_create("wild", MFD_ALLOW_SEALING);
    signal(SIGPIPE, SIG_IGN);
}

static uint64_t argument(void)
{
    switch (chance() % 24) {
    case 0: return 0;
    case 1: return 1;
    case 2: return ~0UL;
    case 3: return (uint64_t)-100;
    case 4: return chance() % 24;
    case 5: return chance() % 24;
    case 6: return (uint64_t)page;
    case 7: return (uint64_t)page + 64 * (chance() % 8);
    case 8: return (uint64_t)edge;
    case 9: return (uint64_t)read_only;
    case 10: return (uint64_t)page + 4 * 4096;
    case 11: return 0x1000;
    case 12: return 1UL << (chance() % 64);
    case 13: return (1UL << (chance() % 64)) - 1;
    case 14: return 0x7ffffffff000;
    case 15: return 0xffff800000000000;
    case 16: return 4096 * (chance() % 9);
    case 17: return chance() & 0xff;
    case 18: return chance() & 0xffff;
    case 19: return chance() & 0xffffffff;
    case 20: return chance();
    case 21: return (uint64_t)page + 256;
    case 22: return 0x7fff00000000 + (chance() & 0xfffff000);
    default: return 0x80000000UL + (chance() & 1);
    }
}

/* Calls that would only end or stop the child itself, or the others behind our back. */
static int excluded(long number)
{
    return number == SYS_exit || number == SYS_exit_group || number == SYS_pause || number == SYS_rt_sigsuspend || number == SYS_kill ||
           number == SYS_tkill || number == SYS_tgkill || number == SYS_rt_sigqueueinfo || number == SYS_rt_tgsigqueueinfo || number == SYS_pidfd_send_signal ||
           number == SYS_reboot || number == SYS_vfork;
}

static void child(int first, int last, int rounds)
{
    prepare();
    for (int round = 0; round < rounds; round++) {
        for (int number = first; number <= last; number++) {
            uint64_t a[6];
            if (excluded(number))
                continue;
            for (int index = 0; index < 6; index++)
                a[index] = argument();
            alarm(0);
            struct { uint64_t interval[2], value[2]; } timer = {{0, 2000}, {0, 2000}};
            syscall(SYS_setitimer, 0, &timer, NULL);
            syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
        }
    }
    _exit(0);
}

static void noted(int number) { (void)number; }

int main(int count, char **strings)
{
    int first = atoi(strings[1]), last = atoi(strings[2]), rounds = atoi(strings[3]), ends[3] = {0};
    uint64_t seed = strtoul(strings[4], NULL, 0);
    int step = count > 5 ? atoi(strings[5]) : 8;
    for (int number = first; number <= last; number += step) {
        int status;
        fflush(stdout);
        pid_t pid = fork();
        if (pid < 0) { /* the children of clone with wild flags may be many */
            kill(-1, SIGKILL);
            while (waitpid(-1, &status, 0) > 0)
                ;
            number -= step;
            continue;
        }
        if (pid == 0) {
            struct sigaction action = {.sa_handler = noted};
            setsid();
            state = seed * 1000003 + (uint64_t)number + 1;
            sigaction(SIGALRM, &action, NULL);
            freopen("/dev/null", "w", stdout);
            dup2(1, 2);
            dup2(1, 0);
            child(number, number + step - 1 < last ? number + step - 1 : last, rounds);
        }
        struct timespec limit = {2, 0}, pause = {0, 2000000};
        while (waitpid(pid, &status, WNOHANG) == 0) {
            if ((limit.tv_nsec += pause.tv_nsec) > 2000000000) { /* blocked for good: fair enough */
                kill(pid, SIGKILL);
                waitpid(pid, &status, 0);
                break;
            }
            nanosleep(&pause, NULL);
        }
        if (WIFEXITED(status) ? WEXITSTATUS(status) : count > 6)
            printf("%d: %x\n", number, status);
        kill(-pid, SIGKILL);
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ;
        ends[WIFEXITED(status) ? 0 : WTERMSIG(status) == SIGKILL ? 2 : 1]++;
    }
    printf("%d ended, %d died, %d were killed\n", ends[0], ends[1], ends[2]);
    return 0;
}
