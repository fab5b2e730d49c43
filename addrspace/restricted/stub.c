/*
 * stub.c: the body of every restricted process.
 *
 * A static program without libc, linked at STUB_TEXT, one read-execute segment and no data. It prepares its process
 * (maps, signal handlers, filters), and from then on alternates between two things: the guest runs, natively; or a
 * trap has brought a thread into `on_signal`, which tells the kernel process why and waits for its answer. The answer
 * is a batch of host calls to make, often empty, and then the guest again: rt_sigreturn from the frame that
 * lies in the thread's slot. Calls from patched text come and go without a trap: patched_call.c.
 *
 * A thread finds its slot by masking its stack pointer. Nothing here trusts the guest, and nothing protects the
 * stub from it: the filter (filter.h) makes sure that a guest which meddles harms only itself.
 */
#include <asm/siginfo.h>
#include <asm/signal.h>
#include <linux/auxvec.h>
#include <linux/prctl.h>

#include "filter.h"
#include "stub.h"

#define MAP_FIXED_STRICTLY MAP_FIXED_NOREPLACE
/* Room at the start, where nothing of the host's and nothing of ours lies. */
#define SCRATCH 0x7ff200000000
#define MREMAP_TO_ADDRESS (MREMAP_MAYMOVE | MREMAP_FIXED)
#define SCM_RIGHTS 1
#define SOL_SOCKET 1
#define MSG_DONTWAIT 0x40

struct message_vector {
    void *base;
    uint64_t length;
};

struct message {
    void *name;
    uint32_t name_length;
    struct message_vector *vectors;
    uint64_t vector_count;
    void *control;
    uint64_t control_length;
    int32_t flags;
};

struct control_message {
    uint64_t length;
    int32_t level;
    int32_t type;
    int32_t descriptors[];
};

struct kernel_sigaction {
    void *handler;
    uint64_t flags;
    void *restorer;
    uint64_t mask;
};

#pragma GCC visibility push(hidden)
long host_call(long number, uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4, uint64_t a5);
_Noreturn void switch_stack(void *stack, struct control *control, uint64_t vdso_parts);
extern const char host_call_return[], handle_signal[], start_thread[];

/*
 * The only `syscall` instruction. Whoever arrives here by way of clone has a stack whose top word is `start_thread`.
 * `handle_signal` passes on the three arguments of a signal handler and, as the fourth, the slot.
 */
__asm__(
    ".text\n"
    ".globl _start, leave_end, host_call, host_call_site, host_call_return, leave, handle_signal, start_thread, switch_stack\n"
    "_start:\n"
    "    xor %ebp, %ebp\n"
    "    mov %rsp, %rdi\n"
    "    and $-16, %rsp\n"
    "    call prepare\n"
    "    hlt\n"
    "leave:\n"
    "    mov %rdi, %rsp\n"
    "    mov $15, %eax\n"
    "    jmp host_call_site\n"
    "leave_end:\n"
    "host_call:\n"
    "    mov %rdi, %rax\n"
    "    mov %rsi, %rdi\n"
    "    mov %rdx, %rsi\n"
    "    mov %rcx, %rdx\n"
    "    mov %r8, %r10\n"
    "    mov %r9, %r8\n"
    "    mov 8(%rsp), %r9\n"
    "host_call_site:\n"
    "    syscall\n"
    "host_call_return:\n"
    "    ret\n"
    "handle_signal:\n"
    "    mov %rsp, %rcx\n"
    "    and $-0x8000, %rcx\n"
    "    call on_signal\n"
    "    hlt\n"
    "start_thread:\n"
    "    mov %rsp, %rdi\n"
    "    and $-0x8000, %rdi\n"
    "    call on_thread_start\n"
    "    hlt\n"
    "switch_stack:\n"
    "    mov %rdi, %rsp\n"
    "    mov %rsi, %rdi\n"
    "    mov %rdx, %rsi\n"
    "    call settle\n"
    "    hlt\n");
