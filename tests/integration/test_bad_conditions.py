"""Hosts that lack something, and programs that are none: one line on standard error and the documented status, never a traceback or a hang."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest
from harness import AS_NOBODY, POLYNIX, Outcome, execute, need_others_to_read
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from integration.audit import Audit, build
from polynix.kernelproc.uapi.errno import EMFILE, ENOMEM, ENOSYS, EPERM
from polynix.kernelproc.uapi.unistd import SYSCALLS

EXIT_ERROR, EXIT_NOT_EXECUTABLE = 125, 126
ROOT = os.geteuid() == 0


def wrapped(audit: Audit, wrapper: Sequence[str], *command: str, **environment: str) -> Outcome:
    argv = [*wrapper, *POLYNIX, "run", "--", *(command or ("/bin/echo", "hi"))]
    return execute(argv, cwd="/", env=audit.environment(**environment), timeout=30)


def one_line(outcome: Outcome, status: int, text: str) -> None:
    lines = outcome.err.decode().splitlines()
    assert outcome.code == status and len(lines) == 1 and lines[0].startswith("polynix: ") and text in lines[0], outcome


# -- the host ------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        ("memfd_create", ENOSYS, "cannot set up restricted mode"),
        ("seccomp", ENOSYS, "cannot start restricted processes: install the clone filter (seccomp): Function not implemented"),
        ("seccomp", EPERM, "cannot start restricted processes: install the clone filter (seccomp): Operation not permitted"),
        ("clone", EPERM, "cannot start the runner: Operation not permitted"),
        ("execveat", ENOSYS, "cannot start restricted processes: execute the stub: Function not implemented"),
        ("close_range", ENOSYS, "cannot start restricted processes: close_range: Function not implemented"),
        ("openat2", ENOSYS, "cannot open host files: openat2: Function not implemented"),
        ("openat2", EPERM, "cannot open host files: openat2: Operation not permitted"),
        ("eventfd2", EMFILE, "Too many open files"),
        ("mremap", ENOMEM, "cannot start restricted processes: move the vdso"),
        ("flock", ENOSYS, "cannot make a run directory"),
        ("socketpair", EMFILE, "Too many open files"),
    ],
)
def test_a_host_that_refuses_a_call(audit: Audit, call: str, error: int, text: str) -> None:
    one_line(wrapped(audit, [build("deny"), f"{SYSCALLS[call]}={error}", "--"]), EXIT_ERROR, text)


@pytest.mark.parametrize("call", ["epoll_pwait2", "pidfd_open", "unshare", "mount", "process_vm_readv", "copy_file_range", "statx", "rseq", "clone3"])
def test_a_host_without_what_we_can_do_without(audit: Audit, call: str) -> None:
    outcome = wrapped(audit, [build("deny"), f"{SYSCALLS[call]}={ENOSYS}", "--"])
    assert (outcome.code, outcome.out) == (0, b"hi\n"), outcome


def test_shared_memory_is_forced_to_memfds(audit: Audit) -> None:
    assert wrapped(audit, [], POLYNIX_FORCE_MEMFD="1").out == b"hi\n"


def test_no_shared_memory_at_all(audit: Audit) -> None:
    one_line(wrapped(audit, [build("deny"), f"{SYSCALLS['memfd_create']}={EPERM}", "--"], POLYNIX_FORCE_MEMFD="1"), EXIT_ERROR, "cannot set up restricted mode")


@pytest.mark.skipif(shutil.which("setarch") is None, reason="needs setarch")
def test_wrong_architecture_and_old_kernel(audit: Audit) -> None:
    one_line(wrapped(audit, ["setarch", "i686"]), EXIT_ERROR, "needs Linux on x86-64, this is Linux on i686")
    one_line(wrapped(audit, ["setarch", "--uname-2.6"]), EXIT_ERROR, "or newer, this is Linux 2.6.")


def unprivileged(*limits: str) -> list[str]:
    need_others_to_read()
    return ["bash", "-c", "".join(f"ulimit {limit} && " for limit in limits) + 'exec "$@"', "bash", *AS_NOBODY]


def open_to_all(audit: Audit) -> None:
    audit.directory.chmod(0o755)
    audit.run_directory.chmod(0o777)


@pytest.mark.parametrize(("limit", "text"), [("-n 60", "open files"), ("-v 4000000", "address space"), ("-f 1000", "file size")])
def test_limits_that_are_too_low(audit: Audit, limit: str, text: str) -> None:
    open_to_all(audit)
    one_line(wrapped(audit, unprivileged(limit)), EXIT_ERROR, text)


def test_a_directory_for_names_that_is_not_there(audit: Audit) -> None:
    outcome = wrapped(audit, ["env", "-u", "XDG_RUNTIME_DIR", "TMPDIR=/nowhere"])
    assert outcome.code == 0, outcome  # Python's tempfile falls back to /tmp


@pytest.mark.skipif(not ROOT, reason="needs root to show another /proc/meminfo")
@pytest.mark.parametrize("variables", [{}, {"POLYNIX_FORCE_MEMFD": "1"}], ids=["tmpfs", "memfd"])
def test_a_host_that_is_short_of_memory(audit: Audit, variables: dict[str, str]) -> None:
    """Whoever grows is killed by the container's kernel, long before its own limit; small ones go on, and it may grow once there is memory."""
    meminfo = audit.directory / "meminfo"
    show = ["unshare", "-m", "sh", "-c", f'mount --bind {meminfo} /proc/meminfo && exec "$@"', "sh"]
    grow = ["/usr/bin/python3", "-c", "import sys; chunks = [bytearray(1 << 20) for _ in range(int(sys.argv[1]))]; print(len(chunks))"]
    for available, megabytes, status in ((100, 400, 137), (100, 20, 0), (4000, 400, 0)):
        meminfo.write_text(f"MemTotal: {4096 << 10} kB\nMemFree: 1000 kB\nMemAvailable: {available << 10} kB\n")
        outcome = wrapped(audit, show, *grow, str(megabytes), **variables)
        assert outcome.code == status, (available, megabytes, outcome)
        assert (b"out of memory: killing" in outcome.err) == (status == 137)


