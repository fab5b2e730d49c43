"""HostFile: a descriptor of the host as a handle, so that messages can carry it: how standard input and output reach a container."""

from __future__ import annotations

import os
from typing import cast

from polynix.ipc.handle import Handle, KernelObject
from polynix.ipc.signals import Rights
from polynix.ipc.status import Status, ZxStatus

RIGHTS = Rights.BASIC | Rights.IO


class HostFileObject(KernelObject):
    """The descriptor; it closes with the last handle of this process."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self.fd = fd

    def on_zero_handles(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class HostFile(Handle):
    """A handle to an open file of the host. Processes that have one share the open file description, as after dup(2)."""

    @classmethod
    def create(cls, fd: int) -> HostFile:
        """A handle to what ``fd``, which stays the caller's, has open. Errors: INVALID_ARGS for a descriptor that isn't open,
        NO_RESOURCES.
        """
        try:
            return cls(HostFileObject(os.dup(fd)), RIGHTS)
        except OSError as error:
            bad = os.strerror(error.errno or 0)
            raise ZxStatus(Status.INVALID_ARGS if error.errno == 9 else Status.NO_RESOURCES, f"descriptor {fd}: {bad}") from error

    def fileno(self) -> int:
        """The descriptor, which closes with the last handle."""
        return cast(HostFileObject, self._require()).fd

    def detach(self) -> int:
        """A descriptor of the caller's own, close-on-exec; the handle is closed. Errors: NO_RESOURCES."""
        file = cast(HostFileObject, self._require())
        try:
            with file.lock:
                if file._handles == 1:
                    fd, file.fd = file.fd, -1
                    return fd
                return os.dup(file.fd)
        except OSError as error:
            raise ZxStatus(Status.NO_RESOURCES, str(error)) from error
        finally:
            self.close()
