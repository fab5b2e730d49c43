/* UserMap's copies: bytes, strings and iovecs between guest memory and Python objects. */
#include "usercopy.h"

#define TRUSTED_SIZE (64u << 10) /* larger results are allocated only after a look at the VMAs */
#define STRING_CHUNK 256

int64_t user_map_copy_in(UserMap *map, uint64_t address, char *to, uint64_t n)
{
    uint64_t done = 0;
    while (done < n) {
        struct span span;
        int result = user_map_span(map, address + done, n - done, false, &span);
        if (UNLIKELY(result))
            return result < 0 ? -1 : (int64_t)done;
        uint64_t left = recover_copy(to + done, span.ptr, span.length);
        done += span.length - left;
        if (UNLIKELY(left))
            break;
    }
    return (int64_t)done;
}

int64_t user_map_copy_out(UserMap *map, uint64_t address, const char *from, uint64_t n)
{
    uint64_t done = 0;
    while (done < n) {
        struct span span;
        int result = user_map_span(map, address + done, n - done, true, &span);
        if (UNLIKELY(result))
            return result < 0 ? -1 : (int64_t)done;
        uint64_t left = recover_copy(span.ptr, from + done, span.length);
        done += span.length - left;
        if (UNLIKELY(left))
            break;
    }
    return (int64_t)done;
}

/* Up to n bytes as a bytes object; *done tells how many there were. */
static PyObject *bytes_in(UserMap *map, uint64_t address, uint64_t n, bool all, uint64_t *done)
{
    *done = 0;
    if (UNLIKELY(n > TRUSTED_SIZE)) {
        int64_t extent = user_map_extent(map, address, n, false);
        if (extent < 0)
            return NULL;
        if (all && (uint64_t)extent < n)
            return fault_raise(address + (uint64_t)extent, 0);
        n = (uint64_t)extent;
    }
    PyObject *data = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)n);
    if (UNLIKELY(!data))
        return NULL;
    int64_t count = user_map_copy_in(map, address, PyBytes_AS_STRING(data), n);
    if (UNLIKELY(count < 0)) {
        Py_DECREF(data);
        return NULL;
    }
    *done = (uint64_t)count;
    if (UNLIKELY((uint64_t)count < n)) {
        if (all) {
            Py_DECREF(data);
            return fault_raise(address + (uint64_t)count, (uint64_t)count);
        }
        (void)_PyBytes_Resize(&data, (Py_ssize_t)count);
    }
    return data;
}

PyObject *user_map_bytes(UserMap *map, uint64_t address, uint64_t n)
{
    uint64_t done;
    return bytes_in(map, address, n, false, &done);
}

static bool address_and_size(const char *name, PyObject *const *args, Py_ssize_t nargs, uint64_t *address, uint64_t *n)
{
    return arguments_check(name, nargs, 2, 2) && user_address_get(args[0], address) && argument_size(args[1], n);
}

static PyObject *copy_in(PyObject *map, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t address, n, done;
    return address_and_size("copy_in", args, nargs, &address, &n) ? bytes_in((UserMap *)map, address, n, true, &done) : NULL;
}

static PyObject *copy_in_partial(PyObject *map, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t address, n;
    return address_and_size("copy_in_partial", args, nargs, &address, &n) ? user_map_bytes((UserMap *)map, address, n) : NULL;
}

static PyObject *buffer_out(const char *name, PyObject *map, PyObject *const *args, Py_ssize_t nargs, bool all)
{
    uint64_t address;
    Py_buffer data;
    if (!arguments_check(name, nargs, 2, 2) || !user_address_get(args[0], &address))
        return NULL;
    if (PyObject_GetBuffer(args[1], &data, PyBUF_SIMPLE) < 0)
        return NULL;
    int64_t done = user_map_copy_out((UserMap *)map, address, data.buf, (uint64_t)data.len);
    bool faulted = done < data.len;
    PyBuffer_Release(&data);
    if (done < 0)
        return NULL;
    if (all) {
        if (faulted)
            return fault_raise(address + (uint64_t)done, (uint64_t)done);
        Py_RETURN_NONE;
    }
    return PyLong_FromLongLong(done);
}

static PyObject *copy_out(PyObject *map, PyObject *const *args, Py_ssize_t nargs)
{
    return buffer_out("copy_out", map, args, nargs, false);
}

static PyObject *copy_out_all(PyObject *map, PyObject *const *args, Py_ssize_t nargs)
{
    return buffer_out("copy_out_all", map, args, nargs, true);
}

int64_t user_map_zero(UserMap *map, uint64_t address, uint64_t n)
{
    uint64_t done = 0;
    while (done < n) {
        struct span span;
        int result = user_map_span(map, address + done, n - done, true, &span);
        if (result)
            return result < 0 ? -1 : (int64_t)done;
        uint64_t left = recover_zero(span.ptr, span.length);
        done += span.length - left;
        if (left)
            break;
    }
    return (int64_t)done;
}

static PyObject *zero(PyObject *map, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t address, n;
    if (!address_and_size("zero", args, nargs, &address, &n))
        return NULL;
    int64_t done = user_map_zero((UserMap *)map, address, n);
    return done < 0 ? NULL : PyLong_FromLongLong(done);
}