# -- programs ------------------------------------------------------------------------------------------------------------------------------------

TRUE = Path(shutil.which("true") or "/bin/true").read_bytes()


def run_image(audit: Audit, image: bytes) -> Outcome:
    """Runs it as a child of a shell, twice: as the first program and as another's child."""
    program = audit.directory / "program"
    program.write_bytes(image)
    program.chmod(0o755)
    return audit.run([str(program)], "--memory", "256M", timeout=20)


def bears(outcome: Outcome) -> None:
    assert outcome.code is not None, "it hangs"
    text = outcome.err.decode(errors="replace")
    assert "Traceback" not in text and "inside the kernel" not in text and "kernel process died" not in text, text
    assert outcome.code < 126 or outcome.code in (126, 127) or 129 <= outcome.code <= 159, outcome


def mutated(*changes: tuple[int, str, int]) -> bytes:
    image = bytearray(TRUE)
    for offset, form, value in changes:
        struct.pack_into(form, image, offset, value)
    return bytes(image)


HEADER = struct.unpack_from("<Q", TRUE, 32)[0]
LOADS = [HEADER + 56 * index for index in range(struct.unpack_from("<H", TRUE, 56)[0]) if struct.unpack_from("<I", TRUE, HEADER + 56 * index)[0] == 1]
INTERPRETER = TRUE.index(b"/lib64/ld-linux")


@pytest.mark.parametrize(
    ("name", "image", "status"),
    [
        ("empty", b"", EXIT_NOT_EXECUTABLE),
        ("text", b"hello", EXIT_NOT_EXECUTABLE),
        ("magic only", TRUE[:4], EXIT_NOT_EXECUTABLE),
        ("half a header", TRUE[:40], EXIT_NOT_EXECUTABLE),
        ("header only", TRUE[:64], EXIT_NOT_EXECUTABLE),
        ("another machine", mutated((18, "<H", 183)), EXIT_NOT_EXECUTABLE),
        ("32 bits", mutated((4, "<B", 1)), EXIT_NOT_EXECUTABLE),
        ("an object file", mutated((16, "<H", 1)), EXIT_NOT_EXECUTABLE),
        ("a missing interpreter", mutated((INTERPRETER, "<B", ord("X"))), 127),
        ("65535 segments", mutated((56, "<H", 65535)), EXIT_NOT_EXECUTABLE),
        ("huge segment", mutated((LOADS[0] + 40, "<Q", 1 << 46)), None),
        ("huger segment", mutated((LOADS[0] + 40, "<Q", (1 << 64) - 1)), None),
        ("overlapping segments", mutated((LOADS[1] + 16, "<Q", 0)), None),
        ("file bytes beyond memory", mutated((LOADS[0] + 32, "<Q", 1 << 40)), None),
        ("offset beyond the file", mutated((LOADS[1] + 8, "<Q", 1 << 30)), None),
        ("high address", mutated((LOADS[1] + 16, "<Q", 1 << 63)), None),
        ("script without interpreter", b"#!\n", EXIT_NOT_EXECUTABLE),
        ("script of nothing", b"#!/nowhere\n", 127),
        ("script of itself", None, EXIT_NOT_EXECUTABLE),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_malformed_programs(audit: Audit, name: str, image: bytes | None, status: int | None) -> None:
    if image is None:
        image = b"#!" + str(audit.directory / "program").encode() + b"\n"
    outcome = run_image(audit, image)
    bears(outcome)
    if status is not None:
        assert outcome.code == status, outcome


FUZZER = """
import os, struct, sys
base, directory = open(sys.argv[1], 'rb').read(), sys.argv[2]
for number, line in enumerate(open(sys.argv[3])):
    changes = eval(line)
    image = bytearray(base[:changes[0]])
    for offset, value in changes[1]:
        if offset < len(image):
            image[offset] = value
    path = '%s/%d' % (directory, number)
    with open(path, 'wb') as file:
        file.write(image)
    os.chmod(path, 0o755)
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open('/dev/null', os.O_RDWR), 2)
        os.dup2(2, 1)
        import signal
        signal.alarm(2)
        try:
            os.execv(path, [path])
        except OSError:
            os._exit(9)
    os.waitpid(pid, 0)
    os.unlink(path)
print('survived', number + 1)
"""

images = st.tuples(
    st.one_of(st.just(len(TRUE)), st.integers(0, len(TRUE)), st.integers(0, 1024)),
    st.lists(st.tuples(st.integers(0, 64 + 56 * 13), st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))), max_size=6),
)


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(images, min_size=30, max_size=60))
def test_fuzzed_programs(audit: Audit, batch: list[tuple[int, list[tuple[int, int]]]]) -> None:
    """Many images in one container, as children of one that must live to tell."""
    cases = audit.directory / "cases"
    cases.write_text("".join(f"{case!r}\n" for case in batch))
    true = shutil.which("true") or "/bin/true"
    outcome = audit.run(["/usr/bin/python3", "-c", FUZZER, true, "/tmp", str(cases)], "--memory", "512M", timeout=100)
    assert outcome.out == b"survived %d\n" % len(batch), outcome
    assert b"inside the kernel" not in outcome.err, outcome.err.decode()
