"""Restricted regions: one sparse POSIX shared memory object per address space, unlinked before anyone could see it.

/dev/shm may be small or noexec (Docker's is both), so it is probed once. Where the kernel process may, it mounts a tmpfs of its own there, in a mount
namespace of its own, sized by the memory limit: nothing is visible outside, nothing can leak, and a full tmpfs is the guest's out-of-memory.
Otherwise regions are
memfds with accounting.
"""

from __future__ import annotations

import ctypes
import itertools
import logging
import mmap
import os
import weakref

from polynix.addrspace._restricted import GUEST_LIMIT
from polynix.addrspace._usercopy import MemoryObject

log = logging.getLogger(__name__)

CLONE_NEWNS = 0x20000
MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_REC, MS_PRIVATE = 0x2, 0x4, 0x20, 0x4000, 0x40000
SHM_DIRECTORY = "/dev/shm"
MINIMUM_SHM = 256 << 20  # a smaller /dev/shm is no place for guests

_serial = itertools.count()


class SharedMemoryUnavailable(Exception):
    """Neither POSIX shared memory nor memfds can hold executable guest memory."""


class RegionFactory:
    """Makes memory objects for guests; ``kind`` says which sort works here: ``private-tmpfs``, ``shm`` or ``memfd``."""

    def __init__(self, memory_limit: int = 0, force_memfd: bool = False) -> None:
        self.memory_limit = memory_limit
        self.limit = memory_limit or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
        self.bound = self.limit  # in force; less while the host is short of memory
        self._objects: dict[int, weakref.ref[MemoryObject]] = {}  # what has no bound of its own is counted
        self.kind = "memfd"
        if not force_memfd:
            if self._mount_private_tmpfs():
                self.kind = "private-tmpfs"
            elif self._shm_usable():
                self.kind = "shm"
        log.debug("restricted regions are made of %s", self.kind)
        if self.kind == "memfd" and not self._memfd_usable():
            raise SharedMemoryUnavailable("no usable shared memory: /dev/shm is missing, small or noexec, and memfd_create fails")

    def new_region(self) -> MemoryObject:
        """An empty object that covers the whole guest address range."""
        return self._new(b"region", GUEST_LIMIT)

    def new_object(self, size: int) -> MemoryObject:
        """An empty object of ``size`` bytes (shared anonymous memory, tmpfs files)."""
        return self._new(b"object", size)

    def used_bytes(self) -> int:
        """Bytes of guest memory in use, all objects together."""
        if self.kind != "private-tmpfs":
            return sum(map(_resident, [reference() for reference in self._objects.values()]))
        status = os.statvfs(SHM_DIRECTORY)
        return (status.f_blocks - status.f_bfree) * status.f_frsize

    def room(self) -> int:
        """Bytes that may still be filled at one go, where nothing but ourselves bounds them."""
        return 1 << 62 if self.kind == "private-tmpfs" else max(0, self.bound - self.used_bytes())

    def set_bound(self, size: int) -> None:
        """Allow guests ``size`` bytes from now on, in place of ``limit``; not less than they have already."""
        size = min(size, self.limit)
        if size != self.bound and (self.kind != "private-tmpfs" or self._resize_private_tmpfs(size)):
            self.bound = size

    def _new(self, label: bytes, size: int) -> MemoryObject:
        fd = self._open(label)
        os.ftruncate(fd, size)
        made = MemoryObject(fd)
        if self.kind != "private-tmpfs":
            number = made.id
            self._objects[number] = weakref.ref(made, lambda _gone: self._objects.pop(number, None))
        return made

    def _open(self, label: bytes) -> int:
        if self.kind == "memfd":
            return os.memfd_create("polynix-" + label.decode(), os.MFD_CLOEXEC)
        import posix_ipc

        name = f"/polynix-{os.getpid()}-{next(_serial)}"
        shared = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, mode=0o600)
        shared.unlink()
        os.set_inheritable(shared.fd, False)
        return int(shared.fd)

    def _mount_private_tmpfs(self) -> bool:
        libc = ctypes.CDLL(None, use_errno=True)
        if os.geteuid() != 0 or libc.unshare(CLONE_NEWNS) != 0:
            return False
        if libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) != 0:
            return False
        options = f"size={self.limit},mode=0700,nr_inodes=0".encode()
        if libc.mount(b"polynix", SHM_DIRECTORY.encode(), b"tmpfs", MS_NOSUID | MS_NODEV, options) != 0:
            return False
        return self._executable_shm()

    def _resize_private_tmpfs(self, size: int) -> bool:
        """False when more is in use by now."""
        flags = MS_REMOUNT | MS_NOSUID | MS_NODEV
        return ctypes.CDLL(None).mount(b"polynix", SHM_DIRECTORY.encode(), b"tmpfs", flags, f"size={size}".encode()) == 0  # type: ignore[no-any-return]

    def _shm_usable(self) -> bool:
        try:
            status = os.statvfs(SHM_DIRECTORY)
        except OSError:
            return False
        needed = min(self.memory_limit or MINIMUM_SHM, MINIMUM_SHM)
        return status.f_bavail * status.f_frsize >= needed and self._executable_shm()

    def _executable_shm(self) -> bool:
        import posix_ipc

        try:
            shared = posix_ipc.SharedMemory(f"/polynix-{os.getpid()}-probe", posix_ipc.O_CREX, mode=0o600, size=mmap.PAGESIZE)
        except (posix_ipc.Error, OSError) as error:
            log.debug("posix shared memory: %s", error)
            return False
        shared.unlink()
        try:
            mmap.mmap(shared.fd, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_EXEC).close()
        except OSError:
            return False
        finally:
            os.close(shared.fd)
        return True

    def _memfd_usable(self) -> bool:
        try:
            fd = os.memfd_create("polynix-probe", os.MFD_CLOEXEC)
        except OSError:
            return False
        try:
            os.ftruncate(fd, mmap.PAGESIZE)
            mmap.mmap(fd, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_EXEC).close()
        except OSError:
            return False
        finally:
            os.close(fd)
        return True


def _resident(made: MemoryObject | None) -> int:
    try:
        return 0 if made is None else made.resident()
    except (OSError, ValueError):
        return 0  # closed
