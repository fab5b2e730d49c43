"""The walk: from a path to a place, one component at a time (man 7 path_resolution; RESOLVE_* of man 2 openat2).

The walk is one function on local variables, because every path of every guest goes through it: a component that is cached costs a dictionary look-up and two
comparisons. Symbolic links are expanded onto a stack of components that remain, so there is no recursion to bound but Linux's count of forty.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.uapi.errno import ELOOP, ENOENT, ENOTDIR, EXDEV
from polynix.kernelproc.uapi.fcntl import (
    AT_FDCWD,
    RESOLVE_BENEATH,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
)
from polynix.kernelproc.uapi.mount import MS_NOSYMFOLLOW
from polynix.kernelproc.uapi.stat import S_IFDIR, S_IFLNK, S_IFMT
from polynix.kernelproc.vfs.namespace import NamespaceNode, anonymous_name
from polynix.kernelproc.vfs.permissions import MAY_EXEC, SEARCH_CAPABILITIES, check_access, check_link_followed

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.dir_entry import DirEntry
    from polynix.kernelproc.vfs.fs_node import FsNode
    from polynix.kernelproc.vfs.mount import Mount

MAXSYMLINKS: Final = 40

RESOLVE_SCOPED: Final = RESOLVE_BENEATH | RESOLVE_IN_ROOT


def walk(
    task: Task,
    start: NamespaceNode,
    path: bytes,
    follow: bool,
    parent: bool = False,
    resolve: int = 0,
    scope: NamespaceNode | None = None,
    links: int = 0,
) -> tuple[Mount, DirEntry, bytes, bool]:
    """Resolve ``path`` (not empty) from ``start``, or from the task's root when absolute.

    With ``parent`` the last component is left alone and returned: (mount, directory, last name, whether slashes followed it); the name is empty for "/" itself
    and may be "." or "..". Otherwise the result is (mount, entry, b"", False), past what is mounted there, and past a final symbolic link if ``follow`` or if
    slashes follow it. ``scope`` is the directory that RESOLVE_BENEATH and RESOLVE_IN_ROOT keep to (``start`` unless given), ``links`` the number of links that
    the caller followed before.

    Errors: ENOENT, ENOTDIR, EACCES, ELOOP, ENAMETOOLONG, and EXDEV where ``resolve`` forbids the way.
    """
    root = task.fs.root
    if resolve & RESOLVE_SCOPED:
        if path[0] == 0x2F and resolve & RESOLVE_BENEATH:
            raise Errno(EXDEV)
        root = start if scope is None else scope
    if path[0] == 0x2F:
        mount, entry = root.mount, root.entry
        if resolve & RESOLVE_NO_XDEV and mount is not start.mount:
            raise Errno(EXDEV)
    else:
        mount, entry = start.mount, start.entry
    directory_wanted = path[-1] == 0x2F
    stack = path.split(b"/")
    stack.reverse()
    if directory_wanted:
        while stack and not stack[0]:
            del stack[0]
    credentials = task.credentials
    searchable = credentials.cap_effective & SEARCH_CAPABILITIES
    if entry.node.mode & S_IFMT != S_IFDIR:
        raise Errno(ENOTDIR)

    while stack:
        name = stack.pop()
        if not name:
            continue
        if not searchable and entry.node.mode & 0o111 != 0o111:
            check_access(credentials, entry.node, MAY_EXEC)
        if parent and not stack:
            return mount, entry, name, directory_wanted
        if name == b".":
            continue
        if name == b"..":
            mount, entry = _ascend(root, mount, entry, resolve)
            continue
        child = entry.children.get(name)
        if child is None or entry.volatile:
            child = entry.lookup(name)
        node: FsNode | None = child.node
        if node is None:
            raise Errno(ENOENT)
        if child.mounted is not None:
            mount, child = cross(mount, child, resolve)
            node = child.node
        kind = node.mode & S_IFMT
        if kind == S_IFDIR:
            entry = child
            continue
        if kind == S_IFLNK and (stack or follow or directory_wanted):
            links += 1
            if links > MAXSYMLINKS or resolve & RESOLVE_NO_SYMLINKS or mount.flags & MS_NOSYMFOLLOW:
                raise Errno(ELOOP)
            if not stack:
                check_link_followed(task, entry.node, node)
            target = node.ops.follow(node, task)
            if target is not None:
                check_magic(target, mount, resolve)
                mount, entry = target.mount, target.entry
                if entry.node.mode & S_IFMT == S_IFDIR:
                    continue
                if any(stack) or directory_wanted:
                    raise Errno(ENOTDIR)
                return mount, entry, b"", False
            link = node.ops.readlink(node, task)
            if not link:
                raise Errno(ENOENT)
            if link[0] == 0x2F:
                if resolve & RESOLVE_BENEATH or (resolve & RESOLVE_NO_XDEV and root.mount is not mount):
                    raise Errno(EXDEV)
                mount, entry = root.mount, root.entry
            components = link.split(b"/")
            if not components[-1] and not stack:
                directory_wanted = True
                while components and not components[-1]:
                    components.pop()
            components.reverse()
            stack += components
            continue
        if stack or directory_wanted:
            raise Errno(ENOTDIR)
        return mount, child, b"", False
    return mount, entry, b"", directory_wanted and parent


def _ascend(root: NamespaceNode, mount: Mount, entry: DirEntry, resolve: int) -> tuple[Mount, DirEntry]:
    """What ".." means."""
    origin = mount
    while True:
        if entry is root.entry and mount is root.mount:
            if resolve & RESOLVE_BENEATH:
                raise Errno(EXDEV)
            return mount, entry
        if entry is not mount.root or mount.parent is None:
            break
        mount, entry = mount.parent, mount.mountpoint
    if resolve & RESOLVE_NO_XDEV and mount is not origin:
        raise Errno(EXDEV)
    if entry is not mount.root:
        entry = entry.parent
    return cross(mount, entry, resolve) if entry.mounted is not None else (mount, entry)


def cross(mount: Mount, entry: DirEntry, resolve: int) -> tuple[Mount, DirEntry]:
    """To the root of what is mounted here, if anything is."""
    while entry.mounted is not None:
        above = entry.mounted.get(mount)
        if above is None:
            break
        if resolve & RESOLVE_NO_XDEV:
            raise Errno(EXDEV)
        mount, entry = above, above.root
    return mount, entry


def check_magic(target: NamespaceNode, mount: Mount, resolve: int) -> None:
    """Errors: ELOOP, EXDEV where ``resolve`` forbids following a magic link to ``target``."""
    if resolve & RESOLVE_NO_MAGICLINKS:
        raise Errno(ELOOP)
    if resolve & RESOLVE_SCOPED or (resolve & RESOLVE_NO_XDEV and target.mount is not mount):
        raise Errno(EXDEV)


def start_of(task: Task, dir_fd: int, path: bytes) -> NamespaceNode:
    """Where the walk of ``path`` begins: the directory ``dir_fd``, or the working directory. Errors: EBADF, ENOTDIR."""
    if dir_fd == AT_FDCWD or path[0] == 0x2F:
        return task.fs.cwd
    file = task.files.get(dir_fd)
    if file.name is None or file.node.mode & S_IFMT != S_IFDIR:
        raise Errno(ENOTDIR)
    return file.name


def place_of_fd(task: Task, fd: int) -> NamespaceNode:
    """What an empty path means with AT_EMPTY_PATH. Errors: EBADF."""
    if fd == AT_FDCWD:
        return task.fs.cwd
    file = task.files.get(fd)
    return file.name if file.name is not None else anonymous_name(file.node, b"anon_inode")
