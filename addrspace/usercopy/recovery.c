/*
 * Copies and word operations that survive SIGBUS and SIGSEGV.
 *
 * A guest page may be missing when the kernel touches it: a truncated file, a full tmpfs, a read-only map. Each routine
 * has one instruction that can fault; the handler knows its address and continues at the routine's landing, which tells
 * how much is left. `rep movsb` keeps the count of what remains in rcx, so that partial counts come for nothing.
 */
#include "usercopy.h"

#include <errno.h>
#include <signal.h>
#include <ucontext.h>

/* clang-format off */
#define ROUTINE(name, before, faulting, after)                                                        \
    asm(".pushsection .text\n.p2align 4\n.globl " #name "\n.hidden " #name "\n.type " #name ", @function\n" \
        ".hidden " #name "_faulting\n.globl " #name "_faulting\n.hidden " #name "_landing\n.globl " #name "_landing\n" \
        #name ":\n" before #name "_faulting:\n" faulting "\n" after ".size " #name ", .-" #name "\n.popsection\n")
#define WORD(name, before, faulting, after) \
    ROUTINE(name, before, faulting, after "xor %eax, %eax\nret\n" #name "_landing: mov $1, %eax\nret\n")

ROUTINE(recover_copy, "mov %rdx, %rcx\n", "rep movsb", "recover_copy_landing: mov %rcx, %rax\nret\n");
ROUTINE(recover_zero, "mov %rsi, %rcx\nxor %eax, %eax\n", "rep stosb", "recover_zero_landing: mov %rcx, %rax\nret\n");
WORD(recover_load32, "", "mov (%rdi), %eax", "mov %eax, (%rsi)\n");
WORD(recover_load64, "", "mov (%rdi), %rax", "mov %rax, (%rsi)\n");
WORD(recover_store32, "", "mov %esi, (%rdi)", "");
WORD(recover_store64, "", "mov %rsi, (%rdi)", "");
WORD(recover_compare_exchange32, "mov (%rsi), %eax\n", "lock cmpxchg %edx, (%rdi)", "mov %eax, (%rsi)\n");
WORD(recover_exchange32, "mov (%rsi), %eax\n", "xchg %eax, (%rdi)", "mov %eax, (%rsi)\n");
WORD(recover_add32, "mov (%rsi), %eax\n", "lock xadd %eax, (%rdi)", "mov %eax, (%rsi)\n");
/* clang-format on */

#define EACH_ROUTINE(X)                                                                                               \
    X(recover_copy) X(recover_zero) X(recover_load32) X(recover_load64) X(recover_store32) X(recover_store64)         \
    X(recover_compare_exchange32) X(recover_exchange32) X(recover_add32)
#define DECLARE(name) extern HIDDEN const char name##_faulting[], name##_landing[];
#define ADDRESSES(name) {name##_faulting, name##_landing},

EACH_ROUTINE(DECLARE)
static const struct {
    const char *faulting, *landing;
} routines[] = {EACH_ROUTINE(ADDRESSES)};

static struct sigaction previous[NSIG];
static uint64_t window_faults;

static void pass_on(int signal, siginfo_t *info, void *context)
{
    static volatile sig_atomic_t passed[NSIG];
    struct sigaction *old = &previous[signal];
    if (info->si_code <= 0 && passed[signal]) { /* raised by the handler that was called below (faulthandler does): the end */
        struct sigaction fatal = {.sa_handler = SIG_DFL};
        sigaction(signal, &fatal, NULL);
        raise(signal);
        return;
    }
    passed[signal] = 1;
    if (old->sa_flags & SA_SIGINFO) {
        old->sa_sigaction(signal, info, context);
    } else if (old->sa_handler == SIG_DFL || old->sa_handler == SIG_IGN) {
        sigaction(signal, old, NULL); /* the instruction faults again, and ends the process as it should */
        if (info->si_code <= 0)
            raise(signal); /* sent by kill: nothing will fault again */
    } else {
        old->sa_handler(signal);
    }
}

static void handle_fault(int signal, siginfo_t *info, void *context)
{
    ucontext_t *frame = context;
    const char *ip = (const char *)frame->uc_mcontext.gregs[REG_RIP];
    if (info->si_code > 0) {
        for (size_t i = 0; i < sizeof routines / sizeof routines[0]; i++)
            if (ip == routines[i].faulting) {
                frame->uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)routines[i].landing;
                return;
            }
        int saved = errno;
        bool absorbed = window_absorb_fault((uintptr_t)info->si_addr);
        errno = saved;
        if (absorbed) {
            __atomic_fetch_add(&window_faults, 1, __ATOMIC_RELAXED);
            return;
        }
    }
    pass_on(signal, info, context);
}

int recovery_install(void)
{
    static const int signals[] = {SIGBUS, SIGSEGV};
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) {
        struct sigaction current, ours = {.sa_sigaction = handle_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
        sigemptyset(&ours.sa_mask);
        if (sigaction(signals[i], NULL, &current) < 0)
            return -1;
        if ((current.sa_flags & SA_SIGINFO) && current.sa_sigaction == handle_fault)
            continue;
        previous[signals[i]] = current;
        if (sigaction(signals[i], &ours, NULL) < 0)
            return -1;
    }
    return 0;
}

uint64_t recovery_window_faults(void)
{
    return __atomic_load_n(&window_faults, __ATOMIC_RELAXED);
}
