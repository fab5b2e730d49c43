/*
 * spawner.c: a thread that starts restricted processes ahead of need, so that the kernel's loop does not wait for exec.
 *
 * The loop gives it orders and collects what came of them; an eventfd tells when. The thread calls nothing of Python and takes no
 * GIL; between the two threads there are only the two lists below. It starts with the first order and ends with the monitor: what it
 * made dies with it (PR_SET_PDEATHSIG is bound to the creating thread).
 */
#include "object.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct spawner {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    Monitor *monitor;
    struct birth *orders, **last_order;
    struct birth *results, **last_result;
    bool ending;
    int event_fd;
    uint64_t number;
};

static void append(struct birth *birth, struct birth ***last)
{
    birth->next = NULL;
    **last = birth;
    *last = &birth->next;
}

static void *work(void *argument)
{
    struct spawner *spawner = argument;
    char *stack = NULL;
    uint64_t one = 1;
    pthread_mutex_lock(&spawner->lock);
    for (;;) {
        while (!spawner->orders && !spawner->ending)
            pthread_cond_wait(&spawner->changed, &spawner->lock);
        if (spawner->ending)
            break;
        struct birth *birth = spawner->orders;
        if (!(spawner->orders = birth->next))
            spawner->last_order = &spawner->orders;
        pthread_mutex_unlock(&spawner->lock);
        birth_start(spawner->monitor, birth, &stack);
        close(birth->region_fd);
        pthread_mutex_lock(&spawner->lock);
        append(birth, &spawner->last_result);
        if (write(spawner->event_fd, &one, 8) < 0)
            continue; /* the counter is full: the loop has been told often enough */
    }
    pthread_mutex_unlock(&spawner->lock);
    return NULL;
}

static struct spawner *start_spawner(Monitor *monitor)
{
    struct spawner *spawner = calloc(1, sizeof *spawner);
    if (!spawner) {
        PyErr_NoMemory();
        return NULL;
    }
    spawner->monitor = monitor;
    spawner->last_order = &spawner->orders;
    spawner->last_result = &spawner->results;
    pthread_mutex_init(&spawner->lock, NULL);
    pthread_cond_init(&spawner->changed, NULL);
    spawner->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = spawner->event_fd < 0 ? errno : pthread_create(&spawner->thread, NULL, work, spawner);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error) {
        if (spawner->event_fd >= 0)
            close(spawner->event_fd);
        free(spawner);
        errno = error;
        PyErr_SetFromErrno(PyExc_OSError);
        return NULL;
    }
    return spawner;
}

static struct spawner *get_spawner(Monitor *monitor)
{
    if (!monitor->spawner && !monitor->closed)
        monitor->spawner = start_spawner(monitor);
    else if (monitor->closed)
        PyErr_SetString(PyExc_RuntimeError, "the monitor is closed");
    return monitor->spawner;
}

PyObject *monitor_order(Monitor *monitor, PyObject *region)
{
    int region_fd = PyObject_AsFileDescriptor(region);
    struct spawner *spawner = region_fd < 0 ? NULL : get_spawner(monitor);
    struct birth *birth = spawner ? calloc(1, sizeof *birth) : NULL;
    if (!birth)
        return PyErr_Occurred() ? NULL : PyErr_NoMemory();
    if ((birth->region_fd = fcntl(region_fd, F_DUPFD_CLOEXEC, 64)) < 0) {
        free(birth);
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    pthread_mutex_lock(&spawner->lock);
    uint64_t number = birth->number = ++spawner->number;
    append(birth, &spawner->last_order);
    pthread_cond_signal(&spawner->changed);
    pthread_mutex_unlock(&spawner->lock);
    return PyLong_FromUnsignedLongLong(number);
}

PyObject *monitor_spawned_fd(Monitor *monitor, void *unused)
{
    struct spawner *spawner = get_spawner(monitor);
    return spawner ? PyLong_FromLong(spawner->event_fd) : NULL;
}

static struct birth *take_results(struct spawner *spawner)
{
    uint64_t count;
    pthread_mutex_lock(&spawner->lock);
    struct birth *results = spawner->results;
    spawner->results = NULL;
    spawner->last_result = &spawner->results;
    bool told = read(spawner->event_fd, &count, 8) == 8;
    (void)told;
    pthread_mutex_unlock(&spawner->lock);
    return results;
}

PyObject *monitor_spawned(Monitor *monitor, PyObject *unused)
{
    PyObject *list = monitor_check_open(monitor) < 0 ? NULL : PyList_New(0);
    if (!list || !monitor->spawner)
        return list;
    struct birth *next;
    for (struct birth *birth = take_results(monitor->spawner); birth; birth = next) {
        PyObject *stub = (PyObject *)birth_adopt(monitor, birth);
        if (!stub) {
            PyErr_Clear();
            stub = Py_NewRef(Py_None);
        }
        PyObject *item = Py_BuildValue("(KN)", (unsigned long long)birth->number, stub);
        if (!item || PyList_Append(list, item) < 0)
            PyErr_Clear(); /* out of memory: the stub is gone again */
        Py_XDECREF(item);
        next = birth->next;
        free(birth);
    }
    return list;
}

void spawner_end(Monitor *monitor)
{
    struct spawner *spawner = monitor->spawner;
    if (!spawner)
        return;
    monitor->spawner = NULL;
    pthread_mutex_lock(&spawner->lock);
    spawner->ending = true;
    pthread_cond_signal(&spawner->changed);
    pthread_mutex_unlock(&spawner->lock);
    pthread_join(spawner->thread, NULL);
    struct birth *next;
    for (struct birth *birth = spawner->orders; birth; birth = next) {
        next = birth->next;
        close(birth->region_fd);
        free(birth);
    }
    for (struct birth *birth = spawner->results; birth; birth = next) {
        next = birth->next;
        Stub *stub = birth_adopt(monitor, birth);
        if (stub) {
            stub_do_close(stub);
            Py_DECREF(stub);
        } else
            PyErr_Clear();
        free(birth);
    }
    close(spawner->event_fd);
    pthread_cond_destroy(&spawner->changed);
    pthread_mutex_destroy(&spawner->lock);
    free(spawner);
}
