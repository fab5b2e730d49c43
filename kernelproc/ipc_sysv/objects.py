"""What all System V objects have in common: ids, keys, owners and modes (Linux's ``kern_ipc_perm`` and ipc/util.c)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.uapi.capability import CAP_IPC_OWNER, CAP_SYS_ADMIN
from polynix.kernelproc.uapi.errno import EACCES, EEXIST, EINVAL, ENOENT, ENOSPC, EPERM
from polynix.kernelproc.uapi.ipc import IPC_CREAT, IPC_EXCL, IPC_PRIVATE

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.task.task import Task

INDICES: Final = 32768  # ids are a sequence number times this, plus an index
NOBODY: Final = 0xFFFFFFFF  # as a uid or gid
S_IRUGO, S_IWUGO = 0o444, 0o222


def now_seconds(kernel: Kernel) -> int:
    """The time that the objects' records show."""
    return kernel.clock.realtime_ns() // 1_000_000_000


class IpcObject:
    """One object. ``changed_at`` is in seconds, as all its times; ``removed`` is set by IPC_RMID."""

    def __init__(self, task: Task, identifier: int, key: int, mode: int) -> None:
        credentials = task.credentials
        self.id = identifier
        self.key = key
        self.mode = mode & 0o777
        self.uid = self.creator_uid = credentials.euid
        self.gid = self.creator_gid = credentials.egid
        self.changed_at = now_seconds(task.kernel)
        self.removed = False

    def check(self, task: Task, wanted: int) -> None:
        """``wanted``: permission bits, of whichever digit of a mode (S_IRUGO, or what a ...get call was given). Errors: EACCES."""
        credentials = task.credentials
        granted = self.mode
        if credentials.euid in (self.uid, self.creator_uid):
            granted >>= 6
        elif credentials.in_group(self.gid) or credentials.in_group(self.creator_gid):
            granted >>= 3
        wanted |= wanted >> 6 | wanted >> 3
        if wanted & 7 & ~granted and not credentials.has_capability(CAP_IPC_OWNER):
            raise Errno(EACCES)

    def check_owner(self, task: Task) -> None:
        """Errors: EPERM unless the owner, the creator or CAP_SYS_ADMIN."""
        if task.credentials.euid not in (self.uid, self.creator_uid) and not task.credentials.has_capability(CAP_SYS_ADMIN):
            raise Errno(EPERM)

    def set_owner(self, task: Task, uid: int, gid: int, mode: int) -> None:
        """IPC_SET's common part. Errors: EINVAL for ids that nobody has."""
        if NOBODY in (uid, gid):
            raise Errno(EINVAL)
        self.uid, self.gid, self.mode = uid, gid, mode & 0o777
        self.changed_at = now_seconds(task.kernel)

    def shown_mode(self) -> int:
        """The mode as IPC_STAT and /proc/sysvipc show it."""
        return self.mode

    def permissions(self) -> dict[str, int]:
        """``struct ipc64_perm``: the first members of every ..._ds."""
        return {
            "key": self.key, "uid": self.uid, "gid": self.gid, "cuid": self.creator_uid, "cgid": self.creator_gid,
            "mode": self.shown_mode(), "seq": self.id // INDICES,
        }  # fmt: skip

    def status(self) -> bytes:
        """The ..._ds that IPC_STAT gives."""
        raise NotImplementedError


Object = TypeVar("Object", bound=IpcObject)


class IpcTable(Generic[Object]):
    """All objects of one kind in one kernel."""

    def __init__(self) -> None:
        self.by_index: dict[int, Object] = {}
        self._by_key: dict[int, Object] = {}
        self._sequence = 0

    @property
    def highest_index(self) -> int:
        """Of those in use; what the ..._INFO commands return."""
        return max(self.by_index, default=0)

    def get_or_make(self, task: Task, key: int, flags: int, fits: Callable[[Object], bool], make: Callable[[int], Object], most: int) -> Object:
        """The way of all ...get calls: ``make(id)`` a new object unless ``key`` has one that ``fits``; there are at most ``most``.

        Errors: EEXIST, ENOENT, EINVAL (does not fit), EACCES, ENOSPC, and make's.
        """
        existing = self._by_key.get(key) if key != IPC_PRIVATE else None
        if existing is not None:
            if flags & IPC_CREAT and flags & IPC_EXCL:
                raise Errno(EEXIST)
            if not fits(existing):
                raise Errno(EINVAL)
            existing.check(task, flags & 0o777)
            return existing
        if key != IPC_PRIVATE and not flags & IPC_CREAT:
            raise Errno(ENOENT)
        if len(self.by_index) >= min(most, INDICES):
            raise Errno(ENOSPC)
        index = next(number for number in range(INDICES) if number not in self.by_index)
        made = self.by_index[index] = make(self._sequence * INDICES + index)
        if key != IPC_PRIVATE:
            self._by_key[key] = made
        return made

    def find(self, identifier: int) -> Object:
        """Errors: EINVAL (there is none, or no longer)."""
        found = self.by_index.get(identifier % INDICES) if identifier >= 0 else None
        if found is None or found.id != identifier:
            raise Errno(EINVAL)
        return found

    def find_index(self, index: int) -> Object:
        """For the ..._STAT commands that walk the table. Errors: EINVAL."""
        found = self.by_index.get(index)
        if found is None:
            raise Errno(EINVAL)
        return found

    def forget_key(self, gone: Object) -> None:
        """Nobody finds it by its key any more."""
        if self._by_key.get(gone.key) is gone:
            del self._by_key[gone.key]
        gone.key = IPC_PRIVATE

    def forget(self, gone: Object) -> None:
        """Its id is free for another one, which will have another sequence number."""
        self.forget_key(gone)
        del self.by_index[gone.id % INDICES]
        self._sequence = (self._sequence + 1) % 0x10000

    def rows(self, header: bytes, row: bytes, values: Callable[[Object], tuple[Any, ...]]) -> bytes:
        """A file of /proc/sysvipc: a line for each object, in the order of their indices."""
        return header + b"".join(row % values(each) for _, each in sorted(self.by_index.items()))
