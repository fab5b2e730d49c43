"""Suspending a container from inside: /sys/power, clocks and timers across a suspend, wake locks, wakeups.

The host's own suspend can't be asked for in a test, so these run under polynix only.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from integration.audit import Audit, build
from integration.held import Held, children

ALARM = """
import ctypes, struct
libc = ctypes.CDLL(None, use_errno=True)
def alarm(seconds):
    fd = libc.timerfd_create(9, 0)
    assert fd >= 0 and libc.timerfd_settime(fd, 0, struct.pack("qqqq", 0, 0, int(seconds), int(seconds % 1 * 1e9)), None) == 0
    return fd
def suspend():
    with open("/sys/power/state", "wb", 0) as file:
        file.write(b"mem")
def stat(name):
    return int(open("/sys/power/suspend_stats/" + name).read())
def reason():
    return open("/sys/kernel/wakeup_reasons/last_resume_reason").read().strip()
"""


def python(audit: Audit, script: str, *flags: str, code: int = 0) -> list[str]:
    outcome = audit.run(["python3", "-c", ALARM + script], *flags)
    assert outcome.code == code, outcome
    assert b"inside the kernel" not in outcome.err, outcome.err.decode()
    return outcome.out.decode().splitlines()


@pytest.mark.parametrize("state", ["mem\n", "freeze"])
def test_clocks_and_timers_across_a_suspend(audit: Audit, state: str, second_look: Callable[[Callable[[], None], Callable[[], None]], None]) -> None:
    def keeps_time() -> None:
        outcome = audit.run([build("sleeper"), state])
        assert (outcome.code, outcome.out.decode(), outcome.err.decode()) == (0, "", "")

    second_look(keeps_time, keeps_time)  # some of its margins are times


def test_an_alarm_ends_a_suspend(audit: Audit) -> None:
    assert python(audit, "alarm(0.3); suspend(); print(stat('success'), stat('fail'), reason())") == ["1 0 0 [alarm]"]


def test_nobody_runs_while_asleep(audit: Audit) -> None:
    script = """
import mmap, os, time
words = memoryview(mmap.mmap(-1, 4096)).cast("Q")
if os.fork() == 0:
    while True:
        words[0] += 1
while not words[0]:
    time.sleep(0.01)
alarm(0.5)
before, start = words[0], time.clock_gettime(time.CLOCK_BOOTTIME)
suspend()
ran = words[0] - before
assert time.clock_gettime(time.CLOCK_BOOTTIME) - start > 0.4
before, start = words[0], time.monotonic()
time.sleep(0.5)
rate = words[0] - before
print(ran < rate / 2, flush=True)
os.kill(0, 9)
"""
    assert python(audit, script, code=137) == ["True"]


def test_a_wake_lock_keeps_the_container_awake(audit: Audit) -> None:
    script = """
def lock(name, text):
    try:
        with open("/sys/power/" + name, "wb", 0) as file: file.write(text)
    except OSError as error:
        print(error.errno)
def try_suspend():
    try: suspend()
    except OSError as error: print(error.errno, stat("fail"), stat("last_failed_errno"), reason())
lock("wake_lock", b"one"); lock("wake_lock", b"two\\n")
try_suspend()
lock("wake_unlock", b"one\\n"); lock("wake_unlock", b"three"); lock("wake_lock", b""); lock("wake_lock", b"a b")
print(open("/sys/power/wake_lock").read().split(), open("/sys/power/wake_unlock").read().split())
try_suspend()
lock("wake_unlock", b"two")
alarm(0.1); suspend(); print(reason())
rows = [line.split() for line in open("/sys/kernel/debug/wakeup_sources")]
print([row[:2] for row in rows[1:]], len(rows[0]) == len(rows[1]) == 10)
import os; os.setresuid(1000, 1000, 1000)
lock("wake_lock", b"mine")
"""
    assert python(audit, script) == [
        "22 1 -22 Abort: one,two", "22", "22", "22", "['two'] ['one']", "22 2 -22 Abort: two", "0 [alarm]",
        "[['one', '1'], ['two', '1']] True", "13",
    ]  # fmt: skip


def test_a_wake_lock_with_a_time_limit(audit: Audit) -> None:
    script = """
