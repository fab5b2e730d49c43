"""Mount namespaces, and the places in them that paths resolve to."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.uapi.errno import EBUSY, EINVAL
from polynix.kernelproc.vfs.dir_entry import DirEntry
from polynix.kernelproc.vfs.mount import Mount

if TYPE_CHECKING:
    from polynix.kernelproc.vfs.file_system import FileSystem
    from polynix.kernelproc.vfs.fs_context import FsContext
    from polynix.kernelproc.vfs.fs_node import FsNode

__all__ = ["Mount", "Namespace", "NamespaceNode", "anonymous_name"]

_namespace_ids = itertools.count(0xF0000000)


class NamespaceNode:
    """A place in a namespace: a directory entry seen through a mount (Linux's ``struct path``). ``node`` never changes."""

    __slots__ = ("entry", "mount", "node")

    def __init__(self, mount: Mount, entry: DirEntry) -> None:
        self.mount = mount
        self.entry = entry
        self.node: FsNode = entry.node

    def path(self, context: FsContext | None = None) -> bytes:
        """The absolute path as seen from ``context``'s root (the namespace's root without one); " (deleted)" is appended as d_path(9) does."""
        path, _ = self.path_and_reachability(context)
        return path + b" (deleted)" if self.entry.deleted else path

    def path_and_reachability(self, context: FsContext | None = None) -> tuple[bytes, bool]:
        """The path without a deletion mark, and whether ``context``'s root really lies above it (getcwd shows "(unreachable)" otherwise)."""
        root = context.root if context is not None else None
        mount, entry = self.mount, self.entry
        parts: list[bytes] = []
        while root is None or entry is not root.entry or mount is not root.mount:
            if entry is mount.root:
                if mount.parent is None:
                    # A name that hangs on no tree (a pipe, a detached mount) is its own path.
                    if entry.name and not parts:
                        return entry.name, True
                    return b"/" + b"/".join(reversed(parts)), root is None
                mount, entry = mount.parent, mount.mountpoint
            elif entry.is_root:
                return b"/" + b"/".join(reversed(parts)), False
            else:
                parts.append(entry.name)
                entry = entry.parent
        return b"/" + b"/".join(reversed(parts)), True

    def parent(self) -> NamespaceNode:
        """What ".." means here, without regard to any task's root."""
        mount, entry = self.mount, self.entry
        while entry is mount.root and mount.parent is not None:
            mount, entry = mount.parent, mount.mountpoint
        return NamespaceNode(mount, entry.parent)

    def is_below(self, ancestor: NamespaceNode) -> bool:
        """Whether this is ``ancestor`` or lies below it, across mounts."""
        mount, entry = self.mount, self.entry
        while True:
            if mount is ancestor.mount:
                return entry.is_below(ancestor.entry)
            if mount.parent is None:
                return False
            mount, entry = mount.parent, mount.mountpoint

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NamespaceNode) and self.entry is other.entry and self.mount is other.mount

    def __hash__(self) -> int:
        return hash((id(self.mount), id(self.entry)))

    def __repr__(self) -> str:
        return f"<NamespaceNode {self.path()!r}>"


