/*
 * slot.c: the Slot type, one host thread of a stub: read why it left, edit its registers, queue host calls, resume it.
 *
 * A slot is FREE (no thread yet), RUNNING (the guest's, not ours to touch) or HELD (it waits for us).
 */
#include "object.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/futex.h>
#include <signal.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

int slot_check(Slot *slot, enum slot_state state)
{
    if (!slot->stub->area) {
        PyErr_SetString(PyExc_ValueError, "the stub is closed");
        return -1;
    }
    if (slot->state != state) {
        static const char *const names[] = {"free", "held", "running"};
        PyErr_Format(PyExc_ValueError, "slot %u is %s, not %s", slot->index, names[slot->state], names[state]);
        return -1;
    }
    return 0;
}

/* --- why it left --- */

/* Most registers are as they were at the thread's last call, above all those that are no arguments: the same numbers do. */
static PyObject *call_of(Slot *slot, const uint64_t words[CALL_WORDS])
{
    PyObject *last = slot->last_call, *call;
    if (last && memcmp(slot->last_words, words, sizeof slot->last_words) == 0)
        return Py_NewRef(last);
    if (!(call = PyTuple_New(CALL_WORDS)))
        return NULL;
    for (int index = 0; index < CALL_WORDS; index++) {
        PyObject *number = last && slot->last_words[index] == words[index] ? Py_NewRef(PyTuple_GET_ITEM(last, index))
                                                                           : PyLong_FromUnsignedLongLong(words[index]);
        if (!number) {
            Py_DECREF(call);
            return NULL;
        }
        PyTuple_SET_ITEM(call, index, number);
    }
    memcpy(slot->last_words, words, sizeof slot->last_words);
    Py_XSETREF(slot->last_call, Py_NewRef(call));
    return call;
}

static PyObject *slot_syscall(Slot *slot, PyObject *unused)
{
    static const unsigned char order[] = {REG_RAX, REG_RDI, REG_RSI, REG_RDX, REG_R10, REG_R8, REG_R9};
    static const unsigned char order_i386[] = {REG_RAX, REG_RBX, REG_RCX, REG_RDX, REG_RSI, REG_RDI, REG_RBP};
    struct ucontext_image *frame = frame_of(slot);
    if (!frame)
        return NULL;
    const volatile uint64_t *patched = slot->light && slot->reason == SYSCALL ? slot->control->call : NULL;
    bool i386 = slot->architecture == AUDIT_ARCH_I386;
    uint64_t mask = i386 ? 0xffffffff : ~0UL, words[CALL_WORDS];
    for (int index = 0; index < CALL_WORDS; index++)
        words[index] = patched ? patched[index] : frame->registers[(i386 ? order_i386 : order)[index]] & mask;
    words[0] &= 0xffffffff;
    return call_of(slot, words);
}

static PyObject *slot_fault(Slot *slot, PyObject *unused)
{
    struct ucontext_image *frame = frame_of(slot);
    if (!frame)
        return NULL;
    if (!slot->information) {
        PyErr_SetString(PyExc_ValueError, "the slot has no signal information");
        return NULL;
    }
    const char *information = (char *)slot->control + slot->information;
    return Py_BuildValue("(iiKKK)", slot->signal, *(const int *)(information + 8),
                         (unsigned long long)*(const uint64_t *)(information + 16),
                         (unsigned long long)frame->registers[REG_TRAPNO], (unsigned long long)frame->registers[REG_ERR]);
}

/* --- registers --- */

static PyObject *slot_registers(Slot *slot, PyObject *unused)
{
    struct ucontext_image *frame = frame_of(slot);
    PyObject *result = frame ? PyTuple_New(REG_COUNT) : NULL;
    for (int index = 0; result && index < REG_COUNT; index++) {
        PyObject *number = PyLong_FromUnsignedLongLong(frame->registers[index]);
        if (number)
            PyTuple_SET_ITEM(result, index, number);
        else
            Py_CLEAR(result);
    }
    return result;
}