import time
from pathlib import Path
open("/sys/power/wake_lock", "wb", 0).write(b"brief 200000000")
try: suspend()
except OSError as error: print(error.errno)
while open("/sys/power/wake_lock").read().strip(): time.sleep(0.01)
alarm(0.1); suspend()
print([line.split()[:5] for line in open("/sys/kernel/debug/wakeup_sources")][1])
"""
    assert python(audit, script) == ["22", "['brief', '1', '1', '0', '1']"]


def test_events_since_the_wakeup_count_was_written_make_a_suspend_fail(audit: Audit) -> None:
    script = """
import os, threading, time
count = lambda: open("/sys/power/wakeup_count").read()
def put(name, text): open("/sys/power/" + name, "wb", 0).write(text.encode())
put("wakeup_count", count())
put("wake_lock", "a"); put("wake_unlock", "a")
try: suspend()
except OSError as error: print(error.errno)
try: put("wakeup_count", "0")
except OSError as error: print(error.errno)
put("wake_lock", "a")
threading.Timer(0.2, put, ("wake_unlock", "a")).start()
put("wakeup_count", count())  # waits for the lock
alarm(0.1); suspend(); print(reason())
"""
    assert python(audit, script) == ["16", "22", "0 [alarm]"]


def test_what_state_refuses(audit: Audit) -> None:
    script = """
import os
for text in (b"", b"disk", b"freeze ", b"mem\\n\\n"):
    fd = os.open("/sys/power/state", os.O_WRONLY)
    try: print(os.write(fd, text))
    except OSError as error: print(error.errno)
print(open("/sys/power/state").read(), end="")
os.setresuid(1000, 1000, 1000)
try: open("/sys/power/state", "wb", 0)
except OSError as error: print(error.errno)
"""
    assert python(audit, script) == ["22", "22", "22", "22", "freeze mem", "13"]


def test_epollwakeup_keeps_awake_until_the_event_is_handled(audit: Audit) -> None:
    script = """
import os, select
reader, writer = os.pipe()
epoll = select.epoll()
epoll.register(reader, select.EPOLLIN | 1 << 29)
alarm(0.1); suspend(); print(reason())
os.write(writer, b"x")
for step in (lambda: None, lambda: epoll.poll(0), lambda: (os.read(reader, 1), epoll.poll(0)), ):
    step()
    alarm(0.1)
    try: suspend(); print(reason())
    except OSError as error: print(error.errno, reason().rstrip("0123456789"))
epoll.unregister(reader)
print(open("/sys/kernel/debug/wakeup_sources").read().count("[epoll]"))
"""
    lines = python(audit, script)
    assert lines[0] == lines[3] == "0 [alarm]"
    assert lines[1].startswith("22 Abort: [epoll]")
    assert lines[2].startswith("22 Abort: [epoll]")
    assert lines[4] == "0"


def test_input_wakes_through_epollwakeup(audit: Audit) -> None:
    script = """