class Namespace:
    """A tree of mounts. ``mounts`` are in the order in which they were made, as /proc/mounts lists them."""

    def __init__(self, fs: FileSystem, flags: int | None = None) -> None:
        self._begin([Mount(fs, fs.root_entry) if flags is None else Mount(fs, fs.root_entry, flags)])

    def _begin(self, mounts: list[Mount]) -> None:
        self.id = next(_namespace_ids)
        self.mounts = mounts
        self.event = 0  # grows with each change: poll of /proc/self/mounts
        mounts[0].fs.mount_count += 1

    @classmethod
    def of_tree(cls, mounts: list[Mount]) -> Namespace:
        """A namespace of ``mounts``, the first of which is the root. Nobody lives in those of open_tree and fsmount, and move_mount empties them."""
        new = cls.__new__(cls)
        new._begin(mounts)
        return new

    @property
    def root(self) -> NamespaceNode:
        """The root directory."""
        mount = self.mounts[0]
        return self.topmost(NamespaceNode(mount, mount.root))

    def topmost(self, place: NamespaceNode) -> NamespaceNode:
        """What is seen at ``place``: the root of the last mount on it, or itself."""
        mount, entry = place.mount, place.entry
        while entry.mounted is not None:
            above = entry.mounted.get(mount)
            if above is None:
                break
            mount, entry = above, above.root
        return place if mount is place.mount and entry is place.entry else NamespaceNode(mount, entry)

    def add(self, mount: Mount, place: NamespaceNode) -> Mount:
        """Mount at ``place`` (on top of what is mounted there)."""
        place = self.topmost(place)
        mount.attach(place.mount, place.entry)
        self.mounts.append(mount)
        self.event += 1
        return mount

    def mount(self, fs: FileSystem, place: NamespaceNode, flags: int | None = None, source: bytes | None = None) -> Mount:
        """Mount the whole of ``fs`` at ``place``."""
        mount = Mount(fs, fs.root_entry, source=source) if flags is None else Mount(fs, fs.root_entry, flags, source)
        return self.add(mount, place)

    def children(self, mount: Mount) -> list[Mount]:
        """The mounts whose mount point lies in ``mount``."""
        return [other for other in self.mounts if other.parent is mount]

    def subtree(self, mount: Mount) -> list[Mount]:
        """``mount`` and all mounts below it, parents first."""
        result = [mount]
        for each in result:
            result += self.children(each)
        return result

    def bind(self, source: NamespaceNode, place: NamespaceNode, recursive: bool = False) -> Mount:
        """Show the tree at ``source`` at ``place`` too; with ``recursive`` also what is mounted below it."""
        copies = self.clone_tree(source, recursive)
        self.add(copies[0], place)
        self.mounts += copies[1:]
        return copies[0]

    def adopt(self, tree: Namespace, place: NamespaceNode) -> None:
        """Attach the whole of a tree that hung nowhere (:meth:`of_tree`) at ``place``."""
        mounts, tree.mounts = tree.mounts, []
        mounts[0].fs.mount_count -= 1
        self.add(mounts[0], place)
        self.mounts += mounts[1:]

    def dissolve(self) -> None:
        """Nobody holds a tree any more that hangs nowhere; what is still open in it stays so, as after MNT_DETACH."""
        mounts, self.mounts = self.mounts, []
        for mount in reversed(mounts[1:]):
            mount.detach()
        if mounts:
            mounts[0].fs.mount_count -= 1

    def clone_tree(self, source: NamespaceNode, recursive: bool) -> list[Mount]:
        """A mount that shows what is at ``source``, attached nowhere, and with ``recursive`` copies of what is mounted below it, attached to it.
        Errors: EINVAL for an unbindable one; those below are left out.
        """
        if source.mount.unbindable:
            raise Errno(EINVAL)
        clone = Mount(source.mount.fs, source.entry, source.mount.flags, source.mount.source)
        mapping = {source.mount: clone}
        copies = [clone]
        if not recursive:
            return copies
        for mount in self.subtree(source.mount)[1:]:
            parent = mount.parent
            if mount.unbindable or parent not in mapping or (parent is source.mount and not mount.mountpoint.is_below(source.entry)):
                continue
            copy = Mount(mount.fs, mount.root, mount.flags, mount.source)
            copy.attach(mapping[parent], mount.mountpoint)
            mapping[mount] = copy
            copies.append(copy)
        return copies

    def unmount(self, mount: Mount, *, detach: bool = False) -> None:
        """Take ``mount`` away. Errors: EINVAL for one that isn't of this namespace or is its root, EBUSY when others are below it and not ``detach``."""
        if mount not in self.mounts or mount.parent is None:
            raise Errno(EINVAL)
        tree = self.subtree(mount)
        if len(tree) > 1 and not detach:
            raise Errno(EBUSY)
        for each in reversed(tree):
            each.detach()
            self.mounts.remove(each)
            if not each.fs.mount_count and not detach:
                each.fs.root_entry.cache.clear()
                each.fs.ops.unmount(each.fs)
        self.event += 1

    def move(self, mount: Mount, place: NamespaceNode) -> None:
        """MS_MOVE. Errors: EINVAL for the root."""
        if mount not in self.mounts or mount.parent is None:
            raise Errno(EINVAL)
        place = self.topmost(place)
        mount.detach()
        mount.attach(place.mount, place.entry)
        self.event += 1

    def pivot(self, old_root: Mount, new_root: Mount, place: NamespaceNode) -> None:
        """pivot_root: ``new_root`` takes the place of ``old_root``, which goes to ``place`` below it."""
        new_root.detach()
        if old_root.parent is not None:
            parent, mountpoint = old_root.parent, old_root.mountpoint
            old_root.detach()
            new_root.attach(parent, mountpoint)
        else:
            self.mounts.remove(new_root)
            self.mounts.insert(0, new_root)
        old_root.attach(place.mount, place.entry)
        self.event += 1

    def copy(self) -> tuple[Namespace, dict[Mount, Mount]]:
        """A namespace with the same mounts (CLONE_NEWNS), and which mount became which."""
        mapping: dict[Mount, Mount] = {}
        for mount in self.mounts:
            mapping[mount] = copy = Mount(mount.fs, mount.root, mount.flags, mount.source)
            copy.unbindable = mount.unbindable
        for mount, copy in mapping.items():
            if mount.parent is not None:
                copy.attach(mapping[mount.parent], mount.mountpoint)
        return Namespace.of_tree(list(mapping.values())), mapping


def anonymous_name(node: FsNode, label: bytes) -> NamespaceNode:
    """A name for a node that no directory holds (pipe:[7], memfd:x (deleted)), so that /proc/PID/fd can open it again."""
    entry = DirEntry(None, label, node)
    return NamespaceNode(Mount(node.fs, entry, 0), entry)
