"""``polynix trace``: what the file says is what the program did, whatever becomes of the container."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from harness import PATH, POLYNIX
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackEvent
from polynix.runner.trace import LOG_VARIABLE, read_log

BEGIN, END, INSTANT = TrackEvent.TYPE_SLICE_BEGIN, TrackEvent.TYPE_SLICE_END, TrackEvent.TYPE_INSTANT


class Decoded:
    """A trace as any reader of the format sees it: slices and instants by track, tracks by name."""

    def __init__(self, path: Path) -> None:
        trace = Trace()
        trace.ParseFromString(path.read_bytes())
        names: dict[tuple[str, int], str] = {}
        self.threads: dict[int, str] = {}
        self.processes: dict[int, str] = {}
        self.tracks: dict[int, str] = {}
        self.slices: list[dict[str, Any]] = []
        self.instants: list[dict[str, Any]] = []
        open_slices: dict[int, list[dict[str, Any]]] = defaultdict(list)
        assert trace.packet[0].sequence_flags & 1  # SEQ_INCREMENTAL_STATE_CLEARED
        for packet in trace.packet:
            for kind in ("event_names", "event_categories", "debug_annotation_names"):
                for entry in getattr(packet.interned_data, kind):
                    names[kind, entry.iid] = entry.name
            for text in packet.interned_data.debug_annotation_string_values:
                names["values", text.iid] = text.str.decode()
            if packet.HasField("track_descriptor"):
                descriptor = packet.track_descriptor
                if descriptor.HasField("thread"):
                    self.threads[descriptor.uuid] = descriptor.thread.thread_name
                elif descriptor.HasField("process"):
                    self.processes[descriptor.process.pid] = descriptor.process.process_name
                else:
                    self.tracks[descriptor.uuid] = descriptor.name
            if not packet.HasField("track_event"):
                continue
            event = packet.track_event
            annotations = {
                names["debug_annotation_names", each.name_iid]: names["values", each.string_value_iid] if each.string_value_iid else each.string_value
                for each in event.debug_annotations
            }
            if event.type == END:
                ended = open_slices[event.track_uuid].pop()
                ended["duration"] = packet.timestamp - ended["time"]
                ended.update(annotations)
                continue
            shown = {
                "time": packet.timestamp, "track": event.track_uuid, "name": names["event_names", event.name_iid],
                "category": names["event_categories", event.category_iids[0]], "flows": list(event.flow_ids),
                "ends_flows": list(event.terminating_flow_ids), **annotations,
            }  # fmt: skip
            if event.type == BEGIN:
                self.slices.append(shown)
                open_slices[event.track_uuid].append(shown)
            else:
                self.instants.append(shown)
        self.unfinished = [each for slices in open_slices.values() for each in slices]

    def named(self, name: str) -> list[dict[str, Any]]:
        return [each for each in self.slices if each["name"] == name]


def traced(path: Path, *arguments: str, timeout: float = 90) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*POLYNIX, "trace", "--output", str(path), *arguments], capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)


def test_calls_threads_and_flows_of_a_pipeline(tmp_path: Path) -> None:
    done = traced(tmp_path / "t", "--", "/bin/sh", "-c", "(sleep 0.2; echo hi) | cat; cat /missing/file; exit 7")
    assert (done.returncode, done.stdout) == (7, "hi\n")
    trace = Decoded(tmp_path / "t")
    assert {"sh", "cat", "sleep"} <= set(trace.threads.values())
    assert trace.processes[1] == "sh"
    missing = [each for each in trace.named("openat") if each.get("path") == '"/missing/file"']
    assert [(each["flags"], each["result"]) for each in missing] == [("O_RDONLY", "-1 ENOENT")]
    cat = {track for track, name in trace.threads.items() if name == "cat"}
    waited = max((each for each in trace.named("read") if each["track"] in cat), key=lambda each: each["duration"])
    assert waited["duration"] > 150_000_000  # it waited for the sleeper
    assert waited["result"] == "3"
    starts = {flow: each for each in trace.instants for flow in each["flows"]}
    ends = {flow: each for each in trace.instants for flow in each["ends_flows"]}
    woken = next(each for each in ends.values() if each["track"] == waited["track"] and each["time"] == waited["time"] + waited["duration"])
    waker = starts[woken["ends_flows"][0]]
    assert waker["time"] <= woken["time"]
    assert trace.threads[waker["track"]] == "sh"  # echo, a builtin
    writes = [each for each in trace.named("write") if each["track"] == waker["track"]]
    assert any(each["time"] <= waker["time"] <= each["time"] + each["duration"] for each in writes)
    assert [each["name"] for each in trace.instants if each["category"] == "signal"].count("SIGCHLD") >= 1
    assert trace.named("exit_group")[-1]["result"] == "?"
    assert trace.unfinished == []


def test_it_agrees_with_strace(tmp_path: Path) -> None:
    """Two parts of the kernel that know nothing of each other: the same calls in the same order with the same results."""
    log = tmp_path / "strace"
    wanted = "openat,close,read,lseek,getcwd,newfstatat"
    done = traced(tmp_path / "t", "--filter", wanted, f"--strace={wanted}", "--strace-file", str(log), "--", "/bin/ls", "-l", "/usr", "/missing")
    assert done.returncode == 2
    shown = [(match[1], match[2]) for line in log.read_text().splitlines() if (match := re.match(r"(\w+)\(.*= (-1 \w+|\S+)", line))]
    trace = Decoded(tmp_path / "t")
    assert [(each["name"], each["result"]) for each in trace.slices] == shown
    assert len(shown) > 20


def test_threads_have_tracks_below_their_process(tmp_path: Path) -> None:
    program = (
        "import threading, time\n"
        "threads = [threading.Thread(target=time.sleep, args=(0.01,)) for _ in range(5)]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join()\n"
    )
    assert traced(tmp_path / "t", "--", sys.executable, "-c", program).returncode == 0
    trace = Decoded(tmp_path / "t")
    assert len(trace.threads) == 6
    assert len(trace.processes) == 1
    assert {each["track"] for each in trace.slices} == set(trace.threads)
    assert any(each["flows"] for each in trace.instants)


def test_a_long_run_keeps_its_end_and_says_what_is_missing(tmp_path: Path) -> None:
    program = "import os\nfor _ in range(60000): os.getppid()\nos.stat('/usr/share')"
    done = traced(tmp_path / "t", "--buffer", "1", "--", sys.executable, "-c", program)
    assert done.returncode == 0
    message = re.search(r"(\d+) events, (\d+) older ones dropped", done.stderr)
    assert message is not None, done.stderr
    assert int(message[1]) == (1 << 20) // 128
    assert int(message[1]) + int(message[2]) > 60000
    trace = Decoded(tmp_path / "t")
    assert len(trace.slices) <= int(message[1])
    assert any(each.get("path") == '"/usr/share"' for each in trace.slices)
    assert next(iter(trace.threads.values())).startswith("python")  # names don't drop out
    times = [each["time"] for each in trace.named("getppid")]
    assert times == sorted(times)


MEMORY = """
import os, socket, time
reader, writer = os.pipe()
if os.fork() == 0:
    time.sleep(0.125)
    os.write(writer, b"later\\n")
    os._exit(3)