_Static_assert(SLOT_SIZE == 0x8000, "the masks above");

/* The guest's vdso (vdso.c), linked beforehand, as it is; stub.ld puts it at GUEST_VDSO. */
__asm__(".section .vdso, \"a\"\n .incbin \"" VDSO_IMAGE "\"\n .text\n");

#define CALL_OF_6(n, a, b, c, d, e, f, ...) \
    host_call(n, (uint64_t)(a), (uint64_t)(b), (uint64_t)(c), (uint64_t)(d), (uint64_t)(e), (uint64_t)(f))
#define HOST(number, ...) CALL_OF_6(__NR_##number, ##__VA_ARGS__, 0, 0, 0, 0, 0, 0)

static int failed(long result) { return (unsigned long)result > -4096UL; }

/* --- the hand-off --- */

static const struct kernel_page *const kernel_page = (struct kernel_page *)KERNEL_PAGE;

/* Whether the kernel's thread, which is awake, was last seen on this CPU: then it waits for us to leave it. */
static bool is_in_the_way(void)
{
    uint32_t cpu, kernel_cpu = __atomic_load_n(&kernel_page->kernel_cpu, __ATOMIC_RELAXED);
    if (kernel_cpu == NO_CPU)
        return false;
    __builtin_ia32_rdtscp(&cpu);
    return (cpu & TSC_AUX_CPU) == kernel_cpu;
}

static void wait_for_kernel(struct control *control, bool may_spin)
{
    uint64_t begin = __builtin_ia32_rdtsc();
    do {
        if (__atomic_load_n(&control->state, __ATOMIC_ACQUIRE) != STATE_EXITED)
            return;
        __builtin_ia32_pause();
    } while (may_spin && __builtin_ia32_rdtsc() - begin < __atomic_load_n(&control->spin, __ATOMIC_RELAXED)); /* it may become 0 */
    /* Either the kernel sees `sleeping` after it changed `state`, or futex sees the changed `state`. */
    __atomic_exchange_n(&control->sleeping, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&control->state, __ATOMIC_SEQ_CST) == STATE_EXITED)
        HOST(futex, &control->state, FUTEX_WAIT, STATE_EXITED);
    __atomic_store_n(&control->sleeping, 0, __ATOMIC_RELAXED);
}

void report(struct control *control)
{
    static const uint64_t one = 1;
    /* A full barrier: the kernel either finds EXITED when it looks a last time, or we find that it sleeps. */
    __atomic_exchange_n(&control->state, STATE_EXITED, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&kernel_page->kernel_sleeps, __ATOMIC_SEQ_CST)) {
        HOST(write, DOORBELL_FD, &one, 8);
        wait_for_kernel(control, true);
    } else
        wait_for_kernel(control, !is_in_the_way());
}

/* --- batches --- */

/* Messages belong to batches by number, whichever thread comes first. */
static long receive(struct control *control, uint32_t number)
{
    struct control *first = (struct control *)CONTROL_BASE;
    struct { int64_t seconds, nanoseconds; } pause = {0, 50000};
    for (int tries = 0; __atomic_load_n(&first->receive_turn, __ATOMIC_ACQUIRE) != number; tries++) {
        if (tries > 1000)
            HOST(futex, &control->state, FUTEX_WAIT, STATE_RUNNING, &pause);
        __builtin_ia32_pause();
    }
    char byte;
    struct message_vector vector = {&byte, 1};
    struct message message = {0, 0, &vector, 1, control->received, sizeof control->received, 0};
    ((struct control_message *)control->received)->length = 0;
    long result = HOST(recvmsg, SOCKET_FD, &message, MSG_DONTWAIT);
    __atomic_store_n(&first->receive_turn, number + 1, __ATOMIC_RELEASE);
    return result;
}

static uint32_t received_count(struct control *control)
{
    uint64_t length = ((struct control_message *)control->received)->length;
    return length < 16 || length > sizeof control->received ? 0 : (uint32_t)((length - 16) / 4);
}

