"""The pager: Starnix's test, and what damaged images and odd requests lead to. Backing memory is a real file, as in a runner."""

from __future__ import annotations

import lzma
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator

import pytest
import zstandard
from deadline import soon
from hypothesis import given, settings
from hypothesis import strategies as st
from polynix.ipc.bindings import MethodError
from polynix.ipc.client import BlockingClient
from polynix.ipc.objects import Channel, Status, Vmo, ZxStatus
from polynix.ipc.protocols.manager import ManagerCreatePagerRequest
from polynix.ipc.protocols.pager import (
    CHUNK_SIZE,
    PagerAddExtentsRequest,
    PagerCompressedBlock,
    PagerCompression,
    PagerExtent,
    PagerPageInRequest,
    PagerRegisterFileRequest,
)
from polynix.ipc.protocols.pager import Pager as PagerProtocol
from polynix.runner.pager import PagedFileSystem, Pager
from waiting import wait_until

BLOCK = 1024


@pytest.fixture
def pager() -> Iterator[Pager]:
    pager = Pager()
    yield pager
    pager.close()
    assert not pager.file_systems


def backing_of(content: bytes, size: int | None = None) -> Vmo:
    fd, path = tempfile.mkstemp()
    os.unlink(path)
    os.write(fd, content)
    return Vmo.of_file(fd, len(content) if size is None else size)


class PagedImage:
    """A client of one file system, as the kernel process is one."""

    def __init__(self, pager: Pager, content: bytes, block_size: int = BLOCK, size: int | None = None) -> None:
        client_end, server_end = Channel.create()
        pager.create(ManagerCreatePagerRequest(backing_vmo=backing_of(content, size), block_size=block_size, pager=server_end))
        self.client = BlockingClient(PagerProtocol, client_end)
        self.pager = pager

    @property
    def file_system(self) -> PagedFileSystem:
        (file_system,) = self.pager.file_systems.values()
        return file_system

    def register(self, inode: int, size: int, extents: list[PagerExtent]) -> tuple[Vmo, Vmo]:
        request = PagerRegisterFileRequest(name="file", inode_num=inode, size=size, extents=extents)
        reply = self.client.call(PagerProtocol.register_file, request, deadline_ns=soon())
        assert reply.vmo is not None and reply.presence is not None
        return reply.vmo, reply.presence

    def page_in(self, inode: int, offset: int, length: int) -> None:
        self.client.call(PagerProtocol.page_in, PagerPageInRequest(inode_num=inode, offset=offset, length=length), deadline_ns=soon())

    def read(self, inode: int, size: int, extents: list[PagerExtent]) -> bytes:
        vmo, presence = self.register(inode, size, extents)
        with vmo, presence:
            self.page_in(inode, 0, size)
            return vmo.read(size)


def numbered(block: int) -> bytes:
    return bytes([block % 251]) * BLOCK


# -- Starnix's test ---------------------------------------------------------------------------------------------------------------


def test_pager(pager: Pager) -> None:
    image = PagedImage(pager, b"".join(numbered(block) for block in range(64)))
    assert image.read(1, 5000, []) == bytes(5000)
    assert image.read(2, 5000, [PagerExtent(0, 5, 10)]) == b"".join(numbered(10 + i) for i in range(5))[:5000]
    # Six blocks of hole, one of data, five of hole, one of data, four of hole and a hundred bytes.
    size = 17 * BLOCK + 100
    vmo, presence = image.register(3, size, [PagerExtent(6, 7, 20), PagerExtent(12, 13, 30), PagerExtent(17, 18, 40)])
    image.page_in(3, 9000, 1)
    expected = bytes(6 * BLOCK) + numbered(20) + bytes(5 * BLOCK) + numbered(30) + bytes(4 * BLOCK) + numbered(40)[:100]
    assert vmo.read(size - 9000, 9000) == expected[9000:]
    assert vmo.read(size) == expected
    assert vmo.read(vmo.get_size() - size, size) == bytes(vmo.get_size() - size)  # up to the page's end
    again, presence_again = image.register(3, 1, [])  # a child of the same memory; what else it says is ignored
    assert again.read(size) == expected and presence_again.read(1) == b"\1"
    vmo.close()
    presence.close()
    assert 3 in image.file_system.files
    again.close()
    presence_again.close()
    assert wait_until(lambda: not image.file_system.files)


# -- chunks ----------------------------------------------------------------------------------------------------------------------


