"""Where a task stands in the file system: root, working directory, umask (Linux's ``fs_struct``), and its mount namespace."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polynix.kernelproc.vfs.namespace import NamespaceNode

if TYPE_CHECKING:
    from polynix.kernelproc.vfs.namespace import Namespace


class FsContext:
    """Shared by ``users`` tasks (CLONE_FS); :meth:`fork` makes an own copy."""

    __slots__ = ("cwd", "namespace", "root", "umask", "users")

    def __init__(self, namespace: Namespace, umask: int = 0o022) -> None:
        self.namespace = namespace
        self.root: NamespaceNode = namespace.root
        self.cwd: NamespaceNode = self.root
        self.umask = umask
        self.users = 1

    def fork(self) -> FsContext:
        """A copy for a task of its own."""
        copy = FsContext.__new__(FsContext)
        copy.namespace = self.namespace
        copy.root = self.root
        copy.cwd = self.cwd
        copy.umask = self.umask
        copy.users = 1
        return copy

    def share(self) -> FsContext:
        """One more user (CLONE_FS); returns self."""
        self.users += 1
        return self

    def unshare_namespace(self) -> None:
        """A mount namespace of its own (CLONE_NEWNS): a copy, in which root and cwd are the same places."""
        namespace, mapping = self.namespace.copy()
        root, cwd = (NamespaceNode(mapping[place.mount], place.entry) if place.mount in mapping else place for place in (self.root, self.cwd))
        self.enter_namespace(namespace, root, cwd)

    def enter_namespace(self, namespace: Namespace, root: NamespaceNode, cwd: NamespaceNode) -> None:
        """Change the mount namespace and the places that belong to the old one."""
        self.namespace = namespace
        self.root = root
        self.cwd = cwd
