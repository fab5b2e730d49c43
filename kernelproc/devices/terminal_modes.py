"""A terminal's modes (Linux's ``struct ktermios``), with the driver's defaults."""

from __future__ import annotations

from polynix.kernelproc.uapi import structs
from polynix.kernelproc.uapi.termios import (
    B38400,
    BOTHER,
    CBAUD,
    CREAD,
    CS8,
    ECHO,
    ECHOCTL,
    ECHOE,
    ECHOK,
    ECHOKE,
    ICANON,
    ICRNL,
    IEXTEN,
    ISIG,
    IUTF8,
    IXON,
    NCCS,
    ONLCR,
    OPOST,
    VDISCARD,
    VEOF,
    VERASE,
    VINTR,
    VKILL,
    VLNEXT,
    VMIN,
    VQUIT,
    VREPRINT,
    VSTART,
    VSTOP,
    VSUSP,
    VWERASE,
)

DISABLED = 0  # _POSIX_VDISABLE
_DEFAULT_CHARACTERS = {
    VINTR: 0x03, VQUIT: 0x1C, VERASE: 0x7F, VKILL: 0x15, VEOF: 0x04, VMIN: 1, VSTART: 0x11, VSTOP: 0x13, VSUSP: 0x1A,
    VREPRINT: 0x12, VDISCARD: 0x0F, VWERASE: 0x17, VLNEXT: 0x16,
}  # fmt: skip
_SPEEDS = (
    0, 50, 75, 110, 134, 150, 200, 300, 600, 1200, 1800, 2400, 4800, 9600, 19200, 38400, 57600, 115200, 230400, 460800,
    500000, 576000, 921600, 1000000, 1152000, 1500000, 2000000, 2500000, 3000000, 3500000, 4000000,
)  # fmt: skip
_OLD_CHARACTERS = 8  # NCC of struct termio


class TerminalModes:
    """The flags and control characters; ``cc[VINTR]`` and so on, 0 for a disabled one."""

    __slots__ = ("cc", "cflag", "iflag", "ispeed", "lflag", "line", "oflag", "ospeed")

    def __init__(self) -> None:
        self.iflag = ICRNL | IXON
        self.oflag = OPOST | ONLCR
        self.cflag = B38400 | CS8 | CREAD
        self.lflag = ISIG | ICANON | ECHO | ECHOE | ECHOK | ECHOCTL | ECHOKE | IEXTEN
        self.line = 0
        self.cc = bytearray(NCCS)
        for index, character in _DEFAULT_CHARACTERS.items():
            self.cc[index] = character
        self.ispeed = self.ospeed = 38400

    @classmethod
    def console(cls) -> TerminalModes:
        """The default of a terminal that a person sits at."""
        modes = cls()
        modes.iflag |= IUTF8
        return modes

    @classmethod
    def raw(cls) -> TerminalModes:
        """The modes of a pty's master side: nothing is processed."""
        modes = cls()
        modes.iflag = modes.oflag = modes.lflag = 0
        return modes

    def copy(self) -> TerminalModes:
        other = TerminalModes()
        for name in self.__slots__:
            setattr(other, name, getattr(self, name))
        other.cc = bytearray(self.cc)
        return other

    def pack(self) -> bytes:
        """As TCGETS shows them: struct termios."""
        return structs.termios.FORMAT.pack(self.iflag, self.oflag, self.cflag, self.lflag, self.line, bytes(self.cc))

    def pack2(self) -> bytes:
        """As TCGETS2 shows them: struct termios2."""
        return structs.termios2.FORMAT.pack(self.iflag, self.oflag, self.cflag, self.lflag, self.line, bytes(self.cc), self.ispeed, self.ospeed)

    def pack_old(self) -> bytes:
        """As TCGETA shows them: struct termio, with the low halves of the flags."""
        flags = (flag & 0xFFFF for flag in (self.iflag, self.oflag, self.cflag, self.lflag))
        return structs.termio.FORMAT.pack(*flags, self.line, bytes(self.cc[:_OLD_CHARACTERS]))

    def unpack(self, data: bytes) -> None:
        """Take a struct termios (36 bytes), termios2 (44 bytes) or termio (18 bytes)."""
        if len(data) == structs.termio.SIZE:
            iflag, oflag, cflag, lflag, self.line, characters = structs.termio.FORMAT.unpack(data)
            self.iflag = self.iflag & ~0xFFFF | iflag
            self.oflag = self.oflag & ~0xFFFF | oflag
            self.cflag = self.cflag & ~0xFFFF | cflag
            self.lflag = self.lflag & ~0xFFFF | lflag
            self.cc[:_OLD_CHARACTERS] = characters[:_OLD_CHARACTERS]
        elif len(data) == structs.termios.SIZE:
            self.iflag, self.oflag, self.cflag, self.lflag, self.line, characters = structs.termios.FORMAT.unpack(data)
            self.cc[:] = characters
        else:
            (self.iflag, self.oflag, self.cflag, self.lflag, self.line, characters, self.ispeed, self.ospeed) = structs.termios2.FORMAT.unpack(data)
            self.cc[:] = characters
        speed = self.cflag & CBAUD
        if speed != BOTHER:
            index = speed if speed < 16 else (speed & 0xF) + 15
            if index < len(_SPEEDS):
                self.ispeed = self.ospeed = _SPEEDS[index]
