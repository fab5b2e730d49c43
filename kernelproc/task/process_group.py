"""Process groups and sessions: who a terminal's signals go to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polynix.kernelproc.task.pid_table import PidTable
    from polynix.kernelproc.task.thread_group import ThreadGroup


class Session:
    """A session; ``terminal`` is its controlling terminal (an object of devices.tty), or None."""

    __slots__ = ("process_groups", "sid", "terminal")

    def __init__(self, sid: int) -> None:
        self.sid = sid
        self.process_groups: dict[int, ProcessGroup] = {}
        self.terminal: Any = None


class ProcessGroup:
    """A process group of a session."""

    __slots__ = ("members", "pgid", "session")

    def __init__(self, pgid: int, session: Session) -> None:
        self.pgid = pgid
        self.session = session
        self.members: dict[ThreadGroup, None] = {}
        session.process_groups[pgid] = self

    def leave(self, group: ThreadGroup, pids: PidTable) -> None:
        """Take a process out (it is reaped, or moves); an empty group and an empty session are forgotten."""
        self.members.pop(group, None)
        if self.members:
            return
        if pids.process_groups.get(self.pgid) is self:
            del pids.process_groups[self.pgid]
        session = self.session
        session.process_groups.pop(self.pgid, None)
        if not session.process_groups and pids.sessions.get(session.sid) is session:
            del pids.sessions[session.sid]

    def is_orphaned(self) -> bool:
        """No member has a parent in another group of the same session (POSIX); a member that init adopted has no such parent."""
        for member in self.members:
            parent = member.parent
            if (
                parent is not None
                and not member.exited
                and not member.adopted
                and parent.process_group is not self
                and parent.process_group.session is self.session
            ):
                return False
        return True