static PyObject *slot_set_register(Slot *slot, PyObject *const *args, Py_ssize_t count)
{
    uint64_t value;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "set_register(index, value)");
        return NULL;
    }
    long index = PyLong_AsLong(args[0]);
    if ((index == -1 && PyErr_Occurred()) || !word_of(args[1], &value))
        return NULL;
    if (index < 0 || index >= REG_COUNT) {
        PyErr_SetString(PyExc_IndexError, "no such register");
        return NULL;
    }
    struct ucontext_image *frame = frame_of(slot);
    if (!frame)
        return NULL;
    frame_set_register(slot, frame, (unsigned)index, value);
    Py_RETURN_NONE;
}

static PyObject *slot_set_registers(Slot *slot, PyObject *values)
{
    uint64_t words[REG_COUNT];
    struct ucontext_image *frame = frame_of(slot);
    PyObject *sequence = frame ? PySequence_Fast(values, "set_registers wants a sequence") : NULL;
    if (!sequence)
        return NULL;
    bool good = PySequence_Fast_GET_SIZE(sequence) == REG_COUNT;
    if (!good)
        PyErr_Format(PyExc_ValueError, "set_registers wants %d values", REG_COUNT);
    for (int index = 0; good && index < REG_COUNT; index++)
        good = word_of(PySequence_Fast_GET_ITEM(sequence, index), &words[index]);
    Py_DECREF(sequence);
    if (!good || !(frame = frame_of(slot)))
        return NULL;
    for (unsigned index = 0; index < REG_COUNT; index++)
        frame_set_register(slot, frame, index, words[index]);
    Py_RETURN_NONE;
}

static PyObject *get_register(Slot *slot, void *index)
{
    struct ucontext_image *frame = frame_of(slot);
    return frame ? PyLong_FromUnsignedLongLong(frame->registers[(uintptr_t)index]) : NULL;
}

static int put_register(Slot *slot, PyObject *value, void *index)
{
    uint64_t word;
    struct ucontext_image *frame = frame_of(slot);
    if (!frame || !value || !word_of(value, &word)) {
        if (!value && !PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "a register can't be deleted");
        return -1;
    }
    frame_set_register(slot, frame, (unsigned)(uintptr_t)index, word);
    return 0;
}

