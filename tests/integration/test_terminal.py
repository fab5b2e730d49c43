"""``polynix run`` on a terminal: the guest's line discipline, job control, window size, and the caller's terminal left as it
was.
"""

from __future__ import annotations

import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator

import pexpect
import pytest

POLYNIX = [sys.executable, "-m", "polynix.tools.start"]
ENVIRONMENT = {**os.environ, "PS1": "prompt> ", "TERM": "dumb", "HISTFILE": "", "INPUTRC": "/dev/null"}
Start = Callable[..., "pexpect.spawn[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts commands on a fresh terminal of 30 lines and 90 columns, and ends them."""
    children: list[pexpect.spawn[str]] = []

    def spawn(command: str, *arguments: str) -> pexpect.spawn[str]:
        child = pexpect.spawn(command, list(arguments), env=ENVIRONMENT, dimensions=(30, 90), timeout=20, encoding="utf-8")
        children.append(child)
        return child

    yield spawn
    for child in children:
        if not child.closed:
            child.close(force=True)


@pytest.fixture
def run(start: Start) -> Start:
    """Starts ``polynix run`` with the given arguments."""
    return lambda *arguments: start(POLYNIX[0], *POLYNIX[1:], "run", *arguments)


@pytest.fixture
def bash(run: Start) -> pexpect.spawn[str]:
    child = run("bash", "--norc", "--noediting")
    child.expect_exact("prompt> ")
    return child


def end_of(child: pexpect.spawn[str]) -> int | None:
    """Read to the end of what a program says; its exit status."""
    child.expect(pexpect.EOF)
    child.close()
    return child.exitstatus


def ask(child: pexpect.spawn[str], command: str) -> str:
    """The output of one command of a shell."""
    child.sendline(command)
    child.expect_exact(command + "\r\n")
    child.expect_exact("prompt> ")
    assert isinstance(child.before, str)
    return child.before


def test_the_shell_sits_on_a_terminal_with_the_callers_size(bash: pexpect.spawn[str]) -> None:
    assert re.fullmatch(r"/dev/pts/\d+\r\n", ask(bash, "tty"))
    assert ask(bash, "stty size") == "30 90\r\n"
    assert ask(bash, "test -t 0 && test -t 1 && test -t 2 && echo yes") == "yes\r\n"
    assert ask(bash, "echo over /dev/tty > /dev/tty") == "over /dev/tty\r\n"
    assert ask(bash, "ps -o tty= -p $$") == "pts/0\r\n"


def test_window_size_follows(bash: pexpect.spawn[str]) -> None:
    ask(bash, "trap 'echo resized' WINCH")
    bash.setwinsize(50, 132)
    bash.sendline("")
    while bash.expect_exact(["resized", "prompt> "]) == 1:  # a trap waits for the next line
        time.sleep(0.1)
        bash.sendline("")
    bash.expect_exact("prompt> ")
    assert "50 132" in ask(bash, "stty size")


def test_interrupt_quit_and_status(bash: pexpect.spawn[str]) -> None:
    bash.sendline("sleep 100")
    time.sleep(0.5)
    bash.sendcontrol("c")
    bash.expect_exact("^C")
    bash.expect_exact("prompt> ")
    assert ask(bash, "echo $?") == "130\r\n"
    bash.sendline("cat")
    time.sleep(0.5)
    bash.sendcontrol("\\")
    bash.expect_exact("^\\")
    bash.expect_exact("prompt> ")
    assert ask(bash, "echo $?") == "131\r\n"


UNTIL_STOPPED = "until jobs | grep Stopped; do sleep 0.1; done"


def test_job_control(bash: pexpect.spawn[str]) -> None:
    bash.sendline("sleep 100")
    time.sleep(0.5)
    bash.sendcontrol("z")
    bash.expect_exact("^Z")
    bash.expect(r"\[1\]\+\s+Stopped\s+sleep 100")
    bash.expect_exact("prompt> ")
    assert "sleep 100 &" in ask(bash, "bg")
    assert "Running" in ask(bash, "jobs")
    bash.sendline("fg")
    bash.expect_exact("sleep 100\r\n")
    time.sleep(0.2)
    bash.sendcontrol("c")
    bash.expect_exact("prompt> ")
    ask(bash, "cat > /dev/null &")
    assert "Stopped" in ask(bash, UNTIL_STOPPED)
    ask(bash, "kill %1; wait 2> /dev/null")
    ask(bash, "stty tostop; (echo from behind) &")
    assert "Stopped" in ask(bash, UNTIL_STOPPED)


def test_line_editing_and_end_of_file(bash: pexpect.spawn[str]) -> None:
    bash.sendline("cat")
    bash.send("helpp\x7flo there\x17world\n")
    bash.expect_exact("helplo world\r\n")
    bash.send("no newline\x04")
    bash.expect_exact("no newlineno newline")
    bash.send("\x04")
    bash.expect_exact("prompt> ")
    bash.send("\x04")
    bash.expect_exact("exit")
    assert end_of(bash) == 0


def test_raw_mode_programs(run: Start) -> None:
    script = (
        "import sys, termios, tty\n"
        "saved = termios.tcgetattr(0)\n"
        "tty.setraw(0)\n"
        "print('ready', end='', flush=True)\n"
        "keys = sys.stdin.buffer.raw.read(1) + sys.stdin.buffer.raw.read(1)\n"
        "termios.tcsetattr(0, termios.TCSADRAIN, saved)\n"
        "print(keys)\n"
    )
    child = run("python3", "-c", script)
    child.expect_exact("ready")
    child.send("\x03\x1a")
    child.expect_exact("b'\\x03\\x1a'\r\n")
    assert end_of(child) == 0


def test_readline_edits_and_completes(run: Start) -> None:
    child = run("bash", "--norc")
    child.expect_exact("prompt> ")
    child.send("echo ab\x02X\n")  # C-b: back one character
    child.expect_exact("aXb\r\n")
    child.send("ls -d /et\t\n")
    child.expect(r"/etc/?\r\n")
    child.sendline("exit 3")
    assert end_of(child) == 3


def test_an_interrupt_kills_a_plain_program(run: Start) -> None:
    child = run("sh", "-c", "echo ready; exec sleep 100")
    child.expect_exact("ready")
    child.sendcontrol("c")
    assert end_of(child) == 130


def test_the_outer_shell_stops_and_continues_the_container(start: Start) -> None:
    shell = start("bash", "--norc", "--noediting")
    shell.expect_exact("prompt> ")
    shell.sendline(f"{' '.join(POLYNIX)} run sh -c 'echo inside; read line; echo got $line'")
    shell.expect_exact("inside\r\n")
    shell.sendcontrol("z")
    shell.expect_exact("Stopped")
    shell.expect_exact("prompt> ")
    assert "isig icanon" in ask(shell, "stty -a | grep -o 'isig icanon'")  # ours again
    shell.sendline("fg")
    shell.expect_exact("read line")
    time.sleep(0.5)
    shell.sendline("typed")
    shell.expect_exact("got typed\r\n")
    shell.expect_exact("prompt> ")


def test_a_background_container_stops_when_it_reads(start: Start) -> None:
    shell = start("bash", "--norc", "--noediting")
    shell.expect_exact("prompt> ")
    shell.sendline(f"{' '.join(POLYNIX)} run sh -c 'echo started; read line; echo got $line' &")
    shell.expect_exact("started")
    shell.sendline("jobs")
    while shell.expect_exact(["Stopped", "Running"]) == 1:  # until it reads
        time.sleep(0.2)
        shell.sendline("jobs")
    shell.sendline("fg")
    shell.expect_exact("read line")
    time.sleep(0.5)
    shell.sendline("typed")
    shell.expect_exact("got typed\r\n")


@pytest.mark.parametrize("how", ["exit", "SIGTERM", "kernel"])
def test_the_terminal_is_restored(how: str) -> None:
    master, slave = pty.openpty()
    try:
        before = termios.tcgetattr(slave)
        process = subprocess.Popen(
            [*POLYNIX, "run", "sh", "-c", "stty raw -echo; echo ready; read x"],
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True, preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),
        )  # fmt: skip
        output = b""
        while b"ready" not in output:
            output += os.read(master, 1000)
        assert termios.tcgetattr(slave)[3] & (termios.ICANON | termios.ECHO | termios.ISIG) == 0
        if how == "exit":
            os.write(master, b"x\n")
        elif how == "SIGTERM":
            process.send_signal(signal.SIGTERM)
        else:
            with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
                os.kill(int(file.read().split()[0]), signal.SIGKILL)
        process.wait(20)
        assert termios.tcgetattr(slave) == before
    finally:
        os.close(master)
        os.close(slave)


