"""The kernel's side of a pager: files of an image as paged memory, registered when first opened and forgotten some time after their last use."""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Any

from polynix.addrspace.paged_memory import PagedMemory
from polynix.ipc.bindings import MethodError
from polynix.ipc.fidl import FidlError
from polynix.ipc.objects import Channel, Vmo, ZxStatus
from polynix.ipc.protocols.manager import Manager, ManagerCreatePagerRequest
from polynix.ipc.protocols.pager import (
    CHUNK_SIZE,
    MAX_EXTENTS,
    Pager,
    PagerAddExtentsRequest,
    PagerPageInRequest,
    PagerRegisterFileRequest,
)
from polynix.kernelproc.fidl_loop import EngineClient
from polynix.kernelproc.fs.image_cache import ImageCache
from polynix.kernelproc.incoming_directory import IncomingDirectory
from polynix.kernelproc.uapi.errno import EIO

if TYPE_CHECKING:
    from polynix.ipc.protocols.pager import PagerRegisterFileResponse
    from polynix.kernelproc.fs.image_format import ImageInode, ImageReader
    from polynix.kernelproc.kernel import Kernel


def create_pager(kernel: Kernel, backing: Vmo, block_size: int) -> Channel:
    """The client's end of a Pager that the runner serves; ``backing``, which holds the image, is the runner's from now on."""
    client_end, server_end = Channel.create()
    manager = kernel.expando.get(IncomingDirectory).connect(Manager)
    create = Manager.__fidl_protocol__.by_attribute["create_pager"]
    try:
        manager.write(*create.encode_request(0, ManagerCreatePagerRequest(backing_vmo=backing, block_size=block_size, pager=server_end)))
    except ZxStatus:
        server_end.close()  # what is read of the image says that the pager is gone
    manager.close()
    return client_end


class ImagePages:
    """All files of one image."""

    def __init__(self, kernel: Kernel, reader: ImageReader, channel: Channel) -> None:
        self.kernel = kernel
        self.cache = kernel.expando.get(ImageCache)
        self.reader = reader
        self.client = EngineClient(kernel.engine, Pager, channel)
        self._wait = lambda: kernel.wait_for_message(channel)
        self._memories: weakref.WeakValueDictionary[int, PagedMemory] = weakref.WeakValueDictionary()

    def memory_of(self, inode: ImageInode) -> PagedMemory:
        """The content of a regular file. Errors: OSError EIO; ValueError and the like of a damaged image."""
        memory = self._memories.get(inode.number)
        if memory is None:
            inline = self.reader.inline(inode)
            memory = self._memories[inode.number] = self._register(inode) if inline is None else self._inline(inode, inline)
        self.cache.used(memory)
        return memory

    def _register(self, inode: ImageInode) -> PagedMemory:
        reader = self.reader
        number, size = inode.number, inode.size
        compression = reader.compression
        field = "extents" if compression is None else "blocks"
        places = list(reader.extents(inode) if compression is None else reader.compressed_blocks(inode))
        parts: list[dict[str, Any]] = [{field: places[start : start + MAX_EXTENTS]} for start in range(0, max(1, len(places)), MAX_EXTENTS)]
        name = f"{reader.name.decode()}!{number}"
        request = PagerRegisterFileRequest(name=name, inode_num=number, size=size, compression=compression, **parts[0])
        reply: PagerRegisterFileResponse = self._call(Pager.register_file, request)
        vmo, presence = reply.vmo, reply.presence
        if vmo is None or presence is None:
            raise OSError(EIO, "the pager gave no memory")
        try:
            for part in parts[1:]:
                self._call(Pager.add_extents, PagerAddExtentsRequest(inode_num=number, **part))
            return self._memory(number, size, vmo, presence)
        except OSError:
            vmo.close()
            raise
        finally:
            presence.close()

    def _inline(self, inode: ImageInode, content: bytes) -> PagedMemory:
        """Memory that is all there, and of which the pager knows nothing. Errors: OSError."""
        try:
            vmo = Vmo.create(max(1, len(content)))
            with Vmo.create(max(1, -(-len(content) // CHUNK_SIZE))) as presence:
                vmo.write(content)
                presence.write(b"\1" * presence.get_size())
                return self._memory(inode.number, inode.size, vmo, presence)
        except ZxStatus as error:
            raise OSError(EIO, str(error)) from error

    def _memory(self, number: int, size: int, vmo: Vmo, presence: Vmo) -> PagedMemory:
        def request(start: int, end: int) -> PagerPageInRequest:
            return PagerPageInRequest(inode_num=number, offset=start, length=end - start)

        def came_in(start: int, end: int) -> None:
            self.cache.came_in(self.kernel, (-(-end // CHUNK_SIZE) - start // CHUNK_SIZE) * CHUNK_SIZE)

        def page_in(start: int, end: int) -> None:
            self._call(Pager.page_in, request(start, end))
            came_in(start, end)

        async def page_in_later(start: int, end: int) -> None:
            try:
                await self.client.call(Pager.page_in, request(start, end), interruptible=False)
            except (MethodError, ZxStatus, FidlError) as error:
                raise OSError(EIO, str(error)) from error
            came_in(start, end)

        # What stubs map must not let them write: it is reopened for reading only.
        fd = os.open(f"/proc/self/fd/{vmo.fileno()}", os.O_RDONLY | os.O_CLOEXEC)
        memory = PagedMemory(fd, presence.fileno(), size, CHUNK_SIZE, page_in, page_in_later)
        weakref.finalize(memory, vmo.close)  # the pager forgets the file then
        return memory

    def _call(self, method: Any, request: Any) -> Any:
        """Call the pager, and let nothing else run until it answers. Errors: OSError EIO."""
        try:
            return self.client.call_now(method, request, self._wait)
        except (MethodError, ZxStatus, FidlError) as error:
            raise OSError(EIO, str(error)) from error

    def close(self) -> None:
        """Give up all memory that nobody maps, and the pager."""
        self.cache.forget(list(self._memories.values()))
        self.client.close()
