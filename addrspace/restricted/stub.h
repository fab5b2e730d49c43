/*
 * stub.h: what the stub's two parts share: stub.c, its start and its traps, and patched_call.c, calls without a trap.
 */
#ifndef POLYNIX_STUB_H
#define POLYNIX_STUB_H

#include <stdbool.h>
#include <stdint.h>

#include "layout.h"

#pragma GCC visibility push(hidden)

/* The kernel's struct ucontext with struct sigcontext, as far as the stub looks at it. */
enum {
    REGISTER_R8 = 0, REGISTER_R9 = 1, REGISTER_R10 = 2, REGISTER_RDI = 8, REGISTER_RSI = 9, REGISTER_RDX = 12, REGISTER_RAX = 13,
    REGISTER_RSP = 15, REGISTER_RIP = 16, REGISTER_CSGSFS = 18, REGISTER_COUNT = 23
};
struct ucontext {
    uint64_t flags, link;
    uint64_t stack_base;
    uint32_t stack_flags, stack_padding;
    uint64_t stack_size;
    uint64_t registers[REGISTER_COUNT];
    uint64_t fpstate;
    uint64_t reserved[8];
    uint64_t mask;
};

/* stub.c */
extern const char leave_end[], host_call_site[], stub_end[];
void report(struct control *control);
bool run_batch(struct control *control);
_Noreturn void leave(void *ucontext);
_Noreturn void serve(struct control *control);

/* patched_call.c */
bool holds_thread(const struct control *control, const struct ucontext *interrupted);
bool is_leaving(const struct ucontext *interrupted);

#pragma GCC visibility pop

#endif
