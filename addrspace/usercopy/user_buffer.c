/*
 * UserOutput and UserInput: one range of guest memory as the destination of a read or the source of a write, consumed from the front.
 *
 * What kernelproc.vfs.buffers describes as OutputBuffer and InputBuffer, for the calls without an iovec. In C since each read and write makes
 * one. It lives as long as a call, and the garbage collector need not know of it.
 */
#include "usercopy.h"

#include <structmember.h>

typedef struct {
    PyObject_HEAD
    UserMap *user;
    uint64_t address, remaining;
} UserBuffer;

static PyObject *user_buffer_vectorcall(PyObject *type, PyObject *const *args, size_t nargsf, PyObject *names)
{
    uint64_t address, remaining;
    Py_ssize_t count = PyVectorcall_NARGS(nargsf);
    if (UNLIKELY(count != 3 || names)) {
        PyErr_Format(PyExc_TypeError, "%s(user, address, length) takes three positional arguments", ((PyTypeObject *)type)->tp_name);
        return NULL;
    }
    if (UNLIKELY(!Py_IS_TYPE(args[0], &UserMapType))) {
        PyErr_Format(PyExc_TypeError, "expected a UserMap, not %.100s", Py_TYPE(args[0])->tp_name);
        return NULL;
    }
    if (!user_address_get(args[1], &address) || !argument_u64(args[2], &remaining))
        return NULL;
    if (UNLIKELY(remaining > USER_ADDRESSES_END || address > USER_ADDRESSES_END - remaining)) /* Linux's access_ok() */
        return fault_raise(address, 0);
    UserBuffer *self = PyObject_New(UserBuffer, (PyTypeObject *)type);
    if (UNLIKELY(!self))
        return NULL;
    self->user = (UserMap *)Py_NewRef(args[0]);
    self->address = address;
    self->remaining = remaining < LARGEST_TRANSFER ? remaining : LARGEST_TRANSFER;
    return (PyObject *)self;
}

static void user_buffer_dealloc(PyObject *op)
{
    Py_DECREF(((UserBuffer *)op)->user);
    PyObject_Free(op);
}

static void advance(UserBuffer *self, uint64_t count)
{
    self->address += count;
    self->remaining -= count;
}

/* What of `wanted` there is. */
static uint64_t within(const UserBuffer *self, uint64_t wanted) { return wanted < self->remaining ? wanted : self->remaining; }

/* After a transfer of `done` of `wanted` bytes, -1 with an exception: the count, or Fault where it is nothing. */
static PyObject *moved(UserBuffer *self, int64_t done, uint64_t wanted)
{
    if (UNLIKELY(done < 0))
        return NULL;
    if (UNLIKELY(done == 0 && wanted))
        return fault_raise(self->address, 0);
    advance(self, (uint64_t)done);
    return PyLong_FromLongLong(done);
}

static PyObject *host_io(const char *name, UserBuffer *self, PyObject *const *args, Py_ssize_t nargs, bool write)
{
    struct host_position position;
    uint64_t count;
    int64_t done;
    if (!arguments_check(name, nargs, 3, 4) || !host_position_get(args[0], args[1], nargs > 3 ? args[3] : NULL, &position)
        || !argument_size(args[2], &count) || !user_map_host_io(self->user, self->address, within(self, count), &position, write, &done))
        return NULL;
    if (done > 0)
        advance(self, (uint64_t)done);
    return PyLong_FromLongLong(done);
}

/* -- UserOutput -------------------------------------------------------------------------------------------------------------- */

static PyObject *output_write(PyObject *op, PyObject *data)
{
    UserBuffer *self = (UserBuffer *)op;
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    uint64_t wanted = within(self, (uint64_t)view.len);
    int64_t done = user_map_copy_out(self->user, self->address, view.buf, wanted);
    PyBuffer_Release(&view);
    return moved(self, done, wanted);
}

static PyObject *output_write_from_fd(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    return host_io("write_from_fd", (UserBuffer *)op, args, nargs, true);
}

static PyObject *output_zero(PyObject *op, PyObject *size)
{
    UserBuffer *self = (UserBuffer *)op;
    uint64_t count;
    if (!argument_size(size, &count))
        return NULL;
    count = within(self, count);
    return moved(self, user_map_zero(self->user, self->address, count), count);
}

static PyMethodDef output_methods[] = {
    {"write", output_write, METH_O, "write(data) -> count: at most what remains. Fault when none could be stored"},
    {"write_from_fd", (PyCFunction)(void (*)(void))output_write_from_fd, METH_FASTCALL,
     "write_from_fd(fd, offset, count, flags=0) -> count or -errno: from a host descriptor; offset -1 reads at its position"},
    {"zero", output_zero, METH_O, "zero(count) -> count. Fault when none could be stored"},
    {0},
};

