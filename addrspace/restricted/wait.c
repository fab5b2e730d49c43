/*
 * wait.c: wait, for whichever comes first, for running threads to leave restricted mode and for whatever else the
 * kernel process watches.
 *
 * Threads say that they left in their own control word. While we spin, that is all; before we sleep we say so in the kernel
 * page, look a last time, and from then on they ring the doorbell. Only threads in our private running set are
 * looked at: the words of all others mean nothing.
 */
#include "object.h"

#include <errno.h>
#include <linux/audit.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MAX_EVENTS 64
#define POLL_PERIOD_US 100
#define SPIN_WITH_GIL_US 5

/* --- the running set --- */

int monitor_add_running(Monitor *monitor, Slot *slot)
{
    if (monitor->waiting || monitor->closed) {
        PyErr_SetString(PyExc_RuntimeError, monitor->closed ? "the monitor is closed" : "another thread is in Monitor.wait()");
        return -1;
    }
    if (monitor->running_count == monitor->running_room) {
        Py_ssize_t room = monitor->running_room ? 2 * monitor->running_room : 64;
        struct running *running = PyMem_Realloc(monitor->running, (size_t)room * sizeof *running);
        if (!running) {
            PyErr_NoMemory();
            return -1;
        }
        monitor->running = running;
        monitor->running_room = room;
    }
    slot->state = SLOT_RUNNING;
    slot->running_index = monitor->running_count;
    monitor->running[monitor->running_count].state = &slot->control->state;
    monitor->running[monitor->running_count++].slot = (Slot *)Py_NewRef(slot);
    return 0;
}

/* Keeps the reference that the set had, for the caller. */
static void take_running(Monitor *monitor, Slot *slot)
{
    struct running *last = &monitor->running[--monitor->running_count];
    monitor->running[slot->running_index] = *last;
    last->slot->running_index = slot->running_index;
    slot->running_index = -1;
}

void monitor_remove_running(Monitor *monitor, Slot *slot)
{
    if (slot->running_index < 0)
        return;
    take_running(monitor, slot);
    Py_DECREF(slot);
}

/* --- exits --- */

static uint32_t checked_offset(uint32_t offset, uint32_t size)
{
    return offset >= ALTERNATE_STACK_OFFSET && offset <= SLOT_SIZE - size && offset % 8 == 0 ? offset : 0;
}

static int trapped_call(Stub *stub, uint32_t architecture)
{
    if (architecture != AUDIT_ARCH_X86_64)
        return FOREIGN_SYSCALL;
    if (++stub->traps != stub->monitor->sample_period)
        return SYSCALL;
    stub->traps = 0;
    return SYSCALL_SAMPLE;
}

/* The thread waits for us. Everything that it says is read once, and checked. */
static int accept_exit(Slot *slot)
{
    const volatile struct control *control = slot->control;
    uint32_t why = control->why;
    if (slot->resumed_at)
        pin_measure(slot);
    slot->state = SLOT_HELD;
    slot->signal = 0;
    if (why == WHY_PATCHED_CALL) {
        slot->architecture = AUDIT_ARCH_X86_64;
        slot->fs_base = control->fs_base;
        slot->gs_base = 0;
        slot->frame = PATCHED_FRAME_OFFSET;
        slot->information = 0;
        slot->light = true;
        slot->reason = SYSCALL;
        __builtin_prefetch((const void *)control->call); /* from the thread's CPU, while Python is on its way to ask for it */
        return 0;
    }
    if (why < 0x100) {
        uint32_t frame = checked_offset(control->frame, sizeof(struct ucontext_image));
        uint32_t information = checked_offset(control->information, 128);
        slot->signal = (int)why;
        slot->architecture = control->architecture;
        slot->fs_base = control->fs_base;
        slot->gs_base = control->gs_base;
        slot->frame = frame;
        slot->information = information;
        slot->light = false;
        if (!frame || !information || why == 0)
            slot->reason = HOSTILE;
        else
            slot->reason = why == SIGSYS ? trapped_call(slot->stub, slot->architecture) : why == KICK_SIGNAL ? KICK : SIGNAL;
        return 0;
    }
    if (why == WHY_KICKED && slot->frame) {
        slot->reason = KICK;
        return 0;
    }
    if (why == WHY_BATCH && slot->calls_sent) {
        uint32_t done = control->calls_done;
        slot->reason = BATCH;
        slot->calls_done = done < slot->calls_sent ? done : slot->calls_sent;
        stub_drop_clones_of(slot->stub, slot);
    } else if (why == WHY_BATCH) {
        slot->reason = BATCH;
        slot->calls_done = 0;
    } else if (why == WHY_READY && slot->index == 0 && slot->stub->listener_fd < 0) {
        slot->reason = READY;
        if (!stub_receive_listener(slot->stub))
            slot->reason = HOSTILE;
        else
            return monitor_add_listener(slot->stub->monitor, slot->stub);
    } else
        slot->reason = why == WHY_THREAD_STARTED ? THREAD_STARTED : HOSTILE;
    return 0;
}

