"""A runner in a directory of its own, for tests of the containers that it keeps."""

from __future__ import annotations

import json
import subprocess
from contextlib import suppress
from pathlib import Path

import pexpect
from harness import POLYNIX, environment
from waiting import wait_until

import polynix


def descendants(pid: int) -> set[int]:
    found = {pid}
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in thread.read_text().split():
                found |= descendants(int(child))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def first_line(runner: polynix.Runner, name: str) -> bytes:
    """What a container wrote, up to the end of the first line."""
    text = b""
    for record in runner.logs(name, follow=True):
        text += record.data
        if b"\n" in text:
            break
    return text


class Service:
    """A runner in a directory of its own, and the commands of its users."""

    def __init__(self, directory: Path, user: int | None = None) -> None:
        self.identity = {} if user is None else {"user": user, "group": user, "extra_groups": ()}
        self.parent = directory
        self.directory = directory / "polynix"
        self.environment = environment("/", XDG_RUNTIME_DIR=str(directory))
        self.errors = (directory / "errors").open("wb")
        self.process = subprocess.Popen(  # type: ignore[call-overload]
            [*POLYNIX, "runner"], env=self.environment, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self.errors,
            start_new_session=True, **self.identity,
        )  # fmt: skip
        assert wait_until(lambda: (self.directory / "broker").exists()), (directory / "errors").read_text()

    def run(self, *arguments: str, timeout: float = 30, **options: object) -> subprocess.CompletedProcess[str]:
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("env", self.environment)
        return subprocess.run(  # type: ignore[call-overload, no-any-return]
            [*POLYNIX, *arguments], cwd="/", capture_output=True, text=True, timeout=timeout, **{**self.identity, **options}
        )

    def start(self, name: str, *command: str, options: tuple[str, ...] = ()) -> str:
        done = self.run("start", *options, name, "--", *command)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout.strip()

    def ps(self, *options: str) -> list[dict[str, object]]:
        return [row for row in json.loads(self.run("ps", "--json", *options).stdout) if row["id"]]

    def terminal(self, *arguments: str) -> pexpect.spawn[str]:
        """A command on a terminal of 30 lines and 90 columns."""
        return pexpect.spawn(POLYNIX[0], [*POLYNIX[1:], *arguments], env=self.environment, dimensions=(30, 90), timeout=30, encoding="utf-8")

    def client(self) -> polynix.Runner:
        return polynix.Runner(self.directory)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(20)
        self.errors.close()
