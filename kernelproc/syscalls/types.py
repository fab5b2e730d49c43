"""Argument types of system calls: each name says how the raw 64-bit register is read, as the Linux prototype's C type does.

The decorator in ``table`` reads these annotations once, at import, and compiles a decoder.
"""

from __future__ import annotations

from typing import Annotated

from polynix.addrspace._usercopy import UserAddress

S32, U32, S64, U64 = "s32", "u32", "s64", "u64"

Int = Annotated[int, S32]  # int
UInt = Annotated[int, U32]  # unsigned int
Long = Annotated[int, S64]  # long
ULong = Annotated[int, U64]  # unsigned long
FdNumber = Annotated[int, S32]  # int fd
Size = Annotated[int, U64]  # size_t
Offset = Annotated[int, S64]  # loff_t
Flags = Annotated[int, U32]  # int or unsigned flags: bits
Mode = Annotated[int, U32]  # umode_t (the callee masks with 07777)
Pid = Annotated[int, S32]  # pid_t
Uid = Annotated[int, U32]  # uid_t, gid_t


def as_int(register: int) -> int:
    """What a C ``int`` reads in a register that was passed as something else."""
    return ((register & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000


class _NoReturn:
    """What a call returns when its task does not go back by the usual way (exit, a replaced thread)."""

    def __repr__(self) -> str:
        return "NO_RETURN"


NO_RETURN = _NoReturn()

__all__ = ["NO_RETURN", "FdNumber", "Flags", "Int", "Long", "Mode", "Offset", "Pid", "Size", "UInt", "ULong", "Uid", "UserAddress"]
