/*
 * monitor.c: the Monitor type: waits, for whichever comes first, for running threads to leave restricted mode and for
 * whatever else the kernel process watches.
 *
 * Threads say that they left in their own control word. While we spin, that is all; before we sleep we say so in the kernel
 * page, look a last time, and from then on they ring the doorbell. Only threads in our private running set are
 * looked at: the words of all others mean nothing.
 */
#include "object.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_EVENTS 64
#define POLL_PERIOD_US 100
#define SPIN_WITH_GIL_US 5
/* Tokens with the top bit are ours: the doorbell's, and listeners by descriptor. */
#define OUR_TOKEN (1UL << 63)
#define DOORBELL_TOKEN (OUR_TOKEN | (1UL << 32))
#ifndef MFD_EXEC
#define MFD_EXEC 0x10U
#endif
#ifndef P_PIDFD
#define P_PIDFD 3
#endif

static uint64_t ticks(void) { return __builtin_ia32_rdtsc(); }

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

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

/* The thread waits for us. Everything that it says is read once, and checked. */
static int accept_exit(Slot *slot)
{
    const volatile struct control *control = slot->control;
    uint32_t why = control->why;
    slot->state = SLOT_HELD;
    slot->signal = 0;
    if (why < 0x100) {
        uint32_t frame = checked_offset(control->frame, sizeof(struct ucontext_image));
        uint32_t information = checked_offset(control->information, 128);
        slot->signal = (int)why;
        slot->architecture = control->architecture;
        slot->fs_base = control->fs_base;
        slot->gs_base = control->gs_base;
        slot->frame = frame;
        slot->information = information;
        if (!frame || !information || why == 0)
            slot->reason = HOSTILE;
        else
            slot->reason = why == SIGSYS ? SYSCALL : why == KICK_SIGNAL ? KICK : SIGNAL;
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
    for (Py_ssize_t index = 0; index < monitor->running_count; index++)
        if (__atomic_load_n(monitor->running[index].state, __ATOMIC_ACQUIRE) == STATE_EXITED)
            return true;
    return false;
}

static int collect_exits(Monitor *monitor, PyObject *list)
{
    for (Py_ssize_t index = 0; index < monitor->running_count;) {
        Slot *slot = monitor->running[index].slot;
        if (__atomic_load_n(monitor->running[index].state, __ATOMIC_ACQUIRE) != STATE_EXITED) {
            index++;
            continue;
        }
        take_running(monitor, slot);
        int result = accept_exit(slot) < 0 ? -1 : PyList_Append(list, (PyObject *)slot);
        Py_DECREF(slot);
        if (result < 0)
            return -1;
    }
    return 0;
}

/* --- listeners and graves --- */

int monitor_add_listener(Monitor *monitor, Stub *stub)
{
    int descriptor = stub->listener_fd;
    if (descriptor >= monitor->listener_room) {
        int room = descriptor + 64;
        Stub **listeners = PyMem_Realloc(monitor->listeners, (size_t)room * sizeof *listeners);
        if (!listeners) {
            PyErr_NoMemory();
            return -1;
        }
        memset(listeners + monitor->listener_room, 0, (size_t)(room - monitor->listener_room) * sizeof *listeners);
        monitor->listeners = listeners;
        monitor->listener_room = room;
    }
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = OUR_TOKEN | (uint32_t)descriptor};
    if (epoll_ctl(monitor->epoll_fd, EPOLL_CTL_ADD, descriptor, &event) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    monitor->listeners[descriptor] = stub;
    return 0;
}

void monitor_remove_listener(Monitor *monitor, Stub *stub)
{
    int descriptor = stub->listener_fd;
    if (descriptor < 0 || descriptor >= monitor->listener_room || monitor->listeners[descriptor] != stub)
        return;
    monitor->listeners[descriptor] = NULL;
    if (monitor->epoll_fd >= 0)
        epoll_ctl(monitor->epoll_fd, EPOLL_CTL_DEL, descriptor, NULL);
}

static void visit_graves(Monitor *monitor)
{
    for (int index = 0; index < monitor->graveyard_count;) {
        siginfo_t information = {0};
        int result = waitid((idtype_t)P_PIDFD, (id_t)monitor->graveyard[index], &information, WEXITED | WNOHANG | __WALL);
        if (result == 0 && information.si_pid == 0) {
            index++;
            continue;
        }
        close(monitor->graveyard[index]);
        monitor->graveyard[index] = monitor->graveyard[--monitor->graveyard_count];
    }
}

void monitor_bury(Monitor *monitor, int pidfd)
{
    visit_graves(monitor);
    int *graveyard = PyMem_Realloc(monitor->graveyard, (size_t)(monitor->graveyard_count + 1) * sizeof *graveyard);
    if (!graveyard) {
        close(pidfd);
        return;
    }
    monitor->graveyard = graveyard;
    monitor->graveyard[monitor->graveyard_count++] = pidfd;
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
    if (may_sleep && waiting->deadline == ~0UL)
        limit = NULL;
    else if (may_sleep) {
        uint64_t now = now_ns(), left = waiting->deadline > now ? waiting->deadline - now : 0;
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

static int check_open(Monitor *monitor)
{
    if (!monitor->closed && !monitor->waiting)
        return 0;
    PyErr_SetString(PyExc_RuntimeError, monitor->closed ? "the monitor is closed" : "another thread is in Monitor.wait()");
    return -1;
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
        if (!found)
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

static PyObject *monitor_wait(Monitor *monitor, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "wait(timeout_ns, spin_ns)");
        return NULL;
    }
    long long timeout = PyLong_AsLongLong(args[0]);
    if (timeout == -1 && PyErr_Occurred())
        return NULL;
    long long spin_ns = PyLong_AsLongLong(args[1]);
    if ((spin_ns == -1 && PyErr_Occurred()) || check_open(monitor) < 0)
        return NULL;
    struct waiting waiting;
    waiting.count = 0;
    waiting.interrupted = false;
    waiting.deadline = timeout < 0 ? ~0UL : timeout == 0 ? 0 : now_ns() + (uint64_t)timeout;
    uint64_t spin_us = spin_ns <= 0 || timeout == 0 ? 0 : (uint64_t)(spin_ns + 999) / 1000;
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

/* --- epoll --- */

static PyObject *control_epoll(Monitor *monitor, int operation, PyObject *args, const char *format)
{
    PyObject *descriptor;
    unsigned int events = 0;
    long long token = 0;
    if (!PyArg_ParseTuple(args, format, &descriptor, &events, &token) || check_open(monitor) < 0)
        return NULL;
    int number = PyObject_AsFileDescriptor(descriptor);
    if (number < 0)
        return NULL;
    if (token < 0) {
        PyErr_SetString(PyExc_ValueError, "tokens are not negative");
        return NULL;
    }
    struct epoll_event event = {.events = events, .data.u64 = (uint64_t)token};
    if (epoll_ctl(monitor->epoll_fd, operation, number, &event) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static PyObject *monitor_watch(Monitor *monitor, PyObject *args)
{
    return control_epoll(monitor, EPOLL_CTL_ADD, args, "OIL:watch");
}

static PyObject *monitor_modify(Monitor *monitor, PyObject *args)
{
    return control_epoll(monitor, EPOLL_CTL_MOD, args, "OIL:modify");
}

static PyObject *monitor_unwatch(Monitor *monitor, PyObject *args)
{
    return control_epoll(monitor, EPOLL_CTL_DEL, args, "O:unwatch");
}

static PyObject *monitor_wake(Monitor *monitor, PyObject *unused)
{
    uint64_t one = 1;
    __atomic_store_n(&monitor->woken, 1, __ATOMIC_SEQ_CST);
    if (monitor->doorbell_fd >= 0 && write(monitor->doorbell_fd, &one, 8) < 0 && errno != EAGAIN)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static PyObject *monitor_spawn(Monitor *monitor, PyObject *region)
{
    int descriptor = PyObject_AsFileDescriptor(region);
    if (descriptor < 0 || check_open(monitor) < 0)
        return NULL;
    visit_graves(monitor);
    return (PyObject *)spawn_stub(monitor, descriptor);
}

/* --- making and closing one --- */

/* Where [vvar] and [vdso] lie around the vdso's header: the same in each process of this boot. */
static void find_vdso(Monitor *monitor)
{
    uint64_t header = getauxval(AT_SYSINFO_EHDR);
    FILE *maps = header ? fopen("/proc/self/maps", "re") : NULL;
    char line[512];
    while (maps && fgets(line, sizeof line, maps)) {
        unsigned long begin, end;
        if ((strstr(line, "[vvar") || strstr(line, "[vdso]")) && sscanf(line, "%lx-%lx", &begin, &end) == 2 &&
            monitor->vdso_parts < 4) {
            monitor->vdso_offset[monitor->vdso_parts] = (int64_t)(begin - header);
            monitor->vdso_size[monitor->vdso_parts++] = end - begin;
        }
    }
    if (maps)
        fclose(maps);
}

/* An anonymous copy: it can be executed by whoever the stubs run as, wherever the file lies. */
static int copy_stub(const char *path)
{
    char buffer[65536];
    int source = open(path, O_RDONLY | O_CLOEXEC);
    if (source < 0)
        return -1;
    int copy = memfd_create("polynix-stub", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_EXEC);
    if (copy < 0 && errno == EINVAL)
        copy = memfd_create("polynix-stub", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    ssize_t size = copy >= 0 ? read(source, buffer, sizeof buffer) : -1;
    close(source);
    if (size < 0 || write(copy, buffer, (size_t)size) != size || fchmod(copy, 0555) < 0 ||
        fcntl(copy, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
        if (copy >= 0)
            close(copy);
        return -1;
    }
    return copy;
}

static bool make_page(Monitor *monitor)
{
    monitor->page_fd = memfd_create("polynix-kernel-page", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (monitor->page_fd < 0 || ftruncate(monitor->page_fd, KERNEL_PAGE_SIZE) < 0)
        return false;
    monitor->page = mmap(NULL, KERNEL_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, monitor->page_fd, 0);
    if (monitor->page == MAP_FAILED) {
        monitor->page = NULL;
        return false;
    }
    return fcntl(monitor->page_fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0;
}

static uint64_t measure_ticks_per_us(void)
{
    uint64_t begin_ns = now_ns(), begin = ticks(), end_ns;
    do
        end_ns = now_ns();
    while (end_ns - begin_ns < 300000);
    uint64_t rate = (ticks() - begin) * 1000 / (end_ns - begin_ns);
    return rate ? rate : 1;
}

static PyObject *monitor_new(PyTypeObject *type, PyObject *args, PyObject *names)
{
    Monitor *monitor = (Monitor *)type->tp_alloc(type, 0);
    if (monitor)
        monitor->page_fd = monitor->epoll_fd = monitor->doorbell_fd = monitor->stub_fd = -1;
    return (PyObject *)monitor;
}

static int monitor_init(Monitor *monitor, PyObject *args, PyObject *names)
{
    static char *keywords[] = {"stub_path", "uid", "gid", NULL};
    PyObject *path;
    monitor->uid = monitor->gid = -1;
    if (!PyArg_ParseTupleAndKeywords(args, names, "O&|ii:Monitor", keywords, PyUnicode_FSConverter, &path, &monitor->uid,
                                     &monitor->gid))
        return -1;
    monitor->stub_fd = copy_stub(PyBytes_AS_STRING(path));
    if (monitor->stub_fd < 0) {
        PyErr_SetFromErrnoWithFilename(PyExc_OSError, PyBytes_AS_STRING(path));
        Py_DECREF(path);
        return -1;
    }
    Py_DECREF(path);
    monitor->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    monitor->doorbell_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = DOORBELL_TOKEN};
    if (monitor->epoll_fd < 0 || monitor->doorbell_fd < 0 || !make_page(monitor) ||
        epoll_ctl(monitor->epoll_fd, EPOLL_CTL_ADD, monitor->doorbell_fd, &event) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    find_vdso(monitor);
    monitor->ticks_per_us = measure_ticks_per_us();
    return 0;
}

static void close_descriptor(int *descriptor)
{
    if (*descriptor >= 0)
        close(*descriptor);
    *descriptor = -1;
}

static void do_close(Monitor *monitor)
{
    monitor->closed = true;
    while (monitor->running_count)
        monitor_remove_running(monitor, monitor->running[monitor->running_count - 1].slot);
    visit_graves(monitor);
    for (int index = 0; index < monitor->graveyard_count; index++)
        close(monitor->graveyard[index]);
    monitor->graveyard_count = 0;
    close_descriptor(&monitor->epoll_fd);
    close_descriptor(&monitor->doorbell_fd);
    close_descriptor(&monitor->page_fd);
    close_descriptor(&monitor->stub_fd);
    if (monitor->page)
        munmap(monitor->page, KERNEL_PAGE_SIZE);
    monitor->page = NULL;
}

static PyObject *monitor_close(Monitor *monitor, PyObject *unused)
{
    if (!monitor->closed && check_open(monitor) < 0)
        return NULL;
    do_close(monitor);
    Py_RETURN_NONE;
}

static int monitor_traverse(Monitor *monitor, visitproc visit, void *arg)
{
    for (Py_ssize_t index = 0; index < monitor->running_count; index++)
        Py_VISIT(monitor->running[index].slot);
    return 0;
}

static int monitor_clear(Monitor *monitor)
{
    do_close(monitor);
    return 0;
}

static void monitor_dealloc(Monitor *monitor)
{
    PyObject_GC_UnTrack(monitor);
    do_close(monitor);
    PyMem_Free(monitor->running);
    PyMem_Free(monitor->listeners);
    PyMem_Free(monitor->graveyard);
    Py_TYPE(monitor)->tp_free(monitor);
}

static PyObject *get_running(Monitor *monitor, void *unused) { return PyLong_FromSsize_t(monitor->running_count); }
static PyObject *get_vdso(Monitor *monitor, void *unused)
{
    return PyLong_FromUnsignedLongLong(monitor->vdso_parts ? VDSO_ADDRESS : 0);
}

static PyGetSetDef getset[] = {
    {"running", (getter)get_running, NULL, "threads in restricted mode", NULL},
    {"vdso_address", (getter)get_vdso, NULL, "ELF header of the vdso in every stub, or 0", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef methods[] = {
    {"spawn", (PyCFunction)monitor_spawn, METH_O, "start a restricted process over a memory object"},
    {"wait", (PyCFunction)(void (*)(void))monitor_wait, METH_FASTCALL,
     "wait(timeout_ns, spin_ns) -> ([slots that left], [(token, events)])"},
    {"watch", (PyCFunction)monitor_watch, METH_VARARGS, "watch(fd, events, token)"},
    {"modify", (PyCFunction)monitor_modify, METH_VARARGS, "modify(fd, events, token)"},
    {"unwatch", (PyCFunction)monitor_unwatch, METH_VARARGS, "unwatch(fd)"},
    {"wake", (PyCFunction)monitor_wake, METH_NOARGS, "make wait() return; from any thread"},
    {"close", (PyCFunction)monitor_close, METH_NOARGS, "give everything back"},
    {NULL, NULL, 0, NULL},
};

PyTypeObject Monitor_Type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "polynix.addrspace._restricted.Monitor",
    .tp_doc = "Monitor(stub_path, uid=-1, gid=-1): starts restricted processes and waits for them.",
    .tp_basicsize = sizeof(Monitor),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_methods = methods,
    .tp_getset = getset,
    .tp_new = monitor_new,
    .tp_init = (initproc)monitor_init,
    .tp_traverse = (traverseproc)monitor_traverse,
    .tp_clear = (inquiry)monitor_clear,
    .tp_dealloc = (destructor)monitor_dealloc,
};