os.read(reader, 100)
os.wait()
os.write(writer, b"n" * 33)
os.read(reader, 33)
try:
    socket.socket(socket.AF_UNIX).connect("/tmp/" + "a" * 90)
except OSError:
    pass
"""


def test_small_memory_is_shown(tmp_path: Path) -> None:
    """Of calls that block, too."""
    wanted = "read,write,wait4,pipe2,connect,clock_nanosleep,rt_sigaction"
    assert traced(tmp_path / "t", "--format", "text", "--filter", wanted, "--", "/usr/bin/python3", "-ISc", MEMORY).returncode == 0
    text = (tmp_path / "t").read_text()
    for each in (
        '"later\\n", 100) = 6', f'"{"n" * 32}"..., 33) = 33', "[{WIFEXITED(s) && WEXITSTATUS(s) == 3}], 0, NULL) =", "pipe2([3, 4], O_RDONLY|O_CLOEXEC) = 0",
        f'{{sa_family=AF_UNIX, sun_path="/tmp/{"a" * 90}"}}, 9', "TIMER_ABSTIME, {tv_sec=", "{sa_handler=SIG_IGN, sa_mask=[], ",
    ):  # fmt: skip
        assert each in text


def test_hooks_and_traces_go_together(tmp_path: Path) -> None:
    """The trace shows what the guest was told when the hook lets the call through, and the hook is not lost at the call's first use."""
    rules = ["--fail", "rmdir:error=EIO", "--shorten", "read:count=3,path=/etc/passwd"]
    done = traced(tmp_path / "t", *rules, "--", "/bin/sh", "-c", "cat /etc/passwd; rmdir /usr")
    assert done.returncode == 1
    assert "Input/output error" in done.stderr
    assert "3" in [each["result"] for each in Decoded(tmp_path / "t").named("read")]