static bool any_exit(Monitor *monitor)
{
    if (monitor->running_count)
        __builtin_prefetch(monitor->running[monitor->running_count - 1].state); /* collect_exits looks there first */
    for (Py_ssize_t index = 0; index < monitor->running_count; index++)
        if (__atomic_load_n(monitor->running[index].state, __ATOMIC_ACQUIRE) == STATE_EXITED)
            return true;
    return false;
}

/*
 * Who was resumed last comes first. A sender goes on before whom it woke: when both have left again, that one has the answer and the sender
 * asks for it. Taken in this order the answer is there when it is asked for, and the sender need neither block nor be woken.
 */
static int collect_exits(Monitor *monitor, PyObject *list)
{
    for (Py_ssize_t index = monitor->running_count; index-- > 0;) {
        if (index >= monitor->running_count) /* accept_exit dropped a thread that was never made */
            continue;
        Slot *slot = monitor->running[index].slot;
        if (__atomic_load_n(monitor->running[index].state, __ATOMIC_ACQUIRE) != STATE_EXITED)
            continue;
        take_running(monitor, slot); /* its place gets one that has been looked at */
        int result = accept_exit(slot) < 0 ? -1 : PyList_Append(list, (PyObject *)slot);
        Py_DECREF(slot);
        if (result < 0)
            return -1;
    }
    return 0;
}

/* --- waiting --- */

struct waiting {
    struct epoll_event events[MAX_EVENTS];
    int count;
    uint64_t deadline; /* in ns; ~0 for never */
    bool interrupted;
};

/* One look at epoll, at most until the deadline; without the GIL when it may sleep. */
static void look(Monitor *monitor, struct waiting *waiting, bool may_sleep)
{
    struct timespec time = {0, 0}, *limit = &time;
    uint64_t deadline = waiting->deadline;
    bool pinned = may_sleep && monitor->pinned_count && pin_any_running(monitor);
    if (pinned) {
        uint64_t soon = now_ns() + PINNED_COMPUTING_US * 1000;
        deadline = soon < deadline ? soon : deadline;
    }
    if (may_sleep && deadline == ~0UL)
        limit = NULL;
    else if (may_sleep) {
        uint64_t now = now_ns(), left = deadline > now ? deadline - now : 0;
        time.tv_sec = (time_t)(left / 1000000000);
        time.tv_nsec = (long)(left % 1000000000);
    }
    int count = (int)syscall(SYS_epoll_pwait2, monitor->epoll_fd, waiting->events, MAX_EVENTS, limit, NULL, 8);
    if (count < 0 && (errno == ENOSYS || errno == EPERM)) { /* before Linux 5.11, or a filter that knows nothing later */
        int64_t ms = limit ? time.tv_sec * 1000 + (time.tv_nsec + 999999) / 1000000 : -1;
        count = epoll_wait(monitor->epoll_fd, waiting->events, MAX_EVENTS, ms > INT32_MAX ? INT32_MAX : (int)ms);
    }
    waiting->interrupted = count < 0 && errno == EINTR;
    waiting->count = count < 0 ? 0 : count;
    monitor->last_poll = ticks();
    if (pinned && count == 0)
        pin_release_computing(monitor);
}

static bool poll_is_due(Monitor *monitor)
{
    return monitor->pending_clones || ticks() - monitor->last_poll > POLL_PERIOD_US * monitor->ticks_per_us;
}

/* Until a thread left or there are events, for at most this time. True when there is something. */
static bool spin(Monitor *monitor, struct waiting *waiting, uint64_t us)
{
    uint64_t begin = ticks(), budget = us * monitor->ticks_per_us;
    do {
        if (any_exit(monitor))
            return true;
        if (poll_is_due(monitor)) {
            look(monitor, waiting, false);
            if (waiting->count || waiting->interrupted)
                return true;
        }
        __builtin_ia32_pause();
    } while (ticks() - begin < budget && !__atomic_load_n(&monitor->woken, __ATOMIC_RELAXED));
    return false;
}

