"""Usercopy: guest addresses, memory objects, translation, partial counts, and pages that vanish under a copy."""

from __future__ import annotations

import contextlib
import errno
import gc
import operator
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
from polynix.addrspace import _usercopy
from polynix.addrspace._usercopy import Fault, MemoryObject, UserAddress, UserMap

A = UserAddress
READ, WRITE, EXEC = 1, 2, 4
SLICE = 1 << 32


def memory(size: int = 1 << 40) -> MemoryObject:
    fd = os.memfd_create("test")
    os.ftruncate(fd, size)
    return MemoryObject(fd)


@pytest.fixture
def user() -> UserMap:
    """0x10000-0x14000 readable and writable, 0x14000-0x15000 read-only, 0x15000-0x16000 executable only; then a hole."""
    user, obj = UserMap(), memory()
    user.map(0x10000, 0x14000, READ | WRITE, obj, 0x10000)
    user.map(0x14000, 0x15000, READ, obj, 0x14000)
    user.map(0x15000, 0x16000, EXEC, obj, 0x15000)
    return user


# -- UserAddress ------------------------------------------------------------------------------------------------------------------


def test_address_is_no_number() -> None:
    for use in (operator.index, int, float, "abc".__getitem__, range, hex):
        with pytest.raises(TypeError):
            use(A(1))  # type: ignore[operator]
    for compare in (operator.lt, operator.ge):
        with pytest.raises(TypeError):
            compare(A(1), 1)
    assert A(1) != 1 and A(0) != 0
    with pytest.raises(TypeError):
        os.read(A(0), 1)  # type: ignore[arg-type]


def test_address_arithmetic() -> None:
    assert (A(0x1000) + 8).ptr == (8 + A(0x1000)).ptr == 0x1008
    assert A(0x1000) - 8 == A(0xFF8) and A(0x1000) - A(0x1008) == -8 and A(2**64 - 1) - A(0) == 2**64 - 1 and A(0) - A(2**64 - 1) == 1 - 2**64
    assert A(2**64 - 1) + 1 == A(0) and A(0) - 1 == A(2**64 - 1) == A(-1)
    assert A(1) < A(2) <= A(2**63) < A(2**64 - 1) and hash(A(5)) == hash(A(5))
    assert not A(0) and A(1) and repr(A(0xABC)) == "0xabc" and A(A(7)) == A(7)
    for other in ("x", 1.5, None):
        with pytest.raises(TypeError):
            A(1) + other  # type: ignore[operator]
        with pytest.raises(TypeError):
            A(other)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        1 - A(1)  # type: ignore[operator]


# -- copies -----------------------------------------------------------------------------------------------------------------------


def test_copies_and_partial_counts(user: UserMap) -> None:
    assert user.copy_out(A(0x10000), b"hello") == 5
    assert user.copy_in(A(0x10000), 5) == b"hello"
    assert user.copy_out(A(0x13FFE), memoryview(b"12345")) == 2  # the next page is read-only
    assert user.copy_in_partial(A(0x13FFE), 4) == b"12\0\0"
    assert len(user.copy_in_partial(A(0x14FF0), 100)) == 16  # executable only is not readable
    assert user.copy_in_partial(A(0x16000), 100) == user.copy_in_partial(A(0), 100) == b""
    assert user.copy_out(A(0x14000), b"x") == 0
    assert user.zero(A(0x10001), 2) == 2 and user.copy_in(A(0x10000), 5) == b"h\0\0lo"
    assert user.zero(A(0x13000), 1 << 40) == 0x1000
    assert user.copy_in(A(0xDEAD0000), 0) == b"" and user.copy_out(A(0xDEAD0000), b"") == 0
    assert len(user.copy_in_partial(A(0x10000), sys.maxsize)) == 0x5000


def test_fault_says_where(user: UserMap) -> None:
    for call, address, done in (
        (lambda: user.copy_in(A(0x14FF0), 17), 0x15000, 16),
        (lambda: user.copy_in(A(2**64 - 1), 2), 2**64 - 1, 0),
        (lambda: user.copy_out_all(A(0x13FFF), b"ab"), 0x14000, 1),
        (lambda: user.load_u64(A(0x16000)), 0x16000, 0),
        (lambda: user.store_u32(A(0x13FFE), 0), 0x14000, 2),
        (lambda: user.futex_key(A(0)), 0, 0),
    ):
        with pytest.raises(Fault) as caught:
            call()
        assert (caught.value.address, caught.value.done, caught.value.errno) == (A(address), done, errno.EFAULT)
    with pytest.raises(Fault):
        user.copy_in(A(0x10000), 1 << 50)  # before anything is allocated


