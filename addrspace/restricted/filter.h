/*
 * filter.h: the seccomp filters of a restricted process.
 *
 * The guest owns its whole address space, stub text included, and can jump to the stub's one `syscall` instruction
 * with registers of its choice. So that instruction is good for nothing that harms anyone else: an allow-list with
 * argument checks, and the death of the process for all else. A system call from anywhere else, or in another
 * architecture's numbers, is the guest's own and traps to our kernel. (Hosts from 6.14 on let two numbers past any
 * filter, uretprobe and uprobe, 335 and 336: they do nothing but fail outside of the host kernel's own trampolines.)
 *
 * Two filters, because the descriptor of clone's user notifications has to leave the process (by sendmsg) before the
 * final filter forbids that: `clone_filter` first, then `final_filter`. The stricter answer of the two wins.
 */
#ifndef POLYNIX_FILTER_H
#define POLYNIX_FILTER_H

#include <asm/unistd_64.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/mman.h>
#include <linux/seccomp.h>
#include <stddef.h>

#include "layout.h"

#define HIGH(value) ((uint32_t)((uint64_t)(value) >> 32))
#define LOAD(offset) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset)
#define LOAD_LOW(argument) LOAD(offsetof(struct seccomp_data, args) + 8 * (argument))
#define LOAD_HIGH(argument) LOAD(offsetof(struct seccomp_data, args) + 8 * (argument) + 4)
#define ANSWER(action) BPF_STMT(BPF_RET | BPF_K, action)
#define ALLOW ANSWER(SECCOMP_RET_ALLOW)
#define KILL ANSWER(SECCOMP_RET_KILL_PROCESS)
#define TRAP ANSWER(SECCOMP_RET_TRAP)
#define IF_EQUAL(value, yes, no) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, yes, no)
#define IF_GREATER(value, yes, no) BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, value, yes, no)
#define IF_GREATER_OR_EQUAL(value, yes, no) BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, value, yes, no)
#define MASK(bits) BPF_STMT(BPF_ALU | BPF_AND | BPF_K, bits)
#define COPY_TO_X BPF_STMT(BPF_MISC | BPF_TAX, 0)
#define ADD_X BPF_STMT(BPF_ALU | BPF_ADD | BPF_X, 0)
#define IF_EQUAL_X(yes, no) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_X, 0, yes, no)

#define LENGTH(...) (sizeof((struct sock_filter[]){__VA_ARGS__}) / sizeof(struct sock_filter))
/* `number` in the accumulator, and still there after it when it differs. */
#define CALL(number, ...) IF_EQUAL(number, 0, LENGTH(__VA_ARGS__)), __VA_ARGS__

#define REQUIRE_EQUAL(value) IF_EQUAL(value, 1, 0), KILL
#define REQUIRE_AT_MOST(value) IF_GREATER(value, 0, 1), KILL
#define REQUIRE_AT_LEAST(value) IF_GREATER_OR_EQUAL(value, 1, 0), KILL
#define REQUIRE_LOW(argument, value) LOAD_LOW(argument), REQUIRE_EQUAL(value)
#define REQUIRE_WHOLE(argument, value) REQUIRE_LOW(argument, value), LOAD_HIGH(argument), REQUIRE_EQUAL(0)

/*
 * [address, address + length) ends below (2^32 * (HIGH(GUEST_LIMIT) + 2)), which is short of the stub; only high words
 * are compared, so a range may reach 8 GiB past GUEST_LIMIT, where nothing lies.
 */
#define REQUIRE_GUEST_RANGE(address, length) \
    LOAD_HIGH(address), REQUIRE_AT_MOST(HIGH(GUEST_LIMIT)), COPY_TO_X, \
    LOAD_HIGH(length), REQUIRE_AT_MOST(HIGH(GUEST_LIMIT)), ADD_X, REQUIRE_AT_MOST(HIGH(GUEST_LIMIT))
#define REQUIRE_PROTECTION(argument) \
    LOAD_HIGH(argument), REQUIRE_EQUAL(0), LOAD_LOW(argument), MASK(~(uint32_t)(PROT_READ | PROT_WRITE | PROT_EXEC)), \
    REQUIRE_EQUAL(0)

