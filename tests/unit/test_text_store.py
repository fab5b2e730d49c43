"""Patched copies of program text: which sites are found, what becomes of them, and what stays as the file has it."""

from __future__ import annotations

import errno
import mmap
import os
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from polynix.addrspace._restricted import PATCHED_CALL
from polynix.addrspace._usercopy import MemoryObject
from polynix.addrspace.text_store import ABOVE, BELOW, TRAMPOLINE_SIZE, Site, TextStore, find_sites

PAGE = 4096
PATCHABLE = {0, 1, 39, 110, 202, 257}
GETPID = b"\xb8\x27\0\0\0\x0f\x05"


def memory_of(content: bytes) -> MemoryObject:
    fd = os.memfd_create("polynix-test-text")
    os.write(fd, content)
    return MemoryObject(fd, False)


@pytest.fixture
def store() -> TextStore:
    return TextStore(PATCHABLE)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"\x90" + GETPID, [(1, 39)]),
        (b"\x31\xff" + GETPID + b"\xc3", [(2, 39)]),
        (b"\x90\xb8\xca\0\0\0\x0f\x05", [(1, 202)]),
        (b"\x40\x80\xf6\x81\xb8\xca\0\0\0\x0f\x05", [(4, 202)]),  # xor $0x81,%sil
        (b"\x90\xb8\x0f\0\0\0\x0f\x05", []),  # rt_sigreturn
        (b"\x90\xb8\x27\0\1\0\x0f\x05", []),  # no number
        (b"\x41" + GETPID, []),  # mov $39,%r8d
        (b"\x48" + GETPID, []),  # a 64-bit immediate
        (b"\x8d" + GETPID, []),  # lea 39(%rax),%edi
        (b"\x49\x8b" + GETPID, []),  # mov 39(%r8),%rdi
        (b"\x81" + GETPID, []),  # cmpl $0x..050f,39(%rax)
        (b"\x8b\xbc" + GETPID, []),  # SIB
        (b"\x90\xb8\x27\0\0\0\x90\x0f\x05", []),  # something between
        (GETPID, []),  # what comes before is not known
    ],
)
def test_sites(text: bytes, found: list[tuple[int, int]]) -> None:
    assert find_sites(text, PATCHABLE) == [Site(offset, offset + 5, b"\xb8" + struct.pack("<I", number)) for offset, number in found]


CHECK_RESULT = b"\x48\x3d\x00\xf0\xff\xff\x77\x5b"  # cmp $-4096,%rax; ja
READ_CALL = b"\x31\xc0\x0f\x05" + CHECK_RESULT
NOP_10 = b"\x66\x2e\x0f\x1f\x84\0\0\0\0\0"
NOP_4 = b"\x0f\x1f\x40\0"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"\x90" + READ_CALL + b"\xc3" + NOP_10, [(1, 14)]),
        (b"\x90" + READ_CALL + b"\xc3" + NOP_10 + READ_CALL + b"\xc3\x90", [(1, 14), (24, 19)]),  # two in one padding
        (b"\x90" + READ_CALL + b"\xc3" + NOP_10 + READ_CALL * 2, [(1, 14), (24, 19)]),  # and no third
        (b"\x90" + READ_CALL + b"\xc3" + NOP_4 + b"\x90" * 8, []),  # too small
        (b"\x90" + READ_CALL + b"\x90" + NOP_10, []),  # somebody gets there
        (b"\x90\x31\xc0\x0f\x05\xc3" + NOP_10, []),  # unknown surroundings
        (b"\x48" + READ_CALL + b"\xc3" + NOP_10, []),  # xor %rax,%rax
        (b"\x90\x0f\x05" + CHECK_RESULT + b"\xc3" + NOP_10 + b"\x90" * 200 + READ_CALL, []),  # too far
    ],
)
def test_sites_of_read(text: bytes, found: list[tuple[int, int]]) -> None:
    assert find_sites(text, PATCHABLE) == [Site(offset, offset + 2, b"\xb8\0\0\0\0", stone) for offset, stone in found]
    assert find_sites(text, PATCHABLE - {0}) == []


def disassembled(path: str) -> Iterator[tuple[int, str]]:
    """(address, instruction) of an object file, as objdump has it."""
    listing = subprocess.run(["objdump", "-d", "--no-show-raw-insn", path], capture_output=True, check=True, text=True, timeout=110).stdout
    for line in listing.splitlines():
        address, colon, instruction = line.partition(":\t")
        if colon:
            yield int(address, 16), instruction.strip()


def test_sites_of_the_c_library_are_instructions() -> None:
    """Every site found in the host's libc is a `mov` to eax and a `syscall` to a disassembler too."""
    program = Path("/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2").resolve()
    if not program.exists():
        pytest.skip("no ld.so where Debian has it")
    instructions = list(disassembled(str(program)))
    following = {address: (instruction, instructions[index + 1]) for index, (address, instruction) in enumerate(instructions[:-1])}
    sites = find_sites(program.read_bytes(), set(range(600)))
    assert len(sites) > 10
    for site in sites:  # its text lies at the offsets of the file
        instruction, behind = following[site.start]
        assert behind == (site.syscall, "syscall")
        assert (instruction.startswith("mov    $") and instruction.endswith(",%eax")) or instruction in ("xor    %eax,%eax", "mov    0x8(%rsp),%r9")
        if site.stepping_stone is not None:
            assert not any(site.stepping_stone <= address < site.stepping_stone + 5 and "nop" not in text for address, (text, _) in following.items())


