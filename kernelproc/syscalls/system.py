"""The system as a whole: uname, host name, sysinfo, getrandom, syslog, reboot; and arch_prctl, personality, getcpu of the caller."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from polynix.addrspace._usercopy import UserAddress
from polynix.kernelproc import memory_totals
from polynix.kernelproc.devices.mem import KernelLog
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.syscalls.table import syscall
from polynix.kernelproc.syscalls.types import Flags, Int, Size, UInt, ULong
from polynix.kernelproc.task.exit import begin_group_exit
from polynix.kernelproc.track_stub import track_stub
from polynix.kernelproc.uapi import structs
from polynix.kernelproc.uapi.capability import CAP_SYS_ADMIN, CAP_SYS_BOOT, CAP_SYSLOG
from polynix.kernelproc.uapi.errno import EFAULT, EINVAL, ENODEV, EPERM
from polynix.kernelproc.uapi.personality import PER_LINUX32, PER_MASK, UNAME26
from polynix.kernelproc.uapi.prctl import (
    ARCH_GET_CPUID,
    ARCH_GET_FS,
    ARCH_GET_GS,
    ARCH_SET_CPUID,
    ARCH_SET_FS,
    ARCH_SET_GS,
)
from polynix.kernelproc.uapi.random import GRND_INSECURE, GRND_NONBLOCK, GRND_RANDOM
from polynix.kernelproc.uapi.reboot import (
    LINUX_REBOOT_CMD_CAD_OFF,
    LINUX_REBOOT_CMD_CAD_ON,
    LINUX_REBOOT_CMD_HALT,
    LINUX_REBOOT_CMD_POWER_OFF,
    LINUX_REBOOT_CMD_RESTART,
    LINUX_REBOOT_CMD_RESTART2,
    LINUX_REBOOT_MAGIC1,
    LINUX_REBOOT_MAGIC2,
    LINUX_REBOOT_MAGIC2A,
    LINUX_REBOOT_MAGIC2B,
    LINUX_REBOOT_MAGIC2C,
)
from polynix.kernelproc.uapi.signal import SIGHUP, SIGINT
from polynix.kernelproc.uapi.unistd import SYSCALLS
from polynix.kernelproc.uapi.utsname import NEW_UTS_LEN

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task

_TASK_SIZE_MAX: Final = (1 << 47) - 4096
_LOAD_SCALE: Final = 1 << 16
_RANDOM_CHUNK: Final = 1 << 20
_HOST: Final = os.uname()


# -- identity --------------------------------------------------------------------------------------------------------------


@syscall()
def uname(task: Task, address: UserAddress) -> int:
    """man 2 uname; personality(2) for the older release and machine. Release and version are the host's, whose vdso and CPU features guests see."""
    release = _HOST.release
    if task.personality & UNAME26:
        major, _, rest = release.partition(".")
        release = f"2.6.{40 + 20 * (int(major) - 3)}{rest.lstrip('0123456789.')}" if major.isdigit() else release
    names = structs.new_utsname.pack(
        sysname=b"Linux",
        nodename=task.uts.nodename,
        release=release.encode(),
        version=_HOST.version.encode()[:64],
        machine=b"i686" if task.personality & PER_MASK == PER_LINUX32 else b"x86_64",
        domainname=task.uts.domainname,
    )
    task.copy_out(address, names)
    return 0


def _new_name(task: Task, address: UserAddress, length: int) -> bytes:
    if not task.credentials.has_capability(CAP_SYS_ADMIN):
        raise Errno(EPERM)
    if not 0 <= length <= NEW_UTS_LEN:
        raise Errno(EINVAL)
    return task.copy_in(address, length) if length else b""


@syscall()
def sethostname(task: Task, address: UserAddress, length: Int) -> int:
    """man 2 sethostname."""
    task.uts.nodename = _new_name(task, address, length)
    return 0


@syscall()
def setdomainname(task: Task, address: UserAddress, length: Int) -> int:
    """man 2 setdomainname."""
    task.uts.domainname = _new_name(task, address, length)
    return 0


@syscall()
def sysinfo(task: Task, address: UserAddress) -> int:
    """man 2 sysinfo."""
    kernel = task.kernel
    load1, load5, load15 = (int(load * _LOAD_SCALE) for load in os.getloadavg())
    info = structs.sysinfo.pack(
        uptime=kernel.clock.boottime_ns() // 1_000_000_000,
        load1=load1,
        load5=load5,
        load15=load15,
        totalram=memory_totals.total_bytes(kernel),
        freeram=memory_totals.free_bytes(kernel),
        procs=min(len(kernel.pids.tasks), 0xFFFF),
        mem_unit=1,
    )
    task.copy_out(address, info)
    return 0


# -- random numbers --------------------------------------------------------------------------------------------------------


