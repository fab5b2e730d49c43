"""Directory entries: the cache of names that path walking runs on (Linux's dcache).

A ``DirEntry`` is one hard link. Each file system has one tree of them, shared by all its mounts. ``children`` also remembers names that don't exist, as the one
object ``NEGATIVE``, so that a hit costs a dictionary look-up and a miss that was seen before costs no more. The cache is bounded: beyond ``CACHE_MAX`` entries
the oldest that nobody holds (no child, no open file, no working directory, no mount: CPython's reference counts know) are dropped.

Directories whose names come and go without the kernel's doing (``FsNodeOps.volatile``: /proc, writable host directories) ask the file system every time; the
cached entry only keeps its identity, in /proc (``keeps_names`` False) only while someone holds it.
"""

from __future__ import annotations

import sys
from collections.abc import MutableMapping
from itertools import islice
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.uapi.errno import ENAMETOOLONG, ENOENT
from polynix.kernelproc.uapi.limits import NAME_MAX

if TYPE_CHECKING:
    from polynix.kernelproc.vfs.fs_node import FsNode
    from polynix.kernelproc.vfs.mount import Mount

CACHE_MAX: Final = 32768
PRUNE_COUNT: Final = 2048  # entries looked at by one pruning
NEGATIVE_MAX: Final = 4096  # a directory with more entries than this caches no further missing names


class DirEntry:
    """A name in a parent directory and the node it means. The root of a file system is its own parent.

    ``mounted`` maps the mount that this entry is seen through to what is mounted on it there. ``deleted`` is set once the name is gone. A positive entry never
    changes its node: a name that is made again gets a new entry.
    """

    __slots__ = ("__weakref__", "cache", "children", "deleted", "mounted", "name", "node", "parent", "volatile")

    def __init__(self, parent: DirEntry | None, name: bytes, node: FsNode | None) -> None:
        self.parent: DirEntry = self if parent is None else parent
        self.cache: EntryCache = EntryCache() if parent is None else parent.cache
        self.name = name
        self.node: FsNode = node  # type: ignore[assignment]  # None in NEGATIVE only, which walking tests for
        self.volatile = node is not None and node.ops.volatile
        self.children: MutableMapping[bytes, DirEntry] = {}
        if self.volatile and node is not None and not node.ops.keeps_names:
            self.children = WeakValueDictionary()
        self.mounted: dict[Mount, Mount] | None = None
        self.deleted = False

    @property
    def is_root(self) -> bool:
        """Whether this is the root of its file system."""
        return self.parent is self

    def lookup(self, name: bytes) -> DirEntry:
        """The entry of ``name`` in this directory, ``NEGATIVE`` if there is none. Errors: ENAMETOOLONG, ENOTDIR, what the file system says."""
        children = self.children
        entry = children.get(name)
        if entry is not None and not self.volatile:
            return entry
        if len(name) > NAME_MAX:
            raise Errno(ENAMETOOLONG)
        try:
            node = self.node.ops.lookup(self.node, name)
        except Errno as error:
            if error.errno != ENOENT:
                raise
            if entry is not None:
                self.forget(name)
            if not self.volatile and len(children) < NEGATIVE_MAX:
                children[name] = NEGATIVE
            return NEGATIVE
        if entry is not None:
            if entry.node is node:
                return entry
            self.forget(name)
        return self.add(name, node)

    def add(self, name: bytes, node: FsNode) -> DirEntry:
        """The entry of a name that was just made or found."""
        entry = self.children[name] = DirEntry(self, name, node)
        if not self.volatile or type(self.children) is dict:
            self.cache.add(entry)
        return entry

    def forget(self, name: bytes) -> None:
        """The name was removed: who still holds its entry sees it as deleted."""
        entry = self.children.pop(name, None)
        if entry is not None and entry is not NEGATIVE:
            entry.deleted = True
            self.cache.entries.pop(entry, None)

    def remove(self, name: bytes) -> None:
        """As ``forget``, and remember that the name does not exist."""
        self.forget(name)
        if not self.volatile:
            self.children[name] = NEGATIVE

    def move(self, new_parent: DirEntry, new_name: bytes) -> None:
        """Follow a rename; what the new name meant before is deleted."""
        self.parent.children.pop(self.name, None)
        if not self.parent.volatile:
            self.parent.children[self.name] = NEGATIVE
        new_parent.forget(new_name)
        self.parent, self.name = new_parent, new_name
        new_parent.children[new_name] = self

    def exchange(self, other: DirEntry) -> None:
        """Follow a RENAME_EXCHANGE."""
        self.parent, other.parent = other.parent, self.parent
        self.name, other.name = other.name, self.name
        self.parent.children[self.name] = self
        other.parent.children[other.name] = other

    def is_below(self, ancestor: DirEntry) -> bool:
        """Whether this is ``ancestor`` or lies below it."""
        entry = self
        while entry is not ancestor:
            if entry.is_root:
                return False
            entry = entry.parent
        return True

    def __repr__(self) -> str:
        return f"<DirEntry {self.name!r} {self.node!r}>"


class EntryCache:
    """The entries of one file system's tree but its root, oldest first."""

    __slots__ = ("entries", "limit")

    def __init__(self) -> None:
        self.entries: dict[DirEntry, None] = {}
        self.limit = CACHE_MAX

    def add(self, entry: DirEntry) -> None:
        """Know a new entry; drops old ones when there are too many."""
        self.entries[entry] = None
        if len(self.entries) > self.limit:
            self.prune()

    def prune(self, count: int = PRUNE_COUNT) -> None:
        """Look at the ``count`` oldest entries and drop those that nobody holds; the others count as new."""
        entries = self.entries
        for entry in list(islice(entries, count)):
            del entries[entry]
            if sys.getrefcount(entry) <= _UNHELD and entry.mounted is None and entry.parent.children.get(entry.name) is entry:
                del entry.parent.children[entry.name]
            else:
                entries[entry] = None
        self.limit = max(CACHE_MAX, len(entries) + count // 2)

    def clear(self) -> None:
        """Drop what nobody holds, directories after what was in them."""
        size = -1
        while size != len(self.entries):
            size = len(self.entries)
            self.prune(size)


_UNHELD: Final = 4  # references to an entry that only its parent knows, as prune() counts them
NEGATIVE: Final = DirEntry(None, b"", None)
