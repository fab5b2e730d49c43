"""N_TTY: examples from man 3 termios, and agreement with the host's own line discipline on arbitrary input."""

from __future__ import annotations

import os
import pty
import select
import termios
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polynix.kernelproc.devices.line_discipline import BUFFER_SIZE, LineDiscipline
from polynix.kernelproc.devices.terminal_modes import TerminalModes
from polynix.kernelproc.uapi.signal import SIGINT, SIGQUIT, SIGTSTP
from polynix.kernelproc.uapi.termios import (
    ECHO,
    ECHOCTL,
    ECHOE,
    ECHOK,
    ECHOKE,
    ECHONL,
    ECHOPRT,
    ICANON,
    ICRNL,
    IEXTEN,
    IGNCR,
    INLCR,
    ISIG,
    ISTRIP,
    IUCLC,
    IUTF8,
    IXANY,
    IXON,
    NOFLSH,
    OCRNL,
    OLCUC,
    ONLCR,
    ONLRET,
    ONOCR,
    OPOST,
    PARMRK,
    VEOL,
    VMIN,
    VTIME,
    XTABS,
)


class Wire:
    """Collects what the discipline does to its terminal."""

    def __init__(self) -> None:
        self.stopped = False
        self.echoed = b""
        self.signals: list[int] = []
        self.flushed = 0

    def echo(self, data: bytes) -> None:
        self.echoed += data

    def signal(self, number: int) -> None:
        self.signals.append(number)

    def stop_output(self) -> None:
        self.stopped = True

    def start_output(self) -> None:
        self.stopped = False

    def flush_output(self) -> None:
        self.flushed += 1


def make(**changes: int) -> tuple[LineDiscipline, Wire]:
    modes = TerminalModes()
    for name, value in changes.items():
        setattr(modes, name, value)
    wire = Wire()
    return LineDiscipline(wire, modes), wire


def read_all(discipline: LineDiscipline, size: int = 4096) -> list[bytes]:
    """Every read that would not block, each of ``size``."""
    reads = []
    while discipline.available():
        reads.append(discipline.read(size)[0])
    return reads


def test_a_line_becomes_readable_with_its_end() -> None:
    discipline, wire = make()
    discipline.receive(b"hel")
    assert not discipline.available()
    discipline.receive(b"lo\nmore")
    assert discipline.unread() == 6
    assert read_all(discipline) == [b"hello\n"]
    assert wire.echoed == b"hello\r\nmore"


def test_a_short_read_leaves_the_rest_of_the_line() -> None:
    discipline, _ = make()
    discipline.receive(b"abcdef\nx\n")
    assert [discipline.read(4)[0] for _ in range(3)] == [b"abcd", b"ef\n", b"x\n"]


def test_end_of_file_is_a_read_of_nothing() -> None:
    discipline, _ = make()
    discipline.receive(b"\x04")
    assert discipline.available()
    assert discipline.read(10) == (b"", True)
    discipline.receive(b"ab\x04")
    assert discipline.read(2) == (b"ab", True)  # the end goes with it
    assert not discipline.available()
    discipline.receive(b"ab\x04\n")
    assert read_all(discipline) == [b"ab", b"\n"]


def test_editing() -> None:
    discipline, wire = make()
    discipline.receive(b"abc\x7fd\n")
    assert read_all(discipline) == [b"abd\n"]
    assert wire.echoed == b"abc\b \bd\r\n"
    discipline.receive(b"two words\x17x\x15end\n")
    assert read_all(discipline) == [b"end\n"]
    discipline.receive(b"a\x16\x03b\n")  # literal next
    assert read_all(discipline) == [b"a\x03b\n"]


def test_erase_takes_a_whole_utf8_character_and_the_width_of_a_tab() -> None:
    discipline, wire = make(iflag=ICRNL | IUTF8)
    discipline.receive("é".encode() + b"\x7f\n")
    assert read_all(discipline) == [b"\n"]
    assert wire.echoed == "é".encode() + b"\b \b\r\n"
    wire.echoed = b""
    discipline.receive(b"ab\t\x7f")
    assert wire.echoed == b"ab\t" + b"\b" * 6


