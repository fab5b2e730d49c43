"""Writes what happens in a kernel into a trace ring."""

from __future__ import annotations

import itertools
import struct
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from polynix.addrspace._usercopy import Fault, UserAddress
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.hooks.call import shape_of
from polynix.kernelproc.observer import SyscallObserver
from polynix.kernelproc.region_layout import TaskWord
from polynix.kernelproc.syscalls import table
from polynix.kernelproc.task.task import Task
from polynix.kernelproc.trace_layout import (
    CONTINUED_SIZE,
    EVENTS_OFFSET,
    HEADER,
    HEADER_SIZE,
    MAGIC,
    NAME_SLOTS,
    NO_RESULT,
    SLOT,
    SLOT_SIZE,
    TEXT_OFFSET,
    TEXT_SIZE,
    VERSION,
    Kind,
    map_ring,
)
from polynix.kernelproc.uapi.errno import EFAULT

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel
    from polynix.kernelproc.signals.siginfo import SigInfo
    from polynix.kernelproc.strace.recorded_memory import RecordedMemory

_OTHER_ARGUMENTS = 6  # of calls whose signature polynix does not know

# The entry of a traced call, made for its number of arguments: on this path every field that is stored costs.
_MAKE_ENTRY = """
def make_entry(tracer, call, number, kind, what, now, pack, ring, places):
    def entry(task, a0, a1, a2, a3, a4, a5):
        {before}
        started = now()
        try:
            result = call(task, a0, a1, a2, a3, a4, a5)
        except Errno as error:
            result = -error.errno
        except Fault:
            result = {fault}
        if type(result) is int:
            {store}
            return result
        return tracer.other(task, number, started, result, (a0, a1, a2, a3, a4, a5))
    return entry
"""
_PLAIN = "pack(ring, next(places), started, now(), task.tid, what, result{arguments})"
_WITH_TEXT = """text = {text}
            length = len(text)
            if length <= {text_size}:
                pack(ring, next(places), started, now(), task.tid, number, kind, length, result{arguments}, text)
            else:
                tracer.store(kind, task.tid, number, started, result{arguments}, text=text)"""
_FORGET = 'tracer.text = b""'


@cache
def _maker(count: int, with_paths: bool, memory: RecordedMemory | None) -> Callable[..., table.Entry]:
    """What makes the entries of calls with ``count`` arguments; compiled for each call, it would be a tenth of the time of a short program."""
    arguments = "".join(f", a{index}" for index in range(count))
    before, text = _FORGET if with_paths else "", "tracer.text"
    if memory is not None:
        peek = f"peek(task, a{memory.argument}, {_size_of(memory)})"
        before, text = (_FORGET, f"{peek} if result >= 0 else b''") if memory.output else (f"tracer.text = {peek}", text)
    store = (_WITH_TEXT if with_paths or memory is not None else _PLAIN).format(arguments=arguments, text_size=TEXT_SIZE, text=text)
    scope: dict[str, Any] = {"Errno": Errno, "Fault": Fault, "peek": _peek}
    exec(_MAKE_ENTRY.format(store=store, fault=-EFAULT, before=before), scope)
    maker: Callable[..., table.Entry] = scope["make_entry"]
    return maker


def _size_of(memory: RecordedMemory) -> str:
    """How many bytes are recorded, as an expression of ``result`` and the arguments."""
    if memory.fixed:
        return str(memory.size)
    return f"min({'result' if memory.length is None else f'a{memory.length}'}, {memory.size})"


def _peek(task: Task, address: int, count: int) -> bytes:
    """The start of what lies in the guest's memory; nothing if it can't be read."""
    try:
        return task.user.copy_in(UserAddress(address), count) if address and count > 0 else b""
    except (Fault, ValueError, OverflowError):
        return b""


