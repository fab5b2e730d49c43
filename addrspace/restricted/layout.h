/*
 * layout.h: where things lie, and what stub and kernel say to each other.
 *
 * The one definition of every constant that the stub (stub.c), its filter (filter.h), the extension
 * (polynix.addrspace._restricted) and Python share: the extension exports LAYOUT_CONSTANTS by name.
 *
 * A restricted process looks like this; nothing else is mapped in it when its guest starts:
 *
 *   0 .. GUEST_LIMIT          the guest's own maps, and above what it may map trampolines of patched text (text_store.py)
 *   STUB_TEXT                 the stub, one read-execute segment; in it, at GUEST_VDSO, the vdso that guests see (vdso.c)
 *   VDSO_ADDRESS              the host's vdso, which ours calls (its vvar pages lie just below)
 *   KERNEL_PAGE               read-only: words that the kernel process publishes to all stubs
 *   CONTROL_BASE              control area: SLOT_COUNT slots, shared with the kernel process
 *
 * A slot belongs to one host thread: struct control, the thread's alternate signal stack, in which the host
 * saves the guest's registers at every trap, and above it the place where patched calls save them in the same form.
 */
#ifndef POLYNIX_LAYOUT_H
#define POLYNIX_LAYOUT_H

#include <stdint.h>

#define GUEST_LIMIT 0x7ff000000000
#define STUB_TEXT 0x7ff800000000
#define GUEST_VDSO 0x7ff800002000
#define VDSO_BASE 0x7ff900000000
#define VDSO_END 0x7ff901000000
#define VDSO_ADDRESS 0x7ff900100000
#define KERNEL_PAGE 0x7ffa00000000
#define CONTROL_BASE 0x7ffb00000000
#define TASK_LIMIT 0x7ffffffff000

#define PAGE_BYTES 4096
#define KERNEL_PAGE_SIZE PAGE_BYTES
/* An AVX-512 frame takes 3.6 KB, an AMX frame 12 KB. */
#define SLOT_SIZE 0x8000
#define CONTROL_SIZE 0x2000
#define SLOT_COUNT 4096
#define CONTROL_AREA_SIZE (SLOT_SIZE * SLOT_COUNT)

/* Descriptors of a stub. What the kernel passes later lands at FIRST_INSTALLED_FD and above, for one batch. */
#define DOORBELL_FD 0
#define CONTROL_FD 1
#define REGION_FD 2
#define SOCKET_FD 3
#define KERNEL_PAGE_FD 4
#define FIRST_INSTALLED_FD 8
#define MAX_PASSED_FDS 253

/* SIGURG: ignored by default, so a kick is harmless before its handler is there. */
#define KICK_SIGNAL 23

#define STATE_RUNNING 0
#define STATE_EXITED 1

/* Why a thread left restricted mode, as Slot.reason has it. */
#define READY 1
#define SYSCALL 2
#define SIGNAL 3
#define KICK 4
#define BATCH 5
#define THREAD_STARTED 6
#define HOSTILE 7
/* A system call like any other; its thread's process traps often. */
#define SYSCALL_SAMPLE 8
/* A system call through the entry of another architecture, int $0x80. */
#define FOREIGN_SYSCALL 9

/* What a stub writes to control.why: a signal number, or one of these. */
#define WHY_READY 0x100
#define WHY_BATCH 0x101
#define WHY_THREAD_STARTED 0x102
#define WHY_PATCHED_CALL 0x103
/* A kick came while the stub had the thread: its registers are those of its last resume. */
#define WHY_KICKED 0x104

#define RESUME_REPORT_BACK 1
/* A new thread starts in the guest at once, with the frame that the kernel put into its slot. */
#define RESUME_START 2
/* Of a patched call: nothing but the result has changed, so the registers may be loaded without the host's help. */
#define RESUME_LIGHT 4

/* The only kind of clone: VM FS FILES SIGHAND THREAD SYSVSEM SETTLS PARENT_SETTID CHILD_CLEARTID CHILD_SETTID. */
#define THREAD_FLAGS 0x13d0f00

#define CALL_IGNORE_ERROR 1
#define CALL_ALWAYS 2

#define BATCH_CAPACITY 88

/* Steps of a stub's start, for the message when one fails. */
#define START_EXIT_STATUS 100
#define START_MAP_CONTROL 1
#define START_MAP_KERNEL_PAGE 2
#define START_MOVE_VDSO 3
#define START_SIGNALS 4
#define START_UNMAP 5
#define START_NO_NEW_PRIVS 6
#define START_CLONE_FILTER 7
#define START_SEND_LISTENER 8
#define START_FILTER 9

#define ALTERNATE_STACK_OFFSET CONTROL_SIZE
#define ALTERNATE_STACK_SIZE (PATCHED_FRAME_OFFSET - CONTROL_SIZE)
/* The ucontext of a patched call; its floating point and vector state ends with the slot. */
#define PATCHED_FRAME_OFFSET 0x7000
#define CONTROL_KICKED_OFFSET 64
/* Where trampolines of patched text jump to: the stub's first instruction. */
#define PATCHED_CALL (STUB_TEXT + 0x100)
#define FRAME_OFFSET_LIMIT (SLOT_SIZE - 304)

/* One system call of a batch. */
struct host_call {
    uint32_t number;
    uint32_t flags;
    uint64_t arguments[6];
    int64_t result;
};

