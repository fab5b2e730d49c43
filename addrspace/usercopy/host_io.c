/* UserMap's host reads and writes: preadv2 and pwritev2 straight into and out of guest pages. */
#define _GNU_SOURCE
#include "usercopy.h"

#include <errno.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define VECTORS 1024 /* the host's IOV_MAX */
#define UNMAPPED ((void *)8) /* in page 0: where guest memory faults, so does the host's call, and in its own order of checks */

struct vectors {
    int count;
    uint64_t total;
    bool faulted;
    struct iovec iov[VECTORS];
    uint32_t windows[VECTORS]; /* pinned: on_fault may run while they are gathered */
};

/* Adds guest memory; false ends the gathering: a fault, enough, or (result -1) an exception. */
static bool gather(UserMap *map, struct vectors *v, uint64_t address, uint64_t n, bool write, int *result)
{
    n = n < LARGEST_TRANSFER - v->total ? n : LARGEST_TRANSFER - v->total;
    while (n) {
        struct span span;
        if (v->count == VECTORS)
            return false;
        *result = user_map_span(map, address, n, write, &span);
        if (*result) {
            v->faulted = true;
            return false;
        }
        window_pin(span.window);
        v->windows[v->count] = span.window;
        v->iov[v->count++] = (struct iovec){.iov_base = span.ptr, .iov_len = span.length};
        v->total += span.length;
        address += span.length;
        n -= span.length;
    }
    return v->total < LARGEST_TRANSFER;
}

static bool transfer(struct vectors *v, int result, const struct host_position *position, bool write, int64_t *done)
{
    if (result >= 0) {
        int count = v->count;
        if (v->faulted && count < VECTORS)
            v->iov[count++] = (struct iovec){.iov_base = UNMAPPED, .iov_len = PAGE_SIZE - 8};
        long long offset = position->offset < 0 ? -1ll : position->offset;
        *done = syscall(write ? SYS_preadv2 : SYS_pwritev2, position->fd, v->iov, count, offset, 0, position->flags);
        if (*done < 0)
            *done = -errno;
    }
    for (int i = 0; i < v->count; i++)
        window_unpin(v->windows[i]);
    return result >= 0;
}

bool host_position_get(PyObject *fd, PyObject *offset, PyObject *flags, struct host_position *position)
{
    position->fd = (int)PyLong_AsLong(fd);
    position->offset = PyLong_AsLongLong(offset);
    position->flags = flags ? (int)PyLong_AsLong(flags) : 0;
    return !PyErr_Occurred();
}

bool user_map_host_io(UserMap *map, uint64_t address, uint64_t n, const struct host_position *position, bool write, int64_t *done)
{
    int result = 0;
    struct vectors v;
    v.count = 0, v.total = 0, v.faulted = false;
    gather(map, &v, address, n, write, &result);
    return transfer(&v, result, position, write, done);
}

static PyObject *one(const char *name, PyObject *map, PyObject *const *args, Py_ssize_t nargs, bool write)
{
    struct host_position position;
    uint64_t address, n;
    int64_t done;
    if (!arguments_check(name, nargs, 4, 5) || !user_address_get(args[1], &address) || !argument_size(args[2], &n)
        || !host_position_get(args[0], args[3], nargs > 4 ? args[4] : NULL, &position)
        || !user_map_host_io((UserMap *)map, address, n, &position, write, &done))
        return NULL;
    return PyLong_FromLongLong(done);
}

static PyObject *many(const char *name, PyObject *map, PyObject *const *args, Py_ssize_t nargs, bool write)
{
    int result = 0;
    int64_t done;
    struct host_position position;
    struct vectors v;
    if (!arguments_check(name, nargs, 3, 4) || !host_position_get(args[0], args[2], nargs > 3 ? args[3] : NULL, &position))
        return NULL;
    PyObject *iov = PySequence_Fast(args[1], "expected a sequence of (UserAddress, int)");
    if (!iov)
        return NULL;
    v.count = 0, v.total = 0, v.faulted = false;
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(iov); i++) {
        uint64_t address, n;
        if (!argument_iov(PySequence_Fast_GET_ITEM(iov, i), &address, &n)) {
            result = -1;
            break;
        }
        if (!gather((UserMap *)map, &v, address, n, write, &result))
            break;
    }
    Py_DECREF(iov);
    return transfer(&v, result, &position, write, &done) ? PyLong_FromLongLong(done) : NULL;
}

static PyObject *user_pread(PyObject *map, PyObject *const *args, Py_ssize_t nargs)
{
    return one("pread", map, args, nargs, true);
}

static PyObject *user_pwrite(PyObject *map, PyObject *const *args, Py_ssize_t nargs)
{
    return one("pwrite", map, args, nargs, false);
}

static PyObject *user_preadv(PyObject *map, PyObject *const *args, Py_ssize_t nargs)
{
    return many("preadv", map, args, nargs, true);
}

static PyObject *user_pwritev(PyObject *map, PyObject *const *args, Py_ssize_t nargs)
{
    return many("pwritev", map, args, nargs, false);
}

#define FAST(name, doc) {#name, (PyCFunction)(void (*)(void))user_##name, METH_FASTCALL, doc}
PyMethodDef user_map_host_io_methods[] = {
    FAST(pread, "pread(fd, address, n, offset, flags=0) -> count or -errno: from a host descriptor; offset -1 reads at its position"),
    FAST(pwrite, "pwrite(fd, address, n, offset, flags=0) -> count or -errno: to a host descriptor; offset -1 writes at its position"),
    FAST(preadv, "preadv(fd, [(address, n)], offset, flags=0) -> count or -errno"),
    FAST(pwritev, "pwritev(fd, [(address, n)], offset, flags=0) -> count or -errno"),
    {0},
};