/* -- UserInput --------------------------------------------------------------------------------------------------------------- */

static bool input_count(const char *name, UserBuffer *self, PyObject *const *args, Py_ssize_t nargs, uint64_t *count)
{
    *count = self->remaining;
    if (!nargs)
        return true;
    if (!arguments_check(name, nargs, 0, 1))
        return false;
    Py_ssize_t wanted = PyLong_AsSsize_t(args[0]);
    if (wanted == -1 && PyErr_Occurred())
        return false;
    if (wanted >= 0)
        *count = within(self, (uint64_t)wanted);
    return true;
}

static PyObject *peek(const char *name, UserBuffer *self, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t count;
    if (!input_count(name, self, args, nargs, &count))
        return NULL;
    PyObject *data = user_map_bytes(self->user, self->address, count);
    if (UNLIKELY(data && count && !PyBytes_GET_SIZE(data))) {
        Py_DECREF(data);
        return fault_raise(self->address, 0);
    }
    return data;
}

static PyObject *input_peek(PyObject *op, PyObject *const *args, Py_ssize_t nargs) { return peek("peek", (UserBuffer *)op, args, nargs); }

static PyObject *input_read(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *data = peek("read", (UserBuffer *)op, args, nargs);
    if (data)
        advance((UserBuffer *)op, (uint64_t)PyBytes_GET_SIZE(data));
    return data;
}

static bool part(UserBuffer *self, PyObject *size, uint64_t *count)
{
    if (!argument_size(size, count))
        return false;
    if (*count <= self->remaining)
        return true;
    PyErr_SetString(PyExc_ValueError, "more than what remains");
    return false;
}

static PyObject *input_skip(PyObject *op, PyObject *size)
{
    uint64_t count;
    if (!part((UserBuffer *)op, size, &count))
        return NULL;
    advance((UserBuffer *)op, count);
    Py_RETURN_NONE;
}

static PyObject *input_truncate(PyObject *op, PyObject *size)
{
    uint64_t count;
    if (!part((UserBuffer *)op, size, &count))
        return NULL;
    ((UserBuffer *)op)->remaining = count;
    Py_RETURN_NONE;
}

static PyObject *input_read_to_fd(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    return host_io("read_to_fd", (UserBuffer *)op, args, nargs, false);
}

static PyMethodDef input_methods[] = {
    {"read", (PyCFunction)(void (*)(void))input_read, METH_FASTCALL, "read(count=-1) -> bytes, all that remain by default. Fault when none could be loaded"},
    {"peek", (PyCFunction)(void (*)(void))input_peek, METH_FASTCALL, "peek(count=-1): as read, without consuming"},
    {"skip", input_skip, METH_O, "skip(count): consume, at most what remains"},
    {"truncate", input_truncate, METH_O, "truncate(count): forget what lies beyond; at most what remains"},
    {"read_to_fd", (PyCFunction)(void (*)(void))input_read_to_fd, METH_FASTCALL,
     "read_to_fd(fd, offset, count, flags=0) -> count or -errno: to a host descriptor; offset -1 writes at its position"},
    {0},
};

/* -- the types --------------------------------------------------------------------------------------------------------------- */

static PyObject *user_buffer_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    if (kwargs && PyDict_GET_SIZE(kwargs)) {
        PyErr_Format(PyExc_TypeError, "%s() takes no keyword arguments", type->tp_name);
        return NULL;
    }
    return user_buffer_vectorcall((PyObject *)type, &PyTuple_GET_ITEM(args, 0), (size_t)PyTuple_GET_SIZE(args), NULL);
}

static PyMemberDef members[] = {
    {"remaining", T_ULONGLONG, offsetof(UserBuffer, remaining), READONLY, "bytes still to transfer"},
    {0},
};

#define USER_BUFFER_TYPE(name, doc, its_methods)                                                                               \
    {                                                                                                                          \
        PyVarObject_HEAD_INIT(NULL, 0).tp_name = "polynix.addrspace._usercopy." name, .tp_doc = doc,                           \
        .tp_basicsize = sizeof(UserBuffer), .tp_flags = Py_TPFLAGS_DEFAULT, .tp_new = user_buffer_new,                         \
        .tp_vectorcall = user_buffer_vectorcall, .tp_dealloc = user_buffer_dealloc, .tp_members = members, .tp_methods = its_methods, \
    }

PyTypeObject UserOutputType = USER_BUFFER_TYPE("UserOutput", "UserOutput(user, address, length): guest memory as the destination of a read. Fault beyond a guest's addresses.", output_methods);
PyTypeObject UserInputType = USER_BUFFER_TYPE("UserInput", "UserInput(user, address, length): guest memory as the source of a write. Fault beyond a guest's addresses.", input_methods);
