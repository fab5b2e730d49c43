"""User and group ids, supplementary groups and capabilities of the calling thread (man 7 credentials, man 7 capabilities)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

from polynix.addrspace._usercopy import UserAddress
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.syscalls.table import syscall
from polynix.kernelproc.syscalls.types import Int, Uid
from polynix.kernelproc.task.credentials import CAP_FULL_SET
from polynix.kernelproc.uapi.capability import (
    _LINUX_CAPABILITY_VERSION_1,
    _LINUX_CAPABILITY_VERSION_2,
    _LINUX_CAPABILITY_VERSION_3,
    CAP_SETGID,
    CAP_SETPCAP,
    CAP_SETUID,
)
from polynix.kernelproc.uapi.errno import EINVAL, EPERM, ESRCH
from polynix.kernelproc.uapi.limits import NGROUPS_MAX

if TYPE_CHECKING:
    from polynix.kernelproc.task.credentials import Credentials
    from polynix.kernelproc.task.task import Task

_UNCHANGED: Final = 0xFFFFFFFF  # (uid_t) -1
_CAP_HEADER: Final = struct.Struct("<Ii")


def commit_credentials(task: Task, new: Credentials) -> None:
    """Give the thread new credentials. A change of effective ids or a gain of capabilities makes the process undumpable, as on Linux."""
    old = task.credentials
    if (old.euid, old.egid, old.fsuid, old.fsgid) != (new.euid, new.egid, new.fsuid, new.fsgid) or new.cap_permitted & ~old.cap_permitted:
        task.group.dumpable = 0
        task.death_signal = 0
    task.credentials = new


# -- user ids --------------------------------------------------------------------------------------------------------------


@syscall()
def getuid(task: Task) -> int:
    return task.credentials.uid


@syscall()
def geteuid(task: Task) -> int:
    return task.credentials.euid


@syscall()
def setuid(task: Task, uid: Uid) -> int:
    """man 2 setuid."""
    old = task.credentials
    if uid == _UNCHANGED:
        return -EINVAL
    if old.has_capability(CAP_SETUID):
        new = old.replace(uid=uid, euid=uid, suid=uid, fsuid=uid)
    elif uid in (old.uid, old.suid):
        new = old.replace(euid=uid, fsuid=uid)
    else:
        return -EPERM
    commit_credentials(task, new.after_uid_change(old))
    return 0


@syscall()
def setreuid(task: Task, uid: Uid, euid: Uid) -> int:
    """man 2 setreuid."""
    old = task.credentials
    privileged = old.has_capability(CAP_SETUID)
    if uid != _UNCHANGED and not privileged and uid not in (old.uid, old.euid):
        return -EPERM
    if euid != _UNCHANGED and not privileged and euid not in (old.uid, old.euid, old.suid):
        return -EPERM
    changes: dict[str, Any] = {}
    if uid != _UNCHANGED:
        changes["uid"] = uid
    if euid != _UNCHANGED:
        changes["euid"] = euid
    new_euid = changes.get("euid", old.euid)
    changes["fsuid"] = new_euid
    if uid != _UNCHANGED or (euid != _UNCHANGED and euid != old.uid):
        changes["suid"] = new_euid
    commit_credentials(task, old.replace(**changes).after_uid_change(old))
    return 0


@syscall()
def setresuid(task: Task, uid: Uid, euid: Uid, suid: Uid) -> int:
    """man 2 setresuid."""
    old = task.credentials
    if not old.has_capability(CAP_SETUID):
        for wanted in (uid, euid, suid):
            if wanted != _UNCHANGED and wanted not in (old.uid, old.euid, old.suid):
                return -EPERM
    new = old.replace(
        uid=old.uid if uid == _UNCHANGED else uid,
        euid=old.euid if euid == _UNCHANGED else euid,
        suid=old.suid if suid == _UNCHANGED else suid,
        fsuid=old.euid if euid == _UNCHANGED else euid,
    )
    commit_credentials(task, new.after_uid_change(old))
    return 0


@syscall()
def getresuid(task: Task, uid: UserAddress, euid: UserAddress, suid: UserAddress) -> int:
    """man 2 getresuid."""
    credentials = task.credentials
    task.user.store_u32(uid, credentials.uid)
    task.user.store_u32(euid, credentials.euid)
    task.user.store_u32(suid, credentials.suid)
    return 0


@syscall()
def setfsuid(task: Task, uid: Uid) -> int:
    """man 2 setfsuid: returns the previous one, whether or not it changed."""
    old = task.credentials
    allowed = uid in (old.uid, old.euid, old.suid, old.fsuid) or (uid != _UNCHANGED and old.has_capability(CAP_SETUID))
    if allowed and uid != old.fsuid:
        commit_credentials(task, old.replace(fsuid=uid).after_fsuid_change(old))
    return old.fsuid


# -- group ids -------------------------------------------------------------------------------------------------------------


@syscall()
def getgid(task: Task) -> int:
    return task.credentials.gid


@syscall()
def getegid(task: Task) -> int:
    return task.credentials.egid


@syscall()
def setgid(task: Task, gid: Uid) -> int:
    """man 2 setgid."""
    old = task.credentials
    if gid == _UNCHANGED:
        return -EINVAL
    if old.has_capability(CAP_SETGID):
        commit_credentials(task, old.replace(gid=gid, egid=gid, sgid=gid, fsgid=gid))
    elif gid in (old.gid, old.sgid):
        commit_credentials(task, old.replace(egid=gid, fsgid=gid))
    else:
        return -EPERM
    return 0


@syscall()
def setregid(task: Task, gid: Uid, egid: Uid) -> int:
    """man 2 setregid."""
    old = task.credentials
    privileged = old.has_capability(CAP_SETGID)
    if gid != _UNCHANGED and not privileged and gid not in (old.gid, old.egid):
        return -EPERM
    if egid != _UNCHANGED and not privileged and egid not in (old.gid, old.egid, old.sgid):
        return -EPERM
    new_egid = old.egid if egid == _UNCHANGED else egid
    changes: dict[str, Any] = {"egid": new_egid, "fsgid": new_egid}
    if gid != _UNCHANGED:
        changes["gid"] = gid
    if gid != _UNCHANGED or (egid != _UNCHANGED and egid != old.gid):
        changes["sgid"] = new_egid
    commit_credentials(task, old.replace(**changes))
    return 0


@syscall()
def setresgid(task: Task, gid: Uid, egid: Uid, sgid: Uid) -> int:
    """man 2 setresgid."""
    old = task.credentials
    if not old.has_capability(CAP_SETGID):
        for wanted in (gid, egid, sgid):
            if wanted != _UNCHANGED and wanted not in (old.gid, old.egid, old.sgid):
                return -EPERM
    new_egid = old.egid if egid == _UNCHANGED else egid
    commit_credentials(
        task,
        old.replace(
            gid=old.gid if gid == _UNCHANGED else gid,
            egid=new_egid,
            sgid=old.sgid if sgid == _UNCHANGED else sgid,
            fsgid=new_egid,
        ),
    )
    return 0


@syscall()
def getresgid(task: Task, gid: UserAddress, egid: UserAddress, sgid: UserAddress) -> int:
    """man 2 getresgid."""
    credentials = task.credentials
    task.user.store_u32(gid, credentials.gid)
    task.user.store_u32(egid, credentials.egid)
    task.user.store_u32(sgid, credentials.sgid)
    return 0


@syscall()
def setfsgid(task: Task, gid: Uid) -> int:
    """man 2 setfsgid: returns the previous one, whether or not it changed."""
    old = task.credentials
    allowed = gid in (old.gid, old.egid, old.sgid, old.fsgid) or (gid != _UNCHANGED and old.has_capability(CAP_SETGID))
    if allowed and gid != old.fsgid:
        commit_credentials(task, old.replace(fsgid=gid))
    return old.fsgid


@syscall()
def getgroups(task: Task, size: Int, groups: UserAddress) -> int:
    """man 2 getgroups."""
    own = task.credentials.groups
    if size < 0 or (size and size < len(own)):
        return -EINVAL
    if size and own:
        task.copy_out(groups, struct.pack(f"<{len(own)}I", *own))
    return len(own)


@syscall()
def setgroups(task: Task, size: Int, groups: UserAddress) -> int:
    """man 2 setgroups. The list is kept sorted, as Linux keeps it."""
    if not task.credentials.has_capability(CAP_SETGID):
        return -EPERM
    if not 0 <= size <= NGROUPS_MAX:
        return -EINVAL
    wanted = struct.unpack(f"<{size}I", task.copy_in(groups, 4 * size)) if size else ()
    if _UNCHANGED in wanted:
        return -EINVAL
    commit_credentials(task, task.credentials.replace(groups=tuple(sorted(wanted))))
    return 0


# -- capabilities ----------------------------------------------------------------------------------------------------------


def _read_header(task: Task, header: UserAddress) -> tuple[int, int]:
    """(number of 32-bit words a set takes, pid). An unknown version is answered with the preferred one. Errors: EINVAL."""
    version, pid = _CAP_HEADER.unpack(task.copy_in(header, _CAP_HEADER.size))
    if version == _LINUX_CAPABILITY_VERSION_1:
        return 1, pid
    if version in (_LINUX_CAPABILITY_VERSION_2, _LINUX_CAPABILITY_VERSION_3):
        return 2, pid
    task.user.store_u32(header, _LINUX_CAPABILITY_VERSION_3)
    raise Errno(EINVAL)


@syscall()
def capget(task: Task, header: UserAddress, data: UserAddress) -> int:
    """man 2 capget."""
    try:
        words, pid = _read_header(task, header)
    except Errno as error:
        return 0 if error.errno == EINVAL and not data else -error.errno
    if pid < 0:
        return -EINVAL
    target = task if pid in (0, task.tid) else task.kernel.pids.tasks.get(pid)
    if target is None:
        return -ESRCH
    if not data:
        return 0
    credentials = target.credentials
    sets = (credentials.cap_effective, credentials.cap_permitted, credentials.cap_inheritable)
    values = [value >> 32 * word & 0xFFFFFFFF for word in range(words) for value in sets]
    task.copy_out(data, struct.pack(f"<{3 * words}I", *values))
    return 0


@syscall()
def capset(task: Task, header: UserAddress, data: UserAddress) -> int:
    """man 2 capset."""
    words, pid = _read_header(task, header)
    if pid not in (0, task.tid):
        return -EPERM
    values = struct.unpack(f"<{3 * words}I", task.copy_in(data, 12 * words))
    # Bits beyond the last capability are ignored, as Linux does.
    effective, permitted, inheritable = (sum(values[3 * word + index] << 32 * word for word in range(words)) & CAP_FULL_SET for index in range(3))
    old = task.credentials
    if not old.has_capability(CAP_SETPCAP) and inheritable & ~(old.cap_inheritable | old.cap_permitted):
        return -EPERM
    if inheritable & ~(old.cap_inheritable | old.cap_bounding):
        return -EPERM
    if permitted & ~old.cap_permitted or effective & ~permitted:
        return -EPERM
    commit_credentials(
        task,
        old.replace(
            cap_effective=effective,
            cap_permitted=permitted,
            cap_inheritable=inheritable,
            cap_ambient=old.cap_ambient & permitted & inheritable,
        ),
    )
    return 0
