/*
 * spawn.c: start a restricted process.
 *
 * The child shares our memory until it executes the stub, so it makes only system calls. It is started with every signal
 * blocked: the first frame that the stub loads unblocks them. SIGKILL at our death is asked for after the change of
 * identity, which would clear it, and is bound to the thread that creates the child: the main thread, which lives longest, or
 * the monitor's spawner (spawner.c), which lives as long as the monitor.
 */
#include "object.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CHILD_STACK 65536
#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC 4
#endif

struct start {
    int descriptors[FIRST_INSTALLED_FD];
    int stub_fd, uid, gid;
    const cpu_set_t *cpus;
    pid_t parent;
    const char *step;
    int error;
};

static int give_up(struct start *start, const char *step)
{
    start->step = step;
    start->error = errno;
    syscall(SYS_exit_group, 127);
    return 0;
}

/* glibc's setresuid and setresgid would signal our other threads, which are not the child's. */
static int child(void *argument)
{
    struct start *start = argument;
    struct rlimit none = {0, 0};
    int moved[FIRST_INSTALLED_FD];
    syscall(SYS_setsid);
    syscall(SYS_sched_setaffinity, 0, sizeof *start->cpus, start->cpus); /* not ours of the moment: see pin.c */
    /* To ignore a signal discards one that waits; then all are at their defaults. */
    for (int number = 1; number < 32; number++) {
        signal(number, SIG_IGN);
        signal(number, SIG_DFL);
    }
    for (int index = 0; index < FIRST_INSTALLED_FD; index++)
        if ((moved[index] = fcntl(start->descriptors[index], F_DUPFD_CLOEXEC, 32)) < 0)
            return give_up(start, "duplicate descriptors");
    int stub_fd = fcntl(start->stub_fd, F_DUPFD_CLOEXEC, 32);
    for (int index = 0; index < FIRST_INSTALLED_FD; index++)
        if (dup2(moved[index], index) < 0)
            return give_up(start, "duplicate descriptors");
    if (syscall(SYS_close_range, FIRST_INSTALLED_FD, ~0U, CLOSE_RANGE_CLOEXEC) < 0)
        return give_up(start, "close_range");
    int score = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (score >= 0 && write(score, "1000", 4) < 0)
        score = -1; /* allowed always in fact: it only makes us a better victim */
    if (start->gid >= 0 && (syscall(SYS_setgroups, 0, NULL) < 0 ||
                            syscall(SYS_setresgid, start->gid, start->gid, start->gid) < 0))
        return give_up(start, "setresgid");
    if (start->uid >= 0 && syscall(SYS_setresuid, start->uid, start->uid, start->uid) < 0)
        return give_up(start, "setresuid");
    syscall(SYS_prlimit64, 0, RLIMIT_CORE, &none, NULL);
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
        return give_up(start, "PR_SET_PDEATHSIG");
    if (syscall(SYS_getppid) != start->parent)
        syscall(SYS_exit_group, 127);
    char *arguments[] = {"polynix-stub", NULL}, *environment[] = {NULL};
    syscall(SYS_execveat, stub_fd, "", arguments, environment, AT_EMPTY_PATH);
    return give_up(start, "execute the stub");
}

/* The object grows with the slots in use (stub_slot), so that a guest can't fill more of it than it has threads. */
static char *make_control_area(Monitor *monitor, int *descriptor)
{
    *descriptor = memfd_create("polynix-control", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (*descriptor < 0 || ftruncate(*descriptor, FIRST_SLOTS * SLOT_SIZE) < 0 ||
        fcntl(*descriptor, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_SEAL) < 0)
        return NULL;
    char *area = mmap(NULL, CONTROL_AREA_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, *descriptor, 0);
    if (area == MAP_FAILED)
        return NULL;
    struct control *first = (struct control *)area;
    first->vdso_parts = monitor->vdso_parts;
    memcpy(first->vdso_offset, monitor->vdso_offset, sizeof first->vdso_offset);
    memcpy(first->vdso_size, monitor->vdso_size, sizeof first->vdso_size);
    return area;
}

static bool start_child(struct start *start, char **stack, int *pid, int *pidfd)
{
    if (!*stack) {
        *stack = mmap(NULL, CHILD_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
        if (*stack == MAP_FAILED) {
            *stack = NULL;
            start->step = "map a stack";
            start->error = errno;
            return false;
        }
    }
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    *pid = clone(child, *stack + CHILD_STACK, CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD, start, pidfd);
    int error = errno;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (*pid < 0) {
        start->step = "clone";
        start->error = error;
    }
    return *pid >= 0 && !start->step;
}

/* Makes the process and all that it shares with us. Touches no Python object that another thread could change. */
void birth_start(Monitor *monitor, struct birth *birth, char **stack)
{
    struct start start = {.stub_fd = monitor->stub_fd, .uid = monitor->uid, .gid = monitor->gid, .cpus = &monitor->cpus, .parent = getpid()};
    int sockets[2] = {-1, -1};
    birth->control_fd = birth->socket_fd = birth->pidfd = birth->pid = -1;
    if (!(birth->area = make_control_area(monitor, &birth->control_fd))) {
        start.step = "make the control area";
        start.error = errno;
    } else if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) < 0) {
        start.step = "socketpair";
        start.error = errno;
    } else {
        for (int index = 0; index < FIRST_INSTALLED_FD; index++)
            start.descriptors[index] = monitor->doorbell_fd;
        start.descriptors[CONTROL_FD] = birth->control_fd;
        start.descriptors[REGION_FD] = birth->region_fd;
        start.descriptors[SOCKET_FD] = sockets[1];
        start.descriptors[KERNEL_PAGE_FD] = monitor->page_fd;
        birth->socket_fd = sockets[0];
        start_child(&start, stack, &birth->pid, &birth->pidfd);
        close(sockets[1]);
    }
    birth->step = start.step;
    birth->error = start.error;
}

/* The Stub that owns what birth_start made, also of a failed birth; then closed, and NULL with an exception. */
Stub *birth_adopt(Monitor *monitor, const struct birth *birth)
{
    Stub *stub = PyObject_GC_New(Stub, &Stub_Type);
    if (!stub)
        return NULL;
    memset((char *)stub + sizeof(PyObject), 0, sizeof *stub - sizeof(PyObject));
    stub->monitor = (Monitor *)Py_NewRef(monitor);
    stub->listener_fd = -1;
    stub->pid = birth->pid;
    stub->pidfd = birth->pidfd;
    stub->socket_fd = birth->socket_fd;
    stub->control_fd = birth->control_fd;
    stub->area = birth->area;
    stub->backed_slots = FIRST_SLOTS;
    stub->reaped = birth->pid <= 0;
    PyObject_GC_Track(stub);
    Slot *slot = birth->step ? NULL : stub_slot(stub, 0);
    if (!slot || monitor_add_running(monitor, slot) < 0) {
        if (birth->step) {
            errno = birth->error;
            PyErr_SetFromErrnoWithFilename(PyExc_OSError, birth->step);
        }
        stub_do_close(stub);
        Py_DECREF(stub);
        return NULL;
    }
    return stub;
}

Stub *spawn_stub(Monitor *monitor, int region_fd)
{
    static char *stack;
    if (syscall(SYS_gettid) != getpid()) {
        PyErr_SetString(PyExc_RuntimeError, "stubs die with the thread that makes them: spawn from the main thread");
        return NULL;
    }
    struct birth birth = {.region_fd = region_fd};
    birth_start(monitor, &birth, &stack);
    return birth_adopt(monitor, &birth);
}
