"""signalfd: pending signals as a file (``man 2 signalfd``). A reader takes *its own* signals, whoever made the descriptor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polynix.kernelproc.signals.send import dequeue_signal
from polynix.kernelproc.uapi.errno import EAGAIN, EINVAL
from polynix.kernelproc.uapi.poll import POLLIN
from polynix.kernelproc.uapi.structs import signalfd_siginfo
from polynix.kernelproc.vfs.anon import AnonFileOps

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.signals.siginfo import SigInfo
    from polynix.kernelproc.vfs.buffers import OutputBuffer
    from polynix.kernelproc.vfs.file_object import FileObject
    from polynix.kernelproc.wait_queue import WaitQueue

_SIZE = signalfd_siginfo.SIZE


class SignalFdOps(AnonFileOps):
    """``mask`` holds the signals that it gives."""

    def __init__(self, kernel: Kernel, mask: int) -> None:
        self.kernel = kernel
        self.mask = mask

    def read(self, file: FileObject, offset: int, out: OutputBuffer) -> int:
        count = out.remaining // _SIZE
        if not count:
            return -EINVAL
        task = self.kernel.current_task()
        total = 0
        while count:
            info = dequeue_signal(task, self.mask)
            if info is None:
                break
            total += out.write(pack_signalfd_siginfo(info))
            count -= 1
        return total or -EAGAIN

    def query_events(self, file: FileObject) -> int:
        task = self.kernel.current_task()
        return POLLIN if (task.signals.pending.mask | task.group.signals.pending.mask) & self.mask else 0

    def wait_queue(self, file: FileObject) -> WaitQueue:
        return self.kernel.current_task().group.signals.wait_queue

    def fdinfo(self, file: FileObject) -> str:
        return f"sigmask:\t{self.mask:016x}\n"


def pack_signalfd_siginfo(info: SigInfo) -> bytes:
    """The 128 bytes that a read gives for one signal: the fields of its kind only (Linux's ``signalfd_copyinfo``)."""
    fields = {"ssi_signo": info.signo, "ssi_errno": info.errno, "ssi_code": info.code}
    layout = info.layout
    if layout == "timer":
        fields |= {"ssi_tid": info.timer_id, "ssi_overrun": info.overrun, **_value(info.value)}
    elif layout == "poll":
        fields |= {"ssi_band": info.band & 0xFFFFFFFF, "ssi_fd": info.fd}
    elif layout == "fault":
        fields |= {"ssi_addr": info.addr, "ssi_trapno": info.trapno}
    elif layout == "sigchld":
        fields |= {
            "ssi_pid": info.pid,
            "ssi_uid": info.uid,
            "ssi_status": info.status,
            "ssi_utime": info.utime,
            "ssi_stime": info.stime,
        }
    elif layout == "sys":
        fields |= {"ssi_call_addr": info.addr, "ssi_syscall": info.syscall, "ssi_arch": info.arch}
    else:
        fields |= {"ssi_pid": info.pid, "ssi_uid": info.uid}
        if layout == "rt":
            fields |= _value(info.value)
    return signalfd_siginfo.pack(**fields)


def _value(value: int) -> dict[str, int]:
    low = value & 0xFFFFFFFF
    return {"ssi_int": low - (1 << 32) if low >> 31 else low, "ssi_ptr": value & 0xFFFFFFFFFFFFFFFF}
