"""Names of functions by their place in ELF files of the host."""

from __future__ import annotations

import bisect
from functools import lru_cache

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection


@lru_cache(maxsize=256)
def functions_of(path: str) -> tuple[list[int], list[tuple[int, str]]]:
    """(file offsets, (end, name)) of a file's functions, in order; empty for what is no ELF file, or can't be read."""
    found: dict[int, tuple[int, str]] = {}
    try:
        with open(path, "rb") as file:
            elf = ELFFile(file)
            segments = [(each["p_vaddr"], each["p_filesz"], each["p_offset"]) for each in elf.iter_segments("PT_LOAD")]
            for section in elf.iter_sections():
                if not isinstance(section, SymbolTableSection):
                    continue
                for symbol in section.iter_symbols():
                    if symbol["st_info"]["type"] not in ("STT_FUNC", "STT_LOOS") or symbol["st_shndx"] == "SHN_UNDEF":
                        continue
                    address = symbol["st_value"]
                    for start, size, offset in segments:
                        if start <= address < start + size:
                            place = address - start + offset
                            found[place] = (place + max(symbol["st_size"], 1), symbol.name)
    except (OSError, ELFError, ValueError, KeyError):
        return [], []
    places = sorted(found)
    return places, [found[place] for place in places]


def symbol_at(path: str, offset: int) -> str:
    """``name (file)``; ``file+0x123`` where no symbol covers the place."""
    places, functions = functions_of(path)
    index = bisect.bisect_right(places, offset) - 1
    name = path.rpartition("/")[2]
    if index >= 0 and offset < functions[index][0]:
        return f"{functions[index][1]} ({name})"
    return f"{name}+{offset:#x}"
