"""Pager: supplies the pages of files whose blocks lie in one backing memory, the image of a file system.

::

    container --RegisterFile--> pager: a Vmo that is all holes, and its presence bytes
    container --PageIn-------->  ... reads the extents, fills the chunks, sets their presence bytes

One thread with a loop of its own serves all file systems, so that a slow disk holds up nobody else in the runner (:class:`Pager`).
A present chunk costs nothing: whoever maps the Vmo sees in shared memory that it need not ask. Behaviour: Starnix's
``kernel_manager/pager.rs``; what Zircon's kernel does there, telling the pager through a port which pages are wanted, is a method here.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import threading
from dataclasses import dataclass, field

from polynix.ipc.async_server import Server
from polynix.ipc.bindings import MethodError
from polynix.ipc.compression import UnsupportedCompression
from polynix.ipc.objects import Channel, Signals, Status, Vmo, ZxStatus
from polynix.ipc.protocols import pager as protocol
from polynix.ipc.protocols.manager import ManagerCreatePagerRequest
from polynix.ipc.protocols.pager import CHUNK_SIZE
from polynix.runner.async_channel import ChannelClosed, Receiver, Sender, unbounded
from polynix.runner.blocks import CompressedBlocks, Extents, FileBlocks
from polynix.runner.trace import trace_duration

log = logging.getLogger(__name__)

MAX_BLOCK_SIZE = 1 << 20
PAGE_SIZE = 4096
PAGER_THREAD_NAME = "pager"
_CATEGORY = "starnix:pager"


@dataclass
class PagedFile:
    """One inode: its memory, which chunks of it are filled, and where its bytes are."""

    vmo: Vmo
    presence: Vmo
    size: int
    blocks: FileBlocks

    def close(self) -> None:
        self.vmo.close()
        self.presence.close()


@dataclass
class PagedFileSystem:
    """What one CreatePager made; ``id`` tells it from the others."""

    id: int
    backing: Vmo
    block_size: int
    files: dict[int, PagedFile] = field(default_factory=dict)
    """By inode number; a file is forgotten when the last child of its memory goes."""

    def close(self) -> None:
        for file in self.files.values():
            file.close()
        self.files.clear()
        self.backing.close()


class Pager:
    """The pager's thread. :meth:`create` may be called from any thread."""

    def __init__(self) -> None:
        self.file_systems: dict[int, PagedFileSystem] = {}
        self._ids = itertools.count(1)
        self._requests: Sender[ManagerCreatePagerRequest]
        self._requests, receiver = unbounded()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(receiver)), name=PAGER_THREAD_NAME, daemon=True)
        self._thread.start()

    def create(self, request: ManagerCreatePagerRequest) -> None:
        """Manager.CreatePager: serve a Pager until its client closes. The request's handles are the pager's from now on."""
        try:
            self._requests.send(request)
        except ChannelClosed:
            _close_handles(request)

    def close(self) -> None:
        """End the thread; what it serves closes."""
        self._requests.close()
        self._thread.join()

    async def _serve(self, requests: Receiver[ManagerCreatePagerRequest]) -> None:
        tasks: set[asyncio.Task[None]] = set()
        with contextlib.suppress(ChannelClosed):
            while True:
                task = asyncio.create_task(run_pager(await requests.recv(), self))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def next_id(self) -> int:
        return next(self._ids)


async def run_pager(request: ManagerCreatePagerRequest, pager: Pager) -> None:
    """Serve one file system until its client closes. A request that lacks a member, or has an impossible block size, closes the client's channel."""
    backing, block_size, server_end = request.backing_vmo, request.block_size, request.pager
    if backing is None or block_size is None or server_end is None:
        log.warning("CreatePager lacks a member")
        _close_handles(request)
        return
    if not 0 < block_size <= MAX_BLOCK_SIZE or block_size & (block_size - 1):
        log.warning("CreatePager with a block size of %d", block_size)
        _close_handles(request)
        return
    file_system = PagedFileSystem(pager.next_id(), backing, block_size)
    pager.file_systems[file_system.id] = file_system
    try:
        await Server(protocol.Pager, PagerServer(file_system, server_end), server_end).serve()
    finally:
        del pager.file_systems[file_system.id]
        file_system.close()


def _close_handles(request: ManagerCreatePagerRequest) -> None:
    for handle in (request.backing_vmo, request.pager):
        if handle is not None:
            handle.close()