def test_write_permission_implies_reading(user: UserMap) -> None:
    user.protect(0x10000, 0x11000, WRITE)
    user.copy_out_all(A(0x10000), b"x")
    assert user.copy_in(A(0x10000), 1) == b"x"


def test_strings(user: UserMap) -> None:
    long = bytes(range(1, 256)) * 60
    user.copy_out_all(A(0x10001), long + b"\0rest")
    assert user.read_cstring(A(0x10001), 1 << 17) == long
    assert user.read_cstring(A(0x10001), len(long)) is None
    assert user.read_cstring(A(0x10001), len(long) + 1) == long
    assert user.read_cstring(A(0x10001), 0) is None
    user.copy_out_all(A(0x13FFD), b"ab\0")
    user.protect(0x14000, 0x15000, 0)
    assert user.read_cstring(A(0x13FFD), 4096) == b"ab"  # what follows isn't looked at
    user.copy_out_all(A(0x13FFF), b"c")
    with pytest.raises(Fault) as caught:
        user.read_cstring(A(0x13FFD), 4096)
    assert caught.value.address == A(0x14000)
    assert user.read_cstring(A(0x13FFD), 3) is None


def test_iovecs(user: UserMap) -> None:
    iov = [(A(0x10000), 3), (A(0), 0), (A(0x13FFE), 4), (A(0x10010), 4)]
    assert user.copy_out_iov(iov, b"abcdefghij") == 5  # stops at the read-only page
    assert user.copy_in_iov(iov, 100) == b"abcde\0\0\0\0\0\0"
    assert user.copy_in_iov(iov, 4) == b"abcd" and user.copy_in_iov([], 4) == b""
    assert user.copy_in_iov([(A(0x10000), 3), (A(0), 5), (A(0x10000), 3)], 100) == b"abc"
    with pytest.raises(TypeError):
        user.copy_in_iov([(0x10000, 3)], 100)  # type: ignore[list-item]


def test_words(user: UserMap) -> None:
    at = A(0x10010)
    user.store_u64(at, 0x1122334455667788)
    assert (user.load_u8(at), user.load_u16(at), user.load_u32(at)) == (0x88, 0x7788, 0x55667788)
    user.store_i32(at, -2)
    assert (user.load_i32(at), user.load_u32(at), user.load_i64(at)) == (-2, 2**32 - 2, 0x11223344FFFFFFFE)
    assert user.compare_exchange_u32(at, 5, 6) == 2**32 - 2 and user.compare_exchange_u32(at, -2, 6) == 2**32 - 2
    fetched = [user.fetch_add_u32(at, 2), user.fetch_or_u32(at, 3), user.fetch_and_u32(at, 9), user.fetch_xor_u32(at, 1)]
    assert (fetched, user.exchange_u32(at, 77)) == ([6, 8, 11, 9], 8)
    assert user.load_u32(at) == 77
    user.store_u8(at, 0x1FF)
    user.store_u16(at + 1, 0)
    assert user.load_u32(at) == 0xFF
    user.map(0x13FFE & ~0xFFF, 0x14000, READ | WRITE, memory(), 0)
    user.map(0x14000, 0x15000, READ | WRITE, memory(), 0)
    user.store_u64(A(0x13FFD), 0x0102030405060708)  # straddles two objects
    assert user.load_u64(A(0x13FFD)) == 0x0102030405060708 and user.load_u8(A(0x14000)) == 5
    with pytest.raises(ValueError):
        user.compare_exchange_u32(at + 1, 0, 0)
    with pytest.raises(TypeError):
        user.load_u32(0x10010)  # type: ignore[arg-type]


def test_futex_key_is_the_object_and_offset() -> None:
    obj, one, two = memory(), UserMap(), UserMap()
    one.map(0x1000, 0x3000, READ | WRITE, obj, 0x10000)
    two.map(0x7000, 0x8000, READ | WRITE, obj, 0x11000)
    assert one.futex_key(A(0x2010)) == two.futex_key(A(0x7010)) == (obj.id, 0x11010)


