"""Guest programs that do their worst: they die, or not, as on Linux; the container and its other processes survive."""

from __future__ import annotations

import pytest
from integration.audit import Audit, build
from polynix.addrspace import _restricted as restricted
from polynix.addrspace.addresses import TASK_SIZE

LIMITS = ("--memory", "256M", "--pids", "50")
SEGMENTATION_FAULT = "killed by 11"
KILLED = "killed by 9"
STUB_TEXT_SIZE = 0x1400
CALLS = 470


def hostile(audit: Audit, *how: object, **environment: str) -> str:
    outcome = audit.run([build("hostile"), *map(str, how)], *LIMITS, **environment)
    assert outcome.code == 0, outcome
    assert b"inside the kernel" not in outcome.err, outcome.err.decode()
    return outcome.out.decode().strip()


@pytest.mark.parametrize(
    ("how", "end"),
    [
        ("int80", "exited 0"),
        ("vsyscall", "exited 0"),
        ("vsyscall_inside", SEGMENTATION_FAULT),
        ("unmap_all", SEGMENTATION_FAULT),
        ("map_over_all", SEGMENTATION_FAULT),
        ("protect_all", SEGMENTATION_FAULT),
        ("exit_among_blocked", "exited 0"),
        ("exit_among_blocked group", "exited 0"),
        ("stack_overflow", SEGMENTATION_FAULT),
        ("nested_vfork", "exited 0"),
        ("fork_bomb", "exited 0"),
        ("exhaust", KILLED),
    ],
)
def test_it_ends_as_on_linux(audit: Audit, how: str, end: str) -> None:
    limit = [hex(TASK_SIZE)] if how in ("unmap_all", "map_over_all") else []
    assert hostile(audit, *how.split(), *limit) == end


@pytest.mark.parametrize("how", ["exhaust", "exhaust_by_kernel"])
def test_memory_runs_out_where_regions_are_memfds(audit: Audit, how: str) -> None:
    assert hostile(audit, how, POLYNIX_FORCE_MEMFD="1") in (KILLED, "exited 0")


def test_several_exhaust_memory_at_once_and_the_shell_survives(audit: Audit) -> None:
    script = f"for i in 1 2 3; do {build('hostile')} exhaust & done; wait; echo all"
    outcome = audit.run(["sh", "-c", script], *LIMITS)
    assert outcome.out.decode().splitlines() == [KILLED] * 3 + ["all"], outcome


def test_jumping_to_every_third_byte_of_the_stub(audit: Audit) -> None:
    assert hostile(audit, "jump", restricted.STUB_TEXT, STUB_TEXT_SIZE) == "exited 0"


def test_scribbling_over_the_control_page(audit: Audit) -> None:
    assert hostile(audit, "scribble", restricted.CONTROL_BASE, restricted.SLOT_SIZE) == "exited 0"


def test_a_fork_bomb_without_a_parent_that_waits(audit: Audit) -> None:
    outcome = audit.run(["bash", "-c", "bomb() { bomb | bomb & }; bomb; sleep 1; echo alive"], *LIMITS)
    assert b"alive" in outcome.out, outcome


@pytest.mark.parametrize("seed", range(4))
def test_wild_arguments_to_every_call(audit: Audit, seed: int) -> None:
    outcome = audit.run([build("wild", "-w"), "0", str(CALLS), "20", str(seed + 1), "8"], *LIMITS, timeout=100)
    assert outcome.code == 0, outcome
    assert b"inside the kernel" not in outcome.err, outcome.err.decode()