static void sleep_until_something(Monitor *monitor, struct waiting *waiting)
{
    if (waiting->deadline == 0) {
        look(monitor, waiting, false);
        return;
    }
    __atomic_store_n(&monitor->page->kernel_sleeps, 1, __ATOMIC_SEQ_CST);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    look(monitor, waiting, !any_exit(monitor));
    __atomic_store_n(&monitor->page->kernel_sleeps, 0, __ATOMIC_RELAXED);
}

/* What is for us is dealt with, the rest goes to the list. */
static int sort_events(Monitor *monitor, struct waiting *waiting, PyObject *list)
{
    for (int index = 0; index < waiting->count; index++) {
        uint64_t token = waiting->events[index].data.u64;
        if (token == DOORBELL_TOKEN) {
            uint64_t rings;
            if (read(monitor->doorbell_fd, &rings, 8) < 0)
                continue;
        } else if (token & OUR_TOKEN) {
            uint32_t descriptor = (uint32_t)token;
            Stub *stub = descriptor < (uint32_t)monitor->listener_room ? monitor->listeners[descriptor] : NULL;
            if (stub && (waiting->events[index].events & EPOLLIN))
                stub_answer_clone(stub);
            else if (stub && stub->listener_fd >= 0)
                monitor_remove_listener(monitor, stub); /* EPOLLHUP: no thread of it is left */
        } else {
            PyObject *item = Py_BuildValue("(KI)", (unsigned long long)token, waiting->events[index].events);
            int result = item ? PyList_Append(list, item) : -1;
            Py_XDECREF(item);
            if (result < 0)
                return -1;
        }
    }
    waiting->count = 0;
    return 0;
}

/* One round; 0: nothing yet, 1: something to return, -1: an exception. */
static int wait_once(Monitor *monitor, struct waiting *waiting, uint64_t spin_us, PyObject *slots, PyObject *events)
{
    bool found = any_exit(monitor);
    if (!found && spin_us && monitor->running_count)
        found = spin(monitor, waiting, spin_us < SPIN_WITH_GIL_US ? spin_us : SPIN_WITH_GIL_US);
    if (!found) {
        monitor->waiting = true;
        Py_BEGIN_ALLOW_THREADS
        if (spin_us > SPIN_WITH_GIL_US && monitor->running_count)
            found = spin(monitor, waiting, spin_us - SPIN_WITH_GIL_US);
        if (!found && (waiting->deadline || !spin_us || poll_is_due(monitor)))
            sleep_until_something(monitor, waiting);
        Py_END_ALLOW_THREADS
        monitor->waiting = false;
    } else if (!waiting->count && poll_is_due(monitor))
        look(monitor, waiting, false);
    if (waiting->interrupted && PyErr_CheckSignals() < 0)
        return -1;
    if (sort_events(monitor, waiting, events) < 0 || collect_exits(monitor, slots) < 0)
        return -1;
    if (__atomic_exchange_n(&monitor->woken, 0, __ATOMIC_SEQ_CST) || waiting->interrupted)
        return 1;
    return PyList_GET_SIZE(slots) || PyList_GET_SIZE(events) || now_ns() >= waiting->deadline;
}

PyObject *monitor_wait(Monitor *monitor, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "wait(timeout_ns, spin_ns)");
        return NULL;
    }
    long long timeout = PyLong_AsLongLong(args[0]);
    if (timeout == -1 && PyErr_Occurred())
        return NULL;
    long long spin_ns = PyLong_AsLongLong(args[1]);
    if ((spin_ns == -1 && PyErr_Occurred()) || monitor_check_open(monitor) < 0)
        return NULL;
    struct waiting waiting;
    waiting.count = 0;
    waiting.interrupted = false;
    waiting.deadline = timeout < 0 ? ~0UL : timeout == 0 ? 0 : now_ns() + (uint64_t)timeout;
    uint64_t spin_us = spin_ns <= 0 ? 0 : (uint64_t)(spin_ns + 999) / 1000;
    PyObject *slots = PyList_New(0), *events = PyList_New(0), *result = NULL;
    int found = slots && events ? 0 : -1;
    while (found == 0)
        found = wait_once(monitor, &waiting, spin_us, slots, events);
    if (found > 0)
        result = PyTuple_Pack(2, slots, events);
    Py_XDECREF(slots);
    Py_XDECREF(events);
    return result;
}