/* What the batch calls FIRST_INSTALLED_FD + n is the n-th descriptor that it received. */
static int *received_descriptor(struct control *control, uint64_t descriptor)
{
    uint64_t index = descriptor - FIRST_INSTALLED_FD;
    return index < received_count(control) ? &((struct control_message *)control->received)->descriptors[index] : 0;
}

static bool make_calls(struct control *control, uint32_t count)
{
    bool broken = false;
    control->calls_done = count;
    ((struct control_message *)control->received)->length = 0;
    for (uint32_t index = 0; index < count && index < BATCH_CAPACITY; index++) {
        struct host_call *call = &control->batch[index];
        uint64_t *a = call->arguments;
        if (broken && !(call->flags & CALL_ALWAYS))
            continue;
        if (call->number == __NR_recvmsg) {
            call->result = receive(control, (uint32_t)a[0]);
        } else if (call->number == __NR_close) {
            int *descriptor = received_descriptor(control, a[0]);
            call->result = HOST(close, descriptor ? *descriptor : -1);
            if (descriptor)
                *descriptor = -1;
        } else {
            uint64_t a4 = a[4];
            if (call->number == __NR_mmap && (uint32_t)a4 >= FIRST_INSTALLED_FD) {
                int *descriptor = received_descriptor(control, (uint32_t)a4);
                a4 = descriptor ? (uint64_t)*descriptor : ~0UL;
            } else if (call->number == __NR_clone)
                *(const void **)a[1] = start_thread;
            call->result = host_call(call->number, a[0], a[1], a[2], a[3], a4, a[5]);
        }
        if (failed(call->result) && !(call->flags & CALL_IGNORE_ERROR) && !broken) {
            control->calls_done = index;
            broken = true;
        }
    }
    for (uint32_t index = received_count(control); index-- > 0;) {
        int *descriptor = received_descriptor(control, index + FIRST_INSTALLED_FD);
        if (descriptor && *descriptor != -1)
            HOST(close, *descriptor);
    }
    return broken;
}

/* Makes the batch's calls in order; after the first error only those that must always be made. Whether there was an error. */
bool run_batch(struct control *control)
{
    uint32_t count = control->calls;
    return count && make_calls(control, count);
}

/* Serves the kernel until it wants the guest to run on. All signals are blocked, here and wherever this thread came from. */
_Noreturn void serve(struct control *control)
{
    for (;;) {
        report(control);
        uint32_t resume = control->resume;
        if (run_batch(control) || (resume & RESUME_REPORT_BACK))
            control->why = WHY_BATCH;
        else if (control->kicked) {
            control->kicked = 0;
            control->why = WHY_KICKED;
        } else
            leave((char *)control + control->frame);
    }
}

/* --- the slot's address, where patched calls find it --- */

static bool has_fsgsbase(void) { return ((struct control *)CONTROL_BASE)->has_fsgsbase; }
static bool is_slot(uint64_t gs_base) { return gs_base - CONTROL_BASE < CONTROL_AREA_SIZE; }

static uint64_t read_gs_base(void)
{
    uint64_t base;
    __asm__ volatile("rdgsbase %0" : "=r"(base));
    return base;
}

static void write_gs_base(struct control *control) { __asm__ volatile("wrgsbase %0" : : "r"(control)); }

/* --- traps --- */

