/*
 * object.h: the three Python types of polynix.addrspace._restricted, as its C files see them.
 *
 * Monitor owns the doorbell, the page that all stubs read, and the set of threads that are running; Stub is one
 * restricted process; Slot is one host thread of it, as the kernel sees it: held (by us) or running.
 * All belong to the thread that calls Monitor.wait; only Monitor.wake may be called from another.
 */
#ifndef POLYNIX_OBJECT_H
#define POLYNIX_OBJECT_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/ucontext.h> /* REG_* */
#include <time.h>

#include "layout.h"

typedef struct Monitor Monitor;
typedef struct Stub Stub;
typedef struct Slot Slot;

#define FIRST_SLOTS 16
#define CALL_WORDS 7 /* number and arguments of a system call */
#define PINNED_MAX 16
#define PINNED_COMPUTING_US 2000

enum slot_state { SLOT_FREE, SLOT_HELD, SLOT_RUNNING };

struct running {
    uint32_t *state;
    Slot *slot; /* a strong reference */
};

struct Monitor {
    PyObject_HEAD
    struct running *running;
    Py_ssize_t running_count, running_room;
    struct kernel_page *page;
    int page_fd, epoll_fd, doorbell_fd, stub_fd;
    uint64_t doorbell_value; /* what eventfd reads and writes need memory for */
    int uid, gid;
    bool waiting, closed;
    uint32_t woken;
    uint32_t pending_clones; /* of all stubs: look at epoll more often while there are any */
    uint64_t last_poll;      /* time stamp of the last look at epoll */
    uint64_t ticks_per_us;
    uint64_t late_answers;   /* resumes of threads that had spun in vain */
    uint64_t stub_spin;      /* ns that a thread may spin for the kernel before it sleeps, given to it at each resume */
    uint32_t sample_period;  /* every so many traps of a process one is reported as SYSCALL_SAMPLE; 0: none */
    uint64_t vdso_parts;
    int64_t vdso_offset[4];
    uint64_t vdso_size[4];
    Stub **listeners;        /* by descriptor; borrowed */
    int listener_room;
    int *graveyard;          /* pidfds of stubs that were closed before they were reaped */
    int graveyard_count;
    struct spawner *spawner; /* NULL before the first order */
    cpu_set_t cpus;          /* that we may use */
    int gathered_cpu;        /* where we are pinned; -1: anywhere */
    uint32_t gathering;      /* numbers the times of being pinned */
    Slot *pinned[PINNED_MAX]; /* borrowed: a slot leaves with its stub */
    int pinned_count;
};

struct pending_clone {
    struct pending_clone *next;
    Slot *parent, *child; /* the child is a strong reference */
    uint64_t flags, stack, child_tid, tls;
};

struct Stub {
    PyObject_HEAD
    Monitor *monitor;
    PyObject *tag;
    int pid, pidfd, socket_fd, listener_fd, control_fd;
    uint32_t backed_slots; /* the control object is as large as these */
    char *area; /* the control area; NULL once closed */
    Slot *slots[SLOT_COUNT];
    struct pending_clone *clones;
    uint32_t messages; /* numbers the batches' messages */
    uint32_t traps;    /* system calls since the last sample */
    bool hostile, reaped;
    int status;
};

struct Slot {
    PyObject_HEAD
    Stub *stub;
    PyObject *task;
    struct control *control; /* valid while stub->area is */
    uint32_t index;
    enum slot_state state;
    Py_ssize_t running_index;
    uint32_t frame, information; /* checked offsets; 0 means none */
    bool light;                  /* it made a patched call, and nothing of its frame but the result has been changed */
    int reason, signal;
    uint32_t architecture;
    uint32_t calls, calls_sent, calls_done;
    uint64_t spin; /* ns */
    bool calm;     /* it was told not to spin */
    bool pinned;   /* to our CPU */
    bool own_cpus; /* somebody else says where it runs: not to be pinned */
    uint32_t talks, gathering; /* calls in this gathering */
    uint32_t gap_us;           /* the running mean of what it computes between calls while gathered */
    uint64_t resumed_at;       /* time stamp, while gathered; else 0 */
    uint64_t fs_base, gs_base;
    PyObject *last_call; /* what syscall() returned last, of these words; or NULL */
    uint64_t last_words[CALL_WORDS];
};

extern PyTypeObject Monitor_Type, Stub_Type, Slot_Type;

/* wait.c */
int monitor_add_running(Monitor *monitor, Slot *slot);
void monitor_remove_running(Monitor *monitor, Slot *slot);
PyObject *monitor_wait(Monitor *monitor, PyObject *const *args, Py_ssize_t count);

