"""Detached programs with input or a terminal: start -i, start -t, attach, and how one leaves them running."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pexpect
import pytest
from harness import POLYNIX
from integration.service import Service
from polynix.tools.attach import DetachKeys
from waiting import wait_until

PROMPT = "inside> "
SHELL = ("env", f"PS1={PROMPT}", "TERM=dumb", "bash", "--norc", "--noediting")


def finish(child: pexpect.spawn[str]) -> int | None:
    """Wait for the end of a command on a terminal; returns its exit status."""
    child.expect(pexpect.EOF)
    child.close()
    assert child.signalstatus is None
    return child.exitstatus


def detach(child: pexpect.spawn[str]) -> None:
    child.send("\x10\x11")
    assert finish(child) == 0


def test_a_shell_is_attached_and_left_and_attached_again(service: Service) -> None:
    service.start("shell", *SHELL, options=("-i", "-t"))
    child = service.terminal("attach", "shell")
    child.sendline("tty; stty size; here=1")
    child.expect_exact("/dev/pts/0")
    child.expect_exact("30 90")
    child.expect_exact(PROMPT)
    child.sendline("sleep 1000")
    time.sleep(0.5)
    child.sendcontrol("c")
    child.expect_exact("^C")
    child.expect_exact(PROMPT)
    detach(child)
    assert [row["state"] for row in service.ps() if row["name"] == "shell"] == ["running"]
    child = service.terminal("attach", "shell")
    child.sendline("echo $here$here")
    child.expect_exact("11\r\n")
    child.sendline("exit 5")
    assert finish(child) == 5
    assert service.run("wait", "shell").stdout == "5\n"
    log = service.run("logs", "shell").stdout
    assert f"{PROMPT}tty; stty size; here=1" in log and "\n30 90\n" in log
    service.run("rm", "shell")


def test_the_terminal_follows_the_window(service: Service) -> None:
    service.start("window", *SHELL, options=("-it",))
    child = service.terminal("attach", "window")
    child.sendline("trap 'stty size' WINCH")
    child.expect_exact(PROMPT)
    child.setwinsize(50, 132)
    time.sleep(0.3)
    child.sendline("")
    child.expect_exact("50 132")
    service.run("rm", "-f", "window")
    assert finish(child) == 137


def test_two_share_a_terminal(service: Service) -> None:
    service.start("shared", *SHELL, options=("-it",))
    first, second = (service.terminal("attach", "shared") for _ in range(2))
    for child in (first, second):
        child.sendline("echo $((20+1))y")
        child.expect_exact("21y")  # it is attached
    for typing, other in ((first, second), (second, first)):
        typing.sendline("echo $((6*7))x")
        for child in (typing, other):
            child.expect_exact("42x")
    os.kill(second.pid, signal.SIGTERM)  # with its terminal restored, and the program untouched
    assert finish(second) == 143
    detach(first)
    service.run("rm", "-f", "shared")


def test_a_program_on_a_terminal_is_not_stopped_for_ever(service: Service) -> None:
    """Ctrl-Z reaches it; with no shell to continue it, it goes on."""
    service.start("stopped", "cat", options=("-it",))
    child = service.terminal("attach", "stopped")
    child.sendline("before")
    child.expect_exact("before\r\nbefore\r\n")
    child.sendcontrol("z")
    child.sendline("after")
    child.expect_exact("after\r\nafter\r\n")
    child.sendcontrol("d")
    assert finish(child) == 0
    service.run("rm", "stopped")


def test_a_terminal_without_input(service: Service) -> None:
    service.start("watched", "sh", "-c", "tty; test -t 1 && echo yes; trap 'echo int; exit 3' INT; while :; do echo tick; sleep 0.05; done", options=("-t",))
    assert wait_until(lambda: "yes" in service.run("logs", "watched").stdout)
    child = service.terminal("attach", "watched")
    child.expect_exact("tick")
    child.send("\x10\x11")  # nothing that is typed goes there, these keys neither
    child.sendcontrol("c")  # but a signal does
    child.expect_exact("int")
    assert finish(child) == 3
    service.run("rm", "watched")


def test_input_by_pipe(service: Service) -> None:
    service.start("reader", "sh", "-c", "while read line; do echo got $line; echo err >&2; [ $line != end ] || exit 4; done", options=("-i",))
    with subprocess.Popen(
        [*POLYNIX, "attach", "reader"], env=service.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write("first\n")
        child.stdin.close()  # which is not the end of the program's input
        assert child.stdout.readline() == "got first\n"
        done = service.run("attach", "reader", input="end\n", stdin=None)
        assert (done.returncode, done.stdout, done.stderr) == (4, "got end\n", "err\n")
        assert child.wait(20) == 4 and child.stdout.read() == "got end\n"
    assert service.run("attach", "reader").stderr == "polynix: container reader is not running\n"
    service.run("rm", "reader")


def test_more_input_than_fits(service: Service) -> None:
    service.start("slow", "sh", "-c", "sleep 1; head -c 300000 | md5sum", options=("-i",))
    data = "0123456789" * 30000
    expected = subprocess.run(["md5sum"], input=data, capture_output=True, text=True, check=True).stdout
    assert service.run("attach", "slow", input=data, stdin=None).stdout == expected
    service.run("rm", "slow")


def test_signals_of_an_attached_command_without_a_terminal_are_the_programs(service: Service) -> None:
    service.start("signals", "sh", "-c", "trap 'echo term; exit 6' TERM; while :; do echo tick; sleep 0.05; done")
    with subprocess.Popen([*POLYNIX, "attach", "signals"], env=service.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdout.readline() == "tick\n"
        child.terminate()
        assert child.wait(20) == 6 and child.stdout.read().endswith("term\n")
    service.run("rm", "signals")


def test_without_input_there_is_none(service: Service) -> None:
    service.start("deaf", "sh", "-c", "cat; while ! test -e /tmp/enough; do echo on; sleep 0.1; done")
    with subprocess.Popen([*POLYNIX, "attach", "deaf"], env=service.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write("typed\n")
        child.stdin.close()
        assert child.stdout.readline() == "on\n"
        service.run("exec", "deaf", "touch", "/tmp/enough")
        assert set(child.stdout.read().split()) <= {"on"} and child.wait(20) == 0
    service.run("rm", "deaf")


def test_a_terminal_wants_a_terminal(service: Service) -> None:
    service.start("proper", "cat", options=("-it",))
    done = service.run("attach", "proper")
    assert (done.returncode, done.stderr) == (125, "polynix: standard input is no terminal, and the container's is one\n")
    service.run("rm", "-f", "proper")


def test_python(service: Service) -> None:
    with service.client() as runner:
        runner.start(["sh", "-c", "read line; echo got $line; stty size"], name="python-terminal", interactive=True, terminal=True)
        attachment = runner.attach_streams("python-terminal")
        assert attachment.terminal and attachment.input is not None
        runner.set_window_size("python-terminal", 20, 70)
        os.write(attachment.input, b"typed\n")
        os.close(attachment.input)
        assert b"".join(record.data for record in runner.logs("python-terminal", follow=True)) == b"typed\r\ngot typed\r\n20 70\r\n"
        assert (runner.wait("python-terminal"), runner.inspect("python-terminal")["terminal"]) == (0, True)
        runner.remove("python-terminal")


@pytest.mark.parametrize(
    ("typed", "passed", "pressed"),
    [
        ([b"abc"], b"abc", False),
        ([b"a\x10\x11b"], b"a", True),
        ([b"a\x10", b"\x11"], b"a", True),
        ([b"a\x10", b"b"], b"a\x10b", False),
        ([b"\x10", b"\x10", b"\x11"], b"\x10", True),
        ([b"\x11\x10x"], b"\x11\x10x", False),
    ],
)
def test_the_keys_that_detach(typed: list[bytes], passed: bytes, pressed: bool) -> None:
    keys = DetachKeys()
    assert b"".join(keys.take(data) for data in typed) == passed
    assert keys.pressed == pressed
