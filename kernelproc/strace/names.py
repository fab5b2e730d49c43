"""Names of flags and of enumerated values, from the generated UAPI modules: ``O_RDONLY|O_CLOEXEC``, ``SEEK_SET``, ``SIGCHLD``."""

from __future__ import annotations

import importlib
from functools import cache

_UAPI = "polynix.kernelproc.uapi."

# name of the set: (module, prefixes, names that share a prefix but mean something else)
_FLAG_SETS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "access": ("fcntl", ("R_OK", "W_OK", "X_OK"), ()),
    "at": ("fcntl", ("AT_SYMLINK", "AT_EMPTY", "AT_NO_", "AT_EACCESS", "AT_REMOVEDIR"), ("AT_EACCESS", "AT_REMOVEDIR")),
    "at_access": ("fcntl", ("AT_SYMLINK_NOFOLLOW", "AT_EMPTY", "AT_EACCESS"), ()),
    "at_remove": ("fcntl", ("AT_REMOVEDIR",), ()),
    "clone": ("sched", ("CLONE_",), ("CLONE_INTO_CGROUP", "CLONE_CLEAR_SIGHAND", "CLONE_NEWTIME")),
    "close_range": ("close_range", ("CLOSE_RANGE_",), ()),
    "efd": ("eventfd", ("EFD_",), ()),
    "epoll": ("epoll", ("EPOLL_CLOEXEC",), ()),
    "epoll_events": ("epoll", ("EPOLL",), ("EPOLL_CLOEXEC", "EPOLL_CTL_ADD", "EPOLL_CTL_DEL", "EPOLL_CTL_MOD")),
    "fallocate": ("fcntl", ("FALLOC_FL_",), ()),
    "fdflags": ("fcntl", ("FD_CLOEXEC",), ()),
    "grnd": ("random", ("GRND_",), ()),
    "map": ("mman", ("MAP_",), ("MAP_TYPE", "MAP_FILE", "MAP_SHARED_VALIDATE", "MAP_HUGE", "MAP_ANON$")),
    "mcl": ("mman", ("MCL_",), ()),
    "mfd": ("mman", ("MFD_",), ("MFD_HUGE",)),
    "mount": ("mount", ("MS_",), ("MS_RMT_MASK", "MS_MGC", "MS_BORN", "MS_ACTIVE", "MS_NOUSER", "MS_VERBOSE")),
    "mremap": ("mman", ("MREMAP_",), ()),
    "ms": ("mman", ("MS_ASYNC", "MS_INVALIDATE", "MS_SYNC"), ()),
    "msg": ("socket", ("MSG_",), ("MSG_FIN", "MSG_EOF")),
    "open": ("fcntl", ("O_",), ("O_ACCMODE", "O_RDONLY", "O_NDELAY", "O_FSYNC", "O_RSYNC")),
    "pidfd": ("pidfd", ("PIDFD_",), ()),
    "poll": ("poll", ("POLL",), ()),
    "prot": ("mman", ("PROT_",), ("PROT_NONE",)),
    "rename": ("fcntl", ("RENAME_",), ()),
    "rwf": ("fcntl", ("RWF_",), ()),
    "sa": ("signal", ("SA_",), ("SA_NOMASK", "SA_ONESHOT")),
    "sfd": ("signalfd", ("SFD_",), ()),
    "sock_flags": ("socket", ("SOCK_CLOEXEC", "SOCK_NONBLOCK"), ()),
    "splice": ("fcntl", ("SPLICE_F_",), ()),
    "ss": ("signal", ("SS_",), ()),
    "statx": ("stat", ("STATX_",), ("STATX_ATTR", "STATX_ALL", "STATX__RESERVED")),
    "tfd": ("timerfd", ("TFD_CLOEXEC", "TFD_NONBLOCK"), ()),
    "tfd_set": ("timerfd", ("TFD_TIMER",), ()),
    "timer": ("time", ("TIMER_ABSTIME",), ()),
    "umount": ("mount", ("MNT_FORCE", "MNT_DETACH", "MNT_EXPIRE", "UMOUNT_"), ()),
    "wait": ("wait", ("W", "__W"), ("WSTOPPED",)),
    "waitid": ("wait", ("W", "__W"), ("WUNTRACED",)),
    "xattr": ("xattr", ("XATTR_CREATE", "XATTR_REPLACE"), ()),
}
_ENUMS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "advice": ("mman", ("MADV_",), ()),
    "af": ("socket", ("AF_",), ("AF_LOCAL", "AF_FILE", "AF_ROUTE", "AF_MAX")),
    "arch": ("prctl", ("ARCH_",), ()),
    "clock": ("time", ("CLOCK_",), ("CLOCK_SGI",)),
    "epoll_ctl": ("epoll", ("EPOLL_CTL_",), ()),
    "fadvise": ("fcntl", ("POSIX_FADV_",), ()),
    "fcntl": ("fcntl", ("F_",), ("F_OK", "F_LOCK", "F_ULOCK", "F_TLOCK", "F_TEST", "F_RDLCK", "F_WRLCK", "F_UNLCK", "F_SEAL",
                                 "F_OWNER", "F_SHLCK", "F_EXLCK", "F_GETLK64", "F_SETLK64", "F_SETLKW64")),
    "futex": ("futex", ("FUTEX_",), ("FUTEX_PRIVATE", "FUTEX_CLOCK", "FUTEX_CMD", "FUTEX_WAITERS", "FUTEX_OWNER", "FUTEX_TID",
                                    "FUTEX_BITSET", "FUTEX_OP", "FUTEX2", "FUTEX_NO", "FUTEX_32", "FUTEX_WAITV")),
    "itimer": ("time", ("ITIMER_",), ()),
    "lock": ("fcntl", ("F_RDLCK", "F_WRLCK", "F_UNLCK"), ()),
    "membarrier": ("membarrier", ("MEMBARRIER_CMD",), ("MEMBARRIER_CMD_SHARED", "MEMBARRIER_CMD_FLAG")),
    "p": ("wait", ("P_",), ()),
    "pr": ("prctl", ("PR_",), ("PR_SET_MM_", "PR_CAP_", "PR_FP_", "PR_FPEMU", "PR_ENDIAN", "PR_TIMING", "PR_TSC", "PR_UNALIGN",
                               "PR_MCE_", "PR_SPEC", "PR_TAGGED", "PR_SVE", "PR_SME", "PR_PAC_AP", "PR_MTE", "PR_SCHED_CORE_",
                               "PR_MDWE", "PR_RISCV_V", "PR_RISCV_CTX", "PR_PPC_DEXCR_", "PR_SYS", "PR_FUTEX_HASH_", "PR_TIMER")),
    "prio": ("resource", ("PRIO_PROCESS", "PRIO_PGRP", "PRIO_USER"), ()),
    "rlimit": ("resource", ("RLIMIT_",), ("RLIMIT_OFILE", "RLIMIT_NLIMITS")),
    "rusage": ("resource", ("RUSAGE_",), ("RUSAGE_LWP",)),
    "sched": ("sched", ("SCHED_NORMAL", "SCHED_OTHER", "SCHED_FIFO", "SCHED_RR", "SCHED_BATCH", "SCHED_IDLE", "SCHED_DEADLINE"),
              ("SCHED_NORMAL",)),
    "seek": ("fcntl", ("SEEK_",), ("SEEK_MAX",)),
    "shut": ("socket", ("SHUT_",), ()),
    "sigmask": ("signal", ("SIG_BLOCK", "SIG_UNBLOCK", "SIG_SETMASK"), ()),
    "so": ("socket", ("SO_",), ("SO_GET_FILTER", "SO_ATTACH_BPF", "SO_RCVTIMEO_", "SO_SNDTIMEO_", "SO_TIMESTAMP_", "SO_TIMESTAMPING_")),
    "socktype": ("socket", ("SOCK_",), ("SOCK_CLOEXEC", "SOCK_NONBLOCK", "SOCK_IOC", "SOCK_SNDBUF", "SOCK_RCVBUF", "SOCK_TXREHASH")),
    "sol": ("socket", ("SOL_",), ()),
    "tcflsh": ("ioctls", ("TCIFLUSH", "TCOFLUSH", "TCIOFLUSH"), ()),
}  # fmt: skip