_Noreturn void on_signal(int number, siginfo_t *information, void *ucontext, struct control *control)
{
    if (number == KICK_SIGNAL && is_leaving(ucontext)) {
        control->kicked = 0;
        control->why = WHY_KICKED;
        serve(control);
    }
    if ((number == KICK_SIGNAL || number == SIGTRAP) && holds_thread(control, ucontext)) {
        control->kicked |= number == KICK_SIGNAL; /* a guest that steps through itself sees its call as one instruction */
        leave(ucontext);
    }
    control->why = (uint32_t)number;
    control->architecture = number == SIGSYS ? (uint32_t)information->si_arch : 0;
    control->frame = (uint32_t)((char *)ucontext - (char *)control);
    control->information = (uint32_t)((char *)information - (char *)control);
    if (has_fsgsbase()) {
        __asm__ volatile("rdfsbase %0" : "=r"(control->fs_base));
        uint64_t gs_base = read_gs_base();
        control->gs_base = is_slot(gs_base) ? 0 : gs_base;
    }
    serve(control);
}

_Noreturn void on_thread_start(struct control *control)
{
    if (has_fsgsbase() && is_slot(read_gs_base()))
        write_gs_base(control); /* it was born with that of the thread that made it */
    if (control->resume & RESUME_START)
        leave((char *)control + control->frame);
    control->why = WHY_THREAD_STARTED;
    serve(control);
}

/* --- the start --- */

static _Noreturn void give_up(int step, long result)
{
    struct control *first = (struct control *)CONTROL_BASE;
    if (step != START_MAP_CONTROL && step != START_MOVE_VDSO) {
        first->start_step = (uint32_t)step;
        first->start_errno = (uint32_t)-result;
    }
    HOST(exit_group, START_EXIT_STATUS + step);
    for (;;)
        HOST(exit);
}

static void check(int step, long result)
{
    if (failed(result))
        give_up(step, result);
}

static void map_at(int step, uint64_t address, uint64_t size, int protection, int descriptor)
{
    long result = HOST(mmap, address, size, protection, MAP_SHARED | MAP_FIXED_STRICTLY, descriptor);
    check(step, result);
    if ((uint64_t)result != address)
        give_up(step, -17);
}

/* All signals are blocked since before exec, until the first frame is loaded. */
static void install_handlers(void)
{
    static const int signals[] = {SIGSYS, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, KICK_SIGNAL};
    struct kernel_sigaction action = {(void *)handle_signal, SA_SIGINFO | SA_ONSTACK | SA_RESTORER, (void *)leave, ~0UL};
    for (unsigned index = 0; index < sizeof signals / sizeof *signals; index++)
        check(START_SIGNALS, HOST(rt_sigaction, signals[index], &action, 0, 8));
}

/* The descriptor on which the kernel is asked about every clone goes to the kernel, and only there. */
static void send_listener(int listener)
{
    char byte = 'L';
    struct message_vector vector = {&byte, 1};
    uint64_t buffer[3];
    struct control_message *control = (struct control_message *)buffer;
    control->length = 20;
    control->level = SOL_SOCKET;
    control->type = SCM_RIGHTS;
    control->descriptors[0] = listener;
    struct message message = {0, 0, &vector, 1, control, sizeof buffer, 0};
    check(START_SEND_LISTENER, HOST(sendmsg, SOCKET_FD, &message, 0));
    check(START_SEND_LISTENER, HOST(close, listener));
}

static void install_filters(struct control *first)
{
    _Static_assert(sizeof final_filter <= sizeof first->batch, "room to complete the filter");
    struct sock_filter *code = (struct sock_filter *)first->batch;
    const volatile struct sock_filter *source = final_filter;
    for (unsigned index = 0; index < sizeof final_filter / sizeof *final_filter; index++)
        code[index] = source[index];
    code[FINAL_FILTER_SITE_LOW].k = (uint32_t)(uint64_t)host_call_return;
    struct sock_fprog clone_program = {sizeof clone_filter / sizeof *clone_filter, (struct sock_filter *)clone_filter};
    struct sock_fprog final_program = {sizeof final_filter / sizeof *final_filter, code};
    check(START_NO_NEW_PRIVS, HOST(prctl, PR_SET_NO_NEW_PRIVS, 1));
    long listener = HOST(seccomp, SECCOMP_SET_MODE_FILTER,
                         SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_SPEC_ALLOW, &clone_program);
    check(START_CLONE_FILTER, listener);
    send_listener((int)listener);
    check(START_FILTER, HOST(seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &final_program));
}

