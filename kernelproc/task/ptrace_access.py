"""Who may look into whose memory and files: ptrace_may_access(9), as /proc and process_vm_readv ask it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polynix.kernelproc.uapi.capability import CAP_SYS_PTRACE

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task


def may_inspect(reader: Task, task: Task, *, real: bool = False) -> bool:
    """Whether ``reader`` is of the same process or the same user as a dumpable ``task``, or has CAP_SYS_PTRACE.

    By the reader's file system ids, or its ``real`` ones: PTRACE_MODE_FSCREDS and PTRACE_MODE_REALCREDS.
    """
    if reader.group is task.group or reader.credentials.has_capability(CAP_SYS_PTRACE):
        return True
    mine, theirs = reader.credentials, task.credentials
    uid, gid = (mine.uid, mine.gid) if real else (mine.fsuid, mine.fsgid)
    return {theirs.uid, theirs.euid, theirs.suid} == {uid} and {theirs.gid, theirs.egid, theirs.sgid} == {gid} and task.group.dumpable == 1
