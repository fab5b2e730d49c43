"""``with fails(ENOENT):`` the block must raise that Errno."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from polynix.kernelproc.errno import Errno, errno_name


@contextmanager
def fails(number: int) -> Iterator[None]:
    try:
        yield
    except Errno as error:
        assert error.errno == number, f"{error!r}, expected {errno_name(number)}"
    else:
        raise AssertionError(f"no error, expected {errno_name(number)}")