@pytest.mark.parametrize("editor", ["vim -u NONE", "busybox vi", "nano -I"])
def test_editors(run: Start, editor: str) -> None:
    if shutil.which(editor.split()[0]) is None:
        pytest.skip(f"no {editor.split()[0]}")
    child = run("sh", "-c", f"{editor} /tmp/edited; cat /tmp/edited")
    child.expect_exact("edited")
    time.sleep(0.5)
    keys = ["typed text", "\x0f", "\r", "\x18"] if "nano" in editor else ["ityped text", "\x1b", ":wq\r"]
    for key in keys:
        child.send(key)
        time.sleep(0.5)
    child.expect_exact("typed text\r\n")
    assert end_of(child) == 0


def test_a_terminal_multiplexer(run: Start) -> None:
    if shutil.which("tmux") is None:
        pytest.skip("no tmux")
    child = run("env", "TERM=xterm", "tmux", "-f", "/dev/null", "new-session", "sh")
    time.sleep(2)
    child.send("echo in$((1+1))side; tty\r")
    child.expect_exact("in2side")
    child.expect_exact("/dev/pts/1")
    child.send("exit\r")
    assert end_of(child) == 0


def test_a_pager(run: Start) -> None:
    if shutil.which("less") is None:
        pytest.skip("no less")
    child = run("env", "TERM=xterm", "less", "/etc/passwd")
    child.expect_exact("root:")
    child.send("/nobody\n")
    child.expect_exact("nobody")
    child.send("q")
    assert end_of(child) == 0


