"""Dependencies point one way (docs/architecture.md): who may import whom, read from the sources."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("polynix", "addrspace", "ipc", "kernelproc", "runner", "tools")
MAY_IMPORT = {
    "addrspace": {"addrspace"},
    "ipc": {"ipc"},
    "kernelproc": {"kernelproc", "addrspace", "ipc"},
    "runner": {"runner", "ipc", "kernelproc"},
    "tools": {"tools", "polynix", "runner", "ipc", "kernelproc"},
    "polynix": {"polynix", "runner", "kernelproc"},
}
# Of the kernel, those above it know what it is started with and what it shows, and nothing of how it works.
FROM_KERNELPROC = {
    "runner": {"main", "options", "host_check", "region_layout", "hook_rule"},
    "polynix": {"hook_rule", "hooks", "scripting", "vfs", "errno"},  # what polynix.scripting shows
    "tools": {"host_accounting", "latency_buckets", "region_layout", "shared_region", "trace_layout", "hook_rule", "strace", "syscalls"},
}


def floors() -> tuple[set[str], ...]:
    """kernelproc's floors, bottom to top, as the architecture page lists them. A file imports only from its own floor and those below; TYPE_CHECKING and
    deferred imports are free.
    """
    page = (ROOT / "docs" / "architecture.md").read_text()
    rows = page[page.index("| floor |") :].split("\n\n")[0].splitlines()[2:]
    return tuple(set(re.findall(r"`(\w+)/?`", row.split("|")[1])) for row in reversed(rows))


FLOORS = floors()


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path, *, top_level_only: bool) -> set[str]:
    """Names of polynix modules that ``path`` imports when it is run (at import, or anywhere)."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else [node for node in ast.walk(tree) if not _for_type_checking(tree, node)]
    found = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "polynix" and node.level == 0:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "polynix"}
    return found


def _for_type_checking(tree: ast.Module, node: ast.AST) -> bool:
    return any(
        isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING" and node in ast.walk(block) for block in tree.body
    )


def package_of(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in PACKAGES else "polynix"


@pytest.mark.parametrize("package", PACKAGES)
def test_packages(package: str) -> None:
    wrong = []
    for path in modules(package):
        for name in imports(path, top_level_only=False):
            target = package_of(name)
            if target not in MAY_IMPORT[package]:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
            elif target == "kernelproc" and package in FROM_KERNELPROC:
                part = name.split(".")[2] if name.count(".") >= 2 else None
                if part is not None and part not in FROM_KERNELPROC[package]:
                    wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong, "\n".join(wrong)


def floor_of(part: str) -> int:
    return next(index for index, parts in enumerate(FLOORS) if part in parts)


def test_every_part_has_a_floor() -> None:
    parts = {path.relative_to(ROOT / "kernelproc").parts[0].removesuffix(".py") for path in modules("kernelproc")} - {"__init__"}
    assert sorted(parts) == sorted(part for floor in FLOORS for part in floor)


def test_floors_of_the_kernel() -> None:
    wrong = []
    for path in modules("kernelproc"):
        part = path.relative_to(ROOT / "kernelproc").parts[0].removesuffix(".py")
        if part == "__init__":
            continue
        for name in imports(path, top_level_only=True):
            pieces = name.split(".")
            if len(pieces) < 3 or pieces[1] != "kernelproc":
                continue
            if floor_of(pieces[2]) > floor_of(part):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong, "\n".join(wrong)
