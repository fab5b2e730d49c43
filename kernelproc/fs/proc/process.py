"""/proc/PID and /proc/PID/task/TID: one directory a task."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.fs.nsfs import namespace_place
from polynix.kernelproc.fs.proc import memory_maps
from polynix.kernelproc.fs.proc.memory_file import MemoryFile
from polynix.kernelproc.fs.proc.open_files import unix_sockets
from polynix.kernelproc.fs.proc.task_status import stat_line, statm_line, status_text
from polynix.kernelproc.fs.pseudo import Directory, Link, TextFile, text
from polynix.kernelproc.region_layout import TaskWord
from polynix.kernelproc.task.ptrace_access import may_inspect
from polynix.kernelproc.uapi.capability import CAP_SYS_RESOURCE
from polynix.kernelproc.uapi.dirent import DT_DIR, DT_LNK, DT_REG
from polynix.kernelproc.uapi.errno import EACCES, EINVAL, ENOENT
from polynix.kernelproc.uapi.fcntl import O_CLOEXEC
from polynix.kernelproc.uapi.resource import RLIM_INFINITY
from polynix.kernelproc.vfs.fs_node import FsNode
from polynix.kernelproc.vfs.lookup import reopenable_name
from polynix.kernelproc.vfs.namespace import NamespaceNode
from polynix.kernelproc.vfs.ops import FsNodeOps

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.file_system import FileSystem

Entry = tuple[int, Callable[[Any], FsNodeOps]]  # type and permission bits, factory of node operations for a TaskDirectory


def require_inspect(reader: Task, task: Task) -> None:
    """Errors: EACCES unless ``reader`` may look into ``task``."""
    if not may_inspect(reader, task):
        raise Errno(EACCES)


def cmdline(task: Task) -> bytes:
    mm = task.mm
    if mm.dead or not mm.arg_end:
        return b""
    text = mm.region.read(mm.arg_start, mm.arg_end - mm.arg_start)
    if text and text[-1:] != b"\0":
        # setproctitle wrote beyond the arguments
        text = mm.region.read(mm.arg_start, mm.env_end - mm.arg_start)
        return text.split(b"\0", 1)[0]
    return text


def environ(task: Task) -> bytes:
    mm = task.mm
    return b"" if mm.dead or not mm.env_end else mm.region.read(mm.env_start, mm.env_end - mm.env_start)


_LIMIT_ROWS = (
    ("Max cpu time", 0, "seconds"), ("Max file size", 1, "bytes"),
    ("Max data size", 2, "bytes"), ("Max stack size", 3, "bytes"), ("Max core file size", 4, "bytes"),
    ("Max resident set", 5, "bytes"), ("Max processes", 6, "processes"), ("Max open files", 7, "files"), ("Max locked memory", 8, "bytes"),
    ("Max address space", 9, "bytes"), ("Max file locks", 10, "locks"), ("Max pending signals", 11, "signals"), ("Max msgqueue size", 12, "bytes"),
    ("Max nice priority", 13, ""), ("Max realtime priority", 14, ""), ("Max realtime timeout", 15, "us"),
)  # fmt: skip


def io_counters(task: Task) -> bytes:
    """/proc/PID/io, of the process's living threads."""
    names = ((b"rchar", TaskWord.RCHAR), (b"wchar", TaskWord.WCHAR), (b"syscr", TaskWord.SYSCR), (b"syscw", TaskWord.SYSCW))
    lines = [b"%s: %d\n" % (name, sum(int(each.counters[word]) for each in task.group.tasks.values())) for name, word in names]
    return b"".join(lines) + b"read_bytes: 0\nwrite_bytes: 0\ncancelled_write_bytes: 0\n"


def limits(task: Task) -> bytes:
    lines = [f"{'Limit':<25} {'Soft Limit':<20} {'Hard Limit':<20} {'Units':<10}"]
    for label, resource, unit in _LIMIT_ROWS:
        soft, hard = ("unlimited" if value >= RLIM_INFINITY else str(value) for value in task.group.limits.get(resource))
        lines.append(f"{label:<25} {soft:<20} {hard:<20} {unit:<10}")
    return ("\n".join(lines) + "\n").encode()


