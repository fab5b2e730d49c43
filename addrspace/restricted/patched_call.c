/*
 * patched_call.c: a system call of the guest that comes by a jump instead of a trap.
 *
 * A trampoline (text_store.py) has put the call's number into rax and the address behind the guest's own `syscall` into rcx, and jumped to
 * PATCHED_CALL. Here the general registers are saved as the host would save them at a trap, into a ucontext that lies
 * apart from the alternate stack; so is the floating point and vector state, which besides stays live in its registers.
 * The kernel sees a system call like any other. If it changed nothing but the result, the registers are loaded again and the guest
 * goes on; else (a signal handler, a restart) by rt_sigreturn from the same ucontext, as after a trap.
 *
 * What comes out is as after SYSCALL: rcx and r11 hold the next address and the flags, all else is preserved, and the guest's
 * stack (its red zone) is not touched. GS base leads to the slot; a guest that has set it for itself falls back to its trap.
 *
 * Signals are not blocked here, so a kick may come at any instruction. Until the guest's registers are being loaded it is only
 * remembered (`control->kicked`), and looked at last; from that look on the thread is taken to have left the stub, and the
 * kernel is told of the kick at once, with the registers that were about to be loaded.
 */
#include <asm/unistd_64.h>

#include "stub.h"

#define TEXT_OF(value) #value
#define TEXT(value) TEXT_OF(value)
#define XSTATE_MAGIC1 0x46505853u
#define XSTATE_MAGIC2 0x46505845u
#define XSTATE_DESCRIPTION 464
#define UCONTEXT_FLAGS 7 /* UC_FP_XSTATE, UC_SIGCONTEXT_SS, UC_STRICT_RESTORE_SS */
#define SELECTORS 0x002b000000000033

extern const char load_registers[], load_registers_end[], leave_unless_kicked_end[];
#pragma GCC visibility push(hidden)
void leave_unless_kicked(void *ucontext, struct control *control);
struct control *on_patched_call(struct control *control);
struct control *on_kick_before_load(struct control *control);
#pragma GCC visibility pop

/* REGISTERS_END is where EFL ends in the ucontext: the pushes go down from there, in the order of struct sigcontext. */
#define REGISTERS (0x7000 + 40)
#define REGISTERS_END (0x7000 + 40 + 18 * 8)
_Static_assert(PATCHED_FRAME_OFFSET == 0x7000 && __builtin_offsetof(struct ucontext, registers) == 40, "REGISTERS");
_Static_assert(CONTROL_BASE >> 32 == 0x7ffb, "the look at GS base below");
_Static_assert(CONTROL_KICKED_OFFSET == 64, "the looks at control->kicked below");

__asm__(
    ".section .text.first, \"ax\"\n"
    ".globl patched_call, load_registers, load_registers_end, leave_unless_kicked, leave_unless_kicked_end\n"
    "patched_call:\n"
    /* Is GS base in the control area? Found out without touching the flags: its high half backwards, less what it should be. */
    "    mov %rcx, %r11\n"
    "    rdgsbase %rcx\n"
    "    bswap %rcx\n"
    "    lea 0x4810000(%rcx), %ecx\n"
    "    jrcxz 1f\n"
    "    lea -2(%r11), %rcx\n"
    "    jmp *%rcx\n"
    "1:  mov %rsp, %rcx\n"
    "    rdgsbase %rsp\n"
    "    lea " TEXT(REGISTERS_END) "(%rsp), %rsp\n"
    "    pushfq\n"
    "    push %r11\n" /* rip */
    "    push %rcx\n" /* rsp */
    "    push %r11\n" /* rcx */
    "    push %rax\n"
    "    push %rdx\n"
    "    push %rbx\n"
    "    push %rbp\n"
    "    push %rsi\n"
    "    push %rdi\n"
    "    push %r15\n"
    "    push %r14\n"
    "    push %r13\n"
    "    push %r12\n"
    "    push 13*8(%rsp)\n" /* r11: the flags */
    "    push %r10\n"
    "    push %r9\n"
    "    push %r8\n"
    "    cld\n"
    "    lea -" TEXT(REGISTERS) "(%rsp), %rdi\n"
    "    lea -40(%rsp), %rsp\n"
    "    call on_patched_call\n"
    "load_registers:\n"
    "    cmpl $0, 64(%rax)\n"
    "    jne 2f\n"
    "    lea " TEXT(REGISTERS) "(%rax), %rsp\n"
    "    pop %r8\n"
    "    pop %r9\n"
    "    pop %r10\n"
    "    pop %r11\n"
    "    pop %r12\n"
    "    pop %r13\n"
    "    pop %r14\n"
    "    pop %r15\n"
    "    pop %rdi\n"
    "    pop %rsi\n"
    "    pop %rbp\n"
    "    pop %rbx\n"
    "    pop %rdx\n"
    "    pop %rax\n"
    "    pop %rcx\n"
    "    lea 16(%rsp), %rsp\n"
    "    popfq\n"
    "    mov -24(%rsp), %rsp\n"
    "    jmp *%rcx\n"
    "load_registers_end:\n"
    "2:  mov %rax, %rdi\n"
    "    call on_kick_before_load\n"
    "    jmp load_registers\n"
    "leave_unless_kicked:\n"
    "    cmpl $0, 64(%rsi)\n"
    "    je leave\n"
    "leave_unless_kicked_end:\n"
    "    ret\n"
    ".text\n");