@pytest.mark.parametrize("displacement", [ABOVE, BELOW])
def test_patched_text(store: TextStore, displacement: int) -> None:
    code = bytearray(os.urandom(2 * PAGE).replace(b"\xb8", b"\xb9"))
    places = {0x100: 39, 0x200: 110, 0x1F00: 257}
    for offset, number in places.items():
        code[offset - 1 : offset + 7] = b"\x90" + b"\xb8" + struct.pack("<I", number) + b"\x0f\x05"
    memory = memory_of(bytes(PAGE) + bytes(code))
    text = store.add(memory, PAGE, 2 * PAGE, displacement)
    assert text is not None
    copy = text.object.read(0, 3 * PAGE)
    changed = {index for index in range(2 * PAGE) if copy[index] != code[index]}
    assert changed <= {offset + index for offset in places for index in range(5)}
    for offset, number in places.items():
        opcode, distance = struct.unpack_from("<Bi", copy, offset)
        trampoline = offset + 5 + distance - displacement
        assert opcode == 0xE9 and copy[offset + 5 : offset + 7] == b"\x0f\x05"
        assert (text.place_of(trampoline), text.place_of(trampoline + 5)) == (offset, offset + 5)
        machine_code = copy[2 * PAGE + trampoline :][:TRAMPOLINE_SIZE]
        mov, loaded, lea, behind, movabs, entry, jump = struct.unpack_from("<BI3si2sQ3s", machine_code)
        assert (mov, lea, movabs, jump) == (0xB8, b"\x48\x8d\x0d", b"\x49\xbb", b"\x41\xff\xe3")
        assert (loaded, entry) == (number, PATCHED_CALL)
        assert displacement + trampoline + 12 + behind == offset + 7
    with pytest.raises(IndexError):
        text.place_of(3 * TRAMPOLINE_SIZE)


@pytest.mark.parametrize("move", [b"\x4c\x8b\x4c\x24\x08", b"\x4c\x89\x5c\x24\x08"])  # mov 8(%rsp),%r9; mov %r11,8(%rsp)
def test_site_of_any_call(store: TextStore, move: bytes) -> None:
    """The displaced instruction goes along."""
    code = (b"\x4d\x89\xc8" + move + b"\x0f\x05" + CHECK_RESULT).ljust(PAGE, b"\x90")
    assert find_sites(code, set()) == [Site(3, 8, move)]
    text = store.add(memory_of(code), 0, PAGE, ABOVE)
    assert text is not None
    copy = text.object.read(0, 2 * PAGE)
    assert copy[3] == 0xE9 and copy[8:10] == b"\x0f\x05" and copy[PAGE : PAGE + 5] == code[3:8]


def test_patched_read(store: TextStore) -> None:
    code = (b"\x90" + READ_CALL + b"\xc3" + NOP_10).ljust(PAGE, b"\x90")
    text = store.add(memory_of(code), 0, PAGE, ABOVE)
    assert text is not None
    copy = text.object.read(0, 2 * PAGE)
    assert {index for index in range(PAGE) if copy[index] != code[index]} == {1, 2, *range(14, 19)}
    opcode, short = struct.unpack_from("<Bb", copy, 1)
    assert opcode == 0xEB and 3 + short == 14
    opcode, distance = struct.unpack_from("<Bi", copy, 14)
    assert opcode == 0xE9 and 19 + distance == ABOVE
    assert (text.place_of(0), text.place_of(5)) == (1, 3)
    (behind,) = struct.unpack_from("<i", copy, PAGE + 8)
    assert ABOVE + 12 + behind == 5


def test_nobody_can_change_it(store: TextStore) -> None:
    text = store.add(memory_of(b"\x90" + GETPID + bytes(5000)), 0, 2 * PAGE, ABOVE)
    assert text is not None
    for change in (
        lambda: os.write(text.object.fd, b"x"),
        lambda: os.ftruncate(text.object.fd, 0),
        lambda: mmap.mmap(text.object.fd, PAGE, mmap.MAP_SHARED, mmap.PROT_WRITE),
    ):
        with pytest.raises(OSError) as error:
            change()
        assert error.value.errno == errno.EPERM
    mmap.mmap(text.object.fd, PAGE, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC).close()


def test_which_maps_get_it(store: TextStore) -> None:
    memory, other = memory_of(b"\x90" + GETPID + bytes(5 * PAGE)), memory_of(b"\x90" + GETPID + bytes(5 * PAGE))
    assert store.find(memory, 0, PAGE, ABOVE) is None
    text = store.add(memory, 0, 3 * PAGE, ABOVE)
    assert text is not None and store.add(memory, 0, 3 * PAGE, ABOVE) is text and store.add(memory, PAGE, PAGE, ABOVE) is text
    assert store.find(memory, PAGE, 2 * PAGE, ABOVE) is text
    assert store.find(memory, 2 * PAGE, 2 * PAGE, ABOVE) is None
    assert store.find(memory, PAGE, 2 * PAGE, BELOW) is None
    assert store.find(other, 0, PAGE, ABOVE) is None


@pytest.mark.parametrize("content", [bytes(2 * PAGE), b"\x90" + GETPID, b""])
def test_what_is_not_worth_it_or_not_whole(store: TextStore, content: bytes) -> None:
    assert store.add(memory_of(content), 0, 2 * PAGE, ABOVE) is None
    assert store.add(memory_of(content), 0, 2 * PAGE, ABOVE) is None


def test_descriptors_come_back(store: TextStore) -> None:
    before = os.listdir("/proc/self/fd")
    for _ in range(5):
        TextStore(PATCHABLE).add(memory_of(b"\x90" + GETPID + bytes(PAGE)), 0, PAGE, ABOVE)
    with tempfile.TemporaryFile() as file:
        assert TextStore(PATCHABLE).add(MemoryObject(os.dup(file.fileno()), False), 0, PAGE, ABOVE) is None
    assert os.listdir("/proc/self/fd") == before