import os, select, sys
epoll = select.epoll()
epoll.register(0, select.EPOLLIN | 1 << 29)
print("going", flush=True)
suspend()
print(reason(), epoll.poll(5)[0][0], os.read(0, 10))
"""
    process = audit.popen(["python3", "-c", ALARM + script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sys.stderr)
    assert process.stdin is not None and process.stdout is not None
    assert process.stdout.readline() == b"going\n"
    time.sleep(0.3)
    begin = time.monotonic()
    process.stdin.write(b"hello")
    process.stdin.flush()
    line = process.stdout.readline()
    assert line.startswith(b"0 [epoll]")
    assert line.endswith(b" 0 b'hello'\n")
    assert time.monotonic() - begin < 8, "the nine seconds of an unsuccessful wait"
    assert process.wait(20) == 0


def test_killing_the_command_line_of_a_sleeping_container(audit: Audit) -> None:
    process = audit.popen(["python3", "-c", ALARM + "print('going', flush=True); suspend()"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"going\n"
    time.sleep(0.3)
    process.kill()
    process.wait(10)


WHEN_TOLD = "while [ ! -e /mnt/go ]; do sleep 0.05; done;"


def put_to_sleep(world: Held) -> int:
    """Let the guest do it, and see that it has; returns the first counter."""
    (world.directory / "go").touch()
    while not world.ask("tasks")["asleep"]:
        time.sleep(0.01)
    return world.words[0]


def test_the_writer_killed_while_asleep_lets_the_others_go_on(audit: Audit) -> None:
    counting = build("progress")
    script = f"""{counting} /mnt/counters 1 1 & {WHEN_TOLD} python3 -c "open('/sys/power/state', 'wb', 0).write(b'mem')"; wait"""
    world = Held(audit, ["sh", "-c", script])
    try:
        world.wait_for_progress(1)
        before = put_to_sleep(world)
        world.ask("kill", pid=world.ask("tasks")["programs"]["python3"])
        world.wait_for_progress(1, [before])
    finally:
        world.close()


def test_a_sleeping_container_ends_with_its_init(audit: Audit) -> None:
    world = Held(audit, ["sh", "-c", f"{build('progress')} /mnt/counters 3 1 & {WHEN_TOLD} echo mem > /sys/power/state; wait"])
    try:
        world.wait_for_progress(3)
        put_to_sleep(world)
        world.ask("kill", pid=1)
        assert world.process.wait(20) == 137
    finally:
        world.close()


def cpu_seconds(pid: int) -> float:
    """Of a process and all its descendants."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") + sum(map(cpu_seconds, children(pid)))


def rests(pid: int) -> bool:
    """Whether it and its descendants use no CPU for two seconds."""
    before = cpu_seconds(pid)
    time.sleep(2)
    return cpu_seconds(pid) - before <= 0.02


def test_an_idle_container_suspends_itself_and_goes_on_with_its_input(audit: Audit) -> None:
    script = """
import sys, time
print("ready", flush=True)
for line in sys.stdin:
    print(line.strip(), stat("success"), time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic() > 0.2, reason(), flush=True)
"""
    process = audit.popen(["python3", "-c", ALARM + script], "--suspend-after", "0.2", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    suspended, reasons = 0, []
    for _ in range(20):
        time.sleep(1)
        process.stdin.write(b"line\n")
        process.stdin.flush()
        line, count, stopped, *reason = process.stdout.readline().decode().split()
        assert line == "line"
        reasons.append(" ".join(reason))
        suspended += int(count) > suspended
        if suspended == 3:
            break
    assert (suspended, stopped) == (3, "True")
    # None before the first suspend; the time-out where the machine stood still for nine seconds, as a virtual one may.
    assert "0 [work]" in reasons and set(reasons) <= {"", "0 [work]", "0 starnix-container-timeout"}
    assert any(rests(process.pid) for _ in range(5)), "asleep again, sooner or later"
    process.stdin.close()
    assert process.wait(20) == 0


def test_a_busy_container_does_not_suspend_itself(audit: Audit) -> None:
    script = "import time\nend = time.monotonic() + 1\nwhile time.monotonic() < end: pass\nfor _ in range(10): time.sleep(0.05)\nprint(stat('success'))"
    assert python(audit, script, "--suspend-after", "0.3") == ["0"]


def test_timers_stand_still_in_a_container_that_suspends_itself(audit: Audit) -> None:
    """A sleeper sleeps on, except for one on an alarm clock. (As on Linux, processes run again before the suspend is counted.)"""
    script = "import os\nos.read(alarm(1), 8)\nwhile not stat('success'): pass\nprint(reason())"
    assert python(audit, script, "--suspend-after", "0.2") == ["0 [alarm]"]


@pytest.mark.parametrize("value", ["0", "-1", "soon"])
def test_bad_times(audit: Audit, value: str) -> None:
    outcome = audit.run(["true"], "--suspend-after", value)
    assert outcome.code == 125
    assert b"Traceback" not in outcome.err
