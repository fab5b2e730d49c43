"""A call that a signal interrupts, and that is done again, is one call to hooks."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

from waiting import wait_until

import polynix

STOPS = 3

# Reads its standard input a byte at a time with a handler that restarts what it interrupts, and itself reads a file.
HANDLER = """
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>
static int file;
static void handler(int number) { char byte; (void) number; (void) read(file, &byte, 1); }
int main(void)
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    char byte[8];
    long got;
    sigaction(SIGUSR1, &action, 0);
    file = open("/etc/passwd", O_RDONLY);
    while ((got = read(0, byte, 8)) > 0)
        write(1, byte, got);
    return got == 0 ? 0 : 9;
}
"""


def doing(container: polynix.Container, pid: int) -> tuple[str, ...]:
    """What the process's threads do."""
    return tuple(str(thread["doing"]) for row in container.process_tree() if row["pid"] == pid for thread in row["threads"])


def wait_for_read(container: polynix.Container, process: polynix.Process) -> None:
    """Until it waits for what it reads."""
    assert wait_until(lambda: doing(container, process.pid)[0].startswith("read"))


def interrupt(container: polynix.Container, process: polynix.Process) -> None:
    """Stop and continue it while it reads."""
    wait_for_read(container, process)
    process.send_signal(signal.SIGSTOP)
    assert wait_until(lambda: not doing(container, process.pid)[0].startswith("read"))
    process.send_signal(signal.SIGCONT)


def exchange(process: polynix.Process, text: bytes) -> bytes:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(text)
    process.stdin.flush()
    return process.stdout.readline()


def test_it_counts_once(container: polynix.Container) -> None:
    process = container.spawn(["/bin/cat"], stdin=polynix.PIPE, stdout=polynix.PIPE, stderr=polynix.PIPE)
    assert exchange(process, b"1\n") == b"1\n"
    wait_for_read(container, process)
    hook = container.fail("read", "EIO", process="cat", after=2)
    for number in (2, 3, 4):  # the read that the hook found blocked is none of its calls
        for _ in range(STOPS):
            interrupt(container, process)
        assert exchange(process, b"%d\n" % number) == b"%d\n" % number
    assert process.wait(20) == 1
    assert (hook.matched, hook.hits) == (3, 1)


def test_what_was_decided_holds(container: polynix.Container) -> None:
    process = container.spawn(["/bin/cat"], stdin=polynix.PIPE, stdout=polynix.PIPE)
    assert exchange(process, b"1\n") == b"1\n"
    wait_for_read(container, process)
    hook = container.shorten("read", 2, process="cat", times=1)
    assert exchange(process, b"2\n") == b"2\n"
    assert wait_until(lambda: hook.matched == 1)  # it waits, and will get two bytes
    interrupt(container, process)
    assert exchange(process, b"abc\n") == b"abc\n"
    assert wait_until(lambda: hook.matched == 3)  # it needed another one
    process.kill()
    assert (process.wait(20), hook.hits) == (-signal.SIGKILL, 1)


def test_calls_of_the_handler_are_others(container: polynix.Container, tmp_path: Path) -> None:
    for directory in (tmp_path, *tmp_path.parents[:2]):
        directory.chmod(0o755)
    (tmp_path / "guest.c").write_text(HANDLER)
    subprocess.run(["cc", "-O1", "-w", "-static", "-o", tmp_path / "guest", tmp_path / "guest.c"], check=True)
    process = container.spawn([str(tmp_path / "guest")], stdin=polynix.PIPE, stdout=polynix.PIPE)
    assert exchange(process, b"1\n") == b"1\n"
    wait_for_read(container, process)
    hook = container.observe("read", process="guest")
    assert exchange(process, b"2\n") == b"2\n"
    assert wait_until(lambda: hook.matched == 1)
    for number in range(2, 5):
        process.send_signal(signal.SIGUSR1)
        assert wait_until(lambda number=number: hook.matched == number)  # type: ignore[misc]
    assert exchange(process, b"3\n") == b"3\n"
    assert wait_until(lambda: hook.matched == 5)
    process.kill()
    process.wait(20)
