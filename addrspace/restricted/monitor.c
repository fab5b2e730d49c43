/*
 * monitor.c: the Monitor type, one per kernel process: the doorbell, the page that stubs read, epoll, and the making of stubs.
 * How it waits is in wait.c.
 */
#include "object.h"

#include <errno.h>
#include <fcntl.h>
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

#ifndef MFD_EXEC
#define MFD_EXEC 0x10U
#endif
#ifndef P_PIDFD
#define P_PIDFD 3
#endif

int monitor_check_open(Monitor *monitor)
{
    if (!monitor->closed && !monitor->waiting)
        return 0;
    PyErr_SetString(PyExc_RuntimeError, monitor->closed ? "the monitor is closed" : "another thread is in Monitor.wait()");
    return -1;
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

/* --- epoll --- */

static PyObject *control_epoll(Monitor *monitor, int operation, PyObject *args, const char *format)
{
    PyObject *descriptor;
    unsigned int events = 0;
    long long token = 0;
    if (!PyArg_ParseTuple(args, format, &descriptor, &events, &token) || monitor_check_open(monitor) < 0)
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

static PyObject *monitor_publish(Monitor *monitor, PyObject *args)
{
    unsigned int index;
    long long value;
    if (!PyArg_ParseTuple(args, "IL:publish", &index, &value) || monitor_check_open(monitor) < 0)
        return NULL;
    if (index < 1 || index >= sizeof *monitor->page / 8) {
        PyErr_SetString(PyExc_IndexError, "no such word");
        return NULL;
    }
    __atomic_store_n((int64_t *)monitor->page + index, value, __ATOMIC_SEQ_CST);
    Py_RETURN_NONE;
}

static PyObject *monitor_spawn(Monitor *monitor, PyObject *region)
{
    int descriptor = PyObject_AsFileDescriptor(region);
    if (descriptor < 0 || monitor_check_open(monitor) < 0)
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
        monitor->page_fd = monitor->epoll_fd = monitor->doorbell_fd = monitor->stub_fd = monitor->gathered_cpu = -1;
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
    if (sched_getaffinity(0, sizeof monitor->cpus, &monitor->cpus) < 0)
        CPU_ZERO(&monitor->cpus);
    find_vdso(monitor);
    frame_describe_xstate(monitor->page);
    pin_describe_cpu(monitor->page);
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
    spawner_end(monitor);
    Py_DECREF(monitor_scatter(monitor, NULL));
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
    if (!monitor->closed && monitor_check_open(monitor) < 0)
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

static PyObject *get_can_patch(Monitor *monitor, void *unused)
{
    return PyBool_FromLong(monitor->page && monitor->page->xstate_size);
}

static PyGetSetDef getset[] = {
    {"spawned_fd", (getter)monitor_spawned_fd, NULL, "readable when spawned() has something to tell", NULL},
    {"running", (getter)get_running, NULL, "threads in restricted mode", NULL},
    {"can_patch", (getter)get_can_patch, NULL, "whether stubs take calls from patched text here", NULL},
    {"vdso_address", (getter)get_vdso, NULL, "ELF header of the vdso in every stub, or 0", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef members[] = {
    {"late_answers", T_ULONGLONG, offsetof(Monitor, late_answers), READONLY, "resumes of threads that had spun in vain"},
    {"stub_spin", T_ULONGLONG, offsetof(Monitor, stub_spin), 0, "ns that a thread spins for the kernel before it sleeps, from its next resume on"},
    {"sample_period", T_UINT, offsetof(Monitor, sample_period), 0, "one in so many trapped calls of a process has the reason SYSCALL_SAMPLE; 0: none"},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef methods[] = {
    {"spawn", (PyCFunction)monitor_spawn, METH_O, "start a restricted process over a memory object"},
    {"gather", (PyCFunction)monitor_gather, METH_NOARGS, "stay on this CPU, and bring threads that converse with us here; False if it can't be"},
    {"scatter", (PyCFunction)monitor_scatter, METH_NOARGS, "everyone may run anywhere again"},
    {"order", (PyCFunction)monitor_order, METH_O, "let a thread start a restricted process; its number in spawned()"},
    {"spawned", (PyCFunction)monitor_spawned, METH_NOARGS, "[(number, stub, or None if it failed)] of orders done"},
    {"wait", (PyCFunction)(void (*)(void))monitor_wait, METH_FASTCALL,
     "wait(timeout_ns, spin_ns) -> ([slots that left], [(token, events)]); spins first, even with a timeout of 0"},
    {"watch", (PyCFunction)monitor_watch, METH_VARARGS, "watch(fd, events, token)"},
    {"modify", (PyCFunction)monitor_modify, METH_VARARGS, "modify(fd, events, token)"},
    {"unwatch", (PyCFunction)monitor_unwatch, METH_VARARGS, "unwatch(fd)"},
    {"publish", (PyCFunction)monitor_publish, METH_VARARGS, "publish(index, value): store a word of the page that all stubs can read"},
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
    .tp_members = members,
    .tp_new = monitor_new,
    .tp_init = (initproc)monitor_init,
    .tp_traverse = (traverseproc)monitor_traverse,
    .tp_clear = (inquiry)monitor_clear,
    .tp_dealloc = (destructor)monitor_dealloc,
};