def _collect(table: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]], key: str) -> dict[int, str]:
    module_name, prefixes, excluded = table[key]
    module = importlib.import_module(_UAPI + module_name)
    found: dict[int, str] = {}
    for name, value in vars(module).items():
        # An excluded name stands for all that begin with it, unless it ends in "$".
        if isinstance(value, int) and name.startswith(prefixes) and not (name + "$").startswith(excluded or ("\0",)):
            found.setdefault(value, name)
    return found


@cache
def enum_names(key: str) -> dict[int, str]:
    """value -> name of an enumeration."""
    return _collect(_ENUMS, key)


@cache
def _flag_names(key: str) -> list[tuple[int, str]]:
    """(bits, name), the widest masks first, so that O_SYNC comes before O_DSYNC."""
    pairs = [(value, name) for value, name in _collect(_FLAG_SETS, key).items() if value > 0]
    return sorted(pairs, key=lambda pair: (-pair[0].bit_count(), pair[0]))


def enum(key: str, value: int) -> str:
    """The name of ``value``, or the number with a comment as strace writes it."""
    name = enum_names(key).get(value)
    return name if name is not None else f"{value:#x} /* {key.upper()}_??? */" if value else "0"


def flags(key: str, value: int, zero: str = "0") -> str:
    """``A|B|0x40``; ``zero`` when no bit is set."""
    if value == 0:
        return zero
    parts: list[tuple[int, str]] = []
    rest = value
    for bits, name in _flag_names(key):
        if rest & bits == bits:
            parts.append((bits, name))
            rest &= ~bits
    texts = [name for _, name in sorted(parts)]
    if rest:
        texts.append(f"{rest:#x}")
    return "|".join(texts)