/* Makes the ucontext one that rt_sigreturn takes, and that the kernel can read as the host's. */
static void complete_frame(struct control *control)
{
    const volatile struct kernel_page *page = (struct kernel_page *)KERNEL_PAGE;
    struct ucontext *frame = (struct ucontext *)((char *)control + PATCHED_FRAME_OFFSET);
    uint32_t size = page->xstate_size;
    uint64_t features = page->xstate_features;
    char *state = (char *)control + ((SLOT_SIZE - size - 4) & -64u);
    uint32_t *description = (uint32_t *)(state + XSTATE_DESCRIPTION);
    __asm__ volatile("xsave64 (%0)" : : "r"(state), "a"((uint32_t)features), "d"((uint32_t)(features >> 32)) : "memory");
    description[0] = XSTATE_MAGIC1;
    description[1] = size + 4;
    *(uint64_t *)(description + 2) = features;
    description[4] = size;
    *(uint32_t *)(state + size) = XSTATE_MAGIC2;
    frame->mask = 0;
    frame->flags = UCONTEXT_FLAGS;
    frame->stack_base = (uint64_t)control + ALTERNATE_STACK_OFFSET;
    frame->stack_flags = 0;
    frame->stack_size = ALTERNATE_STACK_SIZE;
    frame->registers[REGISTER_CSGSFS] = SELECTORS;
    frame->fpstate = (uint64_t)state;
}

static struct ucontext *frame_of(struct control *control) { return (struct ucontext *)((char *)control + PATCHED_FRAME_OFFSET); }

/* As serve() does, but for a thread whose signals are not blocked; returns when the registers may be loaded here. */
static struct control *serve_patched(struct control *control)
{
    for (;;) {
        report(control);
        uint32_t resume = control->resume;
        if (resume & RESUME_LIGHT)
            frame_of(control)->registers[REGISTER_RAX] = control->result;
        if (run_batch(control) || (resume & RESUME_REPORT_BACK)) {
            control->why = WHY_BATCH;
            continue;
        }
        if (resume & RESUME_LIGHT)
            return control;
        leave_unless_kicked((char *)control + control->frame, control);
        control->kicked = 0;
        control->why = WHY_KICKED;
    }
}

struct control *on_patched_call(struct control *control)
{
    static const uint8_t order[] = {REGISTER_RAX, REGISTER_RDI, REGISTER_RSI, REGISTER_RDX, REGISTER_R10, REGISTER_R8, REGISTER_R9};
    for (unsigned index = 0; index < sizeof order; index++)
        control->call[index] = frame_of(control)->registers[order[index]];
    complete_frame(control);
    __asm__ volatile("rdfsbase %0" : "=r"(control->fs_base));
    control->why = WHY_PATCHED_CALL;
    return serve_patched(control);
}

struct control *on_kick_before_load(struct control *control)
{
    control->kicked = 0;
    control->why = WHY_KICKED;
    return serve_patched(control);
}

/* Whether a signal came while the stub had this thread: it runs our text, on our stack or on its way there or back. */
bool holds_thread(const struct control *control, const struct ucontext *interrupted)
{
    uint64_t ip = interrupted->registers[REGISTER_RIP], sp = interrupted->registers[REGISTER_RSP];
    return ip - STUB_TEXT < GUEST_VDSO - STUB_TEXT && (sp - (uint64_t)control < SLOT_SIZE || ip < (uint64_t)load_registers_end);
}

/* Whether that thread had taken its last look at `kicked`. */
bool is_leaving(const struct ucontext *interrupted)
{
    uint64_t ip = interrupted->registers[REGISTER_RIP];
    return (ip >= (uint64_t)load_registers && ip < (uint64_t)load_registers_end) ||
           (ip >= (uint64_t)leave_unless_kicked && ip < (uint64_t)leave_unless_kicked_end) ||
           (ip >= (uint64_t)leave && ip < (uint64_t)leave_end) ||
           (ip == (uint64_t)host_call_site && interrupted->registers[REGISTER_RAX] == __NR_rt_sigreturn);
}
