"""What polynix says on hosts that cannot run it, and how option values are read."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
from polynix.runner import host, parameters, run_directory


class Uname(NamedTuple):
    sysname: str = "Linux"
    nodename: str = "host"
    release: str = "6.1.0"
    version: str = "#1"
    machine: str = "x86_64"


@pytest.mark.parametrize(
    ("uname", "text"),
    [
        (Uname(machine="aarch64"), "needs Linux on x86-64, this is Linux on aarch64"),
        (Uname(release="4.19.0-5-amd64"), "needs Linux 5.15 or newer, this is Linux 4.19.0-5-amd64"),
        (Uname(release="5.14.0"), "needs Linux 5.15 or newer, this is Linux 5.14.0"),
    ],
)
def test_unsuitable_hosts(monkeypatch: pytest.MonkeyPatch, uname: Uname, text: str) -> None:
    monkeypatch.setattr(os, "uname", lambda: uname)
    with pytest.raises(host.UnsuitableHost) as failure:
        host.check_host()
    assert str(failure.value) == text


@pytest.mark.parametrize("release", ["5.15.0", "6.18.1-arch1", "10.0"])
def test_suitable_hosts(monkeypatch: pytest.MonkeyPatch, release: str) -> None:
    monkeypatch.setattr(os, "uname", lambda: Uname(release=release))
    host.check_host()


def test_an_unbuilt_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "EXTENSIONS", ("polynix.addrspace._missing",))
    with pytest.raises(host.UnsuitableHost, match="is not built"):
        host.check_host()


@pytest.mark.parametrize(("text", "size"), [("1", 1), ("512M", 512 << 20), ("1.5g", 3 << 29), ("4KiB", 4096), ("10b", 10)])
def test_sizes(text: str, size: int) -> None:
    assert parameters.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1", "0", "1X", "1e30T", "nan", "inf"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(parameters.ParameterError):
        parameters.parse_size(text)


def test_binds(tmp_path: Path) -> None:
    bind = parameters.parse_bind(f"{tmp_path}:/mnt:ro")
    assert (bind.source, bind.target, bind.read_only) == (str(tmp_path), "/mnt", True)
    assert not parameters.parse_bind(f"{tmp_path}:/mnt").read_only


def test_users() -> None:
    assert parameters.parse_user("5") == (5, 5)
    assert parameters.parse_user("5:6") == (5, 6)
    for text in ("", "x", "1:", ":1", "4294967295"):
        with pytest.raises(parameters.ParameterError):
            parameters.parse_user(text)


def test_run_directories_are_swept_when_nobody_holds_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    held = run_directory.RunDirectory()
    assert os.path.dirname(held.path) == str(tmp_path)
    abandoned = run_directory.RunDirectory()
    # As when every process of that container was killed: its lock is free, and the process in its name is gone.
    os.close(abandoned.lock_fd)
    dead = subprocess.Popen(["true"])
    dead.wait()
    os.rename(abandoned.path, tmp_path / f"{run_directory.PREFIX}{dead.pid}-x")
    run_directory.sweep(str(tmp_path))
    assert os.listdir(tmp_path) == [os.path.basename(held.path)]
    held.remove()
    assert os.listdir(tmp_path) == []