def test_only_the_chunks_that_are_touched_are_read(pager: Pager) -> None:
    content = os.urandom(4 * CHUNK_SIZE)
    image = PagedImage(pager, content, 4096)
    vmo, presence = image.register(1, len(content), [PagerExtent(0, len(content) // 4096, 0)])
    image.page_in(1, CHUNK_SIZE + 5, 1)
    assert presence.read(4) == b"\0\1\0\0"
    assert vmo.read(CHUNK_SIZE, CHUNK_SIZE) == content[CHUNK_SIZE : 2 * CHUNK_SIZE]
    assert vmo.read(CHUNK_SIZE) == bytes(CHUNK_SIZE)
    image.page_in(1, 2 * CHUNK_SIZE - 1, 2)
    assert presence.read(4) == b"\0\1\1\0"
    image.page_in(1, 0, len(content) + 12345)
    assert presence.read(4) == b"\1\1\1\1" and vmo.read(len(content)) == content


def test_holes_take_no_memory(pager: Pager) -> None:
    image = PagedImage(pager, numbered(0))
    vmo, presence = image.register(1, 1 << 30, [PagerExtent((1 << 20) - 1, 1 << 20, 0)])
    image.page_in(1, 0, 1 << 29)
    assert presence.read(1) == b"\1" and os.fstat(vmo.fileno()).st_blocks == 0
    image.page_in(1, (1 << 30) - 1, 1)
    assert vmo.read(BLOCK, (1 << 30) - BLOCK) == numbered(0)


@settings(max_examples=60, deadline=None)
@given(runs=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 60), st.integers(0, 99)), max_size=12), tail=st.integers(1, BLOCK))
def test_any_layout_reads_like_its_model(runs: list[tuple[int, int, int]], tail: int) -> None:
    content = b"".join(numbered(block) for block in range(160))
    model, extents, position = bytearray(), [], 0
    for hole, length, physical in runs:
        model += bytes(hole * BLOCK) + content[physical * BLOCK : (physical + length) * BLOCK]
        extents.append(PagerExtent(position + hole, position + hole + length, physical))
        position += hole + length
    model = model[: max(0, len(model) - BLOCK + tail)]
    pager = Pager()
    try:
        assert PagedImage(pager, content).read(1, len(model), extents) == bytes(model)
    finally:
        pager.close()


def test_more_extents_than_a_message_holds(pager: Pager) -> None:
    image = PagedImage(pager, b"".join(numbered(block) for block in range(8)))
    extents = [PagerExtent(2 * i, 2 * i + 1, i % 8) for i in range(2500)]
    vmo, _presence = image.register(1, 5000 * BLOCK, extents[:1000])
    for rest in (extents[1000:2000], extents[2000:]):
        image.client.call(PagerProtocol.add_extents, PagerAddExtentsRequest(inode_num=1, extents=rest), deadline_ns=soon())
    image.page_in(1, 0, 5000 * BLOCK)
    assert vmo.read(2 * BLOCK, 2 * 2499 * BLOCK) == numbered(2499 % 8) + bytes(BLOCK)


# -- compressed blocks -----------------------------------------------------------------------------------------------------------


def pack_lz4(data: bytes) -> bytes:
    import lz4.block

    return bytes(lz4.block.compress(data, store_size=False))


