"""Credentials of a task: ids, groups and capability sets (man 7 credentials, man 7 capabilities).

A ``Credentials`` is never changed, only replaced, so that tasks, open files and messages may share one. The rules of set*id, exec and capset live in
:mod:`polynix.kernelproc.syscalls.credentials`; here are the state and the transformations that several callers need.
"""

from __future__ import annotations

from typing import Any, Final, Self

from polynix.kernelproc.uapi.capability import (
    CAP_CHOWN,
    CAP_DAC_OVERRIDE,
    CAP_DAC_READ_SEARCH,
    CAP_FOWNER,
    CAP_FSETID,
    CAP_LAST_CAP,
    CAP_LINUX_IMMUTABLE,
    CAP_MAC_OVERRIDE,
    CAP_MKNOD,
)
from polynix.kernelproc.uapi.prctl import SECBIT_KEEP_CAPS, SECBIT_NO_SETUID_FIXUP, SECBIT_NOROOT

CAP_FULL_SET: Final = (1 << (CAP_LAST_CAP + 1)) - 1
# The capabilities that follow fsuid rather than euid (linux/capability.h: CAP_FS_SET).
CAP_FS_SET: Final = (
    1 << CAP_CHOWN
    | 1 << CAP_DAC_OVERRIDE
    | 1 << CAP_DAC_READ_SEARCH
    | 1 << CAP_FOWNER
    | 1 << CAP_FSETID
    | 1 << CAP_LINUX_IMMUTABLE
    | 1 << CAP_MKNOD
    | 1 << CAP_MAC_OVERRIDE
)


class Credentials:
    """Who a task is and what it may do. Capability sets are bit masks, bit n for capability number n."""

    __slots__ = (
        "cap_ambient", "cap_bounding", "cap_effective", "cap_inheritable", "cap_permitted", "egid", "euid", "fsgid", "fsuid", "gid", "groups",
        "securebits", "sgid", "suid", "uid",
    )  # fmt: skip

    def __init__(
        self,
        uid: int,
        euid: int,
        suid: int,
        fsuid: int,
        gid: int,
        egid: int,
        sgid: int,
        fsgid: int,
        groups: tuple[int, ...] = (),
        cap_permitted: int = 0,
        cap_effective: int = 0,
        cap_inheritable: int = 0,
        cap_bounding: int = CAP_FULL_SET,
        cap_ambient: int = 0,
        securebits: int = 0,
    ) -> None:
        self.uid = uid
        self.euid = euid
        self.suid = suid
        self.fsuid = fsuid
        self.gid = gid
        self.egid = egid
        self.sgid = sgid
        self.fsgid = fsgid
        self.groups = groups
        self.cap_permitted = cap_permitted
        self.cap_effective = cap_effective
        self.cap_inheritable = cap_inheritable
        self.cap_bounding = cap_bounding
        self.cap_ambient = cap_ambient
        self.securebits = securebits

    @classmethod
    def root(cls) -> Credentials:
        """uid 0 with every capability."""
        return cls(0, 0, 0, 0, 0, 0, 0, 0, (), CAP_FULL_SET, CAP_FULL_SET)

    @classmethod
    def user(cls, uid: int, gid: int, groups: tuple[int, ...] = ()) -> Credentials:
        """A login of ``uid``; uid 0 is root with its groups."""
        capabilities = CAP_FULL_SET if uid == 0 else 0
        return cls(uid, uid, uid, uid, gid, gid, gid, gid, tuple(sorted(groups)), capabilities, capabilities)

    def replace(self, **changes: Any) -> Self:
        """A copy with ``changes`` to its fields."""
        copy = object.__new__(type(self))
        for name in Credentials.__slots__:
            setattr(copy, name, getattr(self, name))
        for name, value in changes.items():
            setattr(copy, name, value)
        return copy

    def has_capability(self, capability: int) -> bool:
        """Whether the effective set holds CAP_*."""
        return bool(self.cap_effective >> capability & 1)

    def in_group(self, gid: int) -> bool:
        """Whether file access by ``gid``'s group class applies: the file system gid or a supplementary group."""
        return gid == self.fsgid or gid in self.groups

    def after_uid_change(self, old: Credentials) -> Credentials:
        """Capabilities after the setuid family turned ``old`` into self: Linux's cap_emulate_setxuid (man 7 capabilities, "Effect of user ID changes")."""
        if old.securebits & SECBIT_NO_SETUID_FIXUP:
            return self
        permitted, effective, ambient = self.cap_permitted, self.cap_effective, self.cap_ambient
        if 0 in (old.uid, old.euid, old.suid) and 0 not in (self.uid, self.euid, self.suid):
            if not old.securebits & SECBIT_KEEP_CAPS:
                permitted = effective = 0
            ambient = 0
        if old.euid == 0 and self.euid != 0:
            effective = 0
        if old.euid != 0 and self.euid == 0:
            effective = permitted
        return self.replace(cap_permitted=permitted, cap_effective=effective, cap_ambient=ambient)

    def after_fsuid_change(self, old: Credentials) -> Credentials:
        """Capabilities after setfsuid turned ``old`` into self."""
        if old.securebits & SECBIT_NO_SETUID_FIXUP:
            return self
        if old.fsuid == 0 and self.fsuid != 0:
            return self.replace(cap_effective=self.cap_effective & ~CAP_FS_SET)
        if old.fsuid != 0 and self.fsuid == 0:
            return self.replace(cap_effective=self.cap_effective | (self.cap_permitted & CAP_FS_SET))
        return self

    def for_exec(self, file_mode: int, file_uid: int, file_gid: int, *, may_set_ids: bool = True, no_new_privs: bool = False) -> Credentials:
        """Credentials of the program in a file with these attributes (man 2 execve, man 7 capabilities). No file system here keeps file capabilities.

        ``may_set_ids`` is False on nosuid mounts.
        """
        euid, egid = self.euid, self.egid
        if may_set_ids and not no_new_privs:
            if file_mode & 0o4000:
                euid = file_uid
            if file_mode & 0o2010 == 0o2010:
                egid = file_gid
        permitted = 0
        effective_bit = False
        if not self.securebits & SECBIT_NOROOT:
            if 0 in (self.uid, euid):
                permitted = self.cap_bounding | self.cap_inheritable
            effective_bit = euid == 0
        if no_new_privs:
            permitted &= self.cap_permitted
        ambient = self.cap_ambient
        if euid != self.uid or egid != self.gid:
            ambient = 0  # set-id programs drop it
        permitted |= ambient
        return self.replace(
            euid=euid,
            suid=euid,
            fsuid=euid,
            egid=egid,
            sgid=egid,
            fsgid=egid,
            cap_permitted=permitted,
            cap_effective=permitted if effective_bit else ambient,
            cap_ambient=ambient,
            securebits=self.securebits & ~SECBIT_KEEP_CAPS,
        )

    def is_secure_exec(self, program: Credentials) -> bool:
        """AT_SECURE for a program that got ``program``'s credentials by exec from self."""
        return program.euid != program.uid or program.egid != program.gid

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Credentials):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in Credentials.__slots__)

    def __hash__(self) -> int:
        return hash((self.uid, self.euid, self.gid, self.egid, self.groups, self.cap_effective))

    def __repr__(self) -> str:
        return f"<Credentials uid={self.uid}/{self.euid} gid={self.gid}/{self.egid} caps={self.cap_effective:#x}>"
