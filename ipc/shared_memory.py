"""Memory without a name that processes can share: POSIX shared memory where the host has a usable /dev/shm, a memfd where it hasn't."""

from __future__ import annotations

import errno
import os

SHM_DIRECTORY = "/dev/shm"
MINIMUM_SHM = 256 << 20  # a smaller /dev/shm, as containers have, fills up with a few paged files


def new_memory(label: str, size: int) -> int:
    """A descriptor of ``size`` bytes of zeros. /dev/shm is passed over where it is too small, read-only, or where nothing in it may be executed, as in
    containers. Errors: OSError.
    """
    import posix_ipc

    try:
        directory = os.statvfs(SHM_DIRECTORY)
        usable = (
            not directory.f_flag & (os.ST_NOEXEC | os.ST_RDONLY)
            and directory.f_blocks * directory.f_frsize >= MINIMUM_SHM
            and size <= directory.f_bavail * directory.f_frsize
        )
    except OSError:
        usable = False
    if not usable:
        fd = os.memfd_create(f"polynix-{label}", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, size)
        except OSError:
            os.close(fd)
            raise
        return fd
    name = f"/polynix-{label}-{os.getpid()}-{os.urandom(6).hex()}"
    try:
        memory = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, mode=0o600, size=size)
    except ValueError as error:  # beyond RLIMIT_FSIZE
        raise OSError(errno.EFBIG, str(error)) from error
    memory.unlink()
    os.set_inheritable(memory.fd, False)
    return int(memory.fd)