@syscall()
def getrandom(task: Task, buffer: UserAddress, length: Size, flags: Flags) -> int:
    """man 2 getrandom."""
    if flags & ~(GRND_NONBLOCK | GRND_RANDOM | GRND_INSECURE) or flags & (GRND_RANDOM | GRND_INSECURE) == GRND_RANDOM | GRND_INSECURE:
        return -EINVAL
    length = min(length, 0x7FFFF000)
    done = 0
    while done < length:
        data = os.urandom(min(length - done, _RANDOM_CHUNK))
        count = task.user.copy_out(buffer + done, data)
        done += count
        if count < len(data):
            return done or -EFAULT
        if done < length and task.attention and task.interrupt_pending():
            break
    return done


# -- the kernel log --------------------------------------------------------------------------------------------------------


@syscall()
def syslog(task: Task, action: Int, buffer: UserAddress, length: Int) -> int:
    """man 2 syslog."""
    if action not in (3, 10) and not task.credentials.has_capability(CAP_SYSLOG):
        return -EPERM
    if not 0 <= action <= 10:
        return -EINVAL
    log = task.kernel.expando.get(KernelLog)
    if action in (2, 3, 4):
        if length < 0 or (not buffer and length):
            return -EINVAL
        lines = [b"<%d>[%5d.%06d] %s\n" % (level, ns // 1_000_000_000, ns // 1000 % 1_000_000, text) for sequence, level, ns, text in log.records
                 if sequence >= log.cleared]  # fmt: skip
        # The newest whole lines that fit.
        data = b""
        for line in reversed(lines):
            if len(line) + len(data) > length:
                break
            data = line + data
        if data:
            task.copy_out(buffer, data)
        if action in (2, 4):
            log.cleared = log.next_sequence
        return len(data)
    if action == 5:
        log.cleared = log.next_sequence
        return 0
    if action == 8:
        return 0 if 1 <= length <= 8 else -EINVAL
    if action == 9:
        return sum(len(text) + 20 for sequence, _level, _ns, text in log.records if sequence >= log.cleared)
    if action == 10:
        return 1 << 18
    return 0  # close, open, console off and on


@syscall()
def reboot(task: Task, magic: UInt, magic2: UInt, command: UInt, _argument: UserAddress) -> int:
    """man 2 reboot: ends the container's init as reboot in a PID namespace does."""
    if not task.credentials.has_capability(CAP_SYS_BOOT):
        return -EPERM
    if magic != LINUX_REBOOT_MAGIC1:
        return -EINVAL
    if magic2 not in (LINUX_REBOOT_MAGIC2, LINUX_REBOOT_MAGIC2A, LINUX_REBOOT_MAGIC2B, LINUX_REBOOT_MAGIC2C):
        return -EINVAL
    if command in (LINUX_REBOOT_CMD_CAD_ON, LINUX_REBOOT_CMD_CAD_OFF):
        return 0
    if command in (LINUX_REBOOT_CMD_RESTART, LINUX_REBOOT_CMD_RESTART2):
        status = SIGHUP
    elif command in (LINUX_REBOOT_CMD_HALT, LINUX_REBOOT_CMD_POWER_OFF):
        status = SIGINT
    else:
        return -EINVAL
    if task.kernel.init is not None:
        begin_group_exit(task.kernel.init, status)
    return 0


# -- the caller's processor state ------------------------------------------------------------------------------------------


@syscall()
def arch_prctl(task: Task, code: UInt, argument: ULong) -> int:
    """man 2 arch_prctl: FS and GS base are set by the thread's own host thread on its way back."""
    slot = task.slot
    assert slot is not None
    if code in (ARCH_SET_FS, ARCH_SET_GS):
        if argument >= _TASK_SIZE_MAX:
            return -EPERM
        slot.push(SYSCALLS["arch_prctl"], code, argument)
        return 0
    if code in (ARCH_GET_FS, ARCH_GET_GS):
        task.user.store_u64(UserAddress(argument), slot.fs_base if code == ARCH_GET_FS else slot.gs_base)
        return 0
    if code == ARCH_GET_CPUID:
        return 1
    if code == ARCH_SET_CPUID:
        return 0 if argument else -ENODEV
    # Shadow stacks, AMX and compatibility vdsos: as a kernel built without them.
    track_stub("arch_prctl", code)
    return -EINVAL


@syscall()
def personality(task: Task, persona: UInt) -> int:
    """man 2 personality."""
    old = task.personality
    if persona != 0xFFFFFFFF:
        task.personality = persona
        task.group.personality = persona
    return old


@syscall()
def getcpu(task: Task, cpu: UserAddress, node: UserAddress, _cache: UserAddress) -> int:
    """man 2 getcpu: where the host thread ran last. Programs use the vdso's."""
    slot = task.slot
    assert slot is not None
    number = 0
    try:
        with open(f"/proc/{slot.stub.pid}/task/{slot.tid}/stat", "rb") as status:
            number = int(status.read().rsplit(b")", 1)[1].split()[36])
    except (OSError, IndexError, ValueError):
        pass
    if cpu:
        task.user.store_u32(cpu, number)
    if node:
        task.user.store_u32(node, 0)
    return 0
