/*
 * stub_object.c: the Stub type, one restricted process: its descriptors, its slots, its threads' creation, its end.
 */
#include "object.h"

#include <errno.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

static int stub_check(Stub *stub)
{
    if (stub->area)
        return 0;
    PyErr_SetString(PyExc_ValueError, "the stub is closed");
    return -1;
}

Slot *stub_slot(Stub *stub, uint32_t index)
{
    if (stub_check(stub) < 0)
        return NULL;
    if (index >= SLOT_COUNT) {
        PyErr_SetString(PyExc_IndexError, "no such slot");
        return NULL;
    }
    if (!stub->slots[index]) {
        uint32_t backed = stub->backed_slots;
        while (backed <= index)
            backed *= 2;
        if (backed != stub->backed_slots && ftruncate(stub->control_fd, (off_t)backed * SLOT_SIZE) < 0) {
            PyErr_SetFromErrno(PyExc_OSError);
            return NULL;
        }
        stub->backed_slots = backed;
        Slot *slot = PyObject_GC_New(Slot, &Slot_Type);
        if (!slot)
            return NULL;
        memset((char *)slot + sizeof(PyObject), 0, sizeof *slot - sizeof(PyObject));
        slot->stub = (Stub *)Py_NewRef(stub);
        slot->task = Py_NewRef(Py_None);
        slot->control = (struct control *)(stub->area + (size_t)index * SLOT_SIZE);
        slot->index = index;
        slot->running_index = -1;
        PyObject_GC_Track(slot);
        stub->slots[index] = slot;
    }
    return stub->slots[index];
}

static PyObject *stub_get_slot(Stub *stub, PyObject *number)
{
    unsigned long index = PyLong_AsUnsignedLong(number);
    if (index == (unsigned long)-1 && PyErr_Occurred())
        return NULL;
    return Py_XNewRef((PyObject *)stub_slot(stub, index < SLOT_COUNT ? (uint32_t)index : SLOT_COUNT));
}

/* --- descriptors --- */

