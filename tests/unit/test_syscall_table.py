"""The table of system calls: decoders are compiled late, so all are compiled here."""

from __future__ import annotations

from typing import Any

import polynix.kernelproc.syscalls.all  # noqa: F401
import pytest
from polynix.kernelproc.syscalls import table
from polynix.kernelproc.syscalls.types import Int, Size
from polynix.kernelproc.uapi.unistd import SYSCALLS


@pytest.mark.parametrize("name", sorted(table.functions))
def test_every_signature_can_be_decoded(name: str) -> None:
    assert callable(table.compile_decoder(table.functions[name], name))


def test_registers_become_arguments() -> None:
    def call(task: Any, first: Int, second: Size) -> tuple[Any, int, int]:
        return task, first, second

    decoder = table.compile_decoder(call, "call")
    assert decoder("task", 0x1_FFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF, 0, 0, 0, 0) == ("task", -1, 0xFFFF_FFFF_FFFF_FFFF)


def test_an_entry_replaces_itself_at_its_first_use() -> None:
    number = SYSCALLS["getpid"]
    table.entries[number] = table._at_first_use(number, table.functions["getpid"], "getpid")

    class Group:
        pid = 17

    class Task:
        group = Group

    assert table.entries[number](Task, 0, 0, 0, 0, 0, 0) == 17
    assert table.entries[number].__name__ == "<lambda>"


def test_unknown_types_are_refused() -> None:
    def call(task: Any, first: float) -> int:
        return 0

    with pytest.raises(TypeError):
        table.compile_decoder(call, "call")
