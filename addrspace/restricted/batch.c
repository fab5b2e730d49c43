/*
 * batch.c: the host calls that a held slot's thread is to make before its guest goes on.
 *
 * They are written to the slot's control page as they are pushed, and run by the stub (run_batch) at the next resume.
 */
#include "object.h"

#include <linux/sched.h>
#include <stddef.h>
#include <sys/syscall.h>

struct host_call *batch_next(Slot *slot)
{
    if (slot_check(slot, SLOT_HELD) < 0)
        return NULL;
    if (slot->calls == BATCH_CAPACITY) {
        PyErr_SetString(PyExc_BufferError, "the batch is full");
        return NULL;
    }
    struct host_call *call = &slot->control->batch[slot->calls];
    call->flags = 0;
    call->result = 0;
    for (int index = 0; index < 6; index++)
        call->arguments[index] = 0;
    return call;
}

PyObject *slot_push(Slot *slot, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    uint64_t words[7] = {0};
    uint32_t flags = 0;
    if (count < 1 || count > 7) {
        PyErr_SetString(PyExc_TypeError, "push(nr, a0=0, ... a5=0, *, ignore_error=False, always=False)");
        return NULL;
    }
    for (Py_ssize_t index = 0; index < count; index++)
        if (!word_of(args[index], &words[index]))
            return NULL;
    for (Py_ssize_t index = 0; names && index < PyTuple_GET_SIZE(names); index++) {
        PyObject *name = PyTuple_GET_ITEM(names, index), *value = args[count + index];
        const char *text = PyUnicode_AsUTF8(name);
        if (text && text[0] == 'a' && text[1] >= '0' && text[1] <= '5' && !text[2]) {
            if (!word_of(value, &words[1 + text[1] - '0']))
                return NULL;
            continue;
        }
        int truth = PyObject_IsTrue(value);
        if (truth < 0)
            return NULL;
        if (PyUnicode_CompareWithASCIIString(name, "ignore_error") == 0)
            flags |= truth ? CALL_IGNORE_ERROR : 0;
        else if (PyUnicode_CompareWithASCIIString(name, "always") == 0)
            flags |= truth ? CALL_ALWAYS : 0;
        else {
            PyErr_Format(PyExc_TypeError, "push() has no argument %R", name);
            return NULL;
        }
    }
    struct host_call *call = batch_next(slot);
    if (!call)
        return NULL;
    call->number = (uint32_t)words[0];
    call->flags = flags;
    for (int index = 0; index < 6; index++)
        call->arguments[index] = words[1 + index];
    slot->calls++;
    Py_RETURN_NONE;
}

/* Receives the next message of Stub.send_fds; always, so that the turn passes on. */
PyObject *slot_push_recv_fds(Slot *slot, PyObject *count)
{
    long wanted = PyLong_AsLong(count);
    if (wanted == -1 && PyErr_Occurred())
        return NULL;
    if (wanted < 1 || wanted > MAX_PASSED_FDS) {
        PyErr_SetString(PyExc_ValueError, "1 to 253 descriptors in a batch");
        return NULL;
    }
    if (slot_check(slot, SLOT_HELD) == 0)
        for (uint32_t index = 0; index < slot->calls; index++)
            if (slot->control->batch[index].number == SYS_recvmsg) {
                PyErr_SetString(PyExc_BufferError, "this batch receives already: send all its descriptors in one message");
                return NULL;
            }
    struct host_call *call = batch_next(slot);
    if (!call)
        return NULL;
    call->number = SYS_recvmsg;
    call->flags = CALL_ALWAYS;
    call->arguments[0] = slot->stub->messages++;
    slot->calls++;
    Py_RETURN_NONE;
}

_Static_assert(THREAD_FLAGS == (CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM |
                                CLONE_SETTLS | CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID),
               "layout.h spells it in numbers, for the filter");

PyObject *slot_push_clone(Slot *slot, PyObject *args, PyObject *names)
{
    static char *keywords[] = {"new_slot", "tls", "start", NULL};
    Slot *child;
    PyObject *tls;
    uint64_t tls_word;
    int start = 0;
    if (!PyArg_ParseTupleAndKeywords(args, names, "O!O|p:push_clone", keywords, &Slot_Type, &child, &tls, &start) ||
        !word_of(tls, &tls_word))
        return NULL;
    if (child->stub != slot->stub) {
        PyErr_SetString(PyExc_ValueError, "the new slot belongs to another stub");
        return NULL;
    }
    if (slot_check(slot, SLOT_HELD) < 0 || slot_check(child, SLOT_FREE) < 0)
        return NULL;
    if (__atomic_load_n(&child->control->tid, __ATOMIC_ACQUIRE)) {
        PyErr_SetString(PyExc_ValueError, "the new slot's last thread has not ended yet");
        return NULL;
    }
    if (start && !child->frame) {
        PyErr_SetString(PyExc_ValueError, "a thread that starts at once needs a frame");
        return NULL;
    }
    struct host_call *call = batch_next(slot);
    struct pending_clone *clone = call ? PyMem_Calloc(1, sizeof *clone) : NULL;
    if (!clone)
        return call ? PyErr_NoMemory() : NULL;
    uint64_t base = slot_address(child->index);
    clone->parent = slot;
    clone->child = (Slot *)Py_NewRef(child);
    clone->flags = THREAD_FLAGS;
    clone->stack = base + CONTROL_SIZE - 16;
    clone->child_tid = base + offsetof(struct control, tid);
    clone->tls = tls_word;
    call->number = SYS_clone;
    call->arguments[0] = clone->flags;
    call->arguments[1] = clone->stack;
    call->arguments[2] = clone->child_tid;
    call->arguments[3] = clone->child_tid;
    call->arguments[4] = clone->tls;
    pin_release(slot); /* or the new thread would inherit it */
    child->control->resume = start ? RESUME_START : 0;
    child->control->frame = child->frame;
    child->control->spin = 0;
    child->control->calls = 0;
    child->calls = 0;
    __atomic_store_n(&child->control->state, STATE_RUNNING, __ATOMIC_RELEASE);
    if (monitor_add_running(slot->stub->monitor, child) < 0) {
        Py_DECREF(child);
        PyMem_Free(clone);
        return NULL;
    }
    clone->next = slot->stub->clones;
    slot->stub->clones = clone;
    slot->stub->monitor->pending_clones++;
    slot->calls++;
    Py_RETURN_NONE;
}

PyObject *slot_batch_results(Slot *slot, PyObject *unused)
{
    if (slot_check(slot, SLOT_HELD) < 0)
        return NULL;
    PyObject *list = PyList_New(slot->calls_sent);
    for (uint32_t index = 0; list && index < slot->calls_sent; index++) {
        PyObject *number = PyLong_FromLongLong(slot->control->batch[index].result);
        if (number)
            PyList_SET_ITEM(list, index, number);
        else
            Py_CLEAR(list);
    }
    return list;
}