_Static_assert(HIGH(GUEST_LIMIT) + 2 < HIGH(STUB_TEXT), "the filter's rounding stays clear of the stub");
_Static_assert((CONTROL_BASE & 0xffffffff) == 0 && CONTROL_AREA_SIZE <= 0xffffffffu, "control area: one high word");

/* mmap. Of the region: shared, at its own offset. Of a received descriptor: shared or private. Never anonymous. */
#define MAP_HARMLESS (MAP_NORESERVE | MAP_POPULATE)
#define MAP_REGION_BLOCK \
    LOAD_LOW(0), COPY_TO_X, LOAD_LOW(5), IF_EQUAL_X(1, 0), KILL, \
    LOAD_HIGH(0), COPY_TO_X, LOAD_HIGH(5), IF_EQUAL_X(1, 0), KILL, ALLOW
#define MAP_SHARED_BLOCK \
    REQUIRE_EQUAL(MAP_SHARED | MAP_FIXED), LOAD_LOW(4), IF_EQUAL(REGION_FD, 0, LENGTH(MAP_REGION_BLOCK)), MAP_REGION_BLOCK
#define MAP_BLOCK \
    REQUIRE_GUEST_RANGE(0, 1), REQUIRE_PROTECTION(2), LOAD_HIGH(3), REQUIRE_EQUAL(0), \
    LOAD_LOW(3), MASK(~(uint32_t)MAP_HARMLESS), IF_EQUAL(MAP_PRIVATE | MAP_FIXED, LENGTH(MAP_SHARED_BLOCK), 0), \
    MAP_SHARED_BLOCK, LOAD_LOW(4), REQUIRE_AT_LEAST(FIRST_INSTALLED_FD), ALLOW

static const struct sock_filter clone_filter[] = {
    LOAD(offsetof(struct seccomp_data, nr)),
    IF_EQUAL(__NR_clone, 0, 1),
    ANSWER(SECCOMP_RET_USER_NOTIF),
    ALLOW,
};

/* `k` of FINAL_FILTER_SITE_LOW is set at start to the address behind the stub's `syscall` instruction. */
#define FINAL_FILTER_SITE_LOW 1
static const struct sock_filter final_filter[] = {
    LOAD(offsetof(struct seccomp_data, instruction_pointer)),
    IF_EQUAL(0, 1, 0), TRAP,
    LOAD(offsetof(struct seccomp_data, instruction_pointer) + 4),
    IF_EQUAL(HIGH(STUB_TEXT), 1, 0), TRAP,
    LOAD(offsetof(struct seccomp_data, arch)),
    IF_EQUAL(AUDIT_ARCH_X86_64, 1, 0), TRAP,
    LOAD(offsetof(struct seccomp_data, nr)),
    CALL(__NR_rt_sigreturn, ALLOW),
    CALL(__NR_futex, LOAD_HIGH(0), REQUIRE_EQUAL(HIGH(CONTROL_BASE)), REQUIRE_LOW(1, FUTEX_WAIT), ALLOW),
    CALL(__NR_write, REQUIRE_LOW(0, DOORBELL_FD), REQUIRE_WHOLE(2, 8), ALLOW),
    CALL(__NR_mmap, MAP_BLOCK),
    CALL(__NR_munmap, REQUIRE_GUEST_RANGE(0, 1), ALLOW),
    CALL(__NR_mprotect, REQUIRE_GUEST_RANGE(0, 1), REQUIRE_PROTECTION(2), ALLOW),
    CALL(__NR_recvmsg, REQUIRE_LOW(0, SOCKET_FD), ALLOW),
    CALL(__NR_close, LOAD_LOW(0), REQUIRE_AT_LEAST(FIRST_INSTALLED_FD), ALLOW),
    /* ARCH_SET_GS, ARCH_SET_FS, ARCH_GET_FS, ARCH_GET_GS */
    CALL(__NR_arch_prctl, LOAD_LOW(0), REQUIRE_AT_LEAST(0x1001), REQUIRE_AT_MOST(0x1004), ALLOW),
    /* and clone_filter asks the kernel */
    CALL(__NR_clone, REQUIRE_WHOLE(0, THREAD_FLAGS), ALLOW),
    CALL(__NR_exit, ALLOW),
    KILL,
};

#endif
