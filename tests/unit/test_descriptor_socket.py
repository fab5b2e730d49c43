"""Descriptors that processes of polynix hand to each other."""

from __future__ import annotations

import os
import socket

import pytest
from polynix.ipc.descriptor_socket import receive_packet, send_packet
from polynix.runner.runner_process import receive_session


def test_received_descriptors_are_close_on_exec() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    read_end, write_end = os.pipe()
    with ours, theirs:
        send_packet(ours, b"two", [read_end, write_end])
        data, descriptors = receive_packet(theirs, 64, 2)
        assert (data, len(descriptors)) == (b"two", 2)
        assert not any(os.get_inheritable(fd) for fd in descriptors)
        with pytest.raises(BlockingIOError):
            receive_packet(theirs, 64, 2)  # of a blocking socket as well
        with pytest.raises(OSError, match="more than"):
            send_packet(ours, b"two", [read_end, write_end])
            receive_packet(theirs, 64, 1)
        for fd in (read_end, write_end, *descriptors):
            os.close(fd)


def test_a_session_does_not_leak_into_programs_that_its_owner_starts() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, one, other:
        send_packet(ours, b"{}", [one.fileno()])
        with receive_session(theirs) as session:
            assert not session.get_inheritable()