static uint64_t auxiliary(uint64_t *stack, uint64_t type)
{
    uint64_t *word = stack + 1 + stack[0] + 1;
    while (*word++)
        ;
    for (; word[0] != AT_NULL; word += 2)
        if (word[0] == type)
            return word[1];
    return 0;
}

static void move_parts(uint64_t from, uint64_t to, uint64_t count, const int64_t *offset, const uint64_t *size)
{
    for (uint64_t index = 0; index < count; index++)
        check(START_MOVE_VDSO, HOST(mremap, from + (uint64_t)offset[index], size[index], size[index], MREMAP_TO_ADDRESS,
                                    to + (uint64_t)offset[index]));
}

/*
 * The host puts the vdso anywhere, also where our own maps go, one time in some thousands: then it makes way first. How
 * large it is stands in the control area, which is looked at in a place apart for that.
 */
static uint64_t move_vdso(uint64_t vdso)
{
    uint64_t place = (vdso >> 32) == (SCRATCH >> 32) ? SCRATCH + 0x200000000 : SCRATCH, count;
    int64_t offset[4];
    uint64_t size[4];
    map_at(START_MAP_CONTROL, place, CONTROL_SIZE, PROT_READ, CONTROL_FD);
    const volatile struct control *first = (struct control *)place;
    count = vdso ? first->vdso_parts : 0;
    for (uint64_t index = 0; index < count && index < 4; index++) {
        offset[index] = first->vdso_offset[index];
        size[index] = first->vdso_size[index];
    }
    check(START_MAP_CONTROL, HOST(munmap, place, CONTROL_SIZE));
    if (vdso >= STUB_TEXT) {
        move_parts(vdso, place + VDSO_ADDRESS - VDSO_BASE, count, offset, size);
        vdso = place + VDSO_ADDRESS - VDSO_BASE;
    }
    move_parts(vdso, VDSO_ADDRESS, count, offset, size);
    return count;
}

void prepare(uint64_t *stack)
{
    struct control *first = (struct control *)CONTROL_BASE;
    uint64_t parts = move_vdso(auxiliary(stack, AT_SYSINFO_EHDR));
    map_at(START_MAP_CONTROL, CONTROL_BASE, CONTROL_AREA_SIZE, PROT_READ | PROT_WRITE, CONTROL_FD);
    map_at(START_MAP_KERNEL_PAGE, KERNEL_PAGE, KERNEL_PAGE_SIZE, PROT_READ, KERNEL_PAGE_FD);
    first->has_fsgsbase = (auxiliary(stack, AT_HWCAP2) >> 1) & 1;
    if (has_fsgsbase())
        write_gs_base(first);
    install_handlers();
    switch_stack((char *)first + CONTROL_SIZE, first, parts);
}

/* On the slot's own stack: all that is not ours goes, then the doors close. */
_Noreturn void settle(struct control *first, uint64_t parts)
{
    uint64_t kept[][2] = {
        {STUB_TEXT, ((uint64_t)stub_end + PAGE_BYTES - 1) & -(uint64_t)PAGE_BYTES},
        {VDSO_BASE, parts ? VDSO_END : VDSO_BASE},
        {KERNEL_PAGE, KERNEL_PAGE + KERNEL_PAGE_SIZE},
        {CONTROL_BASE, CONTROL_BASE + CONTROL_AREA_SIZE},
        {TASK_LIMIT, TASK_LIMIT},
    };
    uint64_t begin = 0;
    for (unsigned index = 0; index < sizeof kept / sizeof *kept; index++) {
        if (kept[index][0] > begin)
            check(START_UNMAP, HOST(munmap, begin, kept[index][0] - begin));
        begin = kept[index][1];
    }
    install_filters(first);
    first->why = WHY_READY;
    serve(first);
}
