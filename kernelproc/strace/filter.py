"""Which calls are shown: strace's ``-e trace=`` notation.

``open,openat``, ``%file``, ``!futex``, ``/^get``, ``all``, ``none``; ``?name`` may be unknown.
"""

from __future__ import annotations

import re

from polynix.kernelproc.syscalls import table

_CLASSES = {
    "%desc": r"^(read|write|pread|pwrite|readv|writev|preadv|pwritev|close|dup|fcntl|ioctl|lseek|fstat|ftruncate|fsync|fdatasync|flock|"
    r"getdents|sendfile|splice|tee|poll|ppoll|select|pselect|epoll|eventfd|signalfd|timerfd|pipe|socket|accept|mmap|openat|open$|"
    r"fallocate|copy_file_range|memfd)",
    "%file": r"^(open|creat|stat|lstat|newfstatat|statx|access|faccessat|readlink|execve|chdir|chmod|fchmodat|chown|lchown|fchownat|link|"
    r"unlink|symlink|rename|mkdir|rmdir|mknod|mount|umount|truncate|utime|statfs|chroot|getcwd|.*xattr)",
    "%process": r"^(clone|fork|vfork|execve|exit|wait|kill|tkill|tgkill|rt_sigqueueinfo|pidfd)",
    "%network": r"^(socket|bind|connect|listen|accept|send|recv|getsockname|getpeername|getsockopt|setsockopt|shutdown)",
    "%net": r"^(socket|bind|connect|listen|accept|send|recv|getsockname|getpeername|getsockopt|setsockopt|shutdown)",
    "%signal": r"^(rt_sig|sigaltstack|signalfd|kill|tkill|tgkill|pause)",
    "%ipc": r"^(shm|sem|msg|mq_)",
    "%memory": r"^(mmap|munmap|mprotect|mremap|madvise|msync|mincore|mlock|munlock|brk|membarrier)",
    "%creds": r"^(.et.*[ug]id|.etgroups|cap)",
    "%clock": r"^(clock_|gettimeofday|settimeofday|time$|adjtimex)",
    "%stat": r"^stat$",
    "%lstat": r"^lstat$",
    "%fstat": r"^(fstat|newfstatat)$",
    "%%stat": r"stat",
    "%pure": r"^get(pid|ppid|tid|uid|gid|euid|egid|pgrp)$",
}


class FilterError(Exception):
    """The filter's text is wrong; one line for the user."""


def parse_filter(text: str) -> frozenset[int] | None:
    """The numbers to show; None for all. Errors: FilterError."""
    text = text.removeprefix("trace=")
    negate = text.startswith("!")
    numbers: set[int] = set()
    for item in (text[1:] if negate else text).split(","):
        item = item.strip()
        if item == "all":
            numbers |= set(table.names)
        elif item != "none":
            numbers |= _matching(item)
    if negate:
        numbers = set(table.names) - numbers
    return None if numbers == set(table.names) else frozenset(numbers)


def _matching(item: str) -> set[int]:
    pattern = _CLASSES.get(item)
    optional = item.startswith("?")
    name = item.removeprefix("?")
    if pattern is None and name.startswith("/"):
        pattern = name[1:]
    if pattern is None:
        found = {number for number, known in table.names.items() if known == name}
        if not found and name.isdigit():
            found = {int(name)}
        if not found and not optional:
            raise FilterError(f"strace filter: unknown system call {name!r}")
        return found
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise FilterError(f"strace filter: {name!r} is no regular expression: {error}") from None
    return {number for number, known in table.names.items() if expression.search(known)}