# -- the map ----------------------------------------------------------------------------------------------------------------------


def test_entries_split_and_join() -> None:
    user, obj = UserMap(), memory()
    user.map(0x1000, 0x5000, 3, obj, 0x1000)
    user.map(0x5000, 0x6000, 3, obj, 0x5000)
    assert user.entries() == [(0x1000, 0x6000, 3, obj, 0x1000)]
    user.protect(0x2000, 0x3000, 1)
    user.unmap(0x4000, 0x5000)
    assert user.entries() == [
        (0x1000, 0x2000, 3, obj, 0x1000), (0x2000, 0x3000, 1, obj, 0x2000), (0x3000, 0x4000, 3, obj, 0x3000), (0x5000, 0x6000, 3, obj, 0x5000),
    ]  # fmt: skip
    user.protect(0, 1 << 47, 3)
    user.map(0x4000, 0x5000, 3, obj, 0x4000)
    assert user.entries() == [(0x1000, 0x6000, 3, obj, 0x1000)]
    user.map(0x3000, 0x4000, 3, None, 99)
    assert user.entries()[1] == (0x3000, 0x4000, 3, None, 0)
    user.unmap(0, 2**64 - 1)
    assert user.entries() == []
    with pytest.raises(ValueError):
        user.map(2, 1, 3, obj, 0)


def test_clone_replaces_an_object() -> None:
    user, old, new, other = UserMap(), memory(), memory(), memory()
    user.map(0x1000, 0x2000, 3, old, 0x1000)
    user.map(0x2000, 0x3000, 3, other, 0)
    user.copy_out_all(A(0x1000), b"old")
    copy = user.clone(old, new)
    assert copy.entries() == [(0x1000, 0x2000, 3, new, 0x1000), (0x2000, 0x3000, 3, other, 0)]
    copy.copy_out_all(A(0x1000), b"new")
    assert (user.copy_in(A(0x1000), 3), copy.copy_in(A(0x1000), 3)) == (b"old", b"new")
    assert user.clone().entries() == user.entries()


def test_on_fault_may_populate() -> None:
    user, obj, calls = UserMap(), memory(), []

    def populate(address: int, write: bool) -> bool:
        calls.append((address, write))
        if address >= 0x3000:
            return False
        user.map(address & ~0xFFF, (address & ~0xFFF) + 0x1000, READ | WRITE, obj, address & ~0xFFF)
        return True

    user.on_fault = populate
    user.map(0x1000, 0x2000, READ | WRITE, None, 0)
    assert user.copy_out(A(0x1FFF), b"x" * 0x2000) == 0x1001
    assert calls == [(0x1FFF, True), (0x2000, True), (0x3000, True)]
    calls.clear()
    assert len(user.copy_in_partial(A(0x2F00), 0x200)) == 0x100 and calls == [(0x3000, False)]
    user.protect(0x1000, 0x2000, READ)
    calls.clear()
    user.store_u32(A(0x1000), 1)
    assert calls == [(0x1000, True)]

    user.on_fault = lambda address, write: True  # lies: must not loop for ever
    with pytest.raises(Fault):
        user.copy_in(A(0x9000), 1)

    def fail(address: int, write: bool) -> bool:
        raise RuntimeError("no")

    user.on_fault = fail
    for call in (
        lambda: user.copy_in(A(0x9000), 1), lambda: user.copy_out(A(0x9000), b"x"), lambda: user.zero(A(0x9000), 1), lambda: user.load_u32(A(0x9000)),
        lambda: user.read_cstring(A(0x9000), 9), lambda: user.pread(0, A(0x9000), 1, 0), lambda: user.copy_in_iov([(A(0x9000), 1)], 9),
        lambda: user.copy_in(A(0x9000), 1 << 20), lambda: user.futex_key(A(0x9000)), lambda: user.preadv(0, [(A(0x1000), 1), (A(0x9000), 1)], 0),
    ):  # fmt: skip
        with pytest.raises(RuntimeError):
            call()