def test_long_paths_are_whole(tmp_path: Path) -> None:
    path = "/tmp/" + "/".join(letter * 200 for letter in "abcdef")
    script = f"mkdir -p {path}; mv {path} /tmp/moved"
    assert traced(tmp_path / "t", "--filter", "mkdir,rename,renameat,renameat2", "--", "/bin/sh", "-c", script).returncode == 0
    trace = Decoded(tmp_path / "t")
    assert f'"{path}"' in [value for each in trace.slices for value in each.values()]
    assert '"/tmp/moved"' in [value for each in trace.slices for value in each.values()]


@pytest.mark.parametrize("victim", ["kernel", "program"])
def test_a_container_that_dies_leaves_a_usable_trace(tmp_path: Path, victim: str) -> None:
    ready = tmp_path / "ready"
    ready.touch()
    script = f"cat /etc/hostname > /dev/null; (sleep 0.3; echo ready > {ready}) & exec sleep 1000"
    command = [*POLYNIX, "trace", "-o", str(tmp_path / "t"), "--bind", f"{ready}:{ready}", "--", "/bin/sh", "-c", script]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not ready.read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    if victim == "kernel":
        os.kill(kernel_below(process.pid), signal.SIGKILL)
    else:
        process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (125 if victim == "kernel" else 128 + signal.SIGTERM), errors
    assert "Traceback" not in errors
    trace = Decoded(tmp_path / "t")
    assert any(each.get("path") == '"/etc/hostname"' for each in trace.slices)
    if victim == "kernel":
        assert "clock_nanosleep" in [each["name"] for each in trace.unfinished]


def kernel_below(pid: int) -> int:
    """The kernel process among the descendants of ``pid``: the one with a shared region."""
    found = []
    below = [pid]
    for parent in below:
        children = [int(child) for task in Path(f"/proc/{parent}/task").iterdir() for child in (task / "children").read_text().split()]
        below += children
        found += [child for child in children if os.path.exists(f"/dev/shm/polynix-kernel-{child}")]
    assert len(found) == 1, found
    return found[0]


