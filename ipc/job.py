"""Job: the token that stands for a container."""

from __future__ import annotations

from polynix.ipc.handle import Handle, KernelObject
from polynix.ipc.signals import Rights

RIGHTS = Rights.BASIC | Rights.IO | Rights.PROPERTY | Rights.ENUMERATE | Rights.DESTROY | Rights.SIGNAL | Rights.MANAGE_JOB


class JobObject(KernelObject):
    """Nothing but a koid."""


class Job(Handle):
    """A handle to a container's job; its koid is the container's key."""

    @classmethod
    def create(cls) -> Job:
        return cls(JobObject(), RIGHTS)
