/* Atomic words of shared memory, and the futex that waits for them: what Python can't do between processes.
 *
 * Words(buffer) holds the buffer; offsets are in bytes, checked and aligned. No operation takes a lock, so a process that is killed in
 * the middle of one leaves nothing behind. Everything is sequentially consistent: the arena's protocol (shared_arena.py) relies on it.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <errno.h>
#include <linux/futex.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

typedef struct {
    PyObject_HEAD
    Py_buffer view;
} Words;

static void *word_at(Words *words, Py_ssize_t offset, Py_ssize_t size)
{
    if (offset < 0 || offset % size || offset > words->view.len - size) {
        PyErr_Format(PyExc_IndexError, "no word of %zd bytes at %zd", size, offset);
        return NULL;
    }
    return (char *)words->view.buf + offset;
}

static bool arguments(const char *name, Py_ssize_t given, Py_ssize_t wanted)
{
    if (given == wanted)
        return true;
    PyErr_Format(PyExc_TypeError, "%s takes %zd arguments, not %zd", name, wanted, given);
    return false;
}

static bool number32(PyObject *object, uint32_t *value)
{
    *value = (uint32_t)PyLong_AsUnsignedLongMask(object);
    return !PyErr_Occurred();
}

static uint32_t *word32(PyObject *self, PyObject *offset)
{
    Py_ssize_t at = PyLong_AsSsize_t(offset);
    return at == -1 && PyErr_Occurred() ? NULL : word_at((Words *)self, at, 4);
}

static int64_t *word64(PyObject *self, PyObject *offset)
{
    Py_ssize_t at = PyLong_AsSsize_t(offset);
    return at == -1 && PyErr_Occurred() ? NULL : word_at((Words *)self, at, 8);
}

static void wake(uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0); /* not FUTEX_PRIVATE: other processes wait */
}

static PyObject *words_load(PyObject *self, PyObject *offset)
{
    uint32_t *word = word32(self, offset);
    return word ? PyLong_FromUnsignedLong(__atomic_load_n(word, __ATOMIC_SEQ_CST)) : NULL;
}

static PyObject *words_load_long(PyObject *self, PyObject *offset)
{
    int64_t *word = word64(self, offset);
    return word ? PyLong_FromLongLong(__atomic_load_n(word, __ATOMIC_SEQ_CST)) : NULL;
}

static PyObject *words_exchange(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    uint32_t *word, value;
    if (!arguments("exchange", count, 2) || !(word = word32(self, args[0])) || !number32(args[1], &value))
        return NULL;
    return PyLong_FromUnsignedLong(__atomic_exchange_n(word, value, __ATOMIC_SEQ_CST));
}

static PyObject *words_exchange_long(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    int64_t *word;
    if (!arguments("exchange_long", count, 2) || !(word = word64(self, args[0])))
        return NULL;
    long long value = PyLong_AsLongLong(args[1]);
    if (value == -1 && PyErr_Occurred())
        return NULL;
    return PyLong_FromLongLong(__atomic_exchange_n(word, (int64_t)value, __ATOMIC_SEQ_CST));
}