@pytest.mark.parametrize(
    ("compression", "pack"),
    [
        (PagerCompression.GZIP, zlib.compress),
        (PagerCompression.XZ, lzma.compress),
        (PagerCompression.ZSTD, zstandard.ZstdCompressor().compress),
        (PagerCompression.LZ4, pack_lz4),
    ],
)
def test_compressed_blocks(pager: Pager, compression: PagerCompression, pack: Callable[[bytes], bytes]) -> None:
    size = CHUNK_SIZE
    plain = os.urandom(size)
    packed, tails = pack(b"ab" * (size // 2)), pack(b"-" * 100 + b"tail" * 25)
    image = PagedImage(pager, packed + plain + tails, size)
    blocks = [
        PagerCompressedBlock(0, len(packed), 1, 0),
        PagerCompressedBlock(len(packed), size, 0, 0),
        PagerCompressedBlock(0, 0, 0, 0),
        PagerCompressedBlock(len(packed) + size, len(tails), 1, 100),
    ]
    request = PagerRegisterFileRequest(name="f", inode_num=1, size=3 * size + 100, compression=compression, blocks=blocks)
    reply = image.client.call(PagerProtocol.register_file, request, deadline_ns=soon())
    assert reply.vmo is not None
    image.page_in(1, 0, 3 * size + 100)
    assert reply.vmo.read(3 * size + 100) == b"ab" * (size // 2) + plain + bytes(size) + b"tail" * 25


def test_a_block_that_unpacks_without_end(pager: Pager) -> None:
    bomb = zlib.compress(bytes(64 << 20))
    image = PagedImage(pager, bomb, CHUNK_SIZE)
    request = PagerRegisterFileRequest(
        name="f", inode_num=1, size=CHUNK_SIZE, compression=PagerCompression.GZIP, blocks=[PagerCompressedBlock(0, len(bomb), 1, 0)]
    )
    held = image.client.call(PagerProtocol.register_file, request, deadline_ns=soon())
    with pytest.raises(MethodError) as error:
        image.page_in(1, 0, 1)
    assert error.value.error == Status.IO and held.vmo is not None


def test_unknown_compression_is_refused(pager: Pager) -> None:
    image = PagedImage(pager, b"x", CHUNK_SIZE)
    request = PagerRegisterFileRequest(name="f", inode_num=1, size=1, compression=PagerCompression.LZO, blocks=[])
    with pytest.raises(MethodError) as error:
        image.client.call(PagerProtocol.register_file, request, deadline_ns=soon())
    assert error.value.error == Status.NOT_SUPPORTED


# -- what goes wrong -------------------------------------------------------------------------------------------------------------


def test_a_failed_page_in_is_an_io_error_and_may_be_tried_again(pager: Pager) -> None:
    image = PagedImage(pager, numbered(0) * 130, size=400 * BLOCK)  # the file behind the memory is shorter than it was
    vmo, presence = image.register(1, 300 * BLOCK, [PagerExtent(0, 300, 0)])
    image.page_in(1, 0, CHUNK_SIZE)
    for _ in range(2):
        with pytest.raises(MethodError) as error:
            image.page_in(1, CHUNK_SIZE, 1)
        assert error.value.error == Status.IO
    assert presence.read(3) == b"\1\0\0" and vmo.read(BLOCK) == numbered(0)
    os.pwrite(image.file_system.backing.fileno(), numbered(7) * 400, 0)
    image.page_in(1, CHUNK_SIZE, 1)
    assert vmo.read(BLOCK, CHUNK_SIZE) == numbered(7)


def test_extents_beyond_the_backing_memory(pager: Pager) -> None:
    image = PagedImage(pager, numbered(0))
    vmo, _presence = image.register(1, BLOCK, [PagerExtent(0, 1, 1 << 60)])
    with pytest.raises(MethodError):
        image.page_in(1, 0, 1)
    assert vmo.read(BLOCK) == bytes(BLOCK)


@pytest.mark.parametrize("extents", [[PagerExtent(5, 4, 0)], [PagerExtent(0, 2, 0), PagerExtent(1, 3, 0)], [PagerExtent(4, 5, 0), PagerExtent(0, 1, 0)]])
def test_impossible_extents(pager: Pager, extents: list[PagerExtent]) -> None:
    image = PagedImage(pager, numbered(0))
    with pytest.raises(MethodError) as error:
        image.register(1, BLOCK, extents)
    assert error.value.error == Status.INVALID_ARGS


def test_unknown_inode(pager: Pager) -> None:
    image = PagedImage(pager, numbered(0))
    with pytest.raises(MethodError) as error:
        image.page_in(77, 0, 1)
    assert error.value.error == Status.NOT_FOUND


def test_register_without_a_size_closes_the_connection(pager: Pager) -> None:
    image = PagedImage(pager, numbered(0))
    with pytest.raises(ZxStatus) as error:
        image.client.call(PagerProtocol.register_file, PagerRegisterFileRequest(name="f", inode_num=1, extents=[]), deadline_ns=soon())
    assert error.value.status == Status.PEER_CLOSED
    assert wait_until(lambda: not pager.file_systems)


@pytest.mark.parametrize("block_size", [0, 1000, 2 << 20])
def test_impossible_block_size(pager: Pager, block_size: int) -> None:
    image = PagedImage(pager, numbered(0), block_size)
    with pytest.raises(ZxStatus) as error:
        image.register(1, 1, [])
    assert error.value.status == Status.PEER_CLOSED


def test_create_without_a_block_size(pager: Pager) -> None:
    client_end, server_end = Channel.create()
    pager.create(ManagerCreatePagerRequest(backing_vmo=backing_of(b"x"), pager=server_end))
    with pytest.raises(ZxStatus) as error:
        client_end.read_blocking(soon())
    assert error.value.status == Status.PEER_CLOSED


def test_two_file_systems_and_the_end_of_one(pager: Pager) -> None:
    first, second = PagedImage(pager, numbered(1)), PagedImage(pager, numbered(2))
    assert first.read(1, BLOCK, [PagerExtent(0, 1, 0)]) == numbered(1)
    assert second.read(1, BLOCK, [PagerExtent(0, 1, 0)]) == numbered(2)
    first.client.close()
    assert wait_until(lambda: len(pager.file_systems) == 1)
    assert second.read(2, BLOCK, [PagerExtent(0, 1, 0)]) == numbered(2)


# -- the memory itself -----------------------------------------------------------------------------------------------------------


def test_children_of_a_vmo() -> None:
    vmo = Vmo.create(4096)
    first, second = vmo.create_child(), vmo.create_child()
    assert vmo.num_children == 2 and not vmo.pending
    first.write(b"shared")
    assert second.read(6) == b"shared"
    first.close()
    assert vmo.num_children == 1 and not vmo.pending
    duplicate = second.duplicate()
    second.close()
    assert vmo.num_children == 1
    duplicate.close()
    assert vmo.num_children == 0 and vmo.pending


def test_a_file_as_memory_is_read_only() -> None:
    vmo = backing_of(b"content")
    assert vmo.read(7) == b"content"
    with pytest.raises(ZxStatus) as error:
        vmo.write(b"x")
    assert error.value.status == Status.ACCESS_DENIED
    with pytest.raises(ZxStatus):
        vmo.set_size(1)
