"""Hooks on system calls of real programs: from Python, from the command line."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from harness import POLYNIX
from integration.shell import output

import polynix
from polynix import scripting


def test_a_failing_call_is_not_carried_out_and_the_others_are(container: polynix.Container) -> None:
    hook = container.fail("write", errno.ENOSPC, path="/data/*", after=1, times=1)
    text = output(container, "mkdir /data; for i in 1 2 3; do echo $i >> /data/f; done; cat /data/f; echo free > /elsewhere")
    assert text.startswith("1\n3\n")
    assert "error" in text
    assert (hook.matched, hook.hits) == (3, 1)
    hook.remove()
    assert output(container, "echo 4 >> /data/f; cat /data/f") == "1\n3\n4\n"


def test_a_hook_that_is_removed_costs_the_call_nothing(container: polynix.Container) -> None:
    """The same entry stands in the table again: a second hook counts from its own beginning."""
    with container.fail("uname", "EIO"):
        assert "failed" in output(container, "uname -n || echo failed")
    assert "failed" not in output(container, "uname -n || echo failed")
    assert container.observe("uname").matched == 0


def test_every_and_process_and_probability(container: polynix.Container) -> None:
    container.fail("write", "EIO", process="cat", every=2)
    assert output(container, "for i in 1 2 3; do echo $i | cat 2>/dev/null; done") == "1\n3\n"  # cat's complaint about the second is the third write


def test_probability_is_drawn_from_the_seed() -> None:
    drawn = []
    for seed in (7, 7, 8):
        with polynix.Container(hooks=[scripting.fail("write", "EIO", path="/tmp/f", probability=0.5, seed=seed)]) as fresh:
            drawn.append(output(fresh, "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo $i > /tmp/f && echo $i; done 2>/dev/null"))
    assert drawn[0] == drawn[1] != drawn[2]
    assert 0 < drawn[0].count("\n") < 12


def test_the_path_of_a_call_is_that_of_its_descriptor_or_of_its_arguments(container: polynix.Container) -> None:
    seen = container.observe("openat,unlinkat,fstat,newfstatat,rename,renameat2,close", path="/tmp/here/*")
    output(container, "mkdir -p /tmp/here; cd /tmp/here; touch a; mv ./a ../here/b; (cd /; cat tmp/here/b); rm b")
    events = seen.events()
    assert {event["path"] for event in events} == {"/tmp/here/a", "/tmp/here/b"}
    assert {"openat", "close"} <= {event["call"] for event in events}
    assert {event["process"] for event in events} >= {"touch", "mv", "cat", "rm"}
    assert all(event["duration_ns"] > 0 and event["pid"] > 0 for event in events)
    assert seen.events() == []


def test_results_are_observed_blocking_and_failing_ones_too(container: polynix.Container) -> None:
    seen = container.observe("read,openat,wait4", process="sh")
    output(container, "cat /dev/null | (sleep 0.05; true); : < /missing")
    results = [(event["call"], event["result"]) for event in seen.events()]
    assert ("openat", -errno.ENOENT) in results
    assert any(call == "wait4" and result > 0 for call, result in results)
    waited = container.observe("read", process="cat", path="pipe:*")
    assert output(container, "(sleep 0.05; echo hi) | cat") == "hi\n"
    assert [event["result"] for event in waited.events()] == [3, 0]


def test_shortened_reads(container: polynix.Container) -> None:
    container.shorten("read", 3, path="/etc/passwd")
    assert output(container, "dd if=/etc/passwd bs=100 count=1 2>/dev/null") == Path("/etc/passwd").read_text()[:3]


def test_a_delayed_call(container: polynix.Container) -> None:
    container.delay("getpriority", 0.3)
    started = time.monotonic()
    output(container, "nice")
    assert time.monotonic() - started > 0.3


def test_a_delayed_process_can_be_killed(container: polynix.Container) -> None:
    container.delay("getpriority", 1000)
    seen = container.observe("execve", process="sh")
    process = container.spawn(["sh", "-c", "nice; echo never"], stdout=polynix.PIPE)
    while not seen.hits:
        time.sleep(0.01)
    process.kill()
    assert process.wait(30) == -signal.SIGKILL


def test_kill_at_the_nth_call(container: polynix.Container) -> None:
    container.kill_at("write", 3, process="dd")
    assert output(container, "dd if=/dev/zero of=/tmp/f bs=1 count=5 ; echo $?; wc -c < /tmp/f").splitlines()[:2] == ["137", "2"]


def test_a_signal_that_is_handled_interrupts_the_call(container: polynix.Container) -> None:
    container.kill_process("rmdir", signal.SIGUSR1)
    program = "import signal, os; signal.signal(10, lambda *_: print('caught')); os.rmdir('/usr')"
    assert "caught" in container.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60).stdout


def test_a_function_changes_results_and_arguments(container: polynix.Container) -> None:
    async def older(call: Any) -> int:
        result = await call.proceed()
        return int(result) + 1000

    def elsewhere(call: Any) -> None:
        if call.path == "/etc/hostname":
            call.write(call["path"], b"/etc/passwd\0\0")
        call.report(wanted=call.path)

    container.hook("getppid", older)
    opened = container.hook("openat", elsewhere, process="cat")
    assert int(output(container, "python3 -c 'import os; print(os.getppid())'")) > 1000
    assert output(container, "cat /etc/hostname") == Path("/etc/passwd").read_text()
    assert "/etc/hostname" in [event["wanted"] for event in opened.events()]


def test_a_function_answers_in_the_kernels_place(container: polynix.Container) -> None:
    def forbidden(call: Any) -> None:
        raise PermissionError(errno.EPERM, "no")

    container.hook("mkdir", lambda call: 0)
    container.hook("rmdir", forbidden)
    assert output(container, "mkdir /tmp/d; ls -d /tmp/d 2>/dev/null; rmdir /usr/share").endswith("Operation not permitted\n")


def test_a_call_that_polynix_lacks_can_be_provided(container: polynix.Container) -> None:
    container.hook("vserver", lambda call: 40 + call.arguments[0])
    assert output(container, "python3 -c 'import ctypes; print(ctypes.CDLL(None).syscall(236, 2))'") == "42\n"


def test_a_defective_function_is_told_and_the_kernel_lives(container: polynix.Container) -> None:
    hook = container.hook("getppid", lambda call: call.nonsense)
    assert output(container, "python3 -c 'import os; print(os.getppid() < 0)'; echo alive").endswith("alive\n")
    assert "nonsense" in hook.errors[0]


def test_a_predicate_chooses_by_what_the_call_carries(container: polynix.Container) -> None:
    hook = container.fail("write", "EPIPE", predicate=lambda call: call.read(call["buffer"], min(call["count"], 6)) == b"secret")
    text = output(container, "echo open > /tmp/f; echo secret >> /tmp/f; echo end >> /tmp/f; cat /tmp/f")
    assert text.startswith("open\nend\n")
    assert hook.hits == 1
    broken = container.fail("getpriority", "EIO", predicate=lambda call: call.nonsense)
    assert output(container, "nice") == "0\n"
    assert broken.hits == 0
    assert "nonsense" in broken.errors[0]


def test_hooks_before_the_start_and_after_the_end() -> None:
    container = polynix.Container()
    with container.fail("uname", "EIO"):
        pass  # never in force
    kept = container.fail("rmdir", "EIO")
    with container:
        assert "Input/output" not in output(container, "uname -n")
        assert "Input/output" in output(container, "rmdir /usr")
        kept.remove()
        kept.remove()
        assert "Input/output" not in output(container, "rmdir /usr")
        last = container.fail("uname", "EIO")
    last.remove()
    with pytest.raises(polynix.ContainerError):
        last.matched  # noqa: B018


def test_rules_are_checked_where_they_are_made() -> None:
    with polynix.Container() as container:
        for make in (
            lambda: container.fail("wrote", errno.EIO),
            lambda: container.fail("write", "ENONSENSE"),
            lambda: container.fail("exit_group", errno.EIO),
            lambda: container.fail("write", errno.EIO, probability=2),
            lambda: container.shorten("write", 0),
            lambda: container.delay("write", float("nan")),
            lambda: container.delay("write", float("inf")),
            lambda: container.add(object),
        ):
            with pytest.raises(ValueError):
                make()


def test_disk_full_and_memory_pressure(container: polynix.Container) -> None:
    container.disk_full("/full/*")
    text = output(container, "mkdir /full && echo x > /full/f; mkdir /full/d; ls /full; mkdir /free; echo y > /free/f; cat /free/f")
    assert text.startswith("f\ny\n")
    assert "No space left on device" in text
    with container.memory_pressure(1, process="python3"):
        assert "MemoryError" in output(container, "python3 -c 'bytearray(1 << 28)' || python3 -c 'print(1)' || echo MemoryError")
    assert output(container, "python3 -c 'print(len(bytearray(1 << 28)))'") == f"{1 << 28}\n"


def test_a_tmpfs_of_limited_size_is_a_full_disk() -> None:
    done = polynix.run(["sh", "-c", "yes | head -c 100000 > /data/f; wc -c < /data/f"], tmpfs=["/data:size=16K"], capture_output=True, text=True)
    assert done.stdout == "16384\n"
    assert "No space left on device" in done.stderr


def test_process_tree(container: polynix.Container) -> None:
    with container.spawn(["sh", "-c", "sleep 1000 & wait"]) as process:
        started = container.observe("wait4", process="sh")
        while not started.matched and len(container.process_tree()) < 3:
            time.sleep(0.01)
        rows = {row["pid"]: row for row in container.process_tree()}
        sleeper = next(row for row in rows.values() if row["comm"] == "sleep" or row["ppid"] == process.pid)
        assert rows[sleeper["ppid"]]["comm"] == "sh"
        process.kill()


# -- the command line --------------------------------------------------------------------------------------------------------------------------


def polynix_run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*POLYNIX, "run", *arguments], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)


def test_rules_on_the_command_line() -> None:
    done = polynix_run("--fail", "write:error=ENOSPC,every=2,process=cat", "--", "/bin/sh", "-c", "for i in 1 2 3; do echo $i | cat; done")
    assert done.stdout == "1\n3\n"
    assert "No space left on device" in done.stderr
    done = polynix_run("--shorten", "read:count=3", "--kill", "getppid:signal=TERM", "--", sys.executable, "-c", "import os; os.getppid()")
    assert done.returncode == 128 + signal.SIGTERM


def test_a_bad_rule_is_one_line() -> None:
    for rule in ("wrote:error=EIO", "write", "write:error=ENONSENSE", "write:nonsense=1,error=EIO", "write:error=EIO,after=x", "exit:error=EIO"):
        done = polynix_run("--fail", rule, "--", "/bin/true")
        assert done.returncode == 125, rule
        assert done.stderr.count("\n") == 1
        assert "Traceback" not in done.stderr


def test_strace_shows_what_a_hook_answered() -> None:
    done = polynix_run("--fail", "unlinkat+unlink:error=EPERM", "--strace=unlink,unlinkat", "--", "/bin/rm", "-f", "/tmp/polynix-no-such")
    assert "= -1 EPERM (Operation not permitted)" in done.stderr


def test_a_container_without_hooks_has_the_plain_table() -> None:
    script = "import polynix.kernelproc.syscalls.all; import sys; sys.exit('polynix.kernelproc.hooks.table' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ}, timeout=60)
