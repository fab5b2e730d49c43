"""Unpacking compressed blocks of file system images: the pager does it for file content, the kernel for metadata."""

from __future__ import annotations

from collections.abc import Callable

from polynix.ipc.protocols.pager import PagerCompression


class UnsupportedCompression(Exception):
    """Nothing here unpacks it; the text names it."""


def unpacker(compression: int) -> Callable[[bytes, int], bytes]:
    """``unpack(data, limit)`` for one kind of compression; a block that grows beyond ``limit`` bytes is damaged.
    Errors: UnsupportedCompression.
    """
    if compression == PagerCompression.GZIP:
        return _gunzip
    if compression in (PagerCompression.XZ, PagerCompression.LZMA):
        return _unxz
    if compression == PagerCompression.ZSTD:
        try:
            import zstandard
        except ImportError as error:
            raise UnsupportedCompression("zstd (the package zstandard is not installed)") from error
        return lambda data, limit: _bounded(zstandard.ZstdDecompressor().decompress(data, max_output_size=limit), limit)
    if compression == PagerCompression.LZ4:
        try:
            from lz4.block import LZ4BlockError, decompress
        except ImportError as error:
            raise UnsupportedCompression("lz4 (the package lz4 is not installed)") from error

        def unlz4(data: bytes, limit: int) -> bytes:
            try:
                return bytes(decompress(data, uncompressed_size=limit))
            except LZ4BlockError as error:
                raise ValueError(str(error)) from error

        return unlz4
    name = PagerCompression(compression).name.lower() if compression in set(PagerCompression) else str(compression)
    raise UnsupportedCompression(name)


def _gunzip(data: bytes, limit: int) -> bytes:
    import zlib

    try:
        return _bounded(zlib.decompressobj().decompress(data, limit + 1), limit)
    except zlib.error as error:
        raise ValueError(str(error)) from error


def _unxz(data: bytes, limit: int) -> bytes:
    import lzma

    try:
        return _bounded(lzma.LZMADecompressor().decompress(data, limit + 1), limit)
    except lzma.LZMAError as error:
        raise ValueError(str(error)) from error


def _bounded(data: bytes, limit: int) -> bytes:
    if len(data) > limit:
        raise ValueError("a block that unpacks to more than a block")
    return data
