"""The kernel's side of a pager: files of an image as paged memory, registered when first opened and forgotten some time after their last use."""

from __future__ import annotations

import os
import time
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

from polynix.addrspace.paged_memory import PagedMemory
from polynix.ipc.bindings import MethodError
from polynix.ipc.client import BlockingClient
from polynix.ipc.fidl import FidlError
from polynix.ipc.objects import Channel, ZxStatus
from polynix.ipc.protocols.pager import (
    CHUNK_SIZE,
    MAX_EXTENTS,
    Pager,
    PagerAddExtentsRequest,
    PagerPageInRequest,
    PagerRegisterFileRequest,
)
from polynix.kernelproc.uapi.errno import EIO

if TYPE_CHECKING:
    from polynix.ipc.protocols.pager import PagerRegisterFileResponse
    from polynix.kernelproc.fs.image_format import ImageInode, ImageReader

OPEN_FILES_MAX: Final = 256  # closed files whose pages are kept for the next open
PATIENCE_NS: Final = 60_000_000_000  # for one answer of the pager


class ImagePages:
    """All files of one image. May be used from any thread, apart from :meth:`memory_of`."""

    def __init__(self, reader: ImageReader, channel: Channel) -> None:
        self.reader = reader
        self.client = BlockingClient(Pager, channel)
        self._memories: weakref.WeakValueDictionary[int, PagedMemory] = weakref.WeakValueDictionary()
        self._recent: OrderedDict[int, PagedMemory] = OrderedDict()

    def memory_of(self, inode: ImageInode) -> PagedMemory:
        """The content of a regular file. Errors: OSError EIO; ValueError and the like of a damaged image."""
        memory = self._memories.get(inode.number)
        if memory is None:
            memory = self._memories[inode.number] = self._register(inode)
        self._recent[inode.number] = memory
        self._recent.move_to_end(inode.number)
        if len(self._recent) > OPEN_FILES_MAX:
            self._recent.popitem(last=False)
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
        try:
            reply: PagerRegisterFileResponse = self.client.call(Pager.register_file, request, deadline_ns=_deadline())
            vmo, presence = reply.vmo, reply.presence
            if vmo is None or presence is None:
                raise OSError(EIO, "the pager gave no memory")
            for part in parts[1:]:
                self.client.call(Pager.add_extents, PagerAddExtentsRequest(inode_num=number, **part), deadline_ns=_deadline())
            # What stubs map must not let them write: it is reopened for reading only.
            fd = os.open(f"/proc/self/fd/{vmo.fileno()}", os.O_RDONLY | os.O_CLOEXEC)
        except (MethodError, ZxStatus, FidlError) as error:
            raise OSError(EIO, str(error)) from error
        memory = PagedMemory(fd, presence.fileno(), size, CHUNK_SIZE, lambda start, end: self.page_in(number, start, end))
        presence.close()
        weakref.finalize(memory, vmo.close)  # the pager forgets the file then
        return memory

    def page_in(self, number: int, start: int, end: int) -> None:
        """Make a range of a registered file present. Errors: OSError EIO."""
        try:
            self.client.call(Pager.page_in, PagerPageInRequest(inode_num=number, offset=start, length=end - start), deadline_ns=_deadline())
        except (MethodError, ZxStatus, FidlError) as error:
            raise OSError(EIO, str(error)) from error

    def close(self) -> None:
        """Give up all memory that nobody maps, and the pager."""
        self._recent.clear()
        self.client.close()


def _deadline() -> int:
    return time.monotonic_ns() + PATIENCE_NS
