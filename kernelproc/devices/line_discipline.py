"""N_TTY: what stands between a terminal's wire and the programs that read and write it (Linux's drivers/tty/n_tty.c).

Input bytes become lines (or not, in raw mode), echo, and signals; output bytes are post-processed. The discipline knows neither
files nor tasks: it calls its :class:`LineHost` to echo, to signal and to stop the output. Positions in the input are absolute
counts of bytes, so that they need no wrapping: ``tail`` <= ``canon_head`` <= ``head``; complete lines end at the positions in
``line_ends``, those of ``end_of_file`` in an EOF character that is not part of the data.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from polynix.kernelproc.devices.terminal_modes import DISABLED, TerminalModes
from polynix.kernelproc.uapi.signal import SIGINT, SIGQUIT, SIGTSTP
from polynix.kernelproc.uapi.termios import (
    ECHO,
    ECHOCTL,
    ECHOE,
    ECHOK,
    ECHOKE,
    ECHONL,
    ECHOPRT,
    EXTPROC,
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
    TABDLY,
    VEOF,
    VEOL,
    VEOL2,
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
    VTIME,
    VWERASE,
    XTABS,
)

BUFFER_SIZE = 4096  # N_TTY_BUF_SIZE
_NEWLINE, _RETURN, _TAB, _BACKSPACE, _DELETE, _ESCAPED = 10, 13, 9, 8, 127, 255
_INPUT_EFFECTS = ISTRIP | IUCLC | IGNCR | ICRNL | INLCR | IXON | PARMRK
_LOCAL_EFFECTS = ISIG | ICANON | ECHO | ECHONL
_PLAIN_OUTPUT = bytes(range(0x20, 0x7F))
# The kernel's ctype is Latin-1, and takes sharp s for the lower case of an inverted question mark.
_CAPITALS = (*range(0x41, 0x5B), *range(0xC0, 0xD7), *range(0xD8, 0xDF))
_SMALL = (*range(0x61, 0x7B), *range(0xDF, 0xF7), *range(0xF8, 0x100))
_LOWER = bytes(code + 0x20 if code in _CAPITALS else code for code in range(256))
_UPPER = bytes(code - 0x20 if code in _SMALL else code for code in range(256))


class LineHost(Protocol):
    """What the discipline asks of its terminal."""

    stopped: bool  # by the STOP character or TCOOFF

    def echo(self, data: bytes) -> None:
        """Send to the wire what the discipline made."""

    def signal(self, number: int) -> None:
        """Signal the foreground process group."""

    def stop_output(self) -> None:
        """The STOP character came."""

    def start_output(self) -> None:
        """The START character, or any with IXANY, came."""

    def flush_output(self) -> None:
        """Drop what was written but not sent."""


def _is_control(character: int) -> bool:
    return character < 0x20 or character == _DELETE


class LineDiscipline:
    """One terminal's N_TTY state."""

    def __init__(self, host: LineHost, modes: TerminalModes) -> None:
        self.host = host
        self.modes = modes
        self.column = 0
        self.canon_column = 0
        self._buffer = bytearray()
        self.tail = 0
        self.head = 0
        self.canon_head = 0
        self.line_ends: deque[int] = deque()
        self.end_of_file: set[int] = set()
        self._literal_next = False
        self._erasing = False
        self._echoed = bytearray()

    # -- input ----------------------------------------------------------------------------------------------------------------

    def room(self) -> int:
        """How many input bytes can be taken now. A single line that is too long always leaves room: its surplus is dropped."""
        used = self.head - self.tail
        room = BUFFER_SIZE - 1 - used
        if self.modes.iflag & PARMRK:
            room //= 3
        if room <= 0 and self.modes.lflag & ICANON and self.canon_head == self.tail:
            return BUFFER_SIZE
        return max(room, 0)

    def receive(self, data: bytes) -> int:
        """Take input from the wire; returns how many bytes were taken (see :meth:`room`)."""
        modes = self.modes
        if not (modes.iflag & _INPUT_EFFECTS or modes.lflag & _LOCAL_EFFECTS or self._literal_next):
            taken = data[: self.room()]
            self._buffer += taken
            self.head += len(taken)
            return len(taken)
        done = 0
        for character in data:
            if self.room() <= 0:
                break
            self._receive(character)
            done += 1
        self._send_echo()
        return done

    def _receive(self, character: int) -> None:
        modes = self.modes
        iflag, lflag, cc = modes.iflag, modes.lflag, modes.cc
        if iflag & ISTRIP:
            character &= 0x7F
        if iflag & IUCLC and lflag & IEXTEN:
            character = _LOWER[character]
        if self._literal_next:
            self._literal_next = False
            self._take(character)
            return
        if lflag & EXTPROC:
            self._put(character)
            return
        if iflag & IXON and character != DISABLED:
            if character == cc[VSTART]:
                self.host.start_output()
                return
            if character == cc[VSTOP]:
                self.host.stop_output()
                return
        if lflag & ISIG and character != DISABLED:
            if character == cc[VINTR]:
                self._interrupt(character, SIGINT)
                return
            if character == cc[VQUIT]:
                self._interrupt(character, SIGQUIT)
                return
            if character == cc[VSUSP]:
                self._interrupt(character, SIGTSTP)
                return
        if self.host.stopped and iflag & IXON and iflag & IXANY:
            self.host.start_output()
        translated = False
        if character == _RETURN:
            if iflag & IGNCR:
                return
            if iflag & ICRNL:
                character, translated = _NEWLINE, True
        elif character == _NEWLINE and iflag & INLCR:
            character = _RETURN
        if lflag & ICANON and self._receive_canonical(character, lflag, cc):
            return
        self._take(character, translated)

    def _receive_canonical(self, character: int, lflag: int, cc: bytearray) -> bool:
        """The editing characters and the ends of lines; False for plain text."""
        if character == _NEWLINE:
            if lflag & (ECHO | ECHONL):
                self._echo_raw(_NEWLINE)
            self._end_line(_NEWLINE)
            return True
        if character == DISABLED:
            return False
        extended = lflag & IEXTEN
        if character in (cc[VERASE], cc[VKILL]) or (extended and character == cc[VWERASE]):
            self._erase(character)
            return True
        if extended and character == cc[VLNEXT]:
            self._literal_next = True
            if lflag & ECHO:
                self._finish_erasing()
                if lflag & ECHOCTL:
                    self._echoed += b"^\b"
            return True
        if extended and lflag & ECHO and character == cc[VREPRINT]:
            self._finish_erasing()
            self._echo(character)
            self._echo_raw(_NEWLINE)
            for position in range(self.canon_head, self.head):
                self._echo(self._at(position))
            return True
        if character == cc[VEOF]:
            self._end_line(DISABLED, end_of_file=True)
            return True
        if character == cc[VEOL] or (extended and character == cc[VEOL2]):
            if lflag & ECHO:
                if self.canon_head == self.head:
                    self.canon_column = self.column
                self._echo(character)
            if character == _ESCAPED and self.modes.iflag & PARMRK:
                self._put(character)
            self._end_line(character)
            return True
        return False

    def _take(self, character: int, translated: bool = False) -> None:
        if self.modes.lflag & ECHO:
            self._finish_erasing()
            if self.canon_head == self.head:
                self.canon_column = self.column
            if translated and character == _NEWLINE:
                self._echo_raw(character)  # while one that was typed outside of canonical mode shows as ^J
            else:
                self._echo(character)
        if character == _ESCAPED and self.modes.iflag & PARMRK:
            self._put(character)
        self._put(character)

    def _put(self, character: int) -> None:
        if self.head - self.tail >= BUFFER_SIZE and self.modes.lflag & ICANON and self.canon_head == self.tail:
            # One line that fills the buffer: its end may still come, the rest of it is lost.
            self._drop_last()
        self._buffer.append(character)
        self.head += 1

    def _drop_last(self) -> None:
        self._buffer.pop()
        self.head -= 1

    def _end_line(self, character: int, end_of_file: bool = False) -> None:
        if self.head - self.tail >= BUFFER_SIZE:
            self._drop_last()
        self._buffer.append(character)
        self.line_ends.append(self.head)
        if end_of_file:
            self.end_of_file.add(self.head)
        self.head += 1
        self.canon_head = self.head

    def _interrupt(self, character: int, number: int) -> None:
        if not self.modes.lflag & NOFLSH:
            self._echoed.clear()
            self.flush_input()
            self.host.flush_output()
        if self.modes.iflag & IXON:
            self.host.start_output()
        if self.modes.lflag & ECHO:
            self._echo(character)
            self._send_echo()
        self.host.signal(number)

    def _at(self, position: int) -> int:
        return self._buffer[position - self.tail]

    def flush_input(self) -> None:
        """TCIFLUSH: forget what was typed."""
        self._buffer.clear()
        self.tail = self.canon_head = self.head
        self.line_ends.clear()
        self.end_of_file.clear()
        self._erasing = self._literal_next = False

    def modes_changed(self, old_lflag: int) -> None:
        """Canonical mode was switched on or off: what is in the buffer becomes readable in the new way."""
        if (old_lflag ^ self.modes.lflag) & (ICANON | EXTPROC):
            self.line_ends.clear()
            self.end_of_file.clear()
            if self.modes.lflag & ICANON and self.head != self.tail:
                self.line_ends.append(self.head - 1)
                self.canon_head = self.head
            else:
                self.canon_head = self.tail
            self._erasing = self._literal_next = False

    # -- line editing ---------------------------------------------------------------------------------------------------------

    def _erase(self, character: int) -> None:
        if self.head == self.canon_head:
            return
        lflag, cc = self.modes.lflag, self.modes.cc
        word = character != cc[VERASE] and character != cc[VKILL]
        kill = character == cc[VKILL] and character != cc[VERASE]
        if kill:
            if not lflag & ECHO:
                self._truncate(self.canon_head)
                return
            if not (lflag & ECHOK and lflag & ECHOKE and lflag & ECHOE):
                self._truncate(self.canon_head)
                self._finish_erasing()
                self._echo(cc[VKILL])
                if lflag & ECHOK:
                    self._echo_raw(_NEWLINE)
                return
        seen_word = False
        while self.head != self.canon_head:
            start = self.head - 1
            while self._is_continuation(self._at(start)) and start != self.canon_head:
                start -= 1
            first = self._at(start)
            if self._is_continuation(first):
                break  # the tail of a character that was read already
            if word:
                if chr(first).isalnum() or first == 0x5F:
                    seen_word = True
                elif seen_word:
                    break
            erased = bytes(self._at(position) for position in range(start, self.head))
            self._truncate(start)
            if lflag & ECHO:
                self._echo_erased(erased, character, word or kill)
            if not (word or kill):
                break
        if self.head == self.canon_head and lflag & ECHO:
            self._finish_erasing()

    def _truncate(self, position: int) -> None:
        del self._buffer[position - self.tail :]
        self.head = position

    def _echo_erased(self, erased: bytes, character: int, several: bool) -> None:
        lflag = self.modes.lflag
        first = erased[0]
        if lflag & ECHOPRT:
            if not self._erasing:
                self._echo_raw(0x5C)
                self._erasing = True
            self._echo(first)
            for more in erased[1:]:
                self._echo_raw(more)
        elif not several and not lflag & ECHOE:
            self._echo(self.modes.cc[VERASE])
        elif first == _TAB:
            columns, after_tab = 0, False
            for position in range(self.head - 1, self.canon_head - 1, -1):
                other = self._at(position)
                if other == _TAB:
                    after_tab = True
                    break
                if _is_control(other):
                    columns += 2 if lflag & ECHOCTL else 0
                elif not self._is_continuation(other):
                    columns += 1
            if not after_tab:
                columns += self.canon_column
            for _ in range(8 - (columns & 7)):
                self._echoed.append(_BACKSPACE)
                self.column = max(0, self.column - 1)
        else:
            if _is_control(first) and lflag & ECHOCTL:
                self._rub_out()
            if not _is_control(first) or lflag & ECHOCTL:
                self._rub_out()

    def _rub_out(self) -> None:
        self._echoed += b"\b \b"
        self.column = max(0, self.column - 1)

    def _finish_erasing(self) -> None:
        if self._erasing:
            self._echo_raw(0x2F)
            self._erasing = False

    def _is_continuation(self, character: int) -> bool:
        return character & 0xC0 == 0x80 and bool(self.modes.iflag & IUTF8)

    # -- echo -----------------------------------------------------------------------------------------------------------------

    def _echo(self, character: int) -> None:
        if self.modes.lflag & ECHOCTL and _is_control(character) and character != _TAB:
            self._echoed += bytes((0x5E, character ^ 0x40))
            self.column += 2
        else:
            self._echo_raw(character)

    def _echo_raw(self, character: int) -> None:
        if character == _ESCAPED:  # the echo buffer's own escape: Linux puts it out as it is
            self._echoed.append(character)
            self.column += 1
        elif self.modes.oflag & OPOST:
            self._process(character, self._echoed)
        else:
            self._echoed.append(character)

    def _send_echo(self) -> None:
        if self._echoed:
            data = bytes(self._echoed)
            self._echoed.clear()
            self.host.echo(data)

    # -- reading --------------------------------------------------------------------------------------------------------------

    @property
    def minimum(self) -> int:
        """VMIN."""
        return self.modes.cc[VMIN]

    @property
    def time(self) -> int:
        """VTIME, in tenths of a second."""
        return self.modes.cc[VTIME]

    @property
    def canonical(self) -> bool:
        return bool(self.modes.lflag & ICANON)

    def available(self, for_poll: bool = False) -> bool:
        """Whether a read would return something. poll() waits for VMIN bytes when there is no VTIME."""
        if self.canonical and not self.modes.lflag & EXTPROC:
            return self.canon_head != self.tail
        amount = self.minimum if for_poll and not self.time and self.minimum else 1
        return self.head - self.tail >= amount

    def unread(self) -> int:
        """FIONREAD: in canonical mode the bytes of complete lines, without EOF characters."""
        if not self.canonical:
            return self.head - self.tail
        return self.canon_head - self.tail - len(self.end_of_file)

    def read(self, count: int) -> tuple[bytes, bool]:
        """Take up to ``count`` bytes of what is available: (data, whether the line ended with them, which ends a read)."""
        if not self.canonical or self.modes.lflag & EXTPROC:
            data = bytes(self._buffer[:count])
            self._consume(len(data))
            return data, False
        if not self.line_ends or count <= 0:
            return b"", False
        end = self.line_ends[0]
        length = end - self.tail
        if end in self.end_of_file:
            if length > count:
                return self._take_out(count), False
            data = self._take_out(length)
            self._consume(1)
            self.end_of_file.discard(end)
            self.line_ends.popleft()
            return data, True
        if length + 1 > count:
            return self._take_out(count), False
        self.line_ends.popleft()
        return self._take_out(length + 1), True

    def _take_out(self, count: int) -> bytes:
        data = bytes(self._buffer[:count])
        self._consume(count)
        return data

    def _consume(self, count: int) -> None:
        del self._buffer[:count]
        self.tail += count
        if self.canon_head < self.tail:
            self.canon_head = self.tail

    # -- output ---------------------------------------------------------------------------------------------------------------

    def process_output(self, data: bytes) -> bytes:
        """What goes to the wire for ``data`` that a program wrote."""
        oflag = self.modes.oflag
        if not oflag & OPOST:
            return data
        if not oflag & (OLCUC | OCRNL | ONOCR | ONLRET) and oflag & TABDLY != XTABS:
            self._advance_column(data)
            return data.replace(b"\n", b"\r\n") if oflag & ONLCR else data
        result = bytearray()
        for character in data:
            self._process(character, result)
        return bytes(result)

    def _advance_column(self, data: bytes) -> None:
        # Only the text after the last line end moves the column.
        last = max(data.rfind(b"\n"), data.rfind(b"\r"))
        if last >= 0:
            if data[last] == _RETURN or self.modes.oflag & ONLCR:
                self.column = self.canon_column = 0
            data = data[last + 1 :]
        if not data.translate(None, _PLAIN_OUTPUT):
            self.column += len(data)
            return
        sink = bytearray()
        for character in data:
            self._process(character, sink)

    def _process(self, character: int, out: bytearray) -> None:
        """Linux's do_output_char."""
        oflag = self.modes.oflag
        if character == _NEWLINE:
            if oflag & ONLRET:
                self.column = 0
            if oflag & ONLCR:
                self.column = self.canon_column = 0
                out += b"\r\n"
                return
            self.canon_column = self.column
        elif character == _RETURN:
            if oflag & ONOCR and self.column == 0:
                return
            if oflag & OCRNL:
                character = _NEWLINE
                if oflag & ONLRET:
                    self.column = self.canon_column = 0
            else:
                self.column = self.canon_column = 0
        elif character == _TAB:
            spaces = 8 - (self.column & 7)
            self.column += spaces
            if oflag & TABDLY == XTABS:
                out += b" " * spaces
                return
        elif character == _BACKSPACE:
            self.column = max(0, self.column - 1)
        elif not _is_control(character):
            if oflag & OLCUC:
                character = _UPPER[character]
            if not self._is_continuation(character):
                self.column += 1
        out.append(character)