def test_map_is_collected_with_its_handler() -> None:
    class Owner:
        def __init__(self) -> None:
            self.user = UserMap()
            self.user.on_fault = self.populate

        def populate(self, address: int, write: bool) -> bool:
            return False

    gone = weakref.ref(Owner().user)
    gc.collect()
    assert gone() is None


# -- memory objects and windows ---------------------------------------------------------------------------------------------------


def test_object_reads_writes_holes() -> None:
    obj = memory(1 << 30)
    assert (obj.size(), obj.resident()) == (1 << 30, 0)
    assert obj.write(0x5000, b"data") == 4 and obj.read(0x5000, 4) == b"data" and obj.resident() == 4096
    assert obj.write(0x9000, bytearray(0x2000)) == 0x2000
    assert obj.data_ranges(0, 1 << 30) == [(0x5000, 0x6000), (0x9000, 0xB000)]
    assert obj.data_ranges(0x5800, 0x4000) == [(0x5800, 0x6000), (0x9000, 0x9800)]
    obj.punch(0x9000, 0x1000)
    assert obj.data_ranges(0x6000, 1 << 20) == [(0xA000, 0xB000)]
    assert obj.read((1 << 30) - 1, 10) == b"\0" and obj.read(1 << 31, 10) == b""
    fd = obj.fd
    obj.close()
    assert obj.fd == -1
    with pytest.raises(ValueError):
        obj.size()
    with pytest.raises(OSError):
        os.fstat(fd)
    with pytest.raises(OSError):
        MemoryObject(fd)


def test_copy_from_keeps_holes_and_position() -> None:
    src, dst = memory(), memory()
    big = os.urandom(1 << 20)
    base = SLICE - (1 << 19)  # across two slices
    src.write(base, big)
    src.write(base + (8 << 20), b"tail")
    os.lseek(src.fd, 123, os.SEEK_SET)
    assert dst.copy_from(src, base - 0x1000, 0x1000, 16 << 20) == (1 << 20) + 4096
    assert os.lseek(src.fd, 0, os.SEEK_CUR) == 123
    assert dst.read(0x2000, 1 << 20) == big and dst.read(0x2000 + (8 << 20), 4) == b"tail"
    assert dst.resident() == (1 << 20) + 4096
    assert dst.copy_from(src, 0, 0, 4096) == 0


def test_copy_from_a_host_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 5000)
    src, dst = MemoryObject(os.open(tmp_path / "f", os.O_RDONLY), writable=False), memory()
    assert dst.copy_from(src, 0, 0x10000, 1 << 20) == 5000
    assert dst.read(0x10000, 5001) == b"x" * 5000 + b"\0"
    user = UserMap()
    user.map(0, 0x2000, READ | WRITE, src, 0)
    assert user.copy_in(A(0), 10) == b"x" * 10 and user.copy_out(A(0), b"y") == 0  # the window is read-only
    with pytest.raises(OSError):
        src.copy_from(dst, 0x10000, 0, 10)


@pytest.fixture
def window_limit() -> Iterator[None]:
    yield
    _usercopy.set_window_limit(8192)


def test_windows_come_and_go(window_limit: None) -> None:
    user, obj = UserMap(), memory(1 << 46)
    gc.collect()
    before = _usercopy.windows()
    _usercopy.set_window_limit(before + 4)
    user.map(0, 1 << 46, READ | WRITE, obj, 0)
    for n in range(64):
        user.store_u64(A(n * SLICE + 8), n)
        assert _usercopy.windows() <= before + 4
    assert [user.load_u64(A(n * SLICE + 8)) for n in range(64)] == list(range(64))
    user.copy_out_all(A(SLICE - 3), b"across")
    assert user.copy_in(A(SLICE - 3), 6) == b"across"
    obj.close()
    assert user.copy_in_partial(A(8), 8) == b"" and user.copy_out(A(8), b"x") == 0
    del user, obj
    assert _usercopy.windows() <= before


