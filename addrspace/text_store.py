"""Patched copies of hot program text, so that its system calls need no trap.

A trap costs more than all else of a short call. Most call sites are ``mov $number,%eax`` directly followed by ``syscall``; in a patched text the five bytes
of the ``mov`` are a jump to a trampoline, which loads the number and the return address and jumps to the stub (``restricted/patched_call.c``). The
``syscall`` itself stays where it was and still traps, for whoever jumps to it.

read(2) has number 0, and compilers load that by two bytes, ``xor %eax,%eax``. There is room for a short jump only; it goes to padding behind a nearby
``ret``, and from there to the trampoline.

A text is copied and patched once per container, into a memfd that is sealed before anyone sees it; every process whose maps show that part of the file gets
the copy instead, private and without write access. The kernel's own view of the map stays the file, and so does that of whoever reads the guest's memory
through the kernel; only code that reads its own instructions sees the jumps.

Trampolines lie at a fixed distance from their text, in all processes alike, because the jumps are relative and shared. For libraries, at the top of the
address space, that is above what a guest may map, so nothing of the guest's can be in their way. For programs it is below them, where nothing is mapped
unless a guest insists; then the text goes back to what the file has. No VMA tells of trampolines, and to the kernel's own accesses they do not exist.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import re
import struct
from collections.abc import Collection
from typing import NamedTuple

from polynix.addrspace._restricted import PATCHED_CALL
from polynix.addrspace._usercopy import MemoryObject
from polynix.addrspace.addresses import PAGE_SIZE, page_up

# From a text to its trampolines, all in reach of a 32-bit jump: for libraries, above what the guest may map; for programs, which lie low, below them.
ABOVE, BELOW = 0x7000_0000, -0x3F_0000
TRAMPOLINE_SIZE = 32
JUMP_SIZE = 5
READ, _LOAD_READ = 0, b"\xb8\0\0\0\0"  # read(2); mov $0,%eax
MAX_TEXT = 16 << 20  # bytes: reading more would hold up the kernel for tens of milliseconds
MFD_EXEC = 0x10
F_ADD_SEALS, ALL_SEALS = 1033, 0x0F  # SEAL, SHRINK, GROW, WRITE

SYSCALL_INSTRUCTION = b"\x0f\x05"
_LOAD = re.compile(rb"\xb8(..\0\0)", re.DOTALL)  # mov $number,%eax
# `mov 8(%rsp),%reg` or back, 5 bytes: so end glibc's syscall(2) and musl's cancellable calls, whose number is nowhere near. The trampoline does it.
_STACK_MOVE = re.compile(rb"[\x48\x4c][\x89\x8b][\x44\x4c\x54\x5c\x6c\x74\x7c]\x24.", re.DOTALL)
_CLEAR = b"\x31\xc0"  # xor %eax,%eax
# How C libraries look at the result (cmp $-4096,%rax; ja), which says that what comes before are instructions,
_RESULT = b"\x48\x3d\x00\xf0\xff\xff\x77"
# and, where `ret` and a long no-op follow it, that nobody gets to the no-op.
_PADDING = re.compile(_RESULT + rb".\xc3(\x66*\x2e?\x0f\x1f(?:\x44\0\0|\x80\0{4}|\x84\0{5}))", re.DOTALL)
_JUMP = struct.Struct("<Bi")
_SHORT_JUMP = struct.Struct("<Bb")
_TRAMPOLINE = struct.Struct("<5s3si2sQ3s")  # what the jump replaced; lea behind_the_syscall(%rip),%rcx; movabs $PATCHED_CALL,%r11; jmp *%r11
_LEA_END = 12  # what the displacement of the `lea` counts from
# A byte before that could make the `mov` the end of a longer instruction: prefixes, opcodes whose ModRM byte the 0xb8 would be, ModRM bytes whose SIB.
_DOUBTFUL = frozenset((*range(0x40, 0x50), 0x0F, 0x63, 0x66, 0x69, 0x6B, 0x80, 0x81, 0x83, 0x89, 0x8B, 0x8D, 0x84, 0x8C, 0x94, 0x9C, 0xA4, 0xAC, 0xB4, 0xBC))
_XOR_SIL = b"\x40\x80\xf6\x81"  # xor $0x81,%sil, before most futex calls of glibc, ends with a doubtful byte and is not


class Site(NamedTuple):
    """A call site: offsets of the instruction that a jump replaces and of the ``syscall`` behind it, and what the trampoline does in its place (5 bytes).

    Where there is room for a short jump only, ``stepping_stone`` is the offset of 5 free bytes for the long one.
    """

    start: int
    syscall: int
    replaced: bytes
    stepping_stone: int | None = None


def find_sites(text: bytes, patchable: Collection[int]) -> list[Site]:
    """The call sites in ``text`` that may be patched, those of read(2) last; ``patchable`` are the numbers."""
    sites: list[Site] = []
    reads: list[int] = []  # offsets of `xor %eax,%eax` before `syscall`
    free: list[int] = []  # offsets of JUMP_SIZE bytes of padding
    syscall = text.find(SYSCALL_INSTRUCTION)
    while syscall >= 0:
        start, behind = syscall - JUMP_SIZE, syscall + len(SYSCALL_INSTRUCTION)
        if start > 0:
            replaced = text[start:syscall]
            load = _LOAD.fullmatch(replaced)
            if load is not None:
                known = text[start - 1] not in _DOUBTFUL or text[max(start - len(_XOR_SIL), 0) : start] == _XOR_SIL
                if known and int.from_bytes(load[1], "little") in patchable:
                    sites.append(Site(start, syscall, replaced))
            elif _STACK_MOVE.fullmatch(replaced):
                sites.append(Site(start, syscall, replaced))
        if text.startswith(_RESULT, behind):
            if text.startswith(_CLEAR, syscall - 2) and syscall > 2 and text[syscall - 3] not in _DOUBTFUL:
                reads.append(syscall - 2)
            padding = _PADDING.match(text, behind)
            if padding is not None:
                free += range(padding.start(1), padding.end(1) - JUMP_SIZE + 1, JUMP_SIZE)
        syscall = text.find(SYSCALL_INSTRUCTION, behind)
    for start in reads if READ in patchable else ():
        place = next((place for place in free if -128 <= place - (start + 2) <= 127), None)
        if place is not None:
            free.remove(place)
            sites.append(Site(start, start + 2, _LOAD_READ, place))
    return sites


class PatchedText:
    """A copy of file bytes [start, start + length) with its trampolines behind it, in ``object``. Lengths are page multiples.

    Where the text is mapped, the trampolines must be mapped ``displacement`` further.
    """

    __slots__ = ("displacement", "length", "object", "sites", "start", "trampolines_length")

    def __init__(self, memory: MemoryObject, start: int, length: int, displacement: int, sites: list[Site], trampolines_length: int) -> None:
        self.object = memory
        self.start = start
        self.length = length
        self.displacement = displacement
        self.sites = sites
        self.trampolines_length = trampolines_length

    def place_of(self, offset: int) -> int:
        """For an instruction of the trampolines: the offset in the text where a thread that is about to make it might be as well. Errors: IndexError."""
        site = self.sites[offset // TRAMPOLINE_SIZE]
        return site.syscall if offset % TRAMPOLINE_SIZE else site.start


class TextStore:
    """The patched texts of one container, by the identity of the memory object that they are copies of."""

    def __init__(self, patchable: Collection[int]) -> None:
        self._patchable = frozenset(patchable)
        self._texts: dict[int, list[PatchedText]] = {}
        self._refused: set[tuple[int, int, int]] = set()

    def find(self, memory: MemoryObject, offset: int, length: int, displacement: int) -> PatchedText | None:
        """The patched text that holds bytes [offset, offset + length) of ``memory``."""
        for text in self._texts.get(memory.id, ()):
            if text.displacement == displacement and text.start <= offset and offset + length <= text.start + text.length:
                return text
        return None

    def add(self, memory: MemoryObject, start: int, length: int, displacement: int) -> PatchedText | None:
        """Make one, unless it is there already; None when there is nothing to gain or the host gives no executable memfd.

        ``memory`` is a file whose content will not change; [start, start + length) is what some process may execute of it, in whole pages.
        """
        found = self.find(memory, start, length, displacement)
        if found is not None:
            return found
        key = (memory.id, start, length)
        if key in self._refused or length > MAX_TEXT:
            return None
        content = memory.read(start, length)
        whole = len(content) > length - PAGE_SIZE  # pages beyond the end of the file give SIGBUS, and here they would be there
        sites = find_sites(content, self._patchable) if whole else []
        trampolines_length = page_up(len(sites) * TRAMPOLINE_SIZE)
        # Trampolines no longer than their texts can't overlap, since texts don't.
        made = _memory_of(_patched(content.ljust(length, b"\0"), sites, displacement)) if 0 < trampolines_length <= length else None
        if made is None:
            self._refused.add(key)
            return None
        text = PatchedText(made, start, length, displacement, sites, trampolines_length)
        self._texts.setdefault(memory.id, []).append(text)
        return text


def _patched(content: bytes, sites: list[Site], displacement: int) -> bytes:
    text = bytearray(content)
    trampolines = bytearray()
    for site in sites:
        trampoline = displacement + len(trampolines)  # seen from the text's start, where it will be mapped
        jump = site.start
        if site.stepping_stone is not None:
            jump = site.stepping_stone
            _SHORT_JUMP.pack_into(text, site.start, 0xEB, jump - (site.start + 2))
        _JUMP.pack_into(text, jump, 0xE9, trampoline - (jump + JUMP_SIZE))
        behind = site.syscall + 2 - (trampoline + _LEA_END)
        code = _TRAMPOLINE.pack(site.replaced, b"\x48\x8d\x0d", behind, b"\x49\xbb", PATCHED_CALL, b"\x41\xff\xe3")
        trampolines += code.ljust(TRAMPOLINE_SIZE, b"\xcc")
    return bytes(text + trampolines)


def _memory_of(content: bytes) -> MemoryObject | None:
    """A sealed memfd with this content; None where the host lets nobody execute one."""
    try:
        fd = _open_memfd()
    except OSError:
        return None
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        os.ftruncate(fd, page_up(len(content)))
        fcntl.fcntl(fd, F_ADD_SEALS, ALL_SEALS)
        mmap.mmap(fd, PAGE_SIZE, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC).close()
        return MemoryObject(fd, False)
    except OSError:
        os.close(fd)
        return None


def _open_memfd() -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create("polynix-text", flags | MFD_EXEC)
    except OSError:
        return os.memfd_create("polynix-text", flags)  # before Linux 6.3