def test_signals_flush_unless_told_not_to() -> None:
    discipline, wire = make()
    discipline.receive(b"typed\x03\x1c\x1a")
    assert wire.signals == [SIGINT, SIGQUIT, SIGTSTP]
    assert wire.echoed.endswith(b"^C^\\^Z")
    assert not discipline.available() and discipline.head == discipline.tail
    discipline, wire = make(lflag=ISIG | ICANON | NOFLSH)
    discipline.receive(b"typed\x03\n")
    assert read_all(discipline) == [b"typed\n"]


def test_stop_and_start() -> None:
    discipline, wire = make()
    discipline.receive(b"\x13")
    assert wire.stopped
    discipline.receive(b"a")
    assert wire.stopped
    discipline.receive(b"\x11")
    assert not wire.stopped
    discipline, wire = make(iflag=IXON | IXANY)
    discipline.receive(b"\x13a")
    assert not wire.stopped


def test_a_line_that_is_too_long_loses_its_surplus_but_not_its_end() -> None:
    discipline, _ = make(lflag=ICANON)
    for _ in range(5):
        assert discipline.receive(b"x" * 1000) == 1000
    discipline.receive(b"\n")
    (line,) = read_all(discipline, 8192)
    assert line.endswith(b"x\n") and len(line) == BUFFER_SIZE


def test_raw_input_stops_at_a_full_buffer() -> None:
    discipline, _ = make(lflag=0, iflag=0)
    assert discipline.receive(b"y" * 5000) == BUFFER_SIZE - 1
    assert discipline.receive(b"y") == 0
    assert len(discipline.read(100)[0]) == 100
    assert discipline.receive(b"z" * 200) == 100


def test_switching_to_canonical_mode_makes_pending_input_a_line() -> None:
    discipline, _ = make(lflag=0)
    discipline.receive(b"pending")
    old = discipline.modes.lflag
    discipline.modes.lflag = ICANON
    discipline.modes_changed(old)
    assert read_all(discipline) == [b"pending"]


def test_poll_waits_for_vmin_without_vtime() -> None:
    discipline, _ = make(lflag=0)
    discipline.modes.cc[VMIN] = 3
    discipline.receive(b"ab")
    assert discipline.available() and not discipline.available(for_poll=True)
    discipline.modes.cc[VTIME] = 1
    assert discipline.available(for_poll=True)


def test_output_processing() -> None:
    assert make()[0].process_output(b"a\nb") == b"a\r\nb"
    assert make(oflag=OPOST | XTABS | ONLCR)[0].process_output(b"ab\tc\n\tx") == b"ab      c\r\n        x"
    assert make(oflag=OPOST | OCRNL)[0].process_output(b"a\rb") == b"a\nb"
    assert make(oflag=OPOST | ONOCR)[0].process_output(b"\ra\r") == b"a\r"
    assert make(oflag=OPOST | OLCUC)[0].process_output(b"shout") == b"SHOUT"
    assert make(oflag=ONLCR)[0].process_output(b"a\n") == b"a\n"


def test_modes_survive_their_structures() -> None:
    modes = TerminalModes()
    modes.cc[VEOL] = 7
    for data in (modes.pack(), modes.pack2(), modes.pack_old()):
        other = TerminalModes()
        other.unpack(data)
        assert other.pack() == modes.pack() or len(data) < 36
    master, slave = pty.openpty()
    try:
        assert termios.tcgetattr(slave)[:4] == [modes.iflag, modes.oflag, modes.cflag, modes.lflag]
    finally:
        os.close(master)
        os.close(slave)


# -- the host's N_TTY as the oracle -------------------------------------------------------------------------------------------


