"""The signal frame on the guest's stack: built before a handler, taken apart by rt_sigreturn.

It is x86-64's ``struct rt_sigframe`` to the bit: return address (the C library's restorer), ucontext, siginfo; above it, on a
64-byte boundary, the floating point and vector state as xsave lays it out, between FP_XSTATE_MAGIC1 and FP_XSTATE_MAGIC2.
Programs look into it and change it: garbage collectors, debuggers, swapcontext.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from polynix.addrspace._restricted import REG_CR2, REG_EFL, REG_ERR, REG_RDI, REG_RDX, REG_RSI, REG_RSP, REG_TRAPNO
from polynix.addrspace._usercopy import Fault, UserAddress
from polynix.kernelproc.signals.siginfo import SIGINFO_SIZE, SigInfo
from polynix.kernelproc.signals.signal_state import EMPTY_STACK, SignalAction
from polynix.kernelproc.uapi import structs
from polynix.kernelproc.uapi.errno import EINVAL, ENOMEM, EPERM
from polynix.kernelproc.uapi.sigcontext import (
    FP_XSTATE_MAGIC1,
    FP_XSTATE_MAGIC2,
    FP_XSTATE_MAGIC2_SIZE,
    UC_FP_XSTATE,
    UC_SIGCONTEXT_SS,
    UC_STRICT_RESTORE_SS,
)
from polynix.kernelproc.uapi.signal import MINSIGSTKSZ, SA_ONSTACK, SA_RESTORER, SA_SIGINFO, SS_AUTODISARM, SS_DISABLE, SS_ONSTACK

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task

ADDRESS_MASK = (1 << 64) - 1
RED_ZONE = 128
FLAGS_CLEARED = 0x400 | 0x10000 | 0x100  # DF, RF and TF: a handler starts without them

# return address; uc_flags, uc_link, uc_stack; 23 registers, fpstate, reserved; uc_sigmask
_FRAME = Struct("<Q QQ QI4xQ 23Q Q64x Q")
_UCONTEXT = Struct("<QQ QI4xQ 23Q Q64x Q")
_FLAGS = UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS
INFO_OFFSET = _FRAME.size
FRAME_SIZE = _FRAME.size + SIGINFO_SIZE
UCONTEXT_OFFSET = 8

assert _UCONTEXT.size == structs.ucontext.SIZE and structs.ucontext.OFFSETS["uc_sigmask"] == _UCONTEXT.size - 8

# struct _fpx_sw_bytes, in the last bytes of the fxsave image
_LEGACY_SIZE, _HEADER_SIZE = 512, 64
_DESCRIPTION = Struct("<IIQI")  # magic1, extended_size, xfeatures, xstate_size
_DESCRIPTION_OFFSET = 464
_LEGACY_FEATURES = 3  # x87 and SSE
_MAX_XSTATE = 1 << 16
_MAGIC2 = FP_XSTATE_MAGIC2.to_bytes(FP_XSTATE_MAGIC2_SIZE, "little")


def _legacy_xstate(legacy: bytes, features: int) -> bytes:
    """An xsave image with nothing beyond x87 and SSE."""
    size = _LEGACY_SIZE + _HEADER_SIZE
    description = _DESCRIPTION.pack(FP_XSTATE_MAGIC1, size + FP_XSTATE_MAGIC2_SIZE, _LEGACY_FEATURES, size)
    image = legacy[:_DESCRIPTION_OFFSET] + description.ljust(_LEGACY_SIZE - _DESCRIPTION_OFFSET, b"\0")
    return image + features.to_bytes(_HEADER_SIZE, "little") + _MAGIC2


# What a thread starts with: control word 0x37f, MXCSR 0x1f80.
_INITIAL_XSTATE = _legacy_xstate(b"\x7f\x03".ljust(24, b"\0") + b"\x80\x1f\0\0\xff\xff\0\0".ljust(_LEGACY_SIZE - 24, b"\0"), 0)


# -- alternate stacks ----------------------------------------------------------------------------------------------------


def _within(stack: tuple[int, int, int], sp: int) -> bool:
    return stack[0] < sp <= stack[0] + stack[2]


def on_alternate_stack(task: Task, sp: int) -> bool:
    """Whether ``sp`` lies on the alternate stack in force (SS_AUTODISARM's never is: it is gone while its handler runs)."""
    stack = task.alternate_stack
    return not stack[1] & SS_AUTODISARM and _within(stack, sp)


def alternate_stack_flags(task: Task, sp: int) -> int:
    """ss_flags as sigaltstack reports them."""
    stack = task.alternate_stack
    state = SS_DISABLE if not stack[2] else SS_ONSTACK if on_alternate_stack(task, sp) else 0
    return state | stack[1] & SS_AUTODISARM


def set_alternate_stack(task: Task, sp: int, base: int, flags: int, size: int) -> int:
    """sigaltstack's second half: 0, or the errno."""
    if on_alternate_stack(task, sp):
        return EPERM
    mode = flags & ~SS_AUTODISARM & 0xFFFFFFFF
    if mode not in (0, SS_DISABLE, SS_ONSTACK):
        return EINVAL
    if mode == SS_DISABLE:
        base = size = 0
    elif size < MINSIGSTKSZ:
        return ENOMEM
    task.alternate_stack = (base, flags & 0xFFFFFFFF, size)
    return 0


# -- building ------------------------------------------------------------------------------------------------------------


def push_frame(task: Task, info: SigInfo, action: SignalAction, mask: int) -> bool:
    """Put a frame on the guest's stack and point the registers at the handler; ``mask`` is what rt_sigreturn will restore.

    False when that isn't possible (no restorer, the stack is full or not there): the registers are unchanged then.
    """
    slot = task.slot
    assert slot is not None
    if not action.flags & SA_RESTORER:
        return False
    registers = slot.registers()
    xstate = slot.xstate() or _INITIAL_XSTATE
    stack = task.alternate_stack
    sp = (registers[REG_RSP] - RED_ZONE) & ADDRESS_MASK
    must_fit = False
    if stack[2]:
        must_fit = on_alternate_stack(task, sp)
        if action.flags & SA_ONSTACK and not must_fit:
            sp = stack[0] + stack[2]
            must_fit = True
    fpstate = (sp - len(xstate)) & ~63
    frame = ((fpstate - FRAME_SIZE) & ~15) - 8
    if frame <= 0 or (must_fit and not _within(stack, frame)):
        return False
    error_code, trapno = (info.error_code, info.trapno) if info.trapno else registers[REG_ERR : REG_TRAPNO + 1]
    head = _FRAME.pack(action.restorer, _FLAGS, 0, *stack, *registers[:REG_ERR], error_code, trapno, mask, registers[REG_CR2], fpstate, mask)
    image = head + info.pack() if action.flags & SA_SIGINFO else head
    image = image.ljust(fpstate - frame, b"\0") + xstate
    if task.user.copy_out(UserAddress(frame), image) != len(image):
        return False
    if stack[1] & SS_AUTODISARM:
        task.alternate_stack = EMPTY_STACK
    set_register = slot.set_register
    set_register(REG_RDI, info.signo)
    set_register(REG_RSI, frame + INFO_OFFSET)
    set_register(REG_RDX, frame + UCONTEXT_OFFSET)
    set_register(REG_EFL, registers[REG_EFL] & ~FLAGS_CLEARED)
    slot.ax = 0
    slot.ip = action.handler
    slot.sp = frame
    slot.clear_xstate()
    return True


# -- taking apart --------------------------------------------------------------------------------------------------------


def pop_frame(task: Task) -> int | None:
    """rt_sigreturn: registers, vector state and alternate stack from the frame at the stack pointer.

    Returns the signal mask to restore, None for a bad frame.
    """
    slot = task.slot
    assert slot is not None
    user = task.user
    sp = slot.sp  # the handler's return has popped the restorer's address
    try:
        fields = _UCONTEXT.unpack(user.copy_in(UserAddress(sp), _UCONTEXT.size))
        fpstate = fields[28]
        xstate = _read_xstate(task, fpstate) if fpstate else b""
    except (Fault, ValueError):
        return None
    if fields[2:5] != task.alternate_stack:
        set_alternate_stack(task, sp, *fields[2:5])  # its errors are nobody's
    slot.set_registers(fields[5:28])
    if xstate:
        try:
            slot.set_xstate(xstate)
        except ValueError:
            return None
    else:
        slot.clear_xstate()
    return fields[29]  # type: ignore[no-any-return]


def _read_xstate(task: Task, address: int) -> bytes:
    """The frame's vector state; without valid marks only its fxsave part counts, as on Linux."""
    copy_in = task.user.copy_in
    legacy = copy_in(UserAddress(address), _LEGACY_SIZE)
    magic1, extended_size, _, size = _DESCRIPTION.unpack_from(legacy, _DESCRIPTION_OFFSET)
    if magic1 == FP_XSTATE_MAGIC1 and _LEGACY_SIZE + _HEADER_SIZE <= size <= extended_size <= _MAX_XSTATE:
        whole = copy_in(UserAddress(address), size + FP_XSTATE_MAGIC2_SIZE)
        if whole.endswith(_MAGIC2):
            return whole
    return _legacy_xstate(legacy, _LEGACY_FEATURES)