def test_a_long_paste_and_a_long_output(run: Start) -> None:
    child = run("sh", "-c", "echo ready; cat > /tmp/pasted; sort -n /tmp/pasted | tail -1; seq 20000")
    child.expect_exact("ready")
    for number in range(300):
        child.send(f"{number} is a line of a text that was copied from elsewhere\n")
    child.send("\x04")
    child.expect_exact("299 is a line of a text that was copied from elsewhere\r\n1\r\n2\r\n")
    child.expect_exact("\r\n20000\r\n")
    child.expect(pexpect.EOF)


def test_a_hang_up_ends_the_container(run: Start) -> None:
    child = run("sh", "-c", "trap '' INT; echo ready; while :; do sleep 0.1; done")
    child.expect_exact("ready")
    os.close(child.child_fd)  # the terminal goes away
    child.child_fd, child.closed = -1, True
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child.pid, os.WNOHANG)
        if pid:
            assert os.waitstatus_to_exitcode(status) == 129
            return
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    os.waitpid(child.pid, 0)
    pytest.fail("the container outlived its terminal")


def test_a_pipe_beside_the_terminal(start: Start) -> None:
    shell = start("bash", "--norc", "--noediting")
    shell.expect_exact("prompt> ")
    command = f"{' '.join(POLYNIX)} run sh -c 'echo a; echo b >&2; read x; echo $x' | cat"
    shell.sendline(command)
    shell.expect_exact("| cat\r\n")
    shell.expect("(a\r\n)|(b\r\n)")
    time.sleep(0.3)
    shell.send("typed\r")
    shell.expect_exact("typed\r\n")
    shell.expect_exact("prompt> ")


def test_a_controlling_terminal_without_standard_input(start: Start) -> None:
    """/dev/tty is the caller's terminal, whatever standard input is, and it is left as it was."""
    inside = (
        'read first < /dev/tty; echo "$first and $(cat)" > /dev/tty; stty -F /dev/tty size; stty -F /dev/tty -echo; '
        "read -t 10 second < /dev/tty; tty; echo $second"
    )
    command = f"printf piped | {' '.join(POLYNIX)} run bash -c '{inside}'"
    child = start("sh", "-c", f'before=$(stty -a); {command}; echo status $?; test "$before" = "$(stty -a)" && echo same')
    time.sleep(1.5)
    child.sendline("typed")
    child.expect_exact("typed and piped")
    child.expect_exact("30 90")
    time.sleep(0.3)
    child.sendline("unseen")
    child.expect(r"not a tty\s+unseen\s+status 0\s+same")
    assert isinstance(child.before, str)
    assert "unseen" not in child.before


def test_no_terminal_at_all(start: Start) -> None:
    child = start("sh", "-c", f"setsid --wait {' '.join(POLYNIX)} run sh -c 'echo > /dev/tty' < /dev/null")
    child.expect_exact("cannot create /dev/tty: No such device or address")
