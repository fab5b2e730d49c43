"""The userspace programs: finding their cases, compiling them, running them on both sides once per worker."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
from functools import cache
from pathlib import Path

from harness import AS_ON_THE_HOST, Case, directory, run_cases, run_native, run_polynix

HERE = Path(__file__).parent
BINARIES = HERE / "bin"
GUEST_PYTHON = "/usr/bin/python3"
# The tests pass bad pointers and overflow stacks on purpose: no warnings about that.
_UNWANTED = ("unused-result", "nonnull", "stringop-overread", "stringop-overflow", "array-bounds", "infinite-recursion")
_COMPILE = ["-O1", "-g", "-Wall", *(f"-Wno-{warning}" for warning in _UNWANTED), "-pthread"]
_CASE = {".c": re.compile(r"^(?:CASE|BLOCKS)\((\w+)[,)]", re.M), ".py": re.compile(r"^def case_(\w+)\(", re.M)}
_FLAGS = re.compile(r"^// (flags|run): (.*)$", re.M)


def programs() -> list[Path]:
    """Every source file with cases."""
    return sorted(path for path in HERE.iterdir() if path.suffix in _CASE and not path.name.startswith(("test_", "check", "conftest", "programs")))


def cases_of(source: Path) -> list[str]:
    """The names of a program's cases."""
    return _CASE[source.suffix].findall(source.read_text())


def directives(source: Path) -> dict[str, list[str]]:
    """``// flags: ...`` (for the compiler) and ``// run: ...`` (for polynix run) in a C source."""
    return {key: value.split() for key, value in _FLAGS.findall(source.read_text())}


def command(source: Path) -> list[str]:
    """The command that runs a program; compiles it when it is newer than its binary."""
    if source.suffix == ".py":
        return [GUEST_PYTHON, str(source)]
    BINARIES.mkdir(exist_ok=True)
    binary = BINARIES / source.stem
    newest = max(source.stat().st_mtime, (HERE / "check.h").stat().st_mtime)
    with open(BINARIES / f".{source.stem}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not binary.exists() or binary.stat().st_mtime < newest:
            temporary = BINARIES / f".{source.stem}.{os.getpid()}"
            flags = [*_COMPILE, *directives(source).get("flags", [])]
            subprocess.run(["gcc", *flags, "-o", str(temporary), str(source)], check=True, stdin=subprocess.DEVNULL)
            temporary.rename(binary)
    return [str(binary)]


def results_of_one(source: Path, name: str) -> tuple[Case, Case]:
    """One case alone on each side: (native, polynix)."""
    argv = [*command(source), name]
    flags = [*AS_ON_THE_HOST, *directives(source).get("run", [])]
    with directory("native") as where:
        native = run_cases(lambda _: run_native(argv, cwd=where, timeout=90), [name])[name]
    with directory("guest") as where:
        return native, run_cases(lambda _: run_polynix(argv, flags=flags, cwd=where, timeout=90), [name])[name]


@cache
def native_results(source: Path) -> dict[str, Case]:
    """Every case's verdict on the host."""
    argv = command(source)
    with directory("native") as where:
        return run_cases(lambda names: run_native([*argv, *names], cwd=where, timeout=90), cases_of(source))


@cache
def polynix_results(source: Path) -> dict[str, Case]:
    """Every case's verdict under polynix."""
    argv = command(source)
    flags = [*AS_ON_THE_HOST, *directives(source).get("run", [])]
    with directory("guest") as where:
        return run_cases(lambda names: run_polynix([*argv, *names], flags=flags, cwd=where, timeout=90), cases_of(source))