def mounts(task: Task) -> bytes:
    lines = []
    for mount in task.fs.namespace.mounts:
        place = NamespaceNode(mount, mount.root).path(task.fs)
        options = mount.options() + (b"," + mount.fs.options if mount.fs.options else b"")
        lines.append(b" ".join((_escape(mount.source or b"none"), _escape(place), mount.fs.ops.name, options, b"0", b"0")))
    return b"\n".join(lines) + b"\n"


def mountinfo(task: Task) -> bytes:
    lines = []
    for mount in task.fs.namespace.mounts:
        place = NamespaceNode(mount, mount.root).path(task.fs)
        dev = mount.fs.dev
        parent = mount.parent.id if mount.parent is not None else mount.id - 1
        root = _path_in_file_system(mount.root)
        head = b"%d %d %d:%d %s %s %s" % (
            mount.id,
            parent,
            dev >> 8 & 0xFFF,
            (dev & 0xFF) | (dev >> 12 & ~0xFF),
            _escape(root),
            _escape(place),
            mount.options(),
        )
        tail = b"- %s %s %s" % (
            mount.fs.ops.name,
            _escape(mount.source or b"none"),
            (b"ro" if mount.fs.read_only else b"rw") + (b"," + mount.fs.options if mount.fs.options else b""),
        )
        lines.append(head + (b" unbindable " if mount.unbindable else b" ") + tail)
    return b"\n".join(lines) + b"\n"


def _path_in_file_system(entry: Any) -> bytes:
    parts = []
    while not entry.is_root:
        parts.append(entry.name)
        entry = entry.parent
    return b"/" + b"/".join(reversed(parts))


def _escape(path: bytes) -> bytes:
    return path.replace(b"\\", b"\\134").replace(b" ", b"\\040").replace(b"\t", b"\\011").replace(b"\n", b"\\012")


def set_comm(reader: Task, task: Task, text: bytes) -> None:
    if reader.group is not task.group:
        raise Errno(EINVAL)
    task.comm = text.rstrip(b"\n")[:15]
    if task.kernel.region is not None:
        task.kernel.region.set_comm(task.counters, task.comm)


def set_oom_score_adj(reader: Task, task: Task, text: bytes) -> None:
    try:
        value = int(text.strip())
    except ValueError:
        raise Errno(EINVAL) from None
    if not -1000 <= value <= 1000:
        raise Errno(EINVAL)
    if value < task.group.oom_score_adj and not reader.credentials.has_capability(CAP_SYS_RESOURCE):
        raise Errno(EACCES)
    task.group.oom_score_adj = value


def _text(content: Callable[[Task], bytes], *, private: bool = False) -> Entry:
    def make(directory: TaskDirectory) -> FsNodeOps:
        task = directory.task

        def read(reader: Task) -> bytes:
            if private:
                require_inspect(reader, task)
            return content(task)

        return TextFile(read)

    return stat.S_IFREG | (0o400 if private else 0o444), make


def _stored(content: Callable[[Task], bytes], store: Callable[[Task, Task, bytes], None]) -> Entry:
    def make(directory: TaskDirectory) -> FsNodeOps:
        task = directory.task
        return TextFile(lambda _reader: content(task), lambda reader, text: store(reader, task, text))

    return stat.S_IFREG | 0o644, make


def _link(target: Callable[[Task], NamespaceNode | None]) -> Entry:
    def make(directory: TaskDirectory) -> FsNodeOps:
        task = directory.task

        def place(reader: Task) -> NamespaceNode:
            require_inspect(reader, task)
            found = None if task.exited else target(task)
            if found is None:
                raise Errno(ENOENT)
            return found

        return Link(lambda reader: place(reader).path(reader.fs), place)

    return stat.S_IFLNK | 0o777, make


class TaskDirectory(Directory):
    """/proc/PID (``whole`` process) or /proc/PID/task/TID (one thread)."""

    volatile = True
    keeps_names = False

    def __init__(self, task: Task, whole: bool) -> None:
        super().__init__()
        self.task = task
        self.whole = whole
        self.entries = PROCESS_ENTRIES if whole else THREAD_ENTRIES

    def refresh(self, node: FsNode) -> None:
        node.uid, node.gid = self.task.credentials.euid, self.task.credentials.egid

    def lookup(self, node: FsNode, name: bytes) -> FsNode:
        if self.task.group.pid not in self.task.kernel.pids.thread_groups:
            raise Errno(ENOENT)
        found = self._nodes.get(name)
        if found is None:
            entry = self.entries.get(name)
            if entry is None:
                raise Errno(ENOENT)
            mode, make = entry
            found = self._nodes[name] = FsNode(node.fs, node.fs.new_ino(), mode, make(self), uid=self.task.credentials.euid, gid=self.task.credentials.egid)
        return found

    def list(self, node: FsNode) -> Iterable[tuple[bytes, int]]:
        for name, (mode, _) in self.entries.items():
            yield name, DT_DIR if stat.S_ISDIR(mode) else DT_LNK if stat.S_ISLNK(mode) else DT_REG


