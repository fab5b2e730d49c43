"""Every gap that is known is counted where it is met: nothing unimplemented is silent."""

from __future__ import annotations

import re

import pytest
from harness import Outcome
from integration.audit import Audit, build

GAPS = (
    "mount propagation",
    "openat2: RESOLVE_CACHED may look at the disk",
    "umount2: MNT_EXPIRE",
    "xattr system.posix_acl_access",
    "MSG_OOB on AF_UNIX",
    "seccomp listener",
    "prctl flags=0x23",  # PR_SET_MM
    "mmap MAP_HUGETLB",
    "system call pkey_alloc",
    "system call mbind",
    "system call get_mempolicy",
    "system call set_mempolicy",
    "name_to_handle_at of a tmpfs",
    "system call ptrace",
    "system call io_uring_setup",
    "membarrier flags=0x40",
    "unshare a namespace",
    "clone3: pids of the caller's choice",
    "clone3: into a cgroup",
    "wait for the calling thread's children alone",
    "socket family flags=0x2",
    "socket family flags=0xa",
    "socket family flags=0x10",
    "sysctl vm.overcommit_memory",
    "sysctl fs.file-max",
)


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    audit = Audit()
    outcome = audit.run([build("gaps")], "--log-level", "debug")
    audit.close()
    assert outcome.code == 0, outcome
    return outcome


@pytest.mark.parametrize("gap", GAPS)
def test_a_gap_is_counted(outcome: Outcome, gap: str) -> None:
    lines = [line for line in outcome.err.decode(errors="replace").splitlines() if "polynix.track_stub" in line]
    assert any(re.search(rf"{re.escape(gap)}(\s|$)", line) for line in lines), "\n".join(lines)
