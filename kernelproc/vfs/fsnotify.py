"""What happens to files and directories, told to those who watch them (Linux's fs/notify): today, inotify instances.

A watch belongs to a node. What happens to a file is told to the watches of the node and, with its name, to those of the directory that it was reached
through. The callers ask ``watched`` first, so that a container where nobody watches pays one comparison.

What the host changes underneath, in a writable bind, is not seen: only what guests do passes here. Not told yet: IN_UNMOUNT; and extended attributes, to the
watches of the directory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from polynix.kernelproc.uapi.fcntl import O_PATH
from polynix.kernelproc.uapi.inotify import (
    IN_ACCESS,
    IN_ATTRIB,
    IN_CLOSE_NOWRITE,
    IN_CLOSE_WRITE,
    IN_CREATE,
    IN_DELETE,
    IN_DELETE_SELF,
    IN_ISDIR,
    IN_MODIFY,
    IN_MOVE_SELF,
    IN_MOVED_FROM,
    IN_MOVED_TO,
    IN_OPEN,
)

if TYPE_CHECKING:
    from polynix.kernelproc.vfs.dir_entry import DirEntry
    from polynix.kernelproc.vfs.file_object import FileObject
    from polynix.kernelproc.vfs.fs_node import FsNode

watched = 0  # watches that there are; nothing need be told while there are none
_cookies = 0


class Watch(Protocol):
    """Somebody's interest in a node."""

    def tell(self, mask: int, name: bytes, cookie: int, deleted: bool) -> None:
        """``mask`` happened, to the entry ``name`` of the node when it is not empty; ``deleted`` says that the name is gone already."""

    def node_gone(self) -> None:
        """The node ended, and with it the watch."""


class Watches(dict[Watch, None]):
    """The watches of one node, in its expando, oldest first."""


def add(node: FsNode, watch: Watch) -> None:
    """Begin to tell ``watch`` what happens to ``node``."""
    global watched
    node.slot(Watches, Watches)[watch] = None
    watched += 1


def remove(node: FsNode, watch: Watch) -> None:
    """The end of it; twice is no error."""
    global watched
    watches: Watches | None = node.expando.get(Watches) if node.expando is not None else None
    if watches is not None and watches.pop(watch, watch) is None:
        watched -= 1


def tell(node: FsNode, mask: int, name: bytes = b"", cookie: int = 0, deleted: bool = False) -> None:
    """``mask`` happened to ``node``, or to the entry ``name`` in it."""
    if node.expando is None:
        return
    watches: Watches | None = node.expando.get(Watches)
    if watches:
        for watch in list(watches):
            watch.tell(mask, name, cookie, deleted)


def happened(entry: DirEntry, mask: int) -> None:
    """Something happened to the file of this name: its directory's watches hear of it with the name, its own without."""
    node = entry.node
    if node.is_directory:
        mask |= IN_ISDIR
    if not entry.is_root:
        tell(entry.parent.node, mask, entry.name, 0, entry.deleted)
    tell(node, mask)


def _to_file(file: FileObject, mask: int) -> None:
    if file.flags & O_PATH:
        return
    if file.name is not None:
        happened(file.name.entry, mask)
    else:
        tell(file.node, mask)


def opened(file: FileObject) -> None:
    """A new description."""
    _to_file(file, IN_OPEN)


def accessed(file: FileObject) -> None:
    """Something was read."""
    _to_file(file, IN_ACCESS)


def modified(file: FileObject) -> None:
    """Something was written, or the size was set."""
    _to_file(file, IN_MODIFY)


def closed(file: FileObject) -> None:
    """The last reference of a description went."""
    _to_file(file, IN_CLOSE_WRITE if file.writable else IN_CLOSE_NOWRITE)


def attributes_changed(file: FileObject) -> None:
    """Mode, owner, times or extended attributes, by descriptor."""
    _to_file(file, IN_ATTRIB)


def created(directory: FsNode, name: bytes, node: FsNode) -> None:
    """A new name in ``directory``."""
    tell(directory, IN_CREATE | (IN_ISDIR if node.is_directory else 0), name)


def removed(directory: FsNode, name: bytes, node: FsNode) -> None:
    """A name is gone; the node may live on."""
    if not node.is_directory:
        tell(node, IN_ATTRIB)  # its link count
    tell(directory, IN_DELETE | (IN_ISDIR if node.is_directory else 0), name)


def moved(old_directory: FsNode, old_name: bytes, new_directory: FsNode, new_name: bytes, node: FsNode, replaced: FsNode | None) -> None:
    """A rename; ``replaced`` lost its name by it."""
    global _cookies
    _cookies = (_cookies + 1) & 0xFFFFFFFF
    directory = IN_ISDIR if node.is_directory else 0
    tell(old_directory, IN_MOVED_FROM | directory, old_name, _cookies)
    tell(new_directory, IN_MOVED_TO | directory, new_name, _cookies)
    if replaced is not None and not replaced.is_directory:
        tell(replaced, IN_ATTRIB)
    tell(node, IN_MOVE_SELF)


def gone(node: FsNode) -> None:
    """Neither a name nor an open description is left."""
    tell(node, IN_DELETE_SELF)
    if node.expando is not None:
        for watch in list(node.expando.get(Watches, ())):
            watch.node_gone()
