"""Mounts: a file system's tree, or a part of it, put at a place (Linux's ``struct mount``)."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.uapi.errno import EROFS
from polynix.kernelproc.uapi.mount import (
    MS_NOATIME,
    MS_NODEV,
    MS_NODIRATIME,
    MS_NOEXEC,
    MS_NOSUID,
    MS_NOSYMFOLLOW,
    MS_RDONLY,
    MS_RELATIME,
)

if TYPE_CHECKING:
    from polynix.kernelproc.vfs.dir_entry import DirEntry
    from polynix.kernelproc.vfs.file_system import FileSystem

# Flags that belong to the mount, not to the file system instance.
MOUNT_FLAGS: Final = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME | MS_NODIRATIME | MS_RELATIME | MS_NOSYMFOLLOW

_OPTION_NAMES: Final = (
    (MS_NOSUID, b"nosuid"),
    (MS_NODEV, b"nodev"),
    (MS_NOEXEC, b"noexec"),
    (MS_NOATIME, b"noatime"),
    (MS_NODIRATIME, b"nodiratime"),
    (MS_RELATIME, b"relatime"),
    (MS_NOSYMFOLLOW, b"nosymfollow"),
)

_ids = itertools.count(20)


class Mount:
    """``root`` of ``fs`` seen at ``mountpoint`` of ``parent``; the root mount of a namespace and internal mounts have neither.

    ``flags`` are MS_* of this mount. All mounts are private; an ``unbindable`` one can't be cloned either.
    """

    __slots__ = ("__weakref__", "flags", "fs", "id", "mountpoint", "parent", "root", "source", "unbindable")

    def __init__(self, fs: FileSystem, root: DirEntry, flags: int = MS_RELATIME, source: bytes | None = None) -> None:
        self.id = next(_ids)
        self.fs = fs
        self.root = root
        self.flags = flags
        self.source = fs.source if source is None else source
        self.parent: Mount | None = None
        self.mountpoint: DirEntry = root
        self.unbindable = False

    @property
    def read_only(self) -> bool:
        """Whether writing through this mount is refused."""
        return bool(self.flags & MS_RDONLY) or self.fs.read_only

    def check_writable(self) -> None:
        """Errors: EROFS."""
        if self.flags & MS_RDONLY or self.fs.read_only:
            raise Errno(EROFS)

    def attach(self, parent: Mount, mountpoint: DirEntry) -> None:
        """Cover ``mountpoint`` as seen through ``parent``."""
        self.fs.mount_count += 1
        self.parent = parent
        self.mountpoint = mountpoint
        if mountpoint.mounted is None:
            mountpoint.mounted = {}
        mountpoint.mounted[parent] = self

    def detach(self) -> None:
        """Uncover the mount point."""
        if self.parent is None:
            return
        if self.mountpoint.mounted is not None:
            self.mountpoint.mounted.pop(self.parent, None)
            if not self.mountpoint.mounted:
                self.mountpoint.mounted = None
        self.parent = None
        self.fs.mount_count -= 1

    def options(self) -> bytes:
        """The per-mount options as /proc/mounts shows them."""
        names = [b"ro" if self.flags & MS_RDONLY else b"rw"]
        names += [name for flag, name in _OPTION_NAMES if self.flags & flag]
        return b",".join(names)

    def __repr__(self) -> str:
        return f"<Mount {self.id} {self.fs.ops.name.decode()}>"