static PyObject *stub_send_fds(Stub *stub, PyObject *descriptors)
{
    union {
        char room[CMSG_SPACE(MAX_PASSED_FDS * sizeof(int))];
        struct cmsghdr header;
    } control;
    int numbers[MAX_PASSED_FDS];
    PyObject *sequence = stub_check(stub) < 0 ? NULL : PySequence_Fast(descriptors, "send_fds wants a sequence");
    if (!sequence)
        return NULL;
    Py_ssize_t count = PySequence_Fast_GET_SIZE(sequence);
    bool good = count >= 1 && count <= MAX_PASSED_FDS;
    if (!good)
        PyErr_SetString(PyExc_ValueError, "1 to 253 descriptors in a message");
    for (Py_ssize_t index = 0; good && index < count; index++) {
        numbers[index] = PyObject_AsFileDescriptor(PySequence_Fast_GET_ITEM(sequence, index));
        good = numbers[index] >= 0;
    }
    Py_DECREF(sequence);
    if (!good || stub_check(stub) < 0)
        return NULL;
    char byte = 'D';
    struct iovec vector = {&byte, 1};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = &control,
                             .msg_controllen = CMSG_SPACE((size_t)count * sizeof(int))};
    memset(&control, 0, sizeof control);
    control.header.cmsg_len = CMSG_LEN((size_t)count * sizeof(int));
    control.header.cmsg_level = SOL_SOCKET;
    control.header.cmsg_type = SCM_RIGHTS;
    memcpy(CMSG_DATA(&control.header), numbers, (size_t)count * sizeof(int));
    if (sendmsg(stub->socket_fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

bool stub_receive_listener(Stub *stub)
{
    union {
        char room[CMSG_SPACE(sizeof(int))];
        struct cmsghdr header;
    } control;
    char byte;
    struct iovec vector = {&byte, 1};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    if (stub->listener_fd >= 0)
        return true;
    if (recvmsg(stub->socket_fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) != 1 ||
        message.msg_controllen < CMSG_LEN(sizeof(int)) || control.header.cmsg_type != SCM_RIGHTS)
        return false;
    memcpy(&stub->listener_fd, CMSG_DATA(&control.header), sizeof(int));
    return true;
}

static PyObject *stub_receive_listener_method(Stub *stub, PyObject *unused)
{
    if (stub_check(stub) < 0)
        return NULL;
    bool known = stub->listener_fd >= 0;
    if (!stub_receive_listener(stub))
        Py_RETURN_FALSE;
    if (!known && monitor_add_listener(stub->monitor, stub) < 0)
        return NULL;
    Py_RETURN_TRUE;
}

/* --- clone --- */

static void forget_clone(Stub *stub, struct pending_clone **link)
{
    struct pending_clone *clone = *link;
    *link = clone->next;
    stub->monitor->pending_clones--;
    Py_DECREF(clone->child);
    PyMem_Free(clone);
}

/* The batch that was to make these clones has ended without making them. */
void stub_drop_clones_of(Stub *stub, Slot *parent)
{
    for (struct pending_clone **link = &stub->clones; *link;) {
        if ((*link)->parent == parent) {
            Slot *child = (*link)->child;
            monitor_remove_running(stub->monitor, child);
            child->state = SLOT_FREE;
            forget_clone(stub, link);
        } else
            link = &(*link)->next;
    }
}

/* 1: a clone that we asked for was let through; 0: nothing to answer; -1: another one was refused. */
int stub_answer_clone(Stub *stub)
{
    struct seccomp_notif request;
    struct seccomp_notif_resp answer;
    struct pollfd readable = {stub->listener_fd, POLLIN, 0};
    if (stub->listener_fd < 0 || poll(&readable, 1, 0) != 1 || !(readable.revents & POLLIN))
        return 0;
    memset(&request, 0, sizeof request);
    if (ioctl(stub->listener_fd, SECCOMP_IOCTL_NOTIF_RECV, &request) < 0)
        return 0;
    struct pending_clone **link = &stub->clones;
    const __u64 *args = request.data.args;
    for (; *link; link = &(*link)->next) {
        struct pending_clone *clone = *link;
        uint32_t parent_tid =
            clone->parent->index == 0 ? (uint32_t)stub->pid : __atomic_load_n(&clone->parent->control->tid, __ATOMIC_RELAXED);
        if (request.pid == parent_tid && args[0] == clone->flags && args[1] == clone->stack && args[2] == clone->child_tid &&
            args[3] == clone->child_tid && args[4] == clone->tls)
            break;
    }
    bool wanted = *link != NULL;
    memset(&answer, 0, sizeof answer);
    answer.id = request.id;
    if (wanted) {
        answer.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
        forget_clone(stub, link);
    } else {
        answer.error = -EPERM;
        stub->hostile = true;
    }
    ioctl(stub->listener_fd, SECCOMP_IOCTL_NOTIF_SEND, &answer);
    return wanted ? 1 : -1;
}

static PyObject *stub_answer_clone_method(Stub *stub, PyObject *unused)
{
    if (stub_check(stub) < 0)
        return NULL;
    int answer = stub_answer_clone(stub);
    return PyUnicode_FromString(answer > 0 ? "clone" : answer == 0 ? "none" : "hostile");
}

/* --- the end --- */

static int wait_status(const siginfo_t *information)
{
    return information->si_code == CLD_EXITED ? information->si_status << 8
                                              : information->si_status | (information->si_code == CLD_DUMPED ? 0x80 : 0);
}

static bool stub_do_reap(Stub *stub)
{
    siginfo_t information = {0};
    if (stub->reaped)
        return true;
    if (waitid((idtype_t)P_PIDFD, (id_t)stub->pidfd, &information, WEXITED | WNOHANG | __WALL) < 0) {
        if (errno != ECHILD)
            return false;
        /* Someone else waits for every child (SIGCHLD ignored, wait(-1)): it is gone all the same. */
        struct pollfd readable = {stub->pidfd, POLLIN, 0};
        if (poll(&readable, 1, 0) != 1)
            return false;
        stub->status = SIGKILL;
    } else if (information.si_pid == 0)
        return false;
    else
        stub->status = wait_status(&information);
    stub->reaped = true;
    return true;
}

static PyObject *stub_reap(Stub *stub, PyObject *unused)
{
    if (!stub->reaped && stub_check(stub) < 0)
        return NULL;
    if (stub_do_reap(stub))
        return PyLong_FromLong(stub->status);
    Py_RETURN_NONE;
}

static PyObject *stub_kill(Stub *stub, PyObject *unused)
{
    if (stub_check(stub) < 0)
        return NULL;
    if (!stub->reaped)
        syscall(SYS_pidfd_send_signal, stub->pidfd, SIGKILL, NULL, 0);
    Py_RETURN_NONE;
}

/* Why a stub that died before READY did so: (step, errno), or None. */
static PyObject *stub_start_error(Stub *stub, PyObject *unused)
{
    static const char *const steps[] = {
        NULL, "map the control area", "map the kernel page", "move the vdso", "install signal handlers", "unmap its start",
        "set no_new_privs", "install the clone filter (seccomp)", "send the listener", "install the final filter (seccomp)"};
    if (stub_check(stub) < 0)
        return NULL;
    const struct control *first = (struct control *)stub->area;
    uint32_t step = first->start_step, error = first->start_errno;
    /* What fails before the control area is there can only be told by the exit status. */
    if (step == 0 && stub_do_reap(stub) && (stub->status & 0x7f) == 0 && stub->status >> 8 > START_EXIT_STATUS)
        step = (uint32_t)(stub->status >> 8) - START_EXIT_STATUS;
    if (step == 0 || step >= sizeof steps / sizeof *steps)
        Py_RETURN_NONE;
    return Py_BuildValue("(sI)", steps[step], error);
}

static void close_descriptor(int *descriptor)
{
    if (*descriptor >= 0)
        close(*descriptor);
    *descriptor = -1;
}

void stub_do_close(Stub *stub)
{
    if (!stub->area && stub->control_fd < 0)
        return;
    while (stub->clones)
        forget_clone(stub, &stub->clones);
    for (uint32_t index = 0; index < SLOT_COUNT; index++) {
        Slot *slot = stub->slots[index];
        if (!slot)
            continue;
        monitor_remove_running(stub->monitor, slot);
        pin_remove(slot);
        slot->state = SLOT_FREE;
        slot->control = NULL;
    }
    if (!stub_do_reap(stub)) {
        syscall(SYS_pidfd_send_signal, stub->pidfd, SIGKILL, NULL, 0);
        monitor_bury(stub->monitor, stub->pidfd);
        stub->pidfd = -1;
    }
    monitor_remove_listener(stub->monitor, stub);
    if (stub->area)
        munmap(stub->area, CONTROL_AREA_SIZE);
    stub->area = NULL;
    close_descriptor(&stub->pidfd);
    close_descriptor(&stub->socket_fd);
    close_descriptor(&stub->listener_fd);
    close_descriptor(&stub->control_fd);
}

static PyObject *stub_close(Stub *stub, PyObject *unused)
{
    if (stub->monitor->waiting) {
        PyErr_SetString(PyExc_RuntimeError, "another thread is in Monitor.wait()");
        return NULL;
    }
    stub_do_close(stub);
    Py_RETURN_NONE;
}

/* --- the type --- */

static int stub_traverse(Stub *stub, visitproc visit, void *arg)
{
    Py_VISIT(stub->monitor);
    Py_VISIT(stub->tag);
    for (uint32_t index = 0; index < SLOT_COUNT; index++)
        Py_VISIT(stub->slots[index]);
    return 0;
}

static int stub_clear(Stub *stub)
{
    stub_do_close(stub);
    Py_CLEAR(stub->tag);
    for (uint32_t index = 0; index < SLOT_COUNT; index++)
        Py_CLEAR(stub->slots[index]);
    return 0;
}

static void stub_dealloc(Stub *stub)
{
    PyObject_GC_UnTrack(stub);
    stub_clear(stub);
    Py_XDECREF(stub->monitor);
    Py_TYPE(stub)->tp_free(stub);
}

static PyObject *get_tag(Stub *stub, void *unused) { return Py_NewRef(stub->tag ? stub->tag : Py_None); }

static int set_tag(Stub *stub, PyObject *value, void *unused)
{
    Py_XSETREF(stub->tag, Py_XNewRef(value));
    return 0;
}

static PyGetSetDef getset[] = {
    {"tag", (getter)get_tag, (setter)set_tag, "any object", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef members[] = {
    {"pid", T_INT, offsetof(Stub, pid), READONLY, "host process id"},
    {"pidfd", T_INT, offsetof(Stub, pidfd), READONLY, "readable when the process has ended"},
    {"socket_fd", T_INT, offsetof(Stub, socket_fd), READONLY, "our end of the control socket"},
    {"listener_fd", T_INT, offsetof(Stub, listener_fd), READONLY, "clone's notifications; -1 until READY"},
    {"hostile", T_BOOL, offsetof(Stub, hostile), READONLY, "it tried a clone that we had not asked for"},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef methods[] = {
    {"slot", (PyCFunction)stub_get_slot, METH_O, "the slot of that index, the same object each time"},
    {"send_fds", (PyCFunction)stub_send_fds, METH_O, "send descriptors, for one Slot.push_recv_fds"},
    {"receive_listener", (PyCFunction)stub_receive_listener_method, METH_NOARGS, "done by Monitor.wait at READY"},
    {"answer_clone", (PyCFunction)stub_answer_clone_method, METH_NOARGS, "done by Monitor.wait: 'clone', 'none', 'hostile'"},
    {"kill", (PyCFunction)stub_kill, METH_NOARGS, "SIGKILL"},
    {"reap", (PyCFunction)stub_reap, METH_NOARGS, "wait status, or None while it lives"},
    {"start_error", (PyCFunction)stub_start_error, METH_NOARGS, "(step, errno) of a failed start, or None"},
    {"close", (PyCFunction)stub_close, METH_NOARGS, "give everything back; kills what still lives"},
    {NULL, NULL, 0, NULL},
};

PyTypeObject Stub_Type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "polynix.addrspace._restricted.Stub",
    .tp_doc = "One restricted process: one address space.",
    .tp_basicsize = sizeof(Stub),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_methods = methods,
    .tp_members = members,
    .tp_getset = getset,
    .tp_traverse = (traverseproc)stub_traverse,
    .tp_clear = (inquiry)stub_clear,
    .tp_dealloc = (destructor)stub_dealloc,
};
