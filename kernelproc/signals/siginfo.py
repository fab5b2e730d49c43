"""One signal on its way: Linux's ``kernel_siginfo``, and how it looks in guest memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polynix.kernelproc.uapi import structs
from polynix.kernelproc.uapi.signal import (
    SI_KERNEL,
    SI_QUEUE,
    SI_SIGIO,
    SI_TIMER,
    SI_TKILL,
    SI_USER,
    SIGBUS,
    SIGCHLD,
    SIGFPE,
    SIGILL,
    SIGSEGV,
    SIGSYS,
    SIGTRAP,
)

if TYPE_CHECKING:
    from polynix.kernelproc.task.posix_timers import PosixTimer
    from polynix.kernelproc.task.task import Task

SIGINFO_SIZE = 128

_FAULTS = (SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP)
_NSIGPOLL = 6  # codes POLL_IN to POLL_HUP, which F_SETSIG may put into any signal


class SigInfo:
    """A signal number with its cause.

    Which fields mean something follows from ``signo`` and ``code`` (man 2 sigaction), see :attr:`layout`.

    ``value`` is the 64-bit sigval; ``utime`` and ``stime`` are in clock ticks; ``raw`` holds the 128 bytes that rt_sigqueueinfo
    was given, unchanged. ``charged_uid`` is the user whose RLIMIT_SIGPENDING counts it while it is queued, or -1.
    """

    __slots__ = (
        "addr", "addr_lsb", "arch", "band", "charged_uid", "code", "errno", "error_code", "fd", "overrun", "pid", "raw", "signo",
        "status", "stime", "syscall", "timer", "timer_id", "trapno", "uid", "utime", "value",
    )  # fmt: skip

    def __init__(
        self,
        signo: int,
        code: int = SI_KERNEL,
        *,
        errno: int = 0,
        pid: int = 0,
        uid: int = 0,
        status: int = 0,
        utime: int = 0,
        stime: int = 0,
        value: int = 0,
        addr: int = 0,
        addr_lsb: int = 0,
        band: int = 0,
        fd: int = 0,
        timer_id: int = 0,
        overrun: int = 0,
        syscall: int = 0,
        arch: int = 0,
        trapno: int = 0,
        error_code: int = 0,
    ) -> None:
        self.signo = signo
        self.code = code
        self.errno = errno
        self.pid = pid
        self.uid = uid
        self.status = status
        self.utime = utime
        self.stime = stime
        self.value = value
        self.addr = addr
        self.addr_lsb = addr_lsb
        self.band = band
        self.fd = fd
        self.timer_id = timer_id
        self.overrun = overrun
        self.syscall = syscall
        self.arch = arch
        self.trapno = trapno  # of the fault, for the handler's sigcontext
        self.error_code = error_code
        self.timer: PosixTimer | None = None  # told when the signal is dequeued
        self.raw: bytes | None = None
        self.charged_uid = -1

    @classmethod
    def from_user(cls, task: Task, signo: int, code: int = SI_USER) -> SigInfo:
        """What kill (SI_USER) and tgkill (SI_TKILL) send: the caller's pid and real uid."""
        return cls(signo, code, pid=task.group.pid, uid=task.credentials.uid)

    @classmethod
    def fault(cls, signo: int, code: int, addr: int, trapno: int = 0, error_code: int = 0) -> SigInfo:
        """A synchronous fault of the guest at ``addr``."""
        return cls(signo, code, addr=addr, trapno=trapno, error_code=error_code)

    @classmethod
    def from_bytes(cls, signo: int, raw: bytes) -> SigInfo:
        """A guest's own siginfo (rt_sigqueueinfo): kept as it is but for the signal number."""
        fields = structs.siginfo_rt.unpack(raw)
        info = cls(signo, fields.si_code, errno=fields.si_errno, pid=fields.si_pid, uid=fields.si_uid, value=fields.si_value)
        info.raw = signo.to_bytes(4, "little") + raw[4:SIGINFO_SIZE]
        return info

    @property
    def layout(self) -> str:
        """Which member of siginfo's union is in use: kill, timer, poll, fault, sigchld, rt or sys (``siginfo_layout``)."""
        code, signo = self.code, self.signo
        if SI_USER < code < SI_KERNEL:
            if signo in _FAULTS:
                return "fault"
            if signo == SIGCHLD or self.pid:
                return "sigchld"  # also as another signal, which clone may ask for
            if signo == SIGSYS:
                return "sys"
            return "poll" if code <= _NSIGPOLL else "kill"
        if code == SI_TIMER:
            return "timer"
        if code == SI_SIGIO:
            return "poll"
        return "kill" if code in (SI_USER, SI_KERNEL) else "rt"

    def pack(self) -> bytes:
        """The 128 bytes of ``siginfo_t``."""
        if self.raw is not None:
            return self.raw
        signo, errno, code, layout = self.signo, self.errno, self.code, self.layout
        if layout == "kill":
            return structs.siginfo_kill.pack(si_signo=signo, si_errno=errno, si_code=code, si_pid=self.pid, si_uid=self.uid)
        if layout == "rt":
            return structs.siginfo_rt.pack(si_signo=signo, si_errno=errno, si_code=code, si_pid=self.pid, si_uid=self.uid, si_value=self.value)
        if layout == "sigchld":
            return structs.siginfo_sigchld.pack(
                si_signo=signo,
                si_errno=errno,
                si_code=code,
                si_pid=self.pid,
                si_uid=self.uid,
                si_status=self.status,
                si_utime=self.utime,
                si_stime=self.stime,
            )
        if layout == "fault":
            return structs.siginfo_fault.pack(si_signo=signo, si_errno=errno, si_code=code, si_addr=self.addr, si_addr_lsb=self.addr_lsb)
        if layout == "timer":
            return structs.siginfo_timer.pack(
                si_signo=signo,
                si_errno=errno,
                si_code=code,
                si_timerid=self.timer_id,
                si_overrun=self.overrun,
                si_value=self.value,
            )
        if layout == "poll":
            return structs.siginfo_poll.pack(si_signo=signo, si_errno=errno, si_code=code, si_band=self.band, si_fd=self.fd)
        return structs.siginfo_sys.pack(si_signo=signo, si_errno=errno, si_code=code, si_call_addr=self.addr, si_syscall=self.syscall, si_arch=self.arch)

    def copy(self) -> SigInfo:
        """The same cause for one more receiver."""
        other = SigInfo.__new__(SigInfo)
        for name in SigInfo.__slots__:
            setattr(other, name, getattr(self, name))
        other.charged_uid = -1
        return other

    def __repr__(self) -> str:
        return f"<SigInfo {self.signo} code={self.code}>"


__all__ = ["SIGINFO_SIZE", "SI_KERNEL", "SI_QUEUE", "SI_TIMER", "SI_TKILL", "SI_USER", "SigInfo"]