class Tracer(SyscallObserver):
    """One trace, into the ring that is open as ``fd``, until :meth:`stop`. ``numbers`` are the calls to trace; None: all. A kernel has one tracer at most.
    Errors: OSError, ValueError.
    """

    def __init__(self, kernel: Kernel, fd: int, numbers: frozenset[int] | None = None) -> None:
        self.kernel = kernel
        self.ring, slots = map_ring(fd)
        self.slots = slots
        self._laps = 0
        self._places = itertools.chain.from_iterable(self._each_lap())  # where the next slot lies; all in C but once a lap
        self.now = time.monotonic_ns
        self._names = itertools.count()
        self.text = b""  # the paths that the call in progress has read, or its input
        self._struct = [struct.Struct(f"{SLOT}{count}Q") for count in range(7)]  # shorter ones leave what the slot held: the reader knows how many there are
        self._plain = [struct.Struct(f"@QQIIq{count}Q") for count in range(7)]  # number, kind and no text as one word
        self._with_text = [struct.Struct(f"{SLOT}{count}Q{8 * (6 - count)}x{TEXT_SIZE}s") for count in range(7)]
        self._pack_text = struct.Struct(f"{SLOT[:-1]}{CONTINUED_SIZE}s").pack_into
        self._traced_calls = [number for number, entry in enumerate(table.entries) if entry is not None and (numbers is None or number in numbers)]
        self._undo: list[Callable[[], None]] = []
        for number in self._traced_calls:
            table.wrap(number, self._traced_at_first_use)
        self._wrap_neighbours()
        for task in list(kernel.pids.tasks.values()):
            if not task.group.is_kernel and not task.exited:
                self.name(task.tid, task.group.pid, task.comm[:15])

    def stop(self) -> None:
        """Trace no longer; calls that are blocked are in the ring as such."""
        for number in self._traced_calls:
            table.unwrap(number, self._traced_at_first_use)
        for undo in self._undo:
            undo()
        self.kernel.task_observers.remove(self)
        self.close()

    # -- writing --------------------------------------------------------------------------------------------------------------------------

    def _each_lap(self) -> Iterator[range]:
        while True:
            self._laps += 1
            yield range(EVENTS_OFFSET, EVENTS_OFFSET + self.slots * SLOT_SIZE, SLOT_SIZE)

    def store(self, kind: int, tid: int, number: int, started: int, result: int, *arguments: int, text: bytes) -> None:
        """A call's slot, and as many more as its text needs."""
        ended = self.now()
        pack = self._with_text[len(arguments)].pack_into
        pack(self.ring, next(self._places), started, ended, tid, number, kind, min(len(text), 255), result, *arguments, text[:TEXT_SIZE])
        if len(text) > TEXT_SIZE:
            for begin in range(TEXT_SIZE, len(text), CONTINUED_SIZE):
                piece = text[begin : begin + CONTINUED_SIZE]
                self._pack_text(self.ring, next(self._places), ended, ended, tid, number, Kind.TEXT, len(piece), piece)

    def note(self, kind: Kind, tid: int, number: int = 0, result: int = 0, arguments: tuple[int, ...] = ()) -> None:
        """Something that is no system call."""
        now = self.now()
        self._struct[len(arguments)].pack_into(self.ring, next(self._places), now, now, tid, number, kind, 0, result, *arguments)

    def name(self, tid: int, pid: int, name: bytes) -> None:
        """Who a thread is from now on."""
        now = self.now()
        place = HEADER_SIZE + next(self._names) % NAME_SLOTS * SLOT_SIZE
        self._struct[1].pack_into(self.ring, place, now, now, tid, 0, Kind.NAME, len(name), 0, pid)
        self.ring[place + TEXT_OFFSET : place + TEXT_OFFSET + len(name)] = name

    # -- system calls ---------------------------------------------------------------------------------------------------------------------

    def _traced_at_first_use(self, number: int, call: table.Entry | None) -> table.Entry:
        """As the table's own: few programs use more than a quarter of it. A hook may have been wrapped around it by then."""
        assert call is not None
        traced: table.Entry | None = None

        def entry(*arguments: Any) -> Any:
            nonlocal traced
            if traced is None:
                traced = self._traced(number, table.settled(number, call))
                if table.entries[number] is entry:
                    table.entries[number] = traced
            return traced(*arguments)

        return entry

    def _traced(self, number: int, call: table.Entry) -> table.Entry:
        shape = shape_of(table.names.get(number, str(number)))
        count = len(shape.names) if table.names.get(number) in table.functions else _OTHER_ARGUMENTS
        memory = self._memory_of(number)
        kind, with_text = int(Kind.CALL), bool(shape.paths or memory)
        pack = (self._with_text if with_text else self._plain)[count].pack_into
        return _maker(count, bool(shape.paths), memory)(self, call, number, kind, number | kind << 16, self.now, pack, self.ring, self._places)

    def other(self, task: Task, number: int, started: int, result: Any, arguments: tuple[int, ...]) -> Any:
        """A call that blocks, or does not return in the usual way."""
        blocks = isinstance(result, Awaitable)
        text = self.text if shape_of(table.names.get(number, "")).paths or self._memory_of(number) else b""
        self.store(Kind.BEGIN if blocks else Kind.CALL, task.tid, number, started, NO_RESULT, *arguments, text=text)
        return self._blocked(task, number, result, arguments) if blocks else result

    async def _blocked(self, task: Task, number: int, call: Awaitable[Any], arguments: tuple[int, ...]) -> Any:
        result: Any = None
        try:
            result = await call
            return result
        except Errno as error:
            result = -error.errno
            raise
        except Fault:
            result = -EFAULT
            raise
        finally:
            known = result if type(result) is int else NO_RESULT
            memory, text = self._memory_of(number), b""
            if memory is not None and memory.output and known >= 0:
                text = _peek(task, arguments[memory.argument], memory.size if memory.fixed else min(known, memory.size))
            self.store(Kind.END, task.tid, number, self.now(), known, text=text)

    @staticmethod
    def _memory_of(number: int) -> RecordedMemory | None:
        from polynix.kernelproc.strace.recorded_memory import recorded_memory

        return recorded_memory(table.names.get(number, ""))

    # -- what lies beside -----------------------------------------------------------------------------------------------------------------

    def _wrap_neighbours(self) -> None:
        kernel = self.kernel
        kernel.task_observers.append(self)
        engine, loop, region = kernel.engine, kernel.loop, kernel.region
        wake, handle_page_fault, read_path = engine.wake, loop.handle_page_fault, Task.read_path

        def traced_wake(routine: Any, value: Any = None) -> bool:
            if not wake(routine, value):
                return False
            waker = engine.current.owner if engine.current is not None else loop.current
            if waker is not None and routine.owner is not None and waker is not routine.owner:
                self.note(Kind.WAKE, waker.tid, arguments=(routine.owner.tid,))
            return True

        def traced_page_fault(task: Task, address: int, error: int) -> bool:
            self.note(Kind.FAULT, task.tid, arguments=(address, error))
            return handle_page_fault(task, address, error)

        def traced_read_path(task: Task, address: UserAddress) -> bytes:
            path = read_path(task, address)
            self.text = self.text + b"\0" + path if self.text else path
            return path

        self._replace(engine, "wake", traced_wake)
        self._replace(loop, "handle_page_fault", traced_page_fault)
        self._replace(Task, "read_path", traced_read_path)
        if region is not None:
            add_task, set_comm = region.add_task, region.set_comm

            def traced_add(task: Task) -> memoryview[int]:
                row = add_task(task)
                self.name(task.tid, task.group.pid, task.comm[:15])
                return row

            def traced_name(row: memoryview[int], comm: bytes) -> None:
                set_comm(row, comm)
                if row[TaskWord.TID]:
                    self.name(row[TaskWord.TID], row[TaskWord.PID], comm[:15])

            self._replace(region, "add_task", traced_add)
            self._replace(region, "set_comm", traced_name)

    def _replace(self, owner: Any, name: str, function: Callable[..., Any]) -> None:
        before = vars(owner).get(name)  # none: an object whose class has the method
        setattr(owner, name, function)
        self._undo.append(lambda: delattr(owner, name) if before is None else setattr(owner, name, before))

    # An observer of tasks.

    def signal(self, task: Task, info: SigInfo) -> None:
        self.note(Kind.SIGNAL, task.tid, info.signo)

    def exited(self, task: Task, status: int) -> None:
        self.note(Kind.EXIT, task.tid, result=status)

    def close(self) -> None:
        """Say how much there was."""
        written = (next(self._places) - EVENTS_OFFSET) // SLOT_SIZE + (self._laps - 1) * self.slots
        HEADER.pack_into(self.ring, 0, MAGIC, VERSION, self.slots, written)