def test_bad_outputs_and_filters_are_one_line(tmp_path: Path) -> None:
    for arguments in (["-o", "/dev/full"], ["-o", str(tmp_path / "no" / "such")], ["-o", str(tmp_path / "t"), "--filter", "nonsense"]):
        done = subprocess.run([*POLYNIX, "trace", *arguments, "--", "/bin/true"], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
        assert done.returncode == 125
        assert done.stderr.count("\n") == 1, done.stderr
    assert list(tmp_path.iterdir()) == []


FULL_DISK = 'mount -t tmpfs -o size=64k none "$0" && { "$@"; status=$?; ls "$0"; cp "$0/t.partial" "$0/../kept"; exit $status; }'


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to arrange")
def test_a_full_disk_keeps_what_fits(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = [*POLYNIX, "trace", "-o", f"{disk}/t", "--flame", f"{disk}/flame", "--", "/bin/ls", "-lR", "/etc"]
    done = subprocess.run(["unshare", "-m", "sh", "-c", FULL_DISK, str(disk), *command], capture_output=True, text=True, timeout=90, stdin=subprocess.DEVNULL)
    assert done.returncode == 125
    assert f"polynix: cannot write {disk}/t: No space left on device; what fits is in {disk}/t.partial; cannot write {disk}/flame: " in done.stderr
    assert done.stdout.endswith("\nt.partial\n")
    trace = Decoded(tmp_path / "kept")
    assert len(trace.slices) > 100
    assert trace.named("execve") == []  # the oldest events are those that fit
    assert '"/etc"' in [value for each in trace.slices for value in each.values()]


def test_a_program_that_does_not_start_leaves_no_file(tmp_path: Path) -> None:
    done = traced(tmp_path / "t", "--", "/missing")
    assert done.returncode == 127
    assert list(tmp_path.iterdir()) == []


def test_a_big_buffer_costs_what_was_recorded(tmp_path: Path) -> None:
    command = [*POLYNIX, "trace", "--buffer", "4096", "--format", "text", "-o", str(tmp_path / "t"), "--", "/bin/true"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    assert "exit_group(0)" in (tmp_path / "t").read_text()
    assert usage.ru_maxrss < 1 << 20  # KiB; shared memory counts as well


def test_text_goes_into_a_pipe() -> None:
    command = [*POLYNIX, "trace", "--format", "text", "-o", "/dev/stdout", "--", "/bin/cat", "/missing"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert re.search(r'^\d+\.\d{6} \[1 cat\] openat\(AT_FDCWD, "/missing", O_RDONLY\) = -1 ENOENT <0\.\d{6}>$', done.stdout, re.MULTILINE)


def test_the_runner_of_the_traced_container_is_in_the_trace(tmp_path: Path) -> None:
    """Its pager fills what the guest reads of an image: as many durations as blocks of 128 KiB were asked for, at least."""
    tree, image = tmp_path / "tree", tmp_path / "image"
    (tree / "bin").mkdir(parents=True)
    shutil.copy("/usr/bin/busybox", tree / "bin/busybox")
    (tree / "big").write_bytes(os.urandom(1 << 20))
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", str(tree), str(image), "16M"], check=True, env={"PATH": PATH})
    done = traced(tmp_path / "t", "--rootfs", str(image), "--", "/bin/busybox", "md5sum", "/big")
    assert done.returncode == 0, done.stderr
    trace = Decoded(tmp_path / "t")
    paged = [each for each in trace.slices if each["name"] == "page_in"]
    assert len(paged) >= 8
    assert {each["category"] for each in paged} == {"starnix:pager"}
    assert all(trace.tracks[each["track"]].startswith("runner: ") for each in paged)


def test_what_the_runner_notes_comes_along(tmp_path: Path) -> None:
    """From processes of its own, as proxies and suspends are; written through the environment's file, whole lines."""
    from polynix.tools.trace.perfetto_file import PerfettoFile

    log = os.memfd_create("log")
    script = (
        "from polynix.runner.trace import trace_duration, trace_instant\n"
        "with trace_duration('power', 'starnix_runner:suspending_kernel', 'one'):\n"
        "    for number in range(300): trace_instant('power', 'starnix_runner:start_proxy:container_readable', 'two')\n"
    )
    environment = {**os.environ, LOG_VARIABLE: f"/proc/{os.getpid()}/fd/{log}"}
    processes = [subprocess.Popen([sys.executable, "-c", script], env=environment) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    os.write(log, json.dumps(["power", "half"]).encode()[:-3])  # a process that died while it wrote
    events = read_log(log)
    assert len(events) == 3 * 301
    with open(tmp_path / "t", "wb") as file:
        PerfettoFile(file, {}).write_runner(events)
    trace = Decoded(tmp_path / "t")
    assert sorted(trace.tracks.values()) == ["runner: one", "runner: two"]
    assert [(each["category"], each["name"]) for each in trace.slices] == [("power", "starnix_runner:suspending_kernel")] * 3
    assert all(each["duration"] > 0 for each in trace.slices)
    assert len(trace.instants) == 900
