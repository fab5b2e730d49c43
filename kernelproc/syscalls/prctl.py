"""prctl: one function an option, in a table (man 2 prctl)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from polynix.addrspace._usercopy import UserAddress
from polynix.kernelproc.signals.signal_state import NSIG
from polynix.kernelproc.syscalls.credentials import commit_credentials
from polynix.kernelproc.syscalls.seccomp import set_filter, set_strict
from polynix.kernelproc.syscalls.table import syscall
from polynix.kernelproc.syscalls.types import Int, ULong
from polynix.kernelproc.track_stub import track_stub
from polynix.kernelproc.uapi import prctl as options
from polynix.kernelproc.uapi.capability import CAP_LAST_CAP, CAP_SETPCAP, CAP_SYS_RESOURCE
from polynix.kernelproc.uapi.errno import EFAULT, EINVAL, ENODEV, ENXIO, EPERM
from polynix.kernelproc.uapi.limits import LONG_MAX
from polynix.kernelproc.uapi.prctl import (
    PR_CAP_AMBIENT_CLEAR_ALL,
    PR_CAP_AMBIENT_IS_SET,
    PR_CAP_AMBIENT_LOWER,
    PR_CAP_AMBIENT_RAISE,
    PR_MCE_KILL_CLEAR,
    PR_MCE_KILL_DEFAULT,
    PR_MCE_KILL_SET,
    PR_SPEC_L1D_FLUSH,
    PR_SPEC_NOT_AFFECTED,
    PR_TSC_ENABLE,
    SECBIT_KEEP_CAPS,
    SECBIT_NO_CAP_AMBIENT_RAISE,
)
from polynix.kernelproc.uapi.seccomp import SECCOMP_MODE_FILTER, SECCOMP_MODE_STRICT

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task

_COMM_LENGTH: Final = 15
_DEFAULT_TIMER_SLACK_NS: Final = 50_000
_SECURE_BITS: Final = 0x55  # NOROOT, NO_SETUID_FIXUP, KEEP_CAPS, NO_CAP_AMBIENT_RAISE
_SECURE_LOCKS: Final = 0xAA

Option = Callable[["Task", int, int, int, int], int]
_OPTIONS: dict[int, Option] = {}


class MemoryOptions:
    """Options of an address space that only prctl sets and reads, in ``task.expando`` of the caller."""

    def __init__(self) -> None:
        self.thp_disable = 0
        self.io_flusher = 0


@syscall()
def prctl(task: Task, option: Int, arg2: ULong, arg3: ULong, arg4: ULong, arg5: ULong) -> int:
    """man 2 prctl. Errors: EINVAL for options that this kernel lacks."""
    handler = _OPTIONS.get(option)
    if handler is None:
        track_stub("prctl", option)
        return -EINVAL
    return handler(task, arg2, arg3, arg4, arg5)


def _option(name: str) -> Callable[[Option], Option]:
    def register(function: Option) -> Option:
        number = getattr(options, name, None)
        if number is not None:  # absent from older headers
            _OPTIONS[number] = function
        return function

    return register


def _memory_options(task: Task) -> MemoryOptions:
    found: MemoryOptions | None = task.expando.get(MemoryOptions)
    if found is None:
        found = task.expando[MemoryOptions] = MemoryOptions()
    return found


# -- the process -----------------------------------------------------------------------------------------------------------


@_option("PR_SET_NAME")
def _set_name(task: Task, address: int, _a3: int, _a4: int, _a5: int) -> int:
    raw = task.user.copy_in_partial(UserAddress(address), _COMM_LENGTH)
    if len(raw) < _COMM_LENGTH and b"\0" not in raw:
        return -EFAULT
    task.comm = raw.split(b"\0", 1)[0]
    return 0


@_option("PR_GET_NAME")
def _get_name(task: Task, address: int, _a3: int, _a4: int, _a5: int) -> int:
    task.copy_out(UserAddress(address), task.comm[:_COMM_LENGTH].ljust(16, b"\0"))
    return 0


@_option("PR_SET_PDEATHSIG")
def _set_pdeathsig(task: Task, signo: int, _a3: int, _a4: int, _a5: int) -> int:
    if signo > NSIG:
        return -EINVAL
    task.death_signal = signo
    return 0


@_option("PR_GET_PDEATHSIG")
def _get_pdeathsig(task: Task, address: int, _a3: int, _a4: int, _a5: int) -> int:
    task.user.store_u32(UserAddress(address), task.death_signal)
    return 0


@_option("PR_SET_DUMPABLE")
def _set_dumpable(task: Task, value: int, _a3: int, _a4: int, _a5: int) -> int:
    if value > 1:
        return -EINVAL
    task.group.dumpable = value
    return 0


@_option("PR_GET_DUMPABLE")
def _get_dumpable(task: Task, _a2: int, _a3: int, _a4: int, _a5: int) -> int:
    return task.group.dumpable


@_option("PR_SET_CHILD_SUBREAPER")
def _set_child_subreaper(task: Task, value: int, _a3: int, _a4: int, _a5: int) -> int:
    task.group.is_subreaper = bool(value)
    return 0


@_option("PR_GET_CHILD_SUBREAPER")
def _get_child_subreaper(task: Task, address: int, _a3: int, _a4: int, _a5: int) -> int:
    task.user.store_u32(UserAddress(address), int(task.group.is_subreaper))
    return 0


@_option("PR_GET_TID_ADDRESS")
def _get_tid_address(task: Task, address: int, _a3: int, _a4: int, _a5: int) -> int:
    value = task.clear_child_tid
    task.user.store_u64(UserAddress(address), 0 if value is None else value.ptr)
    return 0


@_option("PR_SET_TIMERSLACK")
def _set_timerslack(task: Task, value: int, _a3: int, _a4: int, _a5: int) -> int:
    task.timer_slack_ns = value if 0 < value <= LONG_MAX else _DEFAULT_TIMER_SLACK_NS
    return 0


@_option("PR_GET_TIMERSLACK")
def _get_timerslack(task: Task, _a2: int, _a3: int, _a4: int, _a5: int) -> int:
    return task.timer_slack_ns


@_option("PR_TASK_PERF_EVENTS_DISABLE")
@_option("PR_TASK_PERF_EVENTS_ENABLE")
def _perf_events(_task: Task, _a2: int, _a3: int, _a4: int, _a5: int) -> int:
    return 0  # there are none


# -- credentials -----------------------------------------------------------------------------------------------------------


@_option("PR_SET_NO_NEW_PRIVS")
def _set_no_new_privs(task: Task, value: int, a3: int, a4: int, a5: int) -> int:
    if value != 1 or a3 or a4 or a5:
        return -EINVAL
    task.no_new_privs = True
    return 0


@_option("PR_GET_NO_NEW_PRIVS")
def _get_no_new_privs(task: Task, a2: int, a3: int, a4: int, a5: int) -> int:
    if a2 or a3 or a4 or a5:
        return -EINVAL
    return int(task.no_new_privs)


@_option("PR_SET_KEEPCAPS")
def _set_keepcaps(task: Task, value: int, _a3: int, _a4: int, _a5: int) -> int:
    if value > 1:
        return -EINVAL
    credentials = task.credentials
    if credentials.securebits & SECBIT_KEEP_CAPS << 1:
        return -EPERM
    bits = credentials.securebits | SECBIT_KEEP_CAPS if value else credentials.securebits & ~SECBIT_KEEP_CAPS
    task.credentials = credentials.replace(securebits=bits)
    return 0


@_option("PR_GET_KEEPCAPS")
def _get_keepcaps(task: Task, _a2: int, _a3: int, _a4: int, _a5: int) -> int:
    return int(bool(task.credentials.securebits & SECBIT_KEEP_CAPS))


@_option("PR_SET_SECUREBITS")
def _set_securebits(task: Task, bits: int, _a3: int, _a4: int, _a5: int) -> int:
    old = task.credentials.securebits
    changed_locked = (old & _SECURE_LOCKS) >> 1 & (old ^ bits)
    if changed_locked or old & _SECURE_LOCKS & ~bits or bits & ~(_SECURE_BITS | _SECURE_LOCKS):
        return -EPERM
    if not task.credentials.has_capability(CAP_SETPCAP):
        return -EPERM
    task.credentials = task.credentials.replace(securebits=bits)
    return 0


@_option("PR_GET_SECUREBITS")
def _get_securebits(task: Task, _a2: int, _a3: int, _a4: int, _a5: int) -> int:
    return task.credentials.securebits


@_option("PR_CAPBSET_READ")
def _capbset_read(task: Task, capability: int, _a3: int, _a4: int, _a5: int) -> int:
    return -EINVAL if capability > CAP_LAST_CAP else task.credentials.cap_bounding >> capability & 1


@_option("PR_CAPBSET_DROP")
def _capbset_drop(task: Task, capability: int, _a3: int, _a4: int, _a5: int) -> int:
    if not task.credentials.has_capability(CAP_SETPCAP):
        return -EPERM
    if capability > CAP_LAST_CAP:
        return -EINVAL
    commit_credentials(task, task.credentials.replace(cap_bounding=task.credentials.cap_bounding & ~(1 << capability)))
    return 0


@_option("PR_CAP_AMBIENT")
def _cap_ambient(task: Task, operation: int, capability: int, a4: int, a5: int) -> int:
    credentials = task.credentials
    if operation == PR_CAP_AMBIENT_CLEAR_ALL:
        if capability or a4 or a5:
            return -EINVAL
        task.credentials = credentials.replace(cap_ambient=0)
        return 0
    if a4 or a5 or capability > CAP_LAST_CAP:
        return -EINVAL
    bit = 1 << capability
    if operation == PR_CAP_AMBIENT_IS_SET:
        return int(bool(credentials.cap_ambient & bit))
    if operation == PR_CAP_AMBIENT_LOWER:
        task.credentials = credentials.replace(cap_ambient=credentials.cap_ambient & ~bit)
        return 0
    if operation == PR_CAP_AMBIENT_RAISE:
        if not credentials.cap_permitted & credentials.cap_inheritable & bit or credentials.securebits & SECBIT_NO_CAP_AMBIENT_RAISE:
            return -EPERM
        task.credentials = credentials.replace(cap_ambient=credentials.cap_ambient | bit)
        return 0
    return -EINVAL


# -- seccomp ---------------------------------------------------------------------------------------------------------------


@_option("PR_GET_SECCOMP")
def _get_seccomp(task: Task, _a2: int, _a3: int, _a4: int, _a5: int) -> int:
    return 0 if task.seccomp is None else int(task.seccomp.mode)


@_option("PR_SET_SECCOMP")
def _set_seccomp(task: Task, mode: int, argument: int, _a4: int, _a5: int) -> int:
    if mode == SECCOMP_MODE_STRICT:
        return set_strict(task)
    if mode == SECCOMP_MODE_FILTER:
        return set_filter(task, 0, UserAddress(argument))
    return -EINVAL


# -- memory and the processor ----------------------------------------------------------------------------------------------


@_option("PR_SET_THP_DISABLE")
def _set_thp_disable(task: Task, value: int, a3: int, a4: int, a5: int) -> int:
    if a3 or a4 or a5:
        return -EINVAL
    _memory_options(task).thp_disable = int(bool(value))
    return 0


@_option("PR_GET_THP_DISABLE")
def _get_thp_disable(task: Task, a2: int, a3: int, a4: int, a5: int) -> int:
    return -EINVAL if a2 or a3 or a4 or a5 else _memory_options(task).thp_disable


@_option("PR_SET_IO_FLUSHER")
def _set_io_flusher(task: Task, value: int, a3: int, a4: int, a5: int) -> int:
    if not task.credentials.has_capability(CAP_SYS_RESOURCE):
        return -EPERM
    if value > 1 or a3 or a4 or a5:
        return -EINVAL
    _memory_options(task).io_flusher = value
    return 0


@_option("PR_GET_IO_FLUSHER")
def _get_io_flusher(task: Task, a2: int, a3: int, a4: int, a5: int) -> int:
    if not task.credentials.has_capability(CAP_SYS_RESOURCE):
        return -EPERM
    return -EINVAL if a2 or a3 or a4 or a5 else _memory_options(task).io_flusher


@_option("PR_GET_AUXV")
def _get_auxv(task: Task, address: int, length: int, a4: int, a5: int) -> int:
    if a4 or a5:
        return -EINVAL
    auxv = task.mm.auxv
    task.copy_out(UserAddress(address), auxv[:length])
    return len(auxv)


@_option("PR_GET_TSC")
def _get_tsc(task: Task, address: int, _a3: int, _a4: int, _a5: int) -> int:
    task.user.store_u32(UserAddress(address), PR_TSC_ENABLE)
    return 0


@_option("PR_SET_TSC")
def _set_tsc(_task: Task, value: int, _a3: int, _a4: int, _a5: int) -> int:
    if value == PR_TSC_ENABLE:
        return 0
    track_stub("prctl(PR_SET_TSC)", value)
    return -EINVAL


@_option("PR_GET_TIMING")
def _get_timing(_task: Task, _a2: int, _a3: int, _a4: int, _a5: int) -> int:
    return 0  # PR_TIMING_STATISTICAL


@_option("PR_SET_TIMING")
def _set_timing(_task: Task, value: int, _a3: int, _a4: int, _a5: int) -> int:
    return -EINVAL if value else 0


@_option("PR_MCE_KILL")
def _mce_kill(_task: Task, operation: int, policy: int, a4: int, a5: int) -> int:
    if a4 or a5 or operation not in (PR_MCE_KILL_CLEAR, PR_MCE_KILL_SET):
        return -EINVAL
    if operation == PR_MCE_KILL_CLEAR:
        return -EINVAL if policy else 0
    return 0 if policy <= PR_MCE_KILL_DEFAULT else -EINVAL


@_option("PR_MCE_KILL_GET")
def _mce_kill_get(_task: Task, a2: int, a3: int, a4: int, a5: int) -> int:
    return -EINVAL if a2 or a3 or a4 or a5 else PR_MCE_KILL_DEFAULT


@_option("PR_GET_SPECULATION_CTRL")
def _get_speculation_ctrl(_task: Task, which: int, a3: int, a4: int, a5: int) -> int:
    if a3 or a4 or a5:
        return -EINVAL
    return PR_SPEC_NOT_AFFECTED if which <= PR_SPEC_L1D_FLUSH else -ENODEV


@_option("PR_SET_SPECULATION_CTRL")
def _set_speculation_ctrl(_task: Task, which: int, _value: int, a4: int, a5: int) -> int:
    if a4 or a5:
        return -EINVAL
    return -ENXIO if which <= PR_SPEC_L1D_FLUSH else -ENODEV
