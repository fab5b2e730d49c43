"""The host's vdso: its functions, which the guest's vdso (``restricted/vdso.c``) calls at the address where every stub has it.

``man 7 vdso``. The image is read through /proc/self/mem, so that a strange one can only be misread, not crash us.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from polynix.addrspace import _restricted as restricted

if TYPE_CHECKING:
    from polynix.addrspace._restricted import Monitor

AT_SYSINFO_EHDR = 33
PT_LOAD, PT_DYNAMIC = 1, 2
DT_HASH, DT_STRTAB, DT_SYMTAB = 4, 5, 6
IMAGE_LIMIT = 1 << 16
FUNCTIONS = {
    b"__vdso_clock_gettime": restricted.HOST_CLOCK_GETTIME,
    b"__vdso_gettimeofday": restricted.HOST_GETTIMEOFDAY,
    b"__vdso_time": restricted.HOST_TIME,
    b"__vdso_clock_getres": restricted.HOST_CLOCK_GETRES,
    b"__vdso_getcpu": restricted.HOST_GETCPU,
}


def host_functions(image: bytes) -> dict[bytes, int]:
    """Name -> offset from the ELF header of what a vdso defines. Errors: struct.error, IndexError or ValueError for what is no vdso."""
    program_headers, count = struct.unpack_from("<Q", image, 32)[0], struct.unpack_from("<H", image, 56)[0]
    segments = [struct.unpack_from("<IIQQQQQQ", image, program_headers + 56 * index) for index in range(count)]
    base = next((segment[3] - segment[2] for segment in segments if segment[0] == PT_LOAD), 0)
    dynamic = next(segment for segment in segments if segment[0] == PT_DYNAMIC)
    tags = dict(struct.iter_unpack("<QQ", image[dynamic[2] : dynamic[2] + dynamic[5] // 16 * 16]))
    strings, symbols = tags[DT_STRTAB] - base, tags[DT_SYMTAB] - base
    if DT_HASH in tags:
        total = struct.unpack_from("<I", image, tags[DT_HASH] - base + 4)[0]
    else:  # in practice the table of names follows that of symbols
        total = (strings - symbols) // 24
    functions = {}
    for index in range(total):
        name, _, _, section, value, _ = struct.unpack_from("<IBBHQQ", image, symbols + 24 * index)
        if section:
            functions[image[strings + name : image.index(b"\0", strings + name)]] = value - base
    return functions


def publish_host_vdso(monitor: Monitor) -> None:
    """Tell the guest's vdso where the host's functions are. Without them its calls are system calls."""
    if not monitor.vdso_address:
        return
    try:
        functions = host_functions(_own_image())
    except (OSError, struct.error, KeyError, IndexError, ValueError, StopIteration):
        return
    for name, word in FUNCTIONS.items():
        if name in functions:
            monitor.publish(word, monitor.vdso_address + functions[name])


def _own_image() -> bytes:
    with open("/proc/self/auxv", "rb") as file:
        auxiliary = dict(struct.iter_unpack("<QQ", file.read()))
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
        ends = [int(line.split()[0].split("-")[1], 16) for line in file if line.endswith("[vdso]\n")]
    start = auxiliary[AT_SYSINFO_EHDR]
    with open("/proc/self/mem", "rb") as memory:
        memory.seek(start)
        return memory.read(min(max(ends) - start, IMAGE_LIMIT))