class ThreadsDirectory(Directory):
    """/proc/PID/task."""

    volatile = True
    keeps_names = False

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.group = task.group
        self._by_task: dict[Task, FsNode] = {}

    def refresh(self, node: FsNode) -> None:
        node.nlink = 2 + len(self.group.tasks)

    def lookup(self, node: FsNode, name: bytes) -> FsNode:
        task = self.group.tasks.get(int(name)) if name.isdigit() else None
        if task is None and name == b"%d" % self.group.pid and self.group.pid in self.group.kernel.pids.thread_groups:
            task = self.group.leader
        if task is None:
            raise Errno(ENOENT)
        found = self._by_task.get(task)
        if found is None:
            found = self._by_task[task] = FsNode(node.fs, node.fs.new_ino(), stat.S_IFDIR | 0o555, TaskDirectory(task, False), nlink=6)
        return found

    def list(self, node: FsNode) -> Iterable[tuple[bytes, int]]:
        return [(b"%d" % tid, DT_DIR) for tid in sorted(self.group.tasks) or [self.group.pid]]


class FdDirectory(Directory):
    """/proc/PID/fd (magic links that open the same file again) and fdinfo."""

    volatile = True
    keeps_names = False

    def __init__(self, task: Task, links: bool) -> None:
        super().__init__()
        self.task = task
        self.links = links

    def refresh(self, node: FsNode) -> None:
        node.uid, node.gid = self.task.credentials.euid, self.task.credentials.egid
        node.size = len(self.task.files.files) if not self.task.exited else 0

    def lookup(self, node: FsNode, name: bytes) -> FsNode:
        files = self.task.files
        if not name.isdigit() or self.task.exited or int(name) not in files.files:
            raise Errno(ENOENT)
        fd = int(name)
        file = files.files[fd]
        if not self.links:
            return FsNode(node.fs, node.fs.new_ino(), stat.S_IFREG | 0o444, TextFile(lambda _reader: self._info(fd)), uid=node.uid, gid=node.gid)

        def place(reader: Task) -> NamespaceNode:
            require_inspect(reader, self.task)
            return reopenable_name(file)

        mode = (0o400 if file.readable else 0) | (0o200 if file.writable else 0) | 0o100
        made = FsNode(node.fs, node.fs.new_ino(), stat.S_IFLNK | mode, Link(lambda reader: place(reader).path(reader.fs), place), uid=node.uid, gid=node.gid)
        made.size = 64
        return made

    def _info(self, fd: int) -> bytes:
        file = self.task.files.files.get(fd)
        if file is None:
            raise Errno(ENOENT)
        flags = file.flags | (O_CLOEXEC if self.task.files.cloexec(fd) else 0)
        mount = file.name.mount.id if file.name is not None else 0
        return f"pos:\t{file.offset}\nflags:\t0{flags:o}\nmnt_id:\t{mount}\nino:\t{file.node.ino}\n{file.ops.fdinfo(file)}".encode()

    def list(self, node: FsNode) -> Iterable[tuple[bytes, int]]:
        if self.task.exited:
            return []
        return [(b"%d" % fd, DT_LNK if self.links else DT_REG) for fd in self.task.files.fds()]

    def ino_of(self, node: FsNode, name: bytes) -> int:
        return node.ino + 1 + int(name)


