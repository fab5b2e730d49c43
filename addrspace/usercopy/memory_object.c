/* MemoryObject: the pages behind a descriptor, shareable between address spaces (a region, a memfd, a host file). */
#define _GNU_SOURCE
#include "usercopy.h"

#include <errno.h>
#include <fcntl.h>
#include <structmember.h>
#include <sys/stat.h>
#include <unistd.h>

#define RELEASE_GIL_ABOVE (256u << 10) /* bytes to copy */

static uint64_t last_id;

static int memory_object_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"fd", "writable", "owns_fd", NULL};
    MemoryObject *self = (MemoryObject *)op;
    int fd, writable = 1, owns_fd = 1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "i|pp:MemoryObject", names, &fd, &writable, &owns_fd))
        return -1;
    if (self->id) {
        PyErr_SetString(PyExc_TypeError, "a MemoryObject is initialised once");
        return -1;
    }
    if (fcntl(fd, F_GETFD) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    self->fd = fd;
    self->writable = writable;
    self->owns_fd = owns_fd;
    self->id = ++last_id;
    return 0;
}

static PyObject *memory_object_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    (void)args, (void)kwargs;
    MemoryObject *self = (MemoryObject *)type->tp_alloc(type, 0);
    if (self) {
        self->fd = -1;
        self->first_window = NO_WINDOW;
    }
    return (PyObject *)self;
}

static void release(MemoryObject *self)
{
    window_drop_all(self);
    if (self->fd >= 0 && self->owns_fd)
        close(self->fd);
    self->fd = -1;
}

static void memory_object_dealloc(PyObject *op)
{
    MemoryObject *self = (MemoryObject *)op;
    if (self->weakrefs)
        PyObject_ClearWeakRefs(op);
    release(self);
    Py_TYPE(op)->tp_free(op);
}

static bool is_open(MemoryObject *self)
{
    if (LIKELY(self->fd >= 0))
        return true;
    PyErr_SetString(PyExc_ValueError, "the memory object is closed");
    return false;
}

static PyObject *memory_object_close(PyObject *op, PyObject *unused)
{
    (void)unused;
    if (((MemoryObject *)op)->busy) {
        PyErr_SetString(PyExc_BufferError, "the memory object is being copied");
        return NULL;
    }
    release((MemoryObject *)op);
    Py_RETURN_NONE;
}

static PyObject *memory_object_size(PyObject *op, PyObject *unused)
{
    struct stat status;
    (void)unused;
    if (!is_open((MemoryObject *)op))
        return NULL;
    return fstat(((MemoryObject *)op)->fd, &status) < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromLongLong(status.st_size);
}

static PyObject *memory_object_resident(PyObject *op, PyObject *unused)
{
    struct stat status;
    (void)unused;
    if (!is_open((MemoryObject *)op))
        return NULL;
    return fstat(((MemoryObject *)op)->fd, &status) < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromLongLong(status.st_blocks * 512);
}

static PyObject *memory_object_read(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t offset, n;
    if (!arguments_check("read", nargs, 2, 2) || !argument_size(args[0], &offset) || !argument_size(args[1], &n) || !is_open((MemoryObject *)op))
        return NULL;
    struct stat status;
    if (fstat(((MemoryObject *)op)->fd, &status) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    uint64_t size = (uint64_t)status.st_size;
    if (S_ISREG(status.st_mode) && n > (size > offset ? size - offset : 0))
        n = size > offset ? size - offset : 0; /* allocate no more than there is */
    PyObject *data = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)n);
    if (!data)
        return NULL;
    uint64_t done = 0;
    while (done < n) {
        ssize_t got = pread(((MemoryObject *)op)->fd, PyBytes_AS_STRING(data) + done, n - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            Py_DECREF(data);
            return PyErr_SetFromErrno(PyExc_OSError);
        }
        if (got == 0)
            break;
        done += (uint64_t)got;
    }
    if (done < n)
        (void)_PyBytes_Resize(&data, (Py_ssize_t)done);
    return data;
}

