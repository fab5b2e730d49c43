"""Who may send a signal to whom (man 2 kill)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polynix.kernelproc.errno import Errno
from polynix.kernelproc.uapi.capability import CAP_KILL
from polynix.kernelproc.uapi.errno import EPERM
from polynix.kernelproc.uapi.signal import SIGCONT

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task


def check_kill_permission(sender: Task, target: Task, signo: int) -> None:
    """Real or effective uid of the sender equals real or saved uid of the target; CAP_KILL; one's own process; SIGCONT within a
    session.

    Errors: EPERM.
    """
    if sender.group is target.group:
        return
    mine, theirs = sender.credentials, target.credentials
    if mine.euid in (theirs.suid, theirs.uid) or mine.uid in (theirs.suid, theirs.uid) or mine.has_capability(CAP_KILL):
        return
    if signo == SIGCONT and sender.group.process_group.session is target.group.process_group.session:
        return
    raise Errno(EPERM)