def test_host_io(user: UserMap, tmp_path: Path) -> None:
    fd = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    user.copy_out_all(A(0x13FFC), b"abcd")
    assert user.pwrite(fd, A(0x13FFC), 4, 0) == 4
    assert user.pwritev(fd, [(A(0x13FFE), 2), (A(0), 0), (A(0x13FFC), 3)], 4) == 5
    assert os.pread(fd, 99, 0) == b"abcdcdabc"
    assert user.pread(fd, A(0x13FFE), 100, 1) == 2 and user.copy_in(A(0x13FFC), 4) == b"abbc"  # up to the read-only page
    assert user.preadv(fd, [(A(0x10000), 2), (A(0x11000), 100)], 0) == 9 and user.copy_in(A(0x11000), 7) == b"cdcdabc"
    os.lseek(fd, 5, os.SEEK_SET)
    assert user.pread(fd, A(0x10000), 2, -1) == 2 and os.lseek(fd, 0, os.SEEK_CUR) == 7 and user.copy_in(A(0x10000), 2) == b"da"
    assert user.pread(fd, A(0x14000), 2, 0) == user.pwrite(fd, A(0), 2, 0) == -errno.EFAULT
    assert user.pread(-1, A(0x10000), 2, 0) == -errno.EBADF and user.pread(fd, A(0x10000), 0, 0) == 0
    assert user.pread(fd, A(0x10000), 2, 0, os.RWF_NOWAIT) in (2, -errno.EAGAIN, -errno.EOPNOTSUPP)
    assert user.pread(fd, A(0x10000), sys.maxsize, 0) == 9
    assert user.pread(fd, A(0x14000), 2, 9) == 0  # the end of the file comes before the fault, as in Linux
    assert user.pread(-1, A(0), 2, 0) == -errno.EBADF
    reader, writer = os.pipe()
    assert user.pwrite(writer, A(0), 5, -1) == -errno.EFAULT
    assert user.pwritev(writer, [(A(0x10000), 2), (A(0), 1)], -1) == -errno.EFAULT  # a pipe takes all of a page's part or nothing
    os.write(writer, b"ab")
    assert user.preadv(reader, [(A(0x14000), 2)], -1) == -errno.EFAULT and os.read(reader, 9) == b"ab"
    os.close(reader)
    os.close(writer)
    iov = [(A(0x10000), 1)] * 3000
    zero = os.open("/dev/zero", os.O_RDONLY)
    assert user.preadv(zero, iov, -1) == 1024
    os.close(fd)
    os.close(zero)


# -- pages that vanish -------------------------------------------------------------------------------------------------------------


def test_truncated_object_gives_short_counts() -> None:
    user, obj = UserMap(), memory(0x2800)
    user.map(0, 0x10000, READ | WRITE, obj, 0)
    assert user.copy_out(A(0x1000), b"a" * 0x4000) == 0x2000
    assert user.copy_in_partial(A(0x2000), 0x4000) == b"a" * 0x1000
    assert user.zero(A(0x2FFF), 10) == 1
    zero = os.open("/dev/zero", os.O_RDONLY)
    assert user.pread(zero, A(0x2FF0), 0x1000, -1) == 16
    os.close(zero)
    assert user.copy_in_iov([(A(0x2FF0), 16), (A(0x3000), 5)], 99) == b"\0" * 16
    at = A(0x4000)
    for call in (
        lambda: user.load_u8(at), lambda: user.load_u32(at), lambda: user.load_u64(at), lambda: user.store_u8(at, 1), lambda: user.store_u32(at, 1),
        lambda: user.store_u64(at, 1), lambda: user.compare_exchange_u32(at, 0, 1), lambda: user.exchange_u32(at, 1), lambda: user.fetch_add_u32(at, 1),
        lambda: user.fetch_or_u32(at, 1), lambda: user.read_cstring(at, 10), lambda: user.copy_in(at, 1), lambda: user.copy_out_all(at, b"x"),
    ):  # fmt: skip
        with pytest.raises(Fault) as caught:
            call()
        assert caught.value.address == at
    assert _usercopy.window_faults() == 0


def test_concurrent_truncation() -> None:
    user, obj = UserMap(), memory(1 << 20)
    user.map(0, 1 << 20, READ | WRITE, obj, 0)
    program = (
        "import os, sys, time\nfd = int(sys.argv[1])\nend = time.monotonic() + 0.7\n"
        "while time.monotonic() < end:\n os.ftruncate(fd, 0x1234)\n os.ftruncate(fd, 1 << 20)"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(obj.fd)], pass_fds=[obj.fd])
    data, short, whole = b"x" * (1 << 18), 0, 0
    while process.poll() is None:
        done = user.copy_out(A(0x800), data)
        read = user.copy_in_partial(A(0x800), len(data))
        assert not read.strip(b"x\0")
        short += done < len(data) or len(read) < len(data)
        whole += done == len(data)
        with contextlib.suppress(Fault):
            user.fetch_or_u32(A(0x80000), 1)
    assert process.returncode == 0 and short + whole


