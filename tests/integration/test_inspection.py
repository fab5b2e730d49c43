"""``polynix ps``, ``top``, ``tree``, ``maps``, ``fds``, ``stubs`` of a running container, held against the guest's own view and the host's."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pexpect
import pytest
from waiting import wait_until

import polynix

POLYNIX = [sys.executable, "-m", "polynix.tools.start"]
PYTHON = "/usr/bin/python3"

# A process with a thread that computes, a child that reads a pipe for ever, and shared memory between the two.
GUEST = """
import mmap, os, threading, time
reader, writer = os.pipe()
shared = mmap.mmap(-1, 1 << 20)
shared[:1 << 19] = b"s" * (1 << 19)
child = os.fork()
if child == 0:
    os.read(reader, 1)
    os._exit(0)
file = open("/tmp/opened", "w")
def burn():
    while not done.is_set():
        sum(range(2000))
done = threading.Event()
thread = threading.Thread(target=burn, name="burner")
thread.start()
time.sleep(1.5)
done.set()
thread.join()
maps = open("/proc/self/maps").read().count("\\n")
print(os.getpid(), child, reader, writer, file.fileno(), time.process_time(), len(os.listdir("/proc/self/fd")) - 1, maps, flush=True)
input()
"""


def inspect(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*POLYNIX, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)


def inspect_json(*arguments: str) -> Any:
    result = inspect(*arguments, "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


class Guest:
    """A container with GUEST in its final state."""

    def __init__(self, container: polynix.Container) -> None:
        process = container.spawn([PYTHON, "-c", GUEST], stdin=polynix.PIPE, stdout=polynix.PIPE)
        assert process.stdout is not None
        words = process.stdout.readline().split()
        self.pid, self.child, self.reader, self.writer, self.file = map(int, words[:5])
        self.cpu_seconds = float(words[5])
        self.descriptors, self.maps = int(words[6]), int(words[7])
        self.kernel = str(container.kernel_pid)


@pytest.fixture(scope="module")
def guest() -> Iterator[Guest]:
    with polynix.Container() as container:
        yield Guest(container)


def test_tree_says_who_waits_for_what(guest: Guest) -> None:
    rows = {row["tid"]: row for row in inspect_json("tree", guest.kernel)}
    assert rows[guest.pid]["ppid"] == 1 and rows[guest.child]["ppid"] == guest.pid
    assert (rows[guest.child]["state"], rows[guest.child]["syscall"]) == ("S", "read")
    assert re.fullmatch(r"pipe:\[\d+\]", rows[guest.child]["wait"])
    assert rows[guest.pid]["command"][:2] == [PYTHON, "-c"]
    text = inspect("tree", guest.kernel).stdout
    assert re.search(rf"── {guest.child} .*S read: pipe:", text), text
    below = inspect_json("tree", guest.kernel, "--pid", str(guest.child))
    assert [row["pid"] for row in below] == [guest.child]


def test_descriptors_are_those_of_the_guest(guest: Guest) -> None:
    rows = {row["fd"]: row for row in inspect_json("fds", guest.kernel, "--pid", str(guest.pid))}
    assert len(rows) == guest.descriptors
    assert rows[guest.file]["name"] == "/tmp/opened" and rows[guest.file]["mode"] == "w"
    child = {row["fd"]: row for row in inspect_json("fds", guest.kernel, "--pid", str(guest.child))}
    assert rows[guest.reader]["file"] == child[guest.reader]["file"]  # one description since the fork
    assert rows[guest.reader]["file"] != rows[guest.writer]["file"]
    assert "/tmp/opened" in inspect("fds", guest.kernel).stdout


def test_maps_are_those_of_the_guest_and_of_the_host(guest: Guest) -> None:
    rows = inspect_json("maps", guest.kernel, "--pid", str(guest.pid))
    assert len(rows) == guest.maps
    with open(f"/proc/{rows[0]['host_pid']}/maps") as file:
        host = [line.split() for line in file]
    backed = {(int(line[0].split("-")[0], 16), int(line[4])) for line in host}
    for row in rows:
        if row["kind"] == "shared" and row["resident"] >= 1 << 19:
            assert (row["start"], row["inode"]) in backed  # the host maps the object that the kernel names, where it says
            break
    else:
        pytest.fail("the shared memory is missing")
    other = inspect_json("maps", guest.kernel, "--pid", str(guest.child))
    assert row["inode"] in {each["inode"] for each in other if each["kind"] == "shared"}
    assert not {each["inode"] for each in rows if each["kind"] == "anonymous"} & {each["inode"] for each in other if each["kind"] == "anonymous"}


def test_top_agrees_with_the_guest_about_its_time(guest: Guest) -> None:
    (look,) = inspect_json("top", guest.kernel, "--interval", "0.1")
    threads = [thread for thread in look["threads"] if thread["pid"] == guest.pid]
    # What the ended thread used is no longer a row; its host thread is parked, and the host still knows.
    assert {thread["tid"] for thread in threads} == {guest.pid}
    (host,) = {thread["host_pid"] for thread in threads}
    total = 0
    for tid in os.listdir(f"/proc/{host}/task"):
        with open(f"/proc/{host}/task/{tid}/schedstat") as file:
            total += int(file.read().split()[0])
    assert total / 1e9 == pytest.approx(guest.cpu_seconds, rel=0.05)
    assert inspect("top", guest.kernel, "--interval", "0.1").stdout.count("python3") >= 2


def test_top_numbers_every_thread_and_its_time() -> None:
    program = (
        "import os, threading, time\n"
        "stop = time.monotonic() + 1.5\n"
        "def burn():\n"
        "    while time.monotonic() < stop: pass\n"
        "    os.write(1, b'%d %f\\n' % (threading.get_native_id(), time.thread_time()))\n"
        "    time.sleep(100)\n"
        "for _ in range(3): threading.Thread(target=burn).start()\n"
    )
    with polynix.Container() as container:
        process = container.spawn([PYTHON, "-c", program], stdout=polynix.PIPE)
        assert process.stdout is not None
        times = dict(line.split() for line in (process.stdout.readline().decode() for _ in range(3)))
        (look,) = inspect_json("top", str(container.kernel_pid), "--interval", "0.1")
        threads = {str(thread["tid"]): thread for thread in look["threads"] if thread["pid"] == process.pid}
        assert len(threads) == 4 and len({thread["host_tid"] for thread in threads.values()}) == 4
        for tid, seconds in times.items():
            assert threads[tid]["cpu_seconds"] == pytest.approx(float(seconds), rel=0.05, abs=0.02)
        process.kill()


def test_top_lives_on_a_terminal_and_gives_it_back(guest: Guest) -> None:
    terminal = pexpect.spawn(POLYNIX[0], [*POLYNIX[1:], "top", guest.kernel, "--interval", "0.2"], dimensions=(30, 120), timeout=20, encoding="utf-8")
    try:
        terminal.expect_exact("\x1b[?1049h")  # the other screen
        for _ in range(2):  # it comes again and again
            terminal.expect(rf"kernel {guest.kernel}: \d+ tasks")
            terminal.expect("python3")
        terminal.sendintr()
        terminal.expect_exact("\x1b[?1049l")
        terminal.expect(pexpect.EOF)
    finally:
        terminal.close(force=True)
    assert terminal.exitstatus == 130


def test_looking_costs_an_idle_kernel_nothing() -> None:
    """``ps`` and ``top`` read shared memory and the host's accounting: the kernel's threads are not even scheduled."""
    with polynix.Container() as container:
        process = container.spawn(["sleep", "100"])
        kernel = str(container.kernel_pid)
        inspect_json("ps", kernel)
        switches = switches_at_rest(container.kernel_pid)
        for arguments in (("ps", kernel), ("top", kernel, "--interval", "0.1")):
            assert process.pid in {row["pid"] for row in flattened(inspect_json(*arguments))}
        assert voluntary_switches(container.kernel_pid) == switches
        process.kill()


def voluntary_switches(pid: int) -> int:
    """How often the main thread of a host process has gone to sleep."""
    with open(f"/proc/{pid}/status") as file:
        return int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", file.read(), re.MULTILINE)[1])  # type: ignore[index]


def switches_at_rest(pid: int) -> int:
    """:func:`voluntary_switches`, once what the last guest call left to be done is done."""
    seen: list[int] = []

    def rests() -> bool:
        seen.append(voluntary_switches(pid))
        return seen[-100:] == seen[-1:] * 100  # for a second

    assert wait_until(rests), seen
    return seen[-1]


def flattened(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [thread for row in rows for thread in row.get("threads", [row])] if rows and isinstance(rows[0].get("threads"), list) else rows


def test_stubs_and_ps_as_json() -> None:
    with polynix.Container() as container:
        process = container.spawn(["cat"], stdin=polynix.PIPE, stdout=polynix.PIPE)
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(b"1\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"1\n"
        kernel = str(container.kernel_pid)
        assert process.pid in {row["pid"] for row in inspect_json("ps", kernel)}
        assert isinstance(inspect_json("stubs", kernel), list)
        process.kill()


@pytest.mark.parametrize(
    "arguments",
    [["top", "1"], ["maps", "no-such"], ["fds", "4194305"], ["tree", "4194305", "--json"], ["top", "--sort", "beauty"], ["top", "--interval", "0"]],
)
def test_bad_selections_are_one_line_and_125(arguments: list[str]) -> None:
    result = inspect(*arguments)
    assert (result.returncode, result.stdout) == (125, "")
    assert result.stderr.startswith("polynix: ") and result.stderr.count("\n") == 1


def test_a_process_that_is_not_there(guest: Guest) -> None:
    result = inspect("maps", guest.kernel, "--pid", "99")
    assert result.returncode == 125 and result.stderr == "polynix: no process 99 in the container\n"


MALFORMED = [b"x", b"[]", b"{}", b'{"request": "no such"}', b'{"request": "maps", "pid": "x"}', b'{"request": "maps", "pid": []}', b"\xff" * 70000]


@pytest.mark.parametrize("packet", MALFORMED)
def test_the_kernel_bears_malformed_questions(guest: Guest, packet: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.settimeout(10)
        peer.connect(f"\0polynix-inspector-{guest.kernel}")
        peer.send(packet)
        _, descriptors, _, _ = socket.recv_fds(peer, 64, 1)
        with os.fdopen(descriptors[0], "rb") as file:
            file.seek(0)
            assert set(json.load(file)) == {"error"}
    assert inspect_json("tree", guest.kernel)


def test_peers_that_never_read_and_never_leave(guest: Guest) -> None:
    peers = []
    for _ in range(40):  # more than the kernel keeps
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        peer.connect(f"\0polynix-inspector-{guest.kernel}")
        peers.append(peer)
    for peer in peers[:4]:
        peer.setblocking(False)
        with pytest.raises(OSError):  # BlockingIOError, or the kernel has had enough
            for _ in range(100_000):
                peer.send(b'{"request": "census"}')
    for peer in peers:
        peer.close()
    assert inspect_json("tree", guest.kernel)
