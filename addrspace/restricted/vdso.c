/*
 * vdso.c: the vdso that guests see.
 *
 * Clocks are read at native speed by calling the host's own vdso, which the kernel process has found for us (kernel_page);
 * what differs is that CLOCK_MONOTONIC and its kin stand still while a container is suspended: so much is taken off.
 * Where the host has no such function, the call is made as a system call, which traps to our kernel like any other.
 * Linked into the stub (stub.c) at GUEST_VDSO; same names and version as Linux's (arch/x86/entry/vdso).
 */
#include <asm/unistd_64.h>
#include <linux/time.h>
#include <linux/time_types.h>

#include "layout.h"

#define NANOSECONDS 1000000000
#define STOPPING_CLOCKS (1u << CLOCK_MONOTONIC | 1u << CLOCK_MONOTONIC_RAW | 1u << CLOCK_MONOTONIC_COARSE)

#define PAGE ((const volatile struct kernel_page *)KERNEL_PAGE)

struct timezone;

static long trap(long number, const volatile void *first, const volatile void *second, const volatile void *third)
{
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(first), "S"(second), "d"(third) : "rcx", "r11", "memory");
    return result;
}

int __vdso_clock_gettime(int clock, struct __kernel_timespec *time)
{
    int (*host)(int, struct __kernel_timespec *) = (void *)PAGE->host_clock_gettime;
    if (!host)
        return (int)trap(__NR_clock_gettime, (void *)(long)clock, time, 0);
    if ((unsigned)clock >= 32 || !(STOPPING_CLOCKS >> clock & 1))
        return host(clock, time);
    /* A suspend may come between reading the host's clock and taking it off: the offset must be the same before and after. */
    int64_t suspended;
    int result;
    do {
        suspended = PAGE->suspended_ns;
        result = host(clock, time);
    } while (suspended != PAGE->suspended_ns);
    if (suspended && result == 0) {
        int64_t nanoseconds = time->tv_nsec - suspended % NANOSECONDS;
        time->tv_sec -= suspended / NANOSECONDS + (nanoseconds < 0);
        time->tv_nsec = nanoseconds < 0 ? nanoseconds + NANOSECONDS : nanoseconds;
    }
    return result;
}

int __vdso_gettimeofday(struct __kernel_old_timeval *time, struct timezone *zone)
{
    int (*host)(struct __kernel_old_timeval *, struct timezone *) = (void *)PAGE->host_gettimeofday;
    return host ? host(time, zone) : (int)trap(__NR_gettimeofday, time, zone, 0);
}

long __vdso_time(long *time)
{
    long (*host)(long *) = (void *)PAGE->host_time;
    return host ? host(time) : trap(__NR_time, time, 0, 0);
}

int __vdso_clock_getres(int clock, struct __kernel_timespec *resolution)
{
    int (*host)(int, struct __kernel_timespec *) = (void *)PAGE->host_clock_getres;
    return host ? host(clock, resolution) : (int)trap(__NR_clock_getres, (void *)(long)clock, resolution, 0);
}

int __vdso_getcpu(unsigned *cpu, unsigned *node, void *unused)
{
    int (*host)(unsigned *, unsigned *, void *) = (void *)PAGE->host_getcpu;
    return host ? host(cpu, node, unused) : (int)trap(__NR_getcpu, cpu, node, unused);
}

#define ALSO_AS(name) extern __typeof__(__vdso_##name) name __attribute__((weak, alias("__vdso_" #name)))
ALSO_AS(clock_gettime);
ALSO_AS(gettimeofday);
ALSO_AS(time);
ALSO_AS(clock_getres);
ALSO_AS(getcpu);
