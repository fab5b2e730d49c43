/*
 * frame.c: the register frame in a held slot, as rt_sigreturn will load it.
 *
 * Usually the host built it when it delivered the trap; for new processes and threads it is built here, in the place
 * where the host would have put it. Everything in a slot is writable by its guest: offsets and sizes are read once and
 * checked, so that a hostile frame can at worst make its own guest die in rt_sigreturn.
 */
#include "object.h"

#include <cpuid.h>
#include <string.h>
#include <sys/auxv.h>

#define HWCAP2_FSGSBASE 2
#define FLAG_XSTATE 1
#define FLAG_SIGCONTEXT_SS 2
#define FLAG_STRICT_SS 4
#define MAGIC1 0x46505853u
#define MAGIC2 0x46505845u
#define LEGACY_SIZE 512
#define HEADER_SIZE 64
#define MAX_XSTATE 16384
#define USUAL_XSTATE 2880
#define FRAME_VERSION 0x31786e79u
/* The flags that sigreturn takes from a frame (arch/x86/kernel/signal_64.c: FIX_EFLAGS), and the ones always set. */
#define USER_EFLAGS 0x50dd5u
#define SELECTORS 0x002b000000000033u

struct saved_frame {
    uint32_t version, xstate_length;
    uint64_t registers[REG_COUNT];
};

/* The software-reserved bytes of an fxsave image: struct _fpx_sw_bytes. */
struct xstate_description {
    uint32_t magic1, extended_size;
    uint64_t features;
    uint32_t size;
};

struct ucontext_image *frame_of(Slot *slot)
{
    if (slot_check(slot, SLOT_HELD) < 0)
        return NULL;
    if (!slot->frame) {
        PyErr_SetString(PyExc_ValueError, "the slot has no frame yet");
        return NULL;
    }
    return (struct ucontext_image *)((char *)slot->control + slot->frame);
}

static uint64_t eflags(uint64_t value) { return (value & USER_EFLAGS) | 0x202; }

void frame_set_register(Slot *slot, struct ucontext_image *frame, unsigned index, uint64_t value)
{
    if (index == REG_EFL)
        value = eflags(value);
    else if (index == REG_CSGSFS)
        value = SELECTORS;
    frame->registers[index] = value;
    slot->light &= index == REG_RAX;
}

/* Every feature that the host may save, so also the largest size that its sigreturn takes. */
static uint32_t host_xstate_size(void)
{
    static uint32_t size;
    uint32_t a, c, d;
    if (!size && !__get_cpuid_count(0xd, 0, &a, &size, &c, &d))
        size = LEGACY_SIZE + HEADER_SIZE;
    return size;
}

/*
 * A copy of the frame's floating point and vector state, made fit for any sigreturn: lengths agree, reserved bits are zero.
 * Its length with the trailing magic word, or 0 when there is none (then the state is the initial one).
 */
static uint32_t clean_xstate(char *state, const char *source, uint32_t room)
{
    struct xstate_description what;
    if (room < LEGACY_SIZE + HEADER_SIZE + 4)
        return 0;
    memcpy(&what, source + 464, sizeof what);
    if (what.magic1 != MAGIC1 || what.size < LEGACY_SIZE + HEADER_SIZE || what.size > host_xstate_size() ||
        what.size > room - 4)
        return 0;
    memcpy(state, source, what.size);
    what.extended_size = what.size + 4;
    memcpy(state + 464, &what, sizeof what);
    uint32_t magic2 = MAGIC2, mxcsr, mxcsr_mask;
    memcpy(state + what.size, &magic2, 4);
    memcpy(&mxcsr, state + 24, 4);
    memcpy(&mxcsr_mask, state + 28, 4);
    mxcsr &= mxcsr_mask && (mxcsr_mask & ~0xffffu) == 0 ? mxcsr_mask & 0xffff : 0xffbf;
    memcpy(state + 24, &mxcsr, 4);
    uint64_t present;
    memcpy(&present, state + LEGACY_SIZE, 8);
    present &= what.features;
    memcpy(state + LEGACY_SIZE, &present, 8);
    memset(state + LEGACY_SIZE + 8, 0, HEADER_SIZE - 8);
    return what.size + 4;
}

static uint32_t read_xstate(Slot *slot, const struct ucontext_image *frame, char *state)
{
    uint64_t offset = *(const volatile uint64_t *)&frame->fpstate - slot_address(slot->index);
    if (offset < CONTROL_SIZE || offset >= SLOT_SIZE || offset % 64)
        return 0;
    uint32_t room = (uint32_t)(SLOT_SIZE - offset);
    return clean_xstate(state, (const char *)slot->control + offset, room < MAX_XSTATE ? room : MAX_XSTATE);
}

/* Where the host puts a frame with this much state: at the top of the alternate stack. */
static uint32_t state_place(uint32_t length) { return (SLOT_SIZE - length) & ~63u; }
static uint32_t frame_place(uint32_t state) { return (state - 440) & ~15u; }

static void put_xstate(Slot *slot, struct ucontext_image *frame, const char *state, uint32_t length)
{
    frame->flags = FLAG_SIGCONTEXT_SS | FLAG_STRICT_SS | (length ? FLAG_XSTATE : 0);
    frame->fpstate = 0;
    if (length) {
        uint32_t place = state_place(length);
        memcpy((char *)slot->control + place, state, length);
        frame->fpstate = slot_address(slot->index) + place;
    }
}

/*
 * An empty frame. A thread that left the guest runs on the stack below the host's frame, so that place is used again; a new
 * thread's frame goes where an AVX-512 frame would be, unless more room is needed.
 */