/* monitor.c */
int monitor_check_open(Monitor *monitor); /* 0, or -1 with an exception */
int monitor_add_listener(Monitor *monitor, Stub *stub);
void monitor_remove_listener(Monitor *monitor, Stub *stub);
void monitor_bury(Monitor *monitor, int pidfd);

/* stub_object.c */
Slot *stub_slot(Stub *stub, uint32_t index);
bool stub_receive_listener(Stub *stub);
int stub_answer_clone(Stub *stub);
void stub_drop_clones_of(Stub *stub, Slot *parent);
void stub_do_close(Stub *stub);

/* spawn.c */
struct birth { /* of a restricted process: what it needs, and what came of it */
    struct birth *next;
    uint64_t number;
    int region_fd;
    char *area;
    int control_fd, socket_fd, pid, pidfd;
    const char *step; /* that failed, with this errno */
    int error;
};
void birth_start(Monitor *monitor, struct birth *birth, char **stack);
Stub *birth_adopt(Monitor *monitor, const struct birth *birth);
Stub *spawn_stub(Monitor *monitor, int region_fd);

/* pin.c */
void pin_describe_cpu(struct kernel_page *page);
void pin_tell_cpu(Monitor *monitor);
void pin_consider(Slot *slot);
void pin_measure(Slot *slot); /* it left the guest, to which it went while gathered */
void pin_release(Slot *slot); /* may run anywhere again */
void pin_remove(Slot *slot);  /* it is gone */
bool pin_any_running(const Monitor *monitor);
void pin_release_computing(Monitor *monitor);
PyObject *monitor_gather(Monitor *monitor, PyObject *unused);
PyObject *monitor_scatter(Monitor *monitor, PyObject *unused);

/* spawner.c */
PyObject *monitor_order(Monitor *monitor, PyObject *region);
PyObject *monitor_spawned(Monitor *monitor, PyObject *unused);
PyObject *monitor_spawned_fd(Monitor *monitor, void *unused);
void spawner_end(Monitor *monitor);

/* slot.c */
int slot_check(Slot *slot, enum slot_state state); /* 0, or -1 with an exception */

/* batch.c */
struct host_call *batch_next(Slot *slot); /* cleared, and counted by the caller; NULL with an exception */
PyObject *slot_push(Slot *slot, PyObject *const *args, Py_ssize_t count, PyObject *names);
PyObject *slot_push_recv_fds(Slot *slot, PyObject *count);
PyObject *slot_push_clone(Slot *slot, PyObject *args, PyObject *names);
PyObject *slot_batch_results(Slot *slot, PyObject *unused);

/* frame.c: every function wants a held slot */
struct ucontext_image;
struct ucontext_image *frame_of(Slot *slot); /* NULL with an exception when there is none */
void frame_sanitize(struct ucontext_image *frame, Slot *slot);
int frame_init(Slot *slot, uint64_t ip, uint64_t sp);
PyObject *frame_save(Slot *slot);
int frame_load(Slot *slot, const char *data, Py_ssize_t length);
PyObject *frame_xstate(Slot *slot);
int frame_set_xstate(Slot *slot, const char *data, Py_ssize_t length);
void frame_set_register(Slot *slot, struct ucontext_image *frame, unsigned index, uint64_t value);
void frame_describe_xstate(struct kernel_page *page);

/* The kernel's struct ucontext with struct sigcontext, 304 bytes. */
enum { REG_COUNT = REG_CR2 + 1 };
struct ucontext_image {
    uint64_t flags, link;
    uint64_t stack_base;
    uint32_t stack_flags, stack_padding;
    uint64_t stack_size;
    uint64_t registers[REG_COUNT];
    uint64_t fpstate;
    uint64_t reserved[8];
    uint64_t mask;
};
_Static_assert(sizeof(struct ucontext_image) == 304, "the host's layout");

/* Tokens with the top bit are ours: the doorbell's, and listeners by descriptor. */
#define OUR_TOKEN (1UL << 63)
#define DOORBELL_TOKEN (OUR_TOKEN | (1UL << 32))
static inline uint64_t ticks(void) { return __builtin_ia32_rdtsc(); }

static inline uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* Any int, taken modulo 2^64; false with an exception. */
static inline bool word_of(PyObject *number, uint64_t *word)
{
    *word = PyLong_AsUnsignedLongLongMask(number);
    return !(*word == (uint64_t)-1 && PyErr_Occurred());
}

static inline uint64_t slot_address(uint32_t index) { return CONTROL_BASE + (uint64_t)index * SLOT_SIZE; }

#endif
