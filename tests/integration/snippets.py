"""Snippet files: shell scripts in the manual's manner, cut at ``## name``, run on both sides and compared one by one.

A file's first lines may say ``# shell: COMMAND`` (bash by default), ``# needs: COMMAND...`` (skipped without them), ``# batch: N`` (snippets in
one guest, 12 by default), ``# timeout: SECONDS`` (for one guest). Each snippet runs in a fresh empty directory with empty standard input; its output
(both streams) and its exit status must be the same on Linux and on polynix. ``@DIR@`` in outputs stands for that directory, PID for
the process id in a shell's report of a killed job. Nothing else is changed: a snippet avoids what may differ, as orders of directories.
"""

from __future__ import annotations

import re
import shlex
import shutil
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

from harness import AS_ON_THE_HOST, PATH, Case, directory, environment, run_cases, run_native, run_polynix

HERE = Path(__file__).parent
_JOB_REPORT = r"s,: line \([0-9]*\):  *[0-9][0-9]* ,: line \1: PID ,"
_DIRECTIVE = re.compile(r"^# (shell|needs|batch|timeout): (.*)$")


@dataclass
class SnippetFile:
    """One ``*.snippets`` file."""

    path: Path
    shell: list[str] = field(default_factory=lambda: ["bash"])
    needs: list[str] = field(default_factory=list)
    batch: int = 12
    timeout: float = 100
    snippets: dict[str, str] = field(default_factory=dict)

    def missing(self) -> list[str]:
        """The commands that this machine lacks."""
        return [name for name in [self.shell[0], *self.needs] if shutil.which(name, path=PATH) is None]


@cache
def load(path: Path) -> SnippetFile:
    """Read a snippet file. Errors: ValueError for text before the first snippet or a name used twice."""
    result = SnippetFile(path)
    name: str | None = None
    for line in path.read_text().splitlines(keepends=True):
        directive = _DIRECTIVE.match(line.rstrip("\n")) if name is None else None
        if line.startswith("## "):
            name = line[3:].strip()
            if name in result.snippets:
                raise ValueError(f"{path.name}: {name} stands twice")
            result.snippets[name] = ""
        elif directive:
            key, value = directive[1], directive[2].split()
            if key in ("shell", "needs"):
                setattr(result, key, value)
            else:
                setattr(result, key, type(getattr(result, key))(value[0]))
        elif name is not None:
            result.snippets[name] += line
        elif line.strip() and not line.startswith("#"):
            raise ValueError(f"{path.name}: text before the first snippet: {line!r}")
    return result


def batch_of(file: SnippetFile, name: str) -> list[str]:
    """The names of the snippets that share a guest with this one."""
    names = list(file.snippets)
    start = names.index(name) // file.batch * file.batch
    return names[start : start + file.batch]


def _driver(file: SnippetFile, names: list[str], where: Path) -> list[str]:
    """A shell program of cases (see harness.py) that runs the snippets, written to ``where``."""
    lines = ["umask 022"]
    for number, name in enumerate(names):
        script = where / f"{number}.script"
        script.write_text(file.snippets[name])
        run = " ".join(shlex.quote(word) for word in [*file.shell, str(script)])
        lines += [
            f"echo '[ RUN ] {name}'",
            f"mkdir {where}/{number} && cd {where}/{number}",
            f"{run} </dev/null >../{number}.out 2>&1",
            f"status=$?; sed -e 's,{where}/{number},@DIR@,g' -e '{_JOB_REPORT}' ../{number}.out; echo; echo \"exit $status\"",
            f"echo '[ OK ] {name}'",
        ]
    driver = where / "driver"
    driver.write_text("\n".join(lines) + "\n")
    return ["/bin/bash", str(driver)]


def results(path: Path, batch: tuple[str, ...], native: bool) -> dict[str, Case]:
    """What one side prints for each snippet of a batch."""
    file = load(path)

    def run(names: list[str]):
        with directory("native" if native else "guest") as where:
            argv = _driver(file, list(names or batch), where)
            side = run_native if native else partial(run_polynix, flags=AS_ON_THE_HOST)
            return side(argv, cwd=where, env=environment(where), timeout=file.timeout)

    return run_cases(run, batch)


@cache
def native_results(path: Path, batch: tuple[str, ...]) -> dict[str, Case]:
    """What the host's Linux prints for each snippet of a batch."""
    return results(path, batch, True)


@cache
def polynix_results(path: Path, batch: tuple[str, ...]) -> dict[str, Case]:
    """What polynix prints for each snippet of a batch."""
    return results(path, batch, False)