static PyObject *memory_object_write(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t offset;
    Py_buffer data;
    if (!arguments_check("write", nargs, 2, 2) || !argument_size(args[0], &offset) || !is_open((MemoryObject *)op))
        return NULL;
    if (PyObject_GetBuffer(args[1], &data, PyBUF_SIMPLE) < 0)
        return NULL;
    size_t done = 0;
    while (done < (size_t)data.len) {
        ssize_t put = pwrite(((MemoryObject *)op)->fd, (char *)data.buf + done, (size_t)data.len - done, (off_t)(offset + done));
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0 && done == 0) {
            PyBuffer_Release(&data);
            return PyErr_SetFromErrno(PyExc_OSError);
        }
        if (put <= 0)
            break;
        done += (size_t)put;
    }
    PyBuffer_Release(&data);
    return PyLong_FromSize_t(done);
}

static PyObject *memory_object_punch(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t offset, length;
    if (!arguments_check("punch", nargs, 2, 2) || !argument_size(args[0], &offset) || !argument_size(args[1], &length) || !is_open((MemoryObject *)op))
        return NULL;
    if (length && fallocate(((MemoryObject *)op)->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)length) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

/* The next run of data in [*start, end) of a file, 1 if there is one; the whole range where the file system can't tell. */
static int next_data(int fd, uint64_t *start, uint64_t end, uint64_t *data_end)
{
    off_t data = lseek(fd, (off_t)*start, SEEK_DATA);
    if (data < 0) {
        if (errno == ENXIO)
            return 0;
        if (errno != EINVAL && errno != ESPIPE)
            return -1;
        *data_end = end;
        return *start < end;
    }
    if ((uint64_t)data >= end)
        return 0;
    off_t hole = lseek(fd, data, SEEK_HOLE);
    if (hole < 0)
        return errno == ENXIO ? 0 : -1;
    *start = (uint64_t)data;
    *data_end = (uint64_t)hole < end ? (uint64_t)hole : end;
    return 1;
}

static PyObject *memory_object_data_ranges(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t offset, length, data_end;
    if (!arguments_check("data_ranges", nargs, 2, 2) || !argument_size(args[0], &offset) || !argument_size(args[1], &length) || !is_open((MemoryObject *)op))
        return NULL;
    int fd = ((MemoryObject *)op)->fd, found;
    PyObject *ranges = PyList_New(0);
    if (!ranges)
        return NULL;
    off_t position = lseek(fd, 0, SEEK_CUR);
    uint64_t end = offset + length;
    for (uint64_t at = offset; at < end && (found = next_data(fd, &at, end, &data_end)) != 0; at = data_end) {
        PyObject *range = found < 0 ? PyErr_SetFromErrno(PyExc_OSError) : Py_BuildValue("(KK)", (unsigned long long)at, (unsigned long long)data_end);
        if (!range || PyList_Append(ranges, range) < 0) {
            Py_XDECREF(range);
            Py_CLEAR(ranges);
            break;
        }
        Py_DECREF(range);
    }
    lseek(fd, position, SEEK_SET);
    return ranges;
}

/* Copies one run of data out of src's window; returns 0 or an errno. The GIL is held on entry, and given up for a long run. */
static int copy_run(MemoryObject *to, MemoryObject *from, uint64_t from_offset, uint64_t to_offset, uint64_t length, uint64_t *copied)
{
    while (length) {
        uint64_t within = from_offset & (SLICE_SIZE - 1);
        uint32_t index = window_get(from, from_offset >> SLICE_SHIFT);
        if (index == NO_WINDOW || within >= window_table[index].length)
            return EFAULT;
        uint64_t n = window_table[index].length - within;
        n = n < length ? n : length;
        const char *source = window_table[index].base + within;
        window_pin(index);
        to->busy++, from->busy++;
        PyThreadState *saved = n >= RELEASE_GIL_ABOVE ? PyEval_SaveThread() : NULL;
        ssize_t put = pwrite(to->fd, source, n, (off_t)to_offset);
        int error = put < 0 ? errno : 0;
        if (saved)
            PyEval_RestoreThread(saved);
        to->busy--, from->busy--;
        window_unpin(index);
        if (error == EINTR)
            continue;
        if (error)
            return error;
        if (put == 0)
            return ENOSPC;
        from_offset += (uint64_t)put, to_offset += (uint64_t)put, length -= (uint64_t)put;
        *copied += (uint64_t)put;
    }
    return 0;
}

static PyObject *memory_object_copy_from(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t from_offset, to_offset, length, data_end, copied = 0;
    if (!arguments_check("copy_from", nargs, 4, 4))
        return NULL;
    if (!PyObject_TypeCheck(args[0], &MemoryObjectType)) {
        PyErr_SetString(PyExc_TypeError, "copy_from() takes a MemoryObject");
        return NULL;
    }
    MemoryObject *self = (MemoryObject *)op, *from = (MemoryObject *)args[0];
    if (!argument_size(args[1], &from_offset) || !argument_size(args[2], &to_offset) || !argument_size(args[3], &length) || !is_open(self) || !is_open(from))
        return NULL;
    off_t position = lseek(from->fd, 0, SEEK_CUR);
    uint64_t end = from_offset + length;
    int error = 0, found;
    for (uint64_t at = from_offset; at < end; at = data_end) {
        found = next_data(from->fd, &at, end, &data_end);
        if (found == 0)
            break;
        error = found < 0 ? errno : copy_run(self, from, at, to_offset + (at - from_offset), data_end - at, &copied);
        if (error)
            break;
    }
    lseek(from->fd, position, SEEK_SET);
    if (error) {
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return PyLong_FromUnsignedLongLong(copied);
}

static PyObject *memory_object_repr(PyObject *op)
{
    MemoryObject *self = (MemoryObject *)op;
    return PyUnicode_FromFormat("<MemoryObject %llu fd %d%s>", (unsigned long long)self->id, self->fd, self->writable ? "" : " read-only");
}

static PyObject *memory_object_get_writable(PyObject *op, void *closure)
{
    (void)closure;
    return PyBool_FromLong(((MemoryObject *)op)->writable);
}

static PyMemberDef members[] = {
    {"fd", T_INT, offsetof(MemoryObject, fd), READONLY, "the descriptor; -1 when closed"},
    {"id", T_ULONGLONG, offsetof(MemoryObject, id), READONLY, "unique in this process"},
    {0},
};
static PyGetSetDef getset[] = {{"writable", memory_object_get_writable, NULL, "whether windows allow writing", NULL}, {0}};

#define FAST(name, doc) {#name, (PyCFunction)(void (*)(void))memory_object_##name, METH_FASTCALL, doc}
static PyMethodDef methods[] = {
    {"size", memory_object_size, METH_NOARGS, "size() -> bytes in the object, as fstat says"},
    {"resident", memory_object_resident, METH_NOARGS, "resident() -> bytes allocated"},
    {"close", memory_object_close, METH_NOARGS, "close(): drop the windows, and the descriptor if owned"},
    FAST(read, "read(offset, n) -> bytes, fewer at the end of the object"),
    FAST(write, "write(offset, data) -> count"),
    FAST(punch, "punch(offset, length): make a hole; the size stays"),
    FAST(data_ranges, "data_ranges(offset, length) -> [(start, end)] of what is no hole"),
    FAST(copy_from, "copy_from(src, src_off, dst_off, length) -> count copied; holes are not copied"),
    {0},
};

PyTypeObject MemoryObjectType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "polynix.addrspace._usercopy.MemoryObject",
    .tp_doc = "MemoryObject(fd, writable=True, owns_fd=True): the pages behind a descriptor, shareable between address spaces.",
    .tp_basicsize = sizeof(MemoryObject),
    .tp_weaklistoffset = offsetof(MemoryObject, weakrefs),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .tp_new = memory_object_new,
    .tp_init = memory_object_init,
    .tp_dealloc = memory_object_dealloc,
    .tp_repr = memory_object_repr,
    .tp_members = members,
    .tp_getset = getset,
    .tp_methods = methods,
};