class NamespaceDirectory(Directory):
    """/proc/PID/ns: identities of the namespaces, to compare and to show."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    def _number(self, name: bytes) -> int:
        if name == b"mnt":
            return int(self.task.fs.namespace.id)
        if name == b"uts":
            return 0xEFFFFFFE if self.task.uts is self.task.kernel.uts else 0xE0000000 + id(self.task.uts) % 0xFFFFFFF
        return {b"cgroup": 0xEFFFFFFB, b"ipc": 0xEFFFFFFF, b"net": 0xEFFFFFF9, b"pid": 0xEFFFFFFC, b"user": 0xEFFFFFFD, b"time": 0xEFFFFFFA}[name]

    def lookup(self, node: FsNode, name: bytes) -> FsNode:
        if (name, DT_LNK) not in self.list(node):
            raise Errno(ENOENT)
        return FsNode(node.fs, node.fs.new_ino(), stat.S_IFLNK | 0o777, self._link(name))

    def _link(self, name: bytes) -> Link:
        def label(_reader: Task) -> bytes:
            return b"%s:[%d]" % (name, self._number(name))

        task = self.task
        return Link(label, lambda _reader: namespace_place(task.kernel, name, label(task), task.fs.namespace if name == b"mnt" else task.uts))

    def list(self, node: FsNode) -> list[tuple[bytes, int]]:
        return [(name, DT_LNK) for name in (b"cgroup", b"ipc", b"mnt", b"net", b"pid", b"time", b"user", b"uts")]


def task_node(fs: FileSystem, task: Task) -> FsNode:
    """The node of /proc/PID."""
    return FsNode(fs, fs.new_ino(), stat.S_IFDIR | 0o555, TaskDirectory(task, True), uid=task.credentials.euid, gid=task.credentials.egid, nlink=9)


THREAD_ENTRIES: dict[bytes, Entry] = {
    b"auxv": _text(lambda task: task.mm.auxv, private=True),
    b"cgroup": _text(lambda _task: b"0::/\n"),
    b"cmdline": _text(cmdline),
    b"comm": _stored(lambda task: task.comm + b"\n", set_comm),
    b"cwd": _link(lambda task: task.fs.cwd),
    b"environ": _text(environ, private=True),
    b"exe": _link(lambda task: task.mm.exe),
    b"fd": (stat.S_IFDIR | 0o500, lambda directory: FdDirectory(directory.task, links=True)),
    b"fdinfo": (stat.S_IFDIR | 0o555, lambda directory: FdDirectory(directory.task, links=False)),
    b"io": _text(io_counters, private=True),
    b"mem": (stat.S_IFREG | 0o600, lambda directory: MemoryFile(directory.task)),
    b"limits": _text(limits),
    b"loginuid": _text(lambda _task: b"4294967295"),
    b"maps": _text(memory_maps.maps, private=True),
    b"mountinfo": _text(mountinfo),
    b"mounts": _text(mounts),
    b"oom_score": _text(lambda task: b"%d\n" % max(0, 666 + task.group.oom_score_adj)),
    b"oom_score_adj": _stored(lambda task: b"%d\n" % task.group.oom_score_adj, set_oom_score_adj),
    b"personality": _text(lambda task: b"%08x\n" % task.personality, private=True),
    b"root": _link(lambda task: task.fs.root),
    b"schedstat": _text(lambda task: b"%d 0 %d\n" % (sum(memory_maps.cpu_time(task)), 1)),
    b"sessionid": _text(lambda _task: b"4294967295"),
    b"setgroups": _text(lambda _task: b"allow\n"),
    b"smaps": _text(memory_maps.smaps, private=True),
    b"smaps_rollup": _text(memory_maps.smaps_rollup, private=True),
    b"stat": (stat.S_IFREG | 0o444, lambda directory: TextFile(lambda _reader: stat_line(directory.task, directory.whole))),
    b"statm": _text(statm_line),
    b"status": _text(status_text),
    b"uid_map": _text(lambda _task: b"         0          0 4294967295\n"),
    b"gid_map": _text(lambda _task: b"         0          0 4294967295\n"),
    b"wchan": _text(lambda task: task.routine.name.encode() if task.routine is not None else b"0"),
    b"ns": (stat.S_IFDIR | 0o511, lambda directory: NamespaceDirectory(directory.task)),
}
PROCESS_ENTRIES: dict[bytes, Entry] = {
    **THREAD_ENTRIES,
    b"net": (stat.S_IFDIR | 0o555, lambda _directory: Directory({b"unix": text(unix_sockets)})),
    b"task": (stat.S_IFDIR | 0o555, lambda directory: ThreadsDirectory(directory.task)),
}