/* The guest may change the string meanwhile: each byte is read once, and the NUL is looked for in the copy. */
static PyObject *read_cstring(PyObject *map, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t address, limit, done = 0;
    char first[4096], *text = first;
    size_t room = sizeof first;
    PyObject *result = NULL;
    if (!address_and_size("read_cstring", args, nargs, &address, &limit))
        return NULL;
    for (uint64_t chunk = STRING_CHUNK;; chunk = PAGE_SIZE) {
        uint64_t n = PAGE_SIZE - ((address + done) & (PAGE_SIZE - 1)); /* never into a page beyond the string's */
        n = n < chunk ? n : chunk;
        n = n < limit - done ? n : limit - done;
        if (!n) {
            result = Py_NewRef(Py_None);
            break;
        }
        if (done + n > room) {
            char *larger = PyMem_Malloc(room * 2);
            if (!larger) {
                PyErr_NoMemory();
                break;
            }
            memcpy(larger, text, done);
            if (text != first)
                PyMem_Free(text);
            text = larger;
            room *= 2;
        }
        int64_t count = user_map_copy_in((UserMap *)map, address + done, text + done, n);
        if (count < 0)
            break;
        char *end = memchr(text + done, 0, (size_t)count);
        if (end) {
            result = PyBytes_FromStringAndSize(text, end - text);
            break;
        }
        done += (uint64_t)count;
        if ((uint64_t)count < n) {
            fault_raise(address + done, done);
            break;
        }
    }
    if (text != first)
        PyMem_Free(text);
    return result;
}

static PyObject *copy_in_iov(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    UserMap *map = (UserMap *)op;
    uint64_t limit, total = 0, done = 0;
    if (!arguments_check("copy_in_iov", nargs, 2, 2) || !argument_size(args[1], &limit))
        return NULL;
    PyObject *iov = PySequence_Fast(args[0], "copy_in_iov() takes a sequence of (UserAddress, int)"), *data = NULL;
    if (!iov)
        return NULL;
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(iov) && total < limit; i++) {
        uint64_t address, n;
        if (!argument_iov(PySequence_Fast_GET_ITEM(iov, i), &address, &n))
            goto out;
        n = n < limit - total ? n : limit - total;
        int64_t extent = user_map_extent(map, address, n, false);
        if (extent < 0)
            goto out;
        total += (uint64_t)extent;
        if ((uint64_t)extent < n)
            break;
    }
    data = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)total);
    for (Py_ssize_t i = 0; data && i < PySequence_Fast_GET_SIZE(iov) && done < total; i++) {
        uint64_t address, n;
        if (!argument_iov(PySequence_Fast_GET_ITEM(iov, i), &address, &n)) {
            Py_CLEAR(data);
            break;
        }
        n = n < total - done ? n : total - done;
        int64_t count = user_map_copy_in(map, address, PyBytes_AS_STRING(data) + done, n);
        if (count < 0) {
            Py_CLEAR(data);
            break;
        }
        done += (uint64_t)count;
        if ((uint64_t)count < n)
            break;
    }
    if (data && done < total)
        (void)_PyBytes_Resize(&data, (Py_ssize_t)done);
out:
    Py_DECREF(iov);
    return data;
}

static PyObject *copy_out_iov(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    Py_buffer data;
    uint64_t done = 0;
    if (!arguments_check("copy_out_iov", nargs, 2, 2))
        return NULL;
    PyObject *iov = PySequence_Fast(args[0], "copy_out_iov() takes a sequence of (UserAddress, int)"), *result = NULL;
    if (!iov)
        return NULL;
    if (PyObject_GetBuffer(args[1], &data, PyBUF_SIMPLE) < 0) {
        Py_DECREF(iov);
        return NULL;
    }
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(iov) && done < (uint64_t)data.len; i++) {
        uint64_t address, n;
        if (!argument_iov(PySequence_Fast_GET_ITEM(iov, i), &address, &n))
            goto out;
        n = n < (uint64_t)data.len - done ? n : (uint64_t)data.len - done;
        int64_t count = user_map_copy_out((UserMap *)op, address, (char *)data.buf + done, n);
        if (count < 0)
            goto out;
        done += (uint64_t)count;
        if ((uint64_t)count < n)
            break;
    }
    result = PyLong_FromUnsignedLongLong(done);
out:
    PyBuffer_Release(&data);
    Py_DECREF(iov);
    return result;
}

#define FAST(name, doc) {#name, (PyCFunction)(void (*)(void))name, METH_FASTCALL, doc}
PyMethodDef user_map_copy_methods[] = {
    FAST(copy_in, "copy_in(address, n) -> n bytes; raises Fault"),
    FAST(copy_in_partial, "copy_in_partial(address, n) -> as many of n bytes as can be read"),
    FAST(copy_out, "copy_out(address, data) -> count stored, short at a fault"),
    FAST(copy_out_all, "copy_out_all(address, data); raises Fault, what could be stored being stored"),
    FAST(zero, "zero(address, n) -> count of zero bytes stored"),
    FAST(read_cstring, "read_cstring(address, limit) -> bytes without the NUL; None if there is none in limit bytes; raises Fault"),
    FAST(copy_in_iov, "copy_in_iov([(address, n)], limit) -> as many bytes as can be read"),
    FAST(copy_out_iov, "copy_out_iov([(address, n)], data) -> count stored, short at a fault"),
    {0},
};
