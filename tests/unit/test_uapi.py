"""The checked-in UAPI modules are what the installed headers say, and pack as the compiler lays structs out."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from polynix.kernelproc import uapi
from polynix.kernelproc.errno import ERESTARTSYS, Errno
from polynix.kernelproc.uapi import errno, fcntl, headers, signal, structs, unistd
from polynix.tools import generate_uapi


def test_generated_files_match_the_headers() -> None:
    if not shutil.which("cc"):
        pytest.skip("no C compiler")
    with tempfile.TemporaryDirectory() as directory:
        installed = generate_uapi.header_versions(directory)
    recorded = (headers.LINUX_VERSION, headers.GLIBC_VERSION)
    if installed != recorded:
        pytest.skip(f"headers are {installed}, the checked-in files come from {recorded}")
    folder = Path(next(iter(uapi.__path__)))
    assert [name for name, text in generate_uapi.generate().items() if (folder / name).read_text() != text] == []


def test_values() -> None:
    assert (errno.ENOENT, errno.NAMES[11], errno.NAMES[95]) == (2, "EAGAIN", "EOPNOTSUPP")
    assert fcntl.O_LARGEFILE == 0o100000
    assert (signal.SIGRTMAX, signal.NAMES[29]) == (64, "SIGIO")
    assert unistd.SYSCALLS["clone3"] == unistd.NR_clone3 == 435


def test_struct_sizes() -> None:
    sizes = {
        "stat": 144,
        "statx": 256,
        "statfs": 120,
        "sigaction": 32,
        "siginfo_kill": 128,
        "siginfo_raw": 128,
        "ucontext": 304,
        "termios": 36,
        "epoll_event": 12,
        "linux_dirent64": 19,
        "linux_dirent": 18,
        "clone_args": 88,
        "new_utsname": 390,
        "sigcontext": 256,
        "cmsghdr": 16,
    }
    assert {name: getattr(structs, name).SIZE for name in sizes} == sizes
    for name, cls in vars(structs).items():
        if hasattr(cls, "SIZE"):
            assert cls.FORMAT.size == cls.SIZE == len(cls.pack()), name


def test_struct_round_trip() -> None:
    data = structs.epoll_event.pack(events=5, data=2**64 - 1)
    assert structs.epoll_event.unpack(b"x" + data, 1) == (5, 2**64 - 1)
    assert structs.stat.unpack(structs.stat.pack(st_mtime=-1)).st_mtime == -1
    size = structs.winsize(ws_row=24, ws_col=80)
    assert size.to_bytes() == b"\x18\0\x50\0\0\0\0\0"
    assert (size.ws_row, size.ws_col, size.ws_xpixel) == size[:3] == (24, 80, 0)
    assert repr(size) == "winsize(ws_row=24, ws_col=80, ws_xpixel=0, ws_ypixel=0)"


def test_errno_says_its_name() -> None:
    assert (str(Errno(2)), repr(Errno(ERESTARTSYS)), str(Errno(4000))) == ("ENOENT", "Errno(ERESTARTSYS)", "4000")