struct control {
    /* The first line is all that an exit and a resume of the common kind touch. */
    uint32_t state;        /* STATE_*: the stub writes EXITED, the kernel RUNNING */
    uint32_t sleeping;     /* the stub waits in futex, so the kernel must wake it */
    uint32_t why;          /* stub to kernel: signal number or WHY_* */
    uint32_t architecture; /* stub to kernel: AUDIT_ARCH_* of the trapped call */
    uint32_t frame;        /* offset of the ucontext in the slot: the stub's at exit, the kernel's at resume */
    uint32_t information;  /* stub to kernel: offset of the siginfo */
    uint32_t calls;        /* kernel to stub: length of the batch */
    uint32_t resume;       /* kernel to stub: RESUME_* */
    uint64_t spin;         /* kernel to stub: time-stamp ticks to spin before sleeping */
    uint32_t calls_done;   /* stub to kernel: index of the call that failed, or the length of the batch */
    uint32_t tid;          /* host thread id, written by clone; 0 again when the thread has ended */
    uint64_t fs_base;      /* stub to kernel, at each trap, where user space may read it; else 0 */
    union {
        uint64_t gs_base;
        uint64_t result;   /* kernel to stub, with RESUME_LIGHT */
    };
    uint64_t line_end[0] __attribute__((aligned(64)));
    uint32_t kicked;       /* the stub's own: a kick came that the kernel has not been told of */
    uint32_t reserved;
    /* The second line: of a patched call, so that its frame need not travel between CPUs. */
    uint64_t call[7];      /* stub to kernel: number and arguments */
    uint32_t receive_turn; /* slot 0: number of the message that may be received now */
    uint32_t start_step;   /* slot 0: START_* that failed, with its errno */
    uint32_t start_errno;
    uint32_t has_fsgsbase; /* slot 0: rdfsbase may be used */
    uint64_t vdso_parts;   /* slot 0: ranges of vvar and vdso, relative to the vdso's ELF header */
    int64_t vdso_offset[4];
    uint64_t vdso_size[4];
    struct host_call batch[BATCH_CAPACITY] __attribute__((aligned(256)));
    uint64_t received[136]; /* control messages: the descriptors that the running batch received */
    uint64_t start_stack[0];
} __attribute__((aligned(CONTROL_SIZE)));

/* KERNEL_PAGE, written by the kernel process only. */
struct kernel_page {
    uint32_t kernel_sleeps; /* ring the doorbell at exit */
    uint32_t xstate_size;   /* of what a patched call saves in xsave's standard form; 0 where nothing may be patched */
    uint64_t xstate_features;
    /* For the guest's vdso: what its stopping clocks lag behind the host's, and the host's functions (0: there is none). */
    int64_t suspended_ns;
    uint64_t host_clock_gettime, host_gettimeofday, host_time, host_clock_getres, host_getcpu;
    uint32_t kernel_cpu; /* where the kernel's thread runs; NO_CPU where stubs can't tell their own */
    uint32_t reserved;
};

#define NO_CPU (~0U)
#define TSC_AUX_CPU 0xfffU /* what rdtscp tells beside the time: Linux keeps the CPU's number there */

/* Indices of the words that Monitor.publish stores. */
#define PAGE_WORD(member) (__builtin_offsetof(struct kernel_page, member) / 8)
#define SUSPENDED_NS PAGE_WORD(suspended_ns)
#define HOST_CLOCK_GETTIME PAGE_WORD(host_clock_gettime)
#define HOST_GETTIMEOFDAY PAGE_WORD(host_gettimeofday)
#define HOST_TIME PAGE_WORD(host_time)
#define HOST_CLOCK_GETRES PAGE_WORD(host_clock_getres)
#define HOST_GETCPU PAGE_WORD(host_getcpu)

_Static_assert(sizeof(struct host_call) == 64, "one call, one line");
_Static_assert(sizeof(struct control) == CONTROL_SIZE, "slot layout");
_Static_assert(__builtin_offsetof(struct control, kicked) == CONTROL_KICKED_OFFSET, "as the stub's assembly has it");
_Static_assert(CONTROL_SIZE - __builtin_offsetof(struct control, start_stack) >= 768, "room for the first stack");

#define LAYOUT_CONSTANTS(X) \
    X(GUEST_LIMIT) X(STUB_TEXT) X(GUEST_VDSO) X(VDSO_BASE) X(VDSO_END) X(VDSO_ADDRESS) X(KERNEL_PAGE) X(CONTROL_BASE) \
    X(SLOT_SIZE) X(CONTROL_SIZE) X(SLOT_COUNT) X(CONTROL_AREA_SIZE) \
    X(DOORBELL_FD) X(CONTROL_FD) X(REGION_FD) X(SOCKET_FD) X(KERNEL_PAGE_FD) X(FIRST_INSTALLED_FD) X(MAX_PASSED_FDS) \
    X(KICK_SIGNAL) X(READY) X(SYSCALL) X(SIGNAL) X(KICK) X(BATCH) X(THREAD_STARTED) X(HOSTILE) X(SYSCALL_SAMPLE) X(FOREIGN_SYSCALL) X(BATCH_CAPACITY) \
    X(PATCHED_CALL) X(SUSPENDED_NS) X(HOST_CLOCK_GETTIME) X(HOST_GETTIMEOFDAY) X(HOST_TIME) X(HOST_CLOCK_GETRES) X(HOST_GETCPU)

#endif
