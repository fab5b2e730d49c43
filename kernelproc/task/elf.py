"""ELF programs: validate, map, and make the first stack. Layout as ``fs/binfmt_elf.c`` documents it in the System V ABI.

Everything is checked before anything of the caller changes; a malformed file is ENOEXEC (or ELIBBAD for an interpreter), one that does not fit ENOMEM.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import TYPE_CHECKING, NamedTuple

from polynix.addrspace._restricted import GUEST_VDSO
from polynix.addrspace.addresses import (
    MMAP_MIN_ADDRESS,
    PIE_BASE,
    PROT_EXEC,
    PROT_READ,
    PROT_WRITE,
    STACK_TOP,
    TASK_SIZE,
    page_down,
    page_up,
)
from polynix.addrspace.memory_manager import MemoryManager
from polynix.kernelproc.errno import Errno
from polynix.kernelproc.uapi import auxvec
from polynix.kernelproc.uapi.auxvec import AT_MINSIGSTKSZ
from polynix.kernelproc.uapi.elf import EM_X86_64, ET_DYN, ET_EXEC, PF_R, PF_W, PF_X, PT_GNU_STACK, PT_INTERP, PT_LOAD
from polynix.kernelproc.uapi.errno import E2BIG, EINVAL, ELIBBAD, ENOEXEC, ENOMEM
from polynix.kernelproc.uapi.limits import MAX_ARG_STRLEN
from polynix.kernelproc.vfs.buffers import BytesOutputBuffer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from polynix.kernelproc.task.credentials import Credentials
    from polynix.kernelproc.task.task import Task
    from polynix.kernelproc.vfs.file_object import FileObject

EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
PHDR = struct.Struct("<IIQQQQQQ")
MAX_PHDRS = 65536 // PHDR.size
MAX_ARG_PAGES_BYTES = 6 << 20

_getauxval = ctypes.CDLL(None).getauxval
_getauxval.restype = ctypes.c_ulong
_getauxval.argtypes = [ctypes.c_ulong]


class Segment(NamedTuple):
    """One PT_LOAD."""

    flags: int
    offset: int
    vaddr: int
    filesz: int
    memsz: int

    @property
    def prot(self) -> int:
        return (PROT_READ if self.flags & PF_R else 0) | (PROT_WRITE if self.flags & PF_W else 0) | (PROT_EXEC if self.flags & PF_X else 0)


class ElfImage(NamedTuple):
    """What the headers of a program say."""

    file: FileObject
    kind: int
    entry: int
    phoff: int
    phnum: int
    segments: list[Segment]
    interpreter: bytes | None
    phdr_vaddr: int
    executable_stack: bool


class LoadedProgram(NamedTuple):
    """Where the program starts and how its auxiliary vector describes it."""

    entry: int
    stack_pointer: int


def read_file(file: FileObject, offset: int, length: int) -> bytes:
    """Up to ``length`` bytes of an open file (kernel_read)."""
    out = BytesOutputBuffer(length)
    while out.remaining:
        done = file.ops.read(file, offset + len(out.data), out)
        if not isinstance(done, int):
            done.close()  # type: ignore[attr-defined]
            return read_blocking(file, offset, length)
        if done < 0:
            raise Errno(-done)
        if done == 0:
            break
    return bytes(out.data)


def read_blocking(file: FileObject, offset: int, length: int) -> bytes:
    """The same for a file whose pages are not in the host's cache: the few pages of a program's headers are waited for."""
    node = file.node
    memory, base = file.ops.get_memory(file, None, length, offset, PROT_READ, False)  # type: ignore[arg-type]
    return memory.read(base + offset, max(0, min(length, node.size - offset)))


def parse_elf(file: FileObject, head: bytes, bad: int = ENOEXEC) -> ElfImage:
    """Read and check the headers. Errors: ``bad`` for anything that is no loadable x86-64 program."""
    if len(head) < EHDR.size:
        raise Errno(bad)
    ident, kind, machine, _version, entry, phoff, _shoff, _flags, _ehsize, phentsize, phnum, *_rest = EHDR.unpack_from(head)
    if ident[:4] != b"\x7fELF" or ident[4] != 2 or ident[5] != 1 or machine != EM_X86_64 or kind not in (ET_EXEC, ET_DYN):
        raise Errno(bad)
    if phentsize != PHDR.size or not 0 < phnum <= MAX_PHDRS or phoff > 1 << 62:
        raise Errno(bad)
    table = head[phoff : phoff + phnum * PHDR.size]
    if len(table) < phnum * PHDR.size:
        table = read_file(file, phoff, phnum * PHDR.size)
        if len(table) < phnum * PHDR.size:
            raise Errno(bad)
    segments: list[Segment] = []
    interpreter: bytes | None = None
    phdr_vaddr = 0
    executable_stack = False
    for index in range(phnum):
        p_type, p_flags, p_offset, p_vaddr, _paddr, p_filesz, p_memsz, _align = PHDR.unpack_from(table, index * PHDR.size)
        if p_type == PT_LOAD:
            if p_memsz == 0:
                continue
            if p_filesz > p_memsz or p_memsz > TASK_SIZE or p_vaddr > TASK_SIZE or (p_vaddr - p_offset) & 4095 or p_offset + p_filesz > 1 << 62:
                raise Errno(bad)
            segments.append(Segment(p_flags, p_offset, p_vaddr, p_filesz, p_memsz))
            if p_offset <= phoff < p_offset + p_filesz and not phdr_vaddr:
                phdr_vaddr = phoff - p_offset + p_vaddr
        elif p_type == PT_INTERP and interpreter is None:
            if not 2 <= p_filesz <= 4096:
                raise Errno(bad)
            name = read_file(file, p_offset, p_filesz)
            if len(name) != p_filesz or name[-1:] != b"\0":
                raise Errno(bad)
            interpreter = name.split(b"\0", 1)[0]
        elif p_type == PT_GNU_STACK:
            executable_stack = bool(p_flags & PF_X)
    if not segments:
        raise Errno(bad)
    position = -1
    for segment in segments:
        if page_down(segment.vaddr) < position:
            raise Errno(bad)  # overlapping or unordered
        position = page_down(segment.vaddr + segment.memsz - 1)
    return ElfImage(file, kind, entry, phoff, phnum, segments, interpreter, phdr_vaddr, executable_stack)


def map_image(task: Task, mm: MemoryManager, image: ElfImage, base: int | None) -> tuple[int, int]:
    """Map all segments; a position-independent image at ``base`` or, with None, at the top of the free space. Returns (load bias, end of its bss)."""
    first = page_down(image.segments[0].vaddr)
    last = image.segments[-1]
    span = page_up(last.vaddr + last.memsz) - first
    bias = 0
    if image.kind == ET_DYN:
        bias = (base if base is not None else mm.find_free(span)) - first
    if first + bias < MMAP_MIN_ADDRESS or first + bias + span > TASK_SIZE:
        raise Errno(ENOMEM)
    end = 0
    for segment in image.segments:
        end = max(end, _map_segment(task, mm, image, segment, bias))
    return bias, end


def _map_segment(task: Task, mm: MemoryManager, image: ElfImage, segment: Segment, bias: int) -> int:
    start = page_down(segment.vaddr + bias)
    file_end = segment.vaddr + bias + segment.filesz
    memory_end = segment.vaddr + bias + segment.memsz
    file_offset = page_down(segment.offset)
    mapped_end = page_up(file_end)
    prot = segment.prot
    if segment.filesz:
        obj, object_base = image.file.ops.get_memory(image.file, task, mapped_end - start, file_offset, prot, False)
        needs_zeroing = segment.memsz > segment.filesz and file_end & 4095
        # A partial bss page must be ours to clear, whatever the protection says.
        vma = mm.map_private_file(
            start, mapped_end - start, prot | (PROT_WRITE if needs_zeroing else 0), obj, object_base + file_offset, file=image.file, file_offset=file_offset
        )
        if needs_zeroing:
            mm.region.write(file_end, bytes(mapped_end - file_end))
            if not prot & PROT_WRITE:
                mm.protect(start, mapped_end, prot)
        del vma
    else:
        mapped_end = start
    if page_up(memory_end) > mapped_end:
        mm.map_anonymous(mapped_end, page_up(memory_end) - mapped_end, prot)
    if prot & PROT_EXEC:
        mm.start_code = min(mm.start_code or start, start)
        mm.end_code = max(mm.end_code, file_end)
    elif prot & PROT_WRITE:
        mm.start_data = segment.vaddr + bias
        mm.end_data = file_end
    return memory_end


def load_elf(
    task: Task,
    mm: MemoryManager,
    image: ElfImage,
    interpreter: ElfImage | None,
    argv: Sequence[bytes],
    envp: Sequence[bytes],
    credentials: Credentials,
    file_name: bytes,
    secure: bool,
    stack_limit: int,
) -> LoadedProgram:
    """Build the whole address space of a program in the fresh ``mm``."""
    mm.stack_limit = max(min(stack_limit, 1 << 40), 128 << 10)
    mm.set_mmap_base(STACK_TOP - page_up(max(min(mm.stack_limit, 1 << 42), 128 << 20)) - (8 << 20))
    bias, end = map_image(task, mm, image, PIE_BASE)
    entry = image.entry + bias
    interpreter_base = 0
    if interpreter is not None:
        interpreter_base, _ = map_image(task, mm, interpreter, None)
        start = interpreter.entry + interpreter_base
    else:
        start = entry
    mm.brk_start = mm.brk = page_up(end)
    stack_prot = PROT_READ | PROT_WRITE | (PROT_EXEC if image.executable_stack else 0)
    sp = build_stack(mm, argv, envp, credentials, file_name, secure, stack_prot, entry, interpreter_base, image, bias)
    return LoadedProgram(start, sp)


def build_stack(
    mm: MemoryManager,
    argv: Sequence[bytes],
    envp: Sequence[bytes],
    credentials: Credentials,
    file_name: bytes,
    secure: bool,
    prot: int,
    entry: int,
    interpreter_base: int,
    image: ElfImage,
    bias: int,
) -> int:
    """Strings, auxiliary vector, environment and argument pointers, argc. Returns the stack pointer. Errors: E2BIG."""
    top = STACK_TOP - 4096
    strings = bytearray()
    total = sum(len(item) + 1 for item in argv) + sum(len(item) + 1 for item in envp) + len(file_name) + 1
    limit = max(min(mm.stack_limit // 4, MAX_ARG_PAGES_BYTES), 128 << 10)
    if total + (len(argv) + len(envp)) * 8 > limit or any(len(item) >= MAX_ARG_STRLEN for group in (argv, envp) for item in group):
        raise Errno(E2BIG)
    platform, random = b"x86_64\0", os.urandom(16)
    base = top - 8 - total  # Linux leaves a null word at the very end
    arguments = []
    for item in argv:
        arguments.append(base + len(strings))
        strings += item + b"\0"
    mm.arg_start, mm.arg_end = base, base + len(strings)
    environment = []
    for item in envp:
        environment.append(base + len(strings))
        strings += item + b"\0"
    mm.env_start, mm.env_end = mm.arg_end, base + len(strings)
    name_address = base + len(strings)
    strings += file_name + b"\0"
    platform_address = (base - len(platform)) & ~15
    random_address = platform_address - 16
    auxiliary = [
        (auxvec.AT_SYSINFO_EHDR, GUEST_VDSO),
        (auxvec.AT_HWCAP, _getauxval(auxvec.AT_HWCAP)),
        (auxvec.AT_PAGESZ, 4096),
        (auxvec.AT_CLKTCK, 100),
        (auxvec.AT_PHDR, image.phdr_vaddr + bias if image.phdr_vaddr else 0),
        (auxvec.AT_PHENT, PHDR.size),
        (auxvec.AT_PHNUM, image.phnum),
        (auxvec.AT_BASE, interpreter_base),
        (auxvec.AT_FLAGS, 0),
        (auxvec.AT_ENTRY, entry),
        (auxvec.AT_UID, credentials.uid),
        (auxvec.AT_EUID, credentials.euid),
        (auxvec.AT_GID, credentials.gid),
        (auxvec.AT_EGID, credentials.egid),
        (auxvec.AT_SECURE, int(secure)),
        (auxvec.AT_RANDOM, random_address),
        (auxvec.AT_HWCAP2, _getauxval(auxvec.AT_HWCAP2)),
        (auxvec.AT_EXECFN, name_address),
        (auxvec.AT_PLATFORM, platform_address),
        (AT_MINSIGSTKSZ, _getauxval(AT_MINSIGSTKSZ)),
        (auxvec.AT_NULL, 0),
    ]
    words = [len(argv), *arguments, 0, *environment, 0]
    for key, value in auxiliary:
        words += (key, value)
    sp = (random_address - 8 * len(words)) & ~15
    mm.auxv = struct.pack(f"<{2 * len(auxiliary)}Q", *words[-2 * len(auxiliary) :])
    mm.start_stack = sp
    initial = page_up(top + 4096 - sp) + (132 << 10)
    mm.map_anonymous(STACK_TOP - initial, initial, prot, name=b"[stack]", grows_down=True)
    mm.region.write(sp, struct.pack(f"<{len(words)}Q", *words))
    mm.region.write(random_address, random + platform)
    mm.region.write(base, strings)
    if any(value < 0 for value in words):
        raise Errno(EINVAL)
    return sp


def parse_interpreter(file: FileObject, head: bytes) -> ElfImage:
    """The program interpreter (ld.so). Errors: ELIBBAD."""
    return parse_elf(file, head, ELIBBAD)
