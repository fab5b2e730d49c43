/*
 * pin.c: the kernel's thread and the guest threads that converse with it, on one CPU.
 *
 * Where spinning doesn't pay, each side sleeps while the other works. If they sleep on different CPUs, each call wakes a CPU up twice; on
 * the same one, a wake-up is a switch of threads. So the kernel's thread is pinned where it is (gather), and a guest's first thread beside
 * it, once it has made some calls at short intervals; until it computes for longer, or the policy has had enough (scatter).
 *
 * Without that the host may put a woken thread on the kernel's CPU as well, before the kernel's thread, and if that came back and spun there for
 * the answer, it would be in the way of who gives it. So stubs are told which CPU that is, and sleep at once when they are there.
 *
 * Only the first thread of a stub: its id is the process's, which we hold by pidfd; what a slot says about its thread, the guest can forge.
 */
#include "object.h"

#include <cpuid.h>

#define TALKS_BEFORE_PIN 8
#define LONGEST_GAP_US 1000   /* of computing between calls, on average, for a thread that has the kernel for itself */
#define GAP_IN_COMPANY_US 50  /* for each of several */

static bool move(int tid, const cpu_set_t *cpus) { return sched_setaffinity(tid, sizeof *cpus, cpus) == 0; }

void pin_describe_cpu(struct kernel_page *page)
{
    uint32_t a, b, c, d;
    bool has_rdtscp = __get_cpuid(0x80000001, &a, &b, &c, &d) && d >> 27 & 1;
    page->kernel_cpu = has_rdtscp ? (uint32_t)sched_getcpu() : NO_CPU;
}

/* At each resume: it is the exits that follow for which it must be right. */
void pin_tell_cpu(Monitor *monitor)
{
    uint32_t cpu = (uint32_t)sched_getcpu(), told = monitor->page->kernel_cpu;
    if (told != cpu && told != NO_CPU)
        __atomic_store_n(&monitor->page->kernel_cpu, cpu, __ATOMIC_RELAXED);
}

void pin_remove(Slot *slot)
{
    Monitor *monitor = slot->stub->monitor;
    if (!slot->pinned)
        return;
    slot->pinned = false;
    for (int index = 0; index < monitor->pinned_count; index++)
        if (monitor->pinned[index] == slot)
            monitor->pinned[index] = monitor->pinned[--monitor->pinned_count];
}

void pin_release(Slot *slot)
{
    if (slot->pinned && !slot->stub->reaped)
        move(slot->stub->pid, &slot->stub->monitor->cpus);
    pin_remove(slot);
}

/* Who computes beside the kernel keeps it from the others: for that, it must be alone. */
static void release_slow(Monitor *monitor)
{
    for (int index = monitor->pinned_count; index-- > 0;)
        if (monitor->pinned[index]->gap_us > GAP_IN_COMPANY_US)
            pin_release(monitor->pinned[index]);
}

/* At each resume while gathered. */
void pin_consider(Slot *slot)
{
    Monitor *monitor = slot->stub->monitor;
    if (slot->pinned || slot->own_cpus)
        return;
    release_slow(monitor);
    if (slot->index || slot->stub->reaped)
        return;
    if (slot->gathering != monitor->gathering) {
        slot->gathering = monitor->gathering;
        slot->talks = 0;
    }
    uint32_t longest = monitor->running_count ? GAP_IN_COMPANY_US : LONGEST_GAP_US;
    if (++slot->talks < TALKS_BEFORE_PIN || monitor->pinned_count == PINNED_MAX || slot->gap_us > longest)
        return;
    cpu_set_t cpu;
    CPU_ZERO(&cpu);
    CPU_SET((unsigned)monitor->gathered_cpu, &cpu);
    if (!move(slot->stub->pid, &cpu)) {
        slot->talks = 0;
        return;
    }
    slot->pinned = true;
    monitor->pinned[monitor->pinned_count++] = slot;
}

void pin_measure(Slot *slot)
{
    uint64_t gap = (ticks() - slot->resumed_at) / slot->stub->monitor->ticks_per_us;
    slot->gap_us = (3 * slot->gap_us + (gap < 1000000 ? (uint32_t)gap : 1000000)) / 4;
}

/* How long the kernel may sleep before it looks after those who compute. */
bool pin_any_running(const Monitor *monitor)
{
    for (int index = 0; index < monitor->pinned_count; index++)
        if (monitor->pinned[index]->state == SLOT_RUNNING)
            return true;
    return false;
}

void pin_release_computing(Monitor *monitor)
{
    uint64_t now = ticks();
    for (int index = monitor->pinned_count; index-- > 0;) {
        Slot *slot = monitor->pinned[index];
        if (slot->state == SLOT_RUNNING && now - slot->resumed_at >= PINNED_COMPUTING_US * monitor->ticks_per_us) {
            slot->talks = 0;
            pin_release(slot);
        }
    }
}

PyObject *monitor_gather(Monitor *monitor, PyObject *unused)
{
    if (monitor->gathered_cpu >= 0)
        Py_RETURN_TRUE;
    int cpu = sched_getcpu();
    cpu_set_t one;
    CPU_ZERO(&one);
    if (cpu < 0 || cpu >= CPU_SETSIZE || CPU_COUNT(&monitor->cpus) < 2)
        Py_RETURN_FALSE;
    CPU_SET((unsigned)cpu, &one);
    if (!move(0, &one))
        Py_RETURN_FALSE;
    monitor->gathered_cpu = cpu;
    monitor->gathering++;
    Py_RETURN_TRUE;
}

PyObject *monitor_scatter(Monitor *monitor, PyObject *unused)
{
    if (monitor->gathered_cpu >= 0) {
        monitor->gathered_cpu = -1;
        move(0, &monitor->cpus);
        while (monitor->pinned_count)
            pin_release(monitor->pinned[0]);
    }
    Py_RETURN_NONE;
}
