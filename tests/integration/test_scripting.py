"""Devices and file systems in a few lines of Python, in the kernel of real programs."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from harness import POLYNIX
from integration.shell import output

import polynix
from polynix.scripting import FileOps, ScriptFileSystem, device, filesystem


@device("/dev/answer")
def answer() -> str:
    return "42\n"


@device("/dev/reverse/0", mode=0o600)
class Reverse(FileOps):
    """What was written last comes back in reverse."""

    last: ClassVar[bytes] = b""

    def write(self, file: Any, offset: int, data: Any) -> int:
        type(self).last = data.read()
        return len(self.last)

    def read(self, file: Any, offset: int, out: Any) -> int:
        return int(out.write(self.last[::-1][offset:]))


@filesystem("words", mount="/words")
class Words(ScriptFileSystem):
    """A file for each word that was put in, by length."""

    words: ClassVar[dict[str, str]] = {"3/sun": "bright", "4/moon": "pale"}

    def list(self, path: str) -> Iterable[str]:
        if not path:
            return ["5/", *sorted({word.split("/")[0] + "/" for word in self.words})]
        return [word.removeprefix(path + "/") for word in self.words if word.startswith(path + "/")]

    def read(self, path: str) -> str:
        if path == "4/moon" and self.words[path] == "hidden":
            raise PermissionError
        return self.words[path] + "\n"

    def write(self, path: str, data: bytes) -> None:  # type: ignore[override]
        self.words[path] = data.decode().strip()


def test_a_device_of_one_function(container: polynix.Container) -> None:
    container.add(answer)
    assert output(container, "cat /dev/answer /dev/answer; dd if=/dev/answer bs=1 skip=1 2>/dev/null; stat -c %F:%t /dev/answer") == (
        "42\n42\n2\ncharacter special file:f0\n"
    )


def test_a_device_of_a_class_in_a_directory_of_dev(container: polynix.Container) -> None:
    container.add(Reverse)
    assert output(container, "printf abc > /dev/reverse/0; cat /dev/reverse/0; stat -c ' %a' /dev/reverse/0") == "cba 600\n"


def test_a_file_system(container: polynix.Container) -> None:
    container.add(Words)
    assert output(container, "ls -R /words | tr '\\n' ' '; cat /words/*/*") == "/words: 3 4 5  /words/3: sun  /words/4: moon  /words/5: bright\npale\n"
    assert output(container, "echo dim > /words/3/sun; cat /words/3/sun; echo hidden > /words/4/moon; cat /words/4/moon") == (
        "dim\ncat: /words/4/moon: Permission denied\n"
    )
    assert "No such file" in output(container, "cat /words/3/star")
    assert output(container, "mkdir /more; mount -t words none /more && ls /more; grep -c words /proc/mounts; find /words -type f | wc -l") == "3\n4\n5\n2\n2\n"


def test_the_same_name_twice_is_an_error(container: polynix.Container) -> None:
    container.add(Words)
    with pytest.raises(ValueError, match="File exists"):
        container.add(Words)


def test_before_the_start_and_in_a_file(tmp_path: Path) -> None:
    container = polynix.Container()
    container.add(answer)
    with container:
        assert output(container, "cat /dev/answer") == "42\n"
    file = tmp_path / "answer.py"
    file.write_text(
        "from polynix.scripting import device, filesystem, hook, ScriptFileSystem\n"
        "@device('/dev/answer')\n"
        "def answer(): return b'43'\n"
        "@filesystem('one', mount='/one')\n"
        "class One(ScriptFileSystem):\n"
        "    def list(self, path): return ['file']\n"
        "    def read(self, path): return '44'\n"
        "@hook('rmdir')\n"
        "def kept(call): raise PermissionError(1, 'no')\n"
    )
    command = [*POLYNIX, "run", "--feature", str(file), "--", "sh", "-c", "cat /dev/answer /one/file; rmdir /one || echo kept"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.stdout == "4344kept\n"


def test_names_are_checked() -> None:
    for path in ("/etc/answer", "answer", "/dev/"):
        with pytest.raises(ValueError):
            device(path)