@cache
def signal_names() -> dict[int, str]:
    """1 -> SIGHUP and so on."""
    from polynix.kernelproc.uapi import signal

    names: dict[int, str] = {}
    for name, value in vars(signal).items():
        if name.startswith("SIG") and "_" not in name and isinstance(value, int) and 0 < value < 32:
            names.setdefault(value, name)
    names[6], names[29], names[17] = "SIGABRT", "SIGIO", "SIGCHLD"
    return names


def signal_name(number: int) -> str:
    """SIGCHLD, SIGRT_3, or the number."""
    name = signal_names().get(number)
    if name is not None:
        return name
    if number == 32:
        return "SIGRTMIN"
    return f"SIGRT_{number - 32}" if 32 <= number <= 64 else str(number)


def signal_set(mask: int) -> str:
    """``[CHLD TERM]``, or ``~[...]`` when most are in."""
    numbers = [number for number in range(1, 65) if mask >> (number - 1) & 1]
    inverted = len(numbers) > 32
    if inverted:
        numbers = [number for number in range(1, 65) if not mask >> (number - 1) & 1]
    return ("~" if inverted else "") + "[" + " ".join(signal_name(number).removeprefix("SIG") for number in numbers) + "]"


@cache
def ioctl_names() -> dict[int, str]:
    """Requests of terminals, files and block devices."""
    from polynix.kernelproc.uapi import ioctls

    names: dict[int, str] = {}
    for name, value in vars(ioctls).items():
        if isinstance(value, int) and value >= 0x1000 and name.startswith(("TC", "TIO", "FIO", "BLK", "RND", "FS_IOC", "SIOC")):
            names.setdefault(value, name)
    return names


@cache
def errno_names() -> dict[int, str]:
    """2 -> ENOENT and so on, with the kernel's internal restarts."""
    from polynix.kernelproc.uapi import errno

    names = {value: name for name, value in vars(errno).items() if name.startswith("E") and isinstance(value, int)}
    names |= {11: "EAGAIN", 35: "EDEADLK", 95: "EOPNOTSUPP"}
    return names | {512: "ERESTARTSYS", 513: "ERESTARTNOINTR", 514: "ERESTARTNOHAND", 516: "ERESTART_RESTARTBLOCK"}