static PyObject *none_or_error(int result)
{
    if (result < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *slot_xstate(Slot *slot, PyObject *unused) { return frame_xstate(slot); }

static PyObject *slot_set_xstate(Slot *slot, PyObject *args)
{
    Py_buffer data;
    if (!PyArg_ParseTuple(args, "y*:set_xstate", &data))
        return NULL;
    int result = frame_set_xstate(slot, data.buf, data.len);
    PyBuffer_Release(&data);
    return none_or_error(result);
}

static PyObject *slot_clear_xstate(Slot *slot, PyObject *unused)
{
    struct ucontext_image *frame = frame_of(slot);
    if (!frame)
        return NULL;
    frame->fpstate = 0;
    slot->light = false;
    Py_RETURN_NONE;
}

static PyObject *slot_save_frame(Slot *slot, PyObject *unused) { return frame_save(slot); }

static PyObject *slot_load_frame(Slot *slot, PyObject *args)
{
    Py_buffer data;
    if (!PyArg_ParseTuple(args, "y*:load_frame", &data))
        return NULL;
    int result = frame_load(slot, data.buf, data.len);
    PyBuffer_Release(&data);
    return none_or_error(result);
}

static PyObject *slot_init_frame(Slot *slot, PyObject *args)
{
    PyObject *ip, *sp;
    uint64_t ip_word, sp_word;
    if (!PyArg_ParseTuple(args, "OO:init_frame", &ip, &sp) || !word_of(ip, &ip_word) || !word_of(sp, &sp_word))
        return NULL;
    return none_or_error(frame_init(slot, ip_word, sp_word));
}

/* --- resume --- */

static int do_resume(Slot *slot, uint32_t how)
{
    struct control *control = slot->control;
    Monitor *monitor = slot->stub->monitor;
    if (!slot->frame && !(how & RESUME_REPORT_BACK)) {
        PyErr_SetString(PyExc_ValueError, "the slot has no frame yet");
        return -1;
    }
    if (slot->frame && !slot->light)
        ((struct ucontext_image *)((char *)control + slot->frame))->mask = 0;
    control->frame = slot->frame;
    control->calls = slot->calls_sent = slot->calls;
    slot->calls = 0;
    control->resume = how | (slot->light ? RESUME_LIGHT : 0);
    slot->resumed_at = 0;
    if (monitor->gathered_cpu >= 0) {
        pin_consider(slot);
        slot->resumed_at = ticks();
    }
    uint64_t spin = slot->pinned ? 0 : slot->spin > monitor->stub_spin ? slot->spin : monitor->stub_spin;
    control->spin = spin * monitor->ticks_per_us / 1000;
    if (monitor_add_running(monitor, slot) < 0)
        return -1;
    pin_tell_cpu(monitor);
    /* The change of `state` comes first, so that futex can't miss it; then the look at `sleeping`. */
    __atomic_exchange_n(&control->state, STATE_RUNNING, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&control->sleeping, __ATOMIC_SEQ_CST)) {
        monitor->late_answers += !slot->calm;
        syscall(SYS_futex, &control->state, FUTEX_WAKE, 1, NULL, NULL, 0);
    }
    slot->calm = spin == 0;
    return 0;
}

static PyObject *slot_resume(Slot *slot, PyObject *args, PyObject *names)
{
    static char *keywords[] = {"report_back", NULL};
    int report_back = 0;
    if (!PyArg_ParseTupleAndKeywords(args, names, "|p:resume", keywords, &report_back) || slot_check(slot, SLOT_HELD) < 0)
        return NULL;
    if (slot->light)
        slot->control->result = ((struct ucontext_image *)((char *)slot->control + slot->frame))->registers[REG_RAX];
    return none_or_error(do_resume(slot, report_back ? RESUME_REPORT_BACK : 0));
}

static PyObject *slot_resume_syscall(Slot *slot, PyObject *result)
{
    uint64_t word;
    struct ucontext_image *frame;
    if (!word_of(result, &word) || !(frame = frame_of(slot)))
        return NULL;
    if (slot->light)
        slot->control->result = word;
    else
        frame->registers[REG_RAX] = word;
    return none_or_error(do_resume(slot, 0));
}

/* The answer will take long: the thread may stop spinning. */
static PyObject *slot_set_own_cpus(Slot *slot, PyObject *value)
{
    int own = PyObject_IsTrue(value);
    if (own < 0)
        return NULL;
    pin_remove(slot);
    slot->own_cpus = own;
    Py_RETURN_NONE;
}

static PyObject *slot_calm_down(Slot *slot, PyObject *unused)
{
    if (slot->stub->area && slot->state == SLOT_HELD) {
        __atomic_store_n(&slot->control->spin, 0, __ATOMIC_RELAXED);
        slot->calm = true;
    }
    Py_RETURN_NONE;
}

static PyObject *slot_park(Slot *slot, PyObject *unused)
{
    if (slot_check(slot, SLOT_HELD) < 0)
        return NULL;
    slot->calls = 0;
    Py_XSETREF(slot->task, Py_NewRef(Py_None));
    Py_RETURN_NONE;
}

static PyObject *slot_exit_thread(Slot *slot, PyObject *unused)
{
    if (slot_check(slot, SLOT_HELD) < 0)
        return NULL;
    if (slot->index == 0) {
        PyErr_SetString(PyExc_ValueError, "the first thread of a stub can only be parked");
        return NULL;
    }
    slot->calls = 0;
    struct host_call *call = batch_next(slot);
    if (!call)
        return NULL;
    call->number = SYS_exit;
    slot->calls = 1;
    if (do_resume(slot, RESUME_REPORT_BACK) < 0)
        return NULL;
    monitor_remove_running(slot->stub->monitor, slot);
    slot->state = SLOT_FREE;
    slot->frame = slot->information = 0;
    Py_RETURN_NONE;
}

static uint32_t host_tid(Slot *slot)
{
    return slot->index == 0 ? (uint32_t)slot->stub->pid : __atomic_load_n(&slot->control->tid, __ATOMIC_ACQUIRE);
}

/* tgkill checks that the thread is one of this stub's, whatever its control page says. */
static PyObject *slot_kick(Slot *slot, PyObject *unused)
{
    if (!slot->stub->area) {
        PyErr_SetString(PyExc_ValueError, "the stub is closed");
        return NULL;
    }
    if (slot->stub->reaped || (syscall(SYS_tgkill, slot->stub->pid, host_tid(slot), KICK_SIGNAL) < 0 && errno == ESRCH))
        Py_RETURN_FALSE;
    Py_RETURN_TRUE;
}

/* --- the type --- */

static PyObject *get_unsigned(Slot *slot, void *offset)
{
    return PyLong_FromUnsignedLongLong(*(uint64_t *)((char *)slot + (uintptr_t)offset));
}

static PyObject *get_tid(Slot *slot, void *unused)
{
    return PyLong_FromUnsignedLong(slot->stub->area ? host_tid(slot) : 0);
}

static PyObject *get_arch(Slot *slot, void *unused) { return PyLong_FromUnsignedLong(slot->architecture); }
static PyObject *get_room(Slot *slot, void *unused) { return PyLong_FromUnsignedLong(BATCH_CAPACITY - slot->calls); }
static PyObject *get_done(Slot *slot, void *unused) { return PyLong_FromUnsignedLong(slot->calls_done); }
static PyObject *get_held(Slot *slot, void *unused) { return PyBool_FromLong(slot->state == SLOT_HELD); }
static PyObject *get_has_frame(Slot *slot, void *unused) { return PyBool_FromLong(slot->frame != 0); }
static PyObject *get_stub(Slot *slot, void *unused) { return Py_NewRef(slot->stub); }

static int set_spin(Slot *slot, PyObject *value, void *unused)
{
    uint64_t word;
    if (!value || !word_of(value, &word))
        return -1;
    slot->spin = word < 1000000000 ? word : 1000000000;
    return 0;
}

static PyGetSetDef getset[] = {
    {"stub", (getter)get_stub, NULL, "the address space it belongs to", NULL},
    {"tid", (getter)get_tid, NULL, "host thread id", NULL},
    {"arch", (getter)get_arch, NULL, "AUDIT_ARCH_* of the system call", NULL},
    {"held", (getter)get_held, NULL, "the thread waits for the kernel", NULL},
    {"has_frame", (getter)get_has_frame, NULL, "there are registers to read and edit", NULL},
    {"ip", (getter)get_register, (setter)put_register, "instruction pointer", (void *)REG_RIP},
    {"sp", (getter)get_register, (setter)put_register, "stack pointer", (void *)REG_RSP},
    {"ax", (getter)get_register, (setter)put_register, "result register", (void *)REG_RAX},
    {"batch_room", (getter)get_room, NULL, "host calls that can still be pushed", NULL},
    {"batch_done", (getter)get_done, NULL, "index of the host call that failed, or how many there were", NULL},
    {"spin", (getter)get_unsigned, (setter)set_spin, "ns to spin for the kernel before sleeping", (void *)offsetof(Slot, spin)},
    {"fs_base", (getter)get_unsigned, NULL, "FS base at the last trap (0 where the CPU can't tell)",
     (void *)offsetof(Slot, fs_base)},
    {"gs_base", (getter)get_unsigned, NULL, "GS base at the last trap", (void *)offsetof(Slot, gs_base)},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef members[] = {
    {"task", T_OBJECT_EX, offsetof(Slot, task), 0, "any object"},
    {"index", T_UINT, offsetof(Slot, index), READONLY, "number of the slot in its stub"},
    {"reason", T_INT, offsetof(Slot, reason), READONLY, "why it left: SYSCALL, SIGNAL, ..."},
    {NULL, 0, 0, 0, NULL},
};

#define NOARGS(name, doc) {#name, (PyCFunction)slot_##name, METH_NOARGS, doc}
static PyMethodDef methods[] = {
    NOARGS(syscall, "(nr, a0, a1, a2, a3, a4, a5)"),
    NOARGS(fault, "(signo, si_code, si_addr, trapno, error code)"),
    NOARGS(registers, "the 23 registers in ucontext order"),
    {"set_register", (PyCFunction)(void (*)(void))slot_set_register, METH_FASTCALL, "set_register(index, value)"},
    {"set_registers", (PyCFunction)slot_set_registers, METH_O, "set all 23"},
    NOARGS(xstate, "floating point and vector state, as xsave laid it out; b'' for the initial state"),
    {"set_xstate", (PyCFunction)slot_set_xstate, METH_VARARGS, "replace it; ValueError if sigreturn could refuse it"},
    NOARGS(clear_xstate, "back to the initial state"),
    NOARGS(save_frame, "registers and xstate as bytes, for load_frame of any slot"),
    {"load_frame", (PyCFunction)slot_load_frame, METH_VARARGS, "registers and xstate from save_frame()"},
    {"init_frame", (PyCFunction)slot_init_frame, METH_VARARGS, "init_frame(ip, sp): state of a new process"},
    {"push", (PyCFunction)(void (*)(void))slot_push, METH_FASTCALL | METH_KEYWORDS, "append a host call to the batch"},
    {"push_recv_fds", (PyCFunction)slot_push_recv_fds, METH_O, "receive what Stub.send_fds sent"},
    {"push_clone", (PyCFunction)(void (*)(void))slot_push_clone, METH_VARARGS | METH_KEYWORDS, "start a host thread"},
    NOARGS(batch_results, "results of the last batch"),
    {"resume", (PyCFunction)(void (*)(void))slot_resume, METH_VARARGS | METH_KEYWORDS, "run the batch, then the guest"},
    {"resume_syscall", (PyCFunction)slot_resume_syscall, METH_O, "set rax and resume"},
    {"set_own_cpus", (PyCFunction)slot_set_own_cpus, METH_O, "set_own_cpus(own): the caller sets, or no longer sets, the thread's CPUs; it is not pinned then"},
    NOARGS(calm_down, "the answer will take long: sleep, don't spin"),
    NOARGS(park, "keep the idle thread for reuse"),
    NOARGS(exit_thread, "end the host thread"),
    NOARGS(kick, "make it leave the guest; False when it is gone"),
    {NULL, NULL, 0, NULL},
};

static PyObject *slot_repr(Slot *slot)
{
    static const char *const names[] = {"free", "held", "running"};
    return PyUnicode_FromFormat("<Slot %u of stub %d, %s, reason %d>", slot->index, slot->stub->pid, names[slot->state],
                                slot->reason);
}

static int slot_traverse(Slot *slot, visitproc visit, void *arg)
{
    Py_VISIT(slot->stub);
    Py_VISIT(slot->task);
    return 0;
}

static int slot_clear(Slot *slot)
{
    Py_XSETREF(slot->task, Py_NewRef(Py_None));
    return 0;
}

static void slot_dealloc(Slot *slot)
{
    PyObject_GC_UnTrack(slot);
    Py_XDECREF(slot->task);
    Py_XDECREF(slot->stub);
    Py_XDECREF(slot->last_call);
    Py_TYPE(slot)->tp_free(slot);
}

PyTypeObject Slot_Type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "polynix.addrspace._restricted.Slot",
    .tp_doc = "One host thread of a stub.",
    .tp_basicsize = sizeof(Slot),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_repr = (reprfunc)slot_repr,
    .tp_methods = methods,
    .tp_members = members,
    .tp_getset = getset,
    .tp_traverse = (traverseproc)slot_traverse,
    .tp_clear = (inquiry)slot_clear,
    .tp_dealloc = (destructor)slot_dealloc,
};
