"""Inherited pipes: nothing blocks the kernel, and no wake-up is lost, whoever else holds the description."""

from __future__ import annotations

import os
import random
import threading

import pytest
from event_world import BASE, Guest, new_kernel
from polynix.addrspace._usercopy import UserAddress, UserInput, UserOutput
from polynix.kernelproc.devices.host_file import HostStream, open_host_descriptors
from polynix.kernelproc.uapi.errno import EAGAIN
from polynix.kernelproc.uapi.fcntl import O_RDONLY, O_WRONLY
from polynix.kernelproc.vfs.anon import anon_file

kernel = new_kernel()
ROUNDS = 300


@pytest.fixture
def guest() -> Guest:
    return Guest(kernel)


def test_a_description_shared_with_others_never_blocks(guest: Guest) -> None:
    """The pipe's own descriptions stay blocking: the caller's are not changed."""
    read_end, write_end = os.pipe()
    reader, writer = HostStream(kernel.engine, read_end, shared=True), HostStream(kernel.engine, write_end, shared=True)
    read_file, write_file = anon_file(kernel, reader, O_RDONLY), anon_file(kernel, writer, O_WRONLY)
    assert reader.read(read_file, 0, UserOutput(guest.task.user, UserAddress(BASE), 1)) == -EAGAIN
    assert writer.write(write_file, 0, UserInput(guest.task.user, UserAddress(BASE), 100_000)) == 65536
    assert writer.write(write_file, 0, UserInput(guest.task.user, UserAddress(BASE), 1)) == -EAGAIN
    assert reader.read(read_file, 0, UserOutput(guest.task.user, UserAddress(BASE), 100_000)) == 65536
    assert os.get_blocking(read_end)
    assert os.get_blocking(write_end)
    os.close(read_end)
    os.close(write_end)


@pytest.mark.parametrize("readers", [1, 2])
def test_no_wake_up_is_lost(guest: Guest, readers: int) -> None:
    """A thread writes at random moments while calls read; each byte arrives, and so does the end of file."""
    read_end, write_end = os.pipe()
    (file,), _ = open_host_descriptors(kernel, [read_end], False)
    fd = guest.task.files.install(file)
    again = guest.call("dup", fd)
    chance = random.Random(7)
    pieces = [b"x" * chance.choice((1, 1, 3)) for _ in range(ROUNDS)]

    def write() -> None:
        for piece in pieces:
            os.write(write_end, piece)
            for _ in range(chance.randrange(2000)):
                pass
        os.close(write_end)

    thread = threading.Thread(target=write)
    thread.start()
    got = 0
    try:
        while True:
            counts = [guest.call("read", number, guest.memory(2), 2) for number in (fd, again)[:readers]]
            got += sum(counts)
            if 0 in counts:
                break
    finally:
        thread.join()
    assert got == sum(map(len, pieces))