static PyObject *words_update(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    uint32_t *word, clear, set;
    if (!arguments("update", count, 3) || !(word = word32(self, args[0])) || !number32(args[1], &clear) || !number32(args[2], &set))
        return NULL;
    uint32_t before = __atomic_load_n(word, __ATOMIC_SEQ_CST);
    while (!__atomic_compare_exchange_n(word, &before, (before & ~clear) | set, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
        ;
    return PyLong_FromUnsignedLong(before);
}

static PyObject *words_add(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    int64_t *word, after;
    if (!arguments("add", count, 2) || !(word = word64(self, args[0])))
        return NULL;
    long long amount = PyLong_AsLongLong(args[1]);
    if (amount == -1 && PyErr_Occurred())
        return NULL;
    int64_t before = __atomic_load_n(word, __ATOMIC_SEQ_CST);
    do {
        if (__builtin_add_overflow(before, (int64_t)amount, &after)) {
            PyErr_SetString(PyExc_OverflowError, "beyond 64 bits");
            return NULL;
        }
    } while (!__atomic_compare_exchange_n(word, &before, after, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
    return PyLong_FromLongLong(after);
}

static PyObject *words_claim(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    uint32_t value;
    if (!arguments("claim", nargs, 4))
        return NULL;
    Py_ssize_t offset = PyLong_AsSsize_t(args[0]), stride = PyLong_AsSsize_t(args[1]), count = PyLong_AsSsize_t(args[2]);
    if (PyErr_Occurred() || !number32(args[3], &value))
        return NULL;
    for (Py_ssize_t index = 0; index < count; index++) {
        uint32_t *word = word_at((Words *)self, offset + index * stride, 4), free = 0;
        if (word == NULL)
            return NULL;
        if (__atomic_compare_exchange_n(word, &free, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            return PyLong_FromSsize_t(index);
    }
    return PyLong_FromLong(-1);
}

static PyObject *words_set_bit(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    int64_t *word;
    if (!arguments("set_bit", count, 3) || !(word = word64(self, args[0])))
        return NULL;
    unsigned long bit = PyLong_AsUnsignedLong(args[1]);
    int on = PyObject_IsTrue(args[2]);
    if (PyErr_Occurred() || on < 0)
        return NULL;
    if (bit > 63)
        return PyErr_Format(PyExc_IndexError, "no bit %lu", bit);
    if (on)
        __atomic_fetch_or((uint64_t *)word, 1ULL << bit, __ATOMIC_SEQ_CST);
    else
        __atomic_fetch_and((uint64_t *)word, ~(1ULL << bit), __ATOMIC_SEQ_CST);
    Py_RETURN_NONE;
}

static PyObject *words_ring(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (!arguments("ring", nargs, 4))
        return NULL;
    Py_ssize_t mask = PyLong_AsSsize_t(args[0]), count = PyLong_AsSsize_t(args[1]), bells = PyLong_AsSsize_t(args[2]);
    Py_ssize_t except = PyLong_AsSsize_t(args[3]);
    if (PyErr_Occurred())
        return NULL;
    for (Py_ssize_t index = 0; index < count; index++) {
        uint64_t *word = word_at((Words *)self, mask + 8 * index, 8);
        if (word == NULL)
            return NULL;
        for (uint64_t bits = __atomic_load_n(word, __ATOMIC_SEQ_CST); bits; bits &= bits - 1) {
            Py_ssize_t who = 64 * index + __builtin_ctzll(bits);
            if (who == except)
                continue;
            uint32_t *bell = word_at((Words *)self, bells + 4 * who, 4);
            if (bell == NULL)
                return NULL;
            __atomic_fetch_add(bell, 1, __ATOMIC_SEQ_CST);
            wake(bell);
        }
    }
    Py_RETURN_NONE;
}

static PyObject *words_wake(PyObject *self, PyObject *offset)
{
    uint32_t *word = word32(self, offset);
    if (word == NULL)
        return NULL;
    __atomic_fetch_add(word, 1, __ATOMIC_SEQ_CST);
    wake(word);
    Py_RETURN_NONE;
}

static PyObject *words_wait(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    uint32_t *word, expected;
    if (!arguments("wait", count, 2) || !(word = word32(self, args[0])) || !number32(args[1], &expected))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    syscall(SYS_futex, word, FUTEX_WAIT, expected, NULL, NULL, 0); /* may return early, as the caller knows */
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *words_wait_still(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    uint32_t *word, now;
    if (!arguments("wait_still", count, 2) || !(word = word32(self, args[0])))
        return NULL;
    long long nanoseconds = PyLong_AsLongLong(args[1]);
    if (nanoseconds == -1 && PyErr_Occurred())
        return NULL;
    struct timespec still = {nanoseconds / 1000000000, nanoseconds % 1000000000};
    Py_BEGIN_ALLOW_THREADS
    do {
        while ((now = __atomic_load_n(word, __ATOMIC_SEQ_CST)) & 1)
            syscall(SYS_futex, word, FUTEX_WAIT, now, NULL, NULL, 0);
        nanosleep(&still, NULL);
    } while (__atomic_load_n(word, __ATOMIC_SEQ_CST) != now);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *words_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    PyObject *buffer;
    if (!PyArg_ParseTuple(args, "O:Words", &buffer))
        return NULL;
    Words *words = (Words *)type->tp_alloc(type, 0);
    if (words == NULL)
        return NULL;
    if (PyObject_GetBuffer(buffer, &words->view, PyBUF_WRITABLE) < 0) {
        words->view.obj = NULL;
        Py_DECREF(words);
        return NULL;
    }
    if ((uintptr_t)words->view.buf % 8) {
        Py_DECREF(words);
        PyErr_SetString(PyExc_ValueError, "the buffer is not aligned");
        return NULL;
    }
    return (PyObject *)words;
}

static void words_dealloc(PyObject *self)
{
    PyBuffer_Release(&((Words *)self)->view);
    Py_TYPE(self)->tp_free(self);
}

#define FAST(name) {#name, (PyCFunction)(void (*)(void))words_##name, METH_FASTCALL, NULL}
static PyMethodDef words_methods[] = {
    {"load", words_load, METH_O, NULL},
    {"load_long", words_load_long, METH_O, NULL},
    {"wake", words_wake, METH_O, NULL},
    FAST(exchange),
    FAST(exchange_long),
    FAST(update),
    FAST(add),
    FAST(claim),
    FAST(set_bit),
    FAST(ring),
    FAST(wait),
    FAST(wait_still),
    {NULL, NULL, 0, NULL},
};

static PyTypeObject words_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "polynix.ipc._atomics.Words",
    .tp_basicsize = sizeof(Words),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = words_new,
    .tp_dealloc = words_dealloc,
    .tp_methods = words_methods,
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_atomics", NULL, -1, NULL, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__atomics(void)
{
    if (PyType_Ready(&words_type) < 0)
        return NULL;
    PyObject *object = PyModule_Create(&module);
    if (object != NULL && PyModule_AddObjectRef(object, "Words", (PyObject *)&words_type) < 0)
        Py_CLEAR(object);
    return object;
}