class HostTerminal:
    """A pty of the host: input goes to its master, echo and output come back from there."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        os.set_blocking(self.master, False)
        os.set_blocking(self.slave, False)

    def close(self) -> None:
        os.close(self.master)
        os.close(self.slave)

    def configure(self, modes: TerminalModes) -> None:
        attributes = termios.tcgetattr(self.slave)
        attributes[0], attributes[1], attributes[3] = modes.iflag, modes.oflag, modes.lflag
        attributes[6][termios.VMIN] = modes.cc[VMIN]
        termios.tcsetattr(self.slave, termios.TCSANOW, attributes)

    def drain(self, fd: int, size: int = 65536) -> list[bytes]:
        reads = []
        while True:
            try:
                reads.append(os.read(fd, size))
            except BlockingIOError:
                return reads
            if not reads[-1] and len(reads) > 200:
                return reads

    def expect(self, fd: int, expected: bytes) -> bytes:
        """What comes out of ``fd``; waits for ``expected``, because a worker of the host's kernel processes the input, but not
        for ever.
        """
        data = b"".join(self.drain(fd))
        deadline = time.monotonic() + 0.5
        while data != expected and time.monotonic() < deadline:
            time.sleep(0.001)
            data += b"".join(self.drain(fd))
        return data

    def settle(self) -> None:
        # Input is processed by a worker of the host's kernel: until nothing more comes out.
        select.select([self.master], [], [], 0.002)
        time.sleep(0.001)


INPUT = st.lists(
    st.one_of(
        st.sampled_from([b"\n", b"\r", b"\x7f", b"\x15", b"\x17", b"\x16", b"\x12", b"\x04", b"\t", b"\b", b"\x1b", b"\xff", b"\0"]),
        st.sampled_from([b"word", b"two words", b"_a-1", "é".encode(), "日本".encode(), b"\x80", b"\x01", b"UPPER", b" "]),
    ),
    max_size=14,
).map(b"".join)
IFLAGS = st.lists(st.sampled_from([ICRNL, INLCR, IGNCR, ISTRIP, IUCLC, IUTF8, PARMRK, IXON]), max_size=4).map(lambda flags: sum(set(flags)))
OFLAGS = st.lists(st.sampled_from([ONLCR, OCRNL, ONOCR, ONLRET, OLCUC, XTABS]), max_size=3).map(lambda flags: OPOST | sum(set(flags)))
LFLAGS = st.lists(st.sampled_from([ECHO, ECHOE, ECHOK, ECHOKE, ECHOCTL, ECHONL, ECHOPRT, IEXTEN, ICANON]), max_size=9).map(lambda flags: sum(set(flags)))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=INPUT, iflag=IFLAGS, oflag=OFLAGS, lflag=LFLAGS, size=st.sampled_from([1, 3, 64]))
def test_input_and_echo_agree_with_the_host(data: bytes, iflag: int, oflag: int, lflag: int, size: int) -> None:
    discipline, wire = make(iflag=iflag, oflag=oflag, lflag=lflag)
    host = HostTerminal()
    try:
        host.configure(discipline.modes)
        if data:
            os.write(host.master, data)
        host.settle()
        discipline.receive(data)
        assert wire.echoed == host.expect(host.master, wire.echoed), "echo"
        reads = read_all(discipline, size)
        if lflag & ICANON:
            deadline = time.monotonic() + 0.5
            host_reads = host.drain(host.slave, size)
            while host_reads != reads and time.monotonic() < deadline:
                time.sleep(0.001)
                host_reads += host.drain(host.slave, size)
            assert reads == host_reads, "the reads"
        else:
            assert b"".join(reads) == host.expect(host.slave, b"".join(reads)), "what is read"
    finally:
        host.close()


@settings(max_examples=100, deadline=None)
@given(chunks=st.lists(st.binary(max_size=20) | st.sampled_from([b"\t", b"a\n", b"\r", b"x\t\n"]), max_size=6), oflag=OFLAGS)
def test_output_agrees_with_the_host(chunks: list[bytes], oflag: int) -> None:
    discipline, _ = make(oflag=oflag, lflag=0, iflag=0)
    host = HostTerminal()
    try:
        host.configure(discipline.modes)
        for chunk in chunks:
            if chunk:
                os.write(host.slave, chunk)
        host.settle()
        expected = b"".join(discipline.process_output(chunk) for chunk in chunks)
        assert expected == host.expect(host.master, expected)
    finally:
        host.close()


@pytest.mark.parametrize("amount", [4094, 4095, 4096, 4100, 5000])
def test_long_lines_agree_with_the_host(amount: int) -> None:
    discipline, _ = make(lflag=ICANON)
    host = HostTerminal()
    try:
        host.configure(discipline.modes)
        data = bytes(0x61 + index % 26 for index in range(amount)) + b"\n"
        written = 0
        while written < len(data):
            written += os.write(host.master, data[written : written + 512])
            host.settle()
        discipline.receive(data)
        assert read_all(discipline, 8192) == host.drain(host.slave, 8192)
    finally:
        host.close()
