"""What polynix needs of its host, looked at before anything is built, so that a lack is told in one line and not met in the middle."""

from __future__ import annotations

import os
import resource

MACHINE = "x86_64"
LINUX = (5, 11)  # close_range with CLOSE_RANGE_CLOEXEC; openat2, pidfds and continued seccomp notifications are older
DESCRIPTORS = 128  # what a kernel process and a few restricted processes hold
ADDRESS_SPACE = 1 << 42  # windows on guest memory
FILE_SIZE = 1 << 47  # a restricted region is a sparse file of a guest's whole address range


class UnfitHostError(Exception):
    """The host lacks something; the text is one line."""

    expected = True


def check_host() -> None:
    """Errors: UnfitHostError."""
    system = os.uname()
    if system.machine != MACHINE:
        raise UnfitHostError(f"polynix needs an {MACHINE} machine, this one is {system.machine}")
    if system.sysname != "Linux" or _version(system.release) < LINUX:
        raise UnfitHostError(f"polynix needs Linux {LINUX[0]}.{LINUX[1]} or newer, this is {system.sysname} {system.release}")
    _need(resource.RLIMIT_NOFILE, DESCRIPTORS, "open files (ulimit -n)")
    _need(resource.RLIMIT_AS, ADDRESS_SPACE, "address space (ulimit -v)")
    _need(resource.RLIMIT_FSIZE, FILE_SIZE, "file size (ulimit -f)")


def _version(release: str) -> tuple[int, int]:
    major, _, rest = release.partition(".")
    minor = rest.partition(".")[0].partition("-")[0]
    return (int(major) if major.isdigit() else 0, int(minor) if minor.isdigit() else 0)


def _need(limit: int, least: int, name: str) -> None:
    """Raise the soft limit to the hard one, which must be enough or give way."""
    _, hard = resource.getrlimit(limit)
    if hard != resource.RLIM_INFINITY and hard < least:
        try:
            resource.setrlimit(limit, (least, least))  # root may
        except (OSError, ValueError):
            raise UnfitHostError(f"the limit of {name} is too low for polynix: {hard}, and {least} are needed") from None
        return
    resource.setrlimit(limit, (hard, hard))