static struct ucontext_image *new_frame(Slot *slot, uint32_t xstate_length)
{
    uint32_t offset = slot->frame ? slot->frame : frame_place(state_place(USUAL_XSTATE));
    if (offset + sizeof(struct ucontext_image) > state_place(xstate_length))
        offset = frame_place(state_place(xstate_length));
    struct ucontext_image *frame = (struct ucontext_image *)((char *)slot->control + offset);
    memset(frame, 0, sizeof *frame);
    slot->light = false;
    frame->stack_base = slot_address(slot->index) + ALTERNATE_STACK_OFFSET;
    frame->stack_size = ALTERNATE_STACK_SIZE;
    slot->frame = offset;
    return frame;
}

static int check_not_running(Slot *slot)
{
    return slot_check(slot, slot->state == SLOT_FREE ? SLOT_FREE : SLOT_HELD);
}

int frame_init(Slot *slot, uint64_t ip, uint64_t sp)
{
    if (check_not_running(slot) < 0)
        return -1;
    struct ucontext_image *frame = new_frame(slot, 0);
    put_xstate(slot, frame, NULL, 0);
    frame->registers[REG_RIP] = ip;
    frame->registers[REG_RSP] = sp;
    frame->registers[REG_EFL] = eflags(0);
    frame->registers[REG_CSGSFS] = SELECTORS;
    return 0;
}

PyObject *frame_save(Slot *slot)
{
    struct ucontext_image *frame = frame_of(slot);
    if (!frame)
        return NULL;
    char state[MAX_XSTATE];
    struct saved_frame saved = {FRAME_VERSION, read_xstate(slot, frame, state), {0}};
    memcpy(saved.registers, frame->registers, sizeof saved.registers);
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(sizeof saved + saved.xstate_length));
    if (bytes) {
        memcpy(PyBytes_AS_STRING(bytes), &saved, sizeof saved);
        memcpy(PyBytes_AS_STRING(bytes) + sizeof saved, state, saved.xstate_length);
    }
    return bytes;
}

int frame_load(Slot *slot, const char *data, Py_ssize_t length)
{
    struct saved_frame saved;
    char state[MAX_XSTATE];
    if (check_not_running(slot) < 0)
        return -1;
    if ((size_t)length < sizeof saved || length > (Py_ssize_t)sizeof saved + MAX_XSTATE) {
        PyErr_SetString(PyExc_ValueError, "not a frame of save_frame()");
        return -1;
    }
    memcpy(&saved, data, sizeof saved);
    uint32_t xstate_length = 0;
    if (saved.xstate_length)
        xstate_length = clean_xstate(state, data + sizeof saved, (uint32_t)((size_t)length - sizeof saved));
    if (saved.version != FRAME_VERSION || xstate_length != saved.xstate_length) {
        PyErr_SetString(PyExc_ValueError, "not a frame of save_frame()");
        return -1;
    }
    struct ucontext_image *frame = new_frame(slot, xstate_length);
    for (unsigned index = 0; index < REG_COUNT; index++)
        frame_set_register(slot, frame, index, saved.registers[index]);
    put_xstate(slot, frame, state, xstate_length);
    return 0;
}

PyObject *frame_xstate(Slot *slot)
{
    char state[MAX_XSTATE];
    struct ucontext_image *frame = frame_of(slot);
    return frame ? PyBytes_FromStringAndSize(state, read_xstate(slot, frame, state)) : NULL;
}

int frame_set_xstate(Slot *slot, const char *data, Py_ssize_t length)
{
    char state[MAX_XSTATE];
    struct ucontext_image *frame = frame_of(slot);
    if (!frame)
        return -1;
    uint32_t size = length <= MAX_XSTATE ? clean_xstate(state, data, (uint32_t)length) : 0;
    if (!size) {
        PyErr_SetString(PyExc_ValueError, "not an xsave image of this machine");
        return -1;
    }
    /* The host's frame and the stack below it may be in use where a larger state would go, so move both. */
    if (slot->frame + sizeof *frame > state_place(size)) {
        struct ucontext_image copy = *frame;
        uint32_t offset = frame_place(state_place(size));
        frame = (struct ucontext_image *)((char *)slot->control + offset);
        *frame = copy;
        slot->frame = offset;
    }
    put_xstate(slot, frame, state, size);
    slot->light = false;
    return 0;
}

/*
 * What a patched call saves: all that a guest can use, which is what the host saves too. The tiles of AMX are not among it:
 * a guest can't ask for the permission that they want. Nothing where the CPU or the host lacks xsave or rdgsbase: there nothing may be patched.
 */
void frame_describe_xstate(struct kernel_page *page)
{
    const uint64_t usable = 0xa02ff; /* x87 SSE AVX MPX AVX-512 PKRU TILECFG APX */
    const uint32_t room = SLOT_SIZE - PATCHED_FRAME_OFFSET - sizeof(struct ucontext_image) - 64 - 4;
    uint32_t a, b, c, d, size = LEGACY_SIZE + HEADER_SIZE;
    if (!(getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE) || !__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
        return;
    __asm__("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    uint64_t features = ((uint64_t)d << 32 | a) & usable;
    for (unsigned number = 2; number < 64; number++)
        if (features >> number & 1) {
            if (!__get_cpuid_count(0xd, number, &a, &b, &c, &d) || b + a > room)
                return;
            size = b + a > size ? b + a : size;
        }
    page->xstate_features = features;
    page->xstate_size = size;
}