class PagerServer(protocol.Pager):
    """Serves one file system; runs on the pager's thread."""

    def __init__(self, file_system: PagedFileSystem, channel: Channel) -> None:
        self.file_system = file_system
        self.channel = channel

    async def register_file(self, request: protocol.PagerRegisterFileRequest) -> protocol.PagerRegisterFileResponse:
        inode, size = request.inode_num, request.size
        if request.name is None or inode is None or size is None or (request.extents is None and request.blocks is None):
            log.warning("RegisterFile lacks a member")
            self.channel.close()
            raise MethodError(Status.INVALID_ARGS)
        file = self.file_system.files.get(inode)
        try:
            if file is None:
                file = self.file_system.files[inode] = self._new_file(request, size)
            vmo = file.vmo.create_child()
            if file.vmo.num_children == 1:
                self._watch(inode, file)
            return protocol.PagerRegisterFileResponse(vmo=vmo, presence=file.presence.duplicate())
        except ZxStatus as error:
            raise MethodError(error.status) from error

    def _new_file(self, request: protocol.PagerRegisterFileRequest, size: int) -> PagedFile:
        file_system = self.file_system
        blocks: FileBlocks
        try:
            if request.compression is None:
                blocks = Extents(file_system.backing, file_system.block_size)
                blocks.add(request.extents or [])
            else:
                blocks = CompressedBlocks(file_system.backing, file_system.block_size, request.compression, size)
                blocks.add(request.blocks or [])
        except UnsupportedCompression as error:
            raise ZxStatus(Status.NOT_SUPPORTED, str(error)) from error
        except ValueError as error:
            raise ZxStatus(Status.INVALID_ARGS, str(error)) from error
        vmo = Vmo.create(size)
        try:
            return PagedFile(vmo, Vmo.create(max(1, -(-size // CHUNK_SIZE))), size, blocks)
        except ZxStatus:
            vmo.close()
            raise

    def _watch(self, inode: int, file: PagedFile) -> None:
        """Forget the file once nobody holds its memory."""
        loop = asyncio.get_running_loop()

        def notice(status: Status, _pending: Signals) -> None:
            if status == Status.OK:
                with contextlib.suppress(RuntimeError):  # the loop is closed, and the file with it
                    loop.call_soon_threadsafe(self._zero_children, inode, file)

        file.vmo.wait_async(Signals.VMO_ZERO_CHILDREN, notice)

    def _zero_children(self, inode: int, file: PagedFile) -> None:
        # It may have been registered again meanwhile; that registration watches for itself.
        if self.file_system.files.get(inode) is file and file.vmo.num_children == 0:
            del self.file_system.files[inode]
            file.close()

    async def add_extents(self, request: protocol.PagerAddExtentsRequest) -> None:
        file = self._file(request.inode_num)
        try:
            if isinstance(file.blocks, Extents):
                file.blocks.add(request.extents or [])
            elif isinstance(file.blocks, CompressedBlocks):
                file.blocks.add(request.blocks or [])
        except ValueError as error:
            raise MethodError(Status.INVALID_ARGS) from error

    async def page_in(self, request: protocol.PagerPageInRequest) -> None:
        file = self._file(request.inode_num)
        if request.offset is None or request.length is None:
            raise MethodError(Status.INVALID_ARGS)
        start = request.offset - request.offset % CHUNK_SIZE
        end = min(-(-(request.offset + request.length) // CHUNK_SIZE) * CHUNK_SIZE, file.vmo.get_size())
        with trace_duration(_CATEGORY, "page_in", str(request.inode_num)):
            while start < end:
                self._supply(file, start, min(start + CHUNK_SIZE, end))
                start += CHUNK_SIZE
                await asyncio.sleep(0)  # others' small page-ins need not wait for all of a big one

    def _supply(self, file: PagedFile, start: int, end: int) -> None:
        """Fill one chunk. Whatever goes wrong is an I/O error to those who wait for it; nothing is marked as present then, and they may try again."""
        chunk = start // CHUNK_SIZE
        if file.presence.read(1, chunk) == b"\1":
            return
        try:
            for offset, data in file.blocks.read(start, min(end, file.size)):
                file.vmo.write(data, offset)
            file.presence.write(b"\1", chunk)
        except Exception as error:
            log.warning("page-in of bytes %d to %d failed: %s", start, end, error)
            raise MethodError(Status.IO) from error

    def _file(self, inode: int | None) -> PagedFile:
        file = self.file_system.files.get(-1 if inode is None else inode)
        if file is None:
            raise MethodError(Status.NOT_FOUND)
        return file