def test_threads_fault_at_once() -> None:
    obj = memory(0x3000)
    stop = time.monotonic() + 0.3
    failures: list[object] = []

    def work() -> None:
        user, private = UserMap(), memory(1 << 30)
        user.map(0, 0x10000, READ | WRITE, obj, 0)
        while time.monotonic() < stop:
            if user.copy_out(A(0x2FF0), b"y" * 100) != 16:
                failures.append("count")
            if private.copy_from(obj, 0, 0, 0x10000) > 0x3000:
                failures.append("copy")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a tmpfs")
def test_full_tmpfs_gives_short_counts(tmp_path: Path) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", tmp_path], capture_output=True).returncode:
        pytest.skip("mount is not allowed here")
    try:
        fd = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
        os.ftruncate(fd, 1 << 20)
        user, obj = UserMap(), MemoryObject(fd)
        user.map(0, 1 << 20, READ | WRITE, obj, 0)
        done = user.copy_out(A(0), b"x" * (1 << 20))
        assert 0 < done <= 65536 and done % 4096 == 0
        assert user.zero(A(0x80000), 1) == 0
        with pytest.raises(Fault):
            user.store_u32(A(0x80000), 1)
        src = memory(1 << 20)
        src.write(0, b"y" * 0x1000)
        with pytest.raises(OSError) as caught:
            obj.copy_from(src, 0, 0x80000, 0x1000)
        assert caught.value.errno == errno.ENOSPC
        obj.punch(0, 0x1000)
        assert user.copy_out(A(0x80000), b"z" * 0x2000) == 0x1000
        obj.close()
    finally:
        subprocess.run(["umount", tmp_path], check=True)


# -- the signal handler --------------------------------------------------------------------------------------------------------------


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("before", ["", "import faulthandler; faulthandler.enable()"])
@pytest.mark.parametrize("after", ["", "import faulthandler; faulthandler.enable()"])
def test_other_faults_end_the_process_as_ever(before: str, after: str) -> None:
    load = "from polynix.addrspace import _usercopy"
    again = "_usercopy.UserMap()"
    died = run(f"{before}\n{load}\n{after}\n{again}\nimport ctypes; ctypes.string_at(16)")
    assert died.returncode == -signal.SIGSEGV
    assert ("Fatal Python error" in died.stderr) == bool(before or after)
    assert died.stderr.count("Fatal Python error") <= 2
    died = run(f"{before}\n{load}\n{after}\n{again}\nimport os, signal; os.kill(os.getpid(), signal.SIGBUS)")
    assert died.returncode == -signal.SIGBUS


def test_handler_returns_after_somebody_took_the_signals() -> None:
    lived = run(
        "import faulthandler, os\nfrom polynix.addrspace._usercopy import *\nfaulthandler.enable()\n"
        "fd = os.memfd_create('x'); user = UserMap(); user.map(0, 4096, 3, MemoryObject(fd), 0)\nprint(user.copy_out(UserAddress(0), b'x'))"
    )
    assert (lived.returncode, lived.stdout) == (0, "0\n")


def test_last_resort_replaces_a_window_page() -> None:
    lived = run(
        "import ctypes, os\nfrom polynix.addrspace._usercopy import *\n"
        "fd = os.memfd_create('resort'); os.ftruncate(fd, 8192); user = UserMap(); user.map(0, 8192, 3, MemoryObject(fd), 0)\n"
        "user.copy_out_all(UserAddress(4096), b'x'); os.ftruncate(fd, 4096)\n"
        "base = next(int(line.split('-')[0], 16) for line in open('/proc/self/maps') if 'resort' in line)\n"
        "print(ctypes.string_at(base + 4096, 1), window_faults())\n"
        "os.ftruncate(fd, 8192); os.pwrite(fd, b'new', 4096); print(user.copy_in(UserAddress(4096), 3))"
    )
    assert (lived.stderr, lived.stdout) == ("", "b'\\x00' 1\nb'new'\n")
