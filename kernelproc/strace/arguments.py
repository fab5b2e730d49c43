"""How one argument is written: numbers, strings, buffers, structures.

Each formatter gets the call, which after its end also knows the result.
"""

from __future__ import annotations

import re
import stat as _stat
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from polynix.addrspace._usercopy import Fault, UserAddress
from polynix.kernelproc.strace import names
from polynix.kernelproc.uapi import structs

if TYPE_CHECKING:
    from polynix.kernelproc.task.task import Task

STRING_LIMIT = 32  # bytes of a buffer shown, as strace's -s
ARRAY_LIMIT = 32
_PATH_LIMIT = 4096
_PLAIN = re.compile(rb"[ !#-\[\]-~]*").fullmatch  # what needs no escapes
_ESCAPES = {0x22: '\\"', 0x5C: "\\\\", 0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t", 0x0B: "\\v", 0x0C: "\\f"}


class Call:
    """A system call in progress: raw arguments, and after its end the result."""

    __slots__ = ("arguments", "number", "result", "task")

    def __init__(self, task: Task, number: int, arguments: tuple[int, ...]) -> None:
        self.task = task
        self.number = number
        self.arguments = arguments
        self.result: int | None = None

    @property
    def failed(self) -> bool:
        return self.result is None or self.result < 0

    def bytes_at(self, address: int, count: int) -> bytes | None:
        """Guest memory; None when it cannot be read."""
        if not address:
            return None
        try:
            return self.task.user.copy_in(UserAddress(address), count)
        except (Fault, ValueError, OverflowError):
            return None


Formatter = Callable[[Call, int], str]


def signed(value: int, bits: int = 32) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def quote(data: bytes, limit: int = STRING_LIMIT, *, more: bool = False) -> str:
    """A C string literal; ``...`` when it was cut."""
    shown = data[:limit]
    end = '"...' if more or len(data) > limit else '"'
    if _PLAIN(shown):
        return f'"{shown.decode("ascii")}{end}'
    parts = []
    for index, byte in enumerate(shown):
        if byte in _ESCAPES:
            parts.append(_ESCAPES[byte])
        elif 0x20 <= byte < 0x7F:
            parts.append(chr(byte))
        else:
            # A digit after a short octal escape would be read as part of it.
            digit_follows = index + 1 < len(shown) and 0x30 <= shown[index + 1] <= 0x39
            parts.append(f"\\{byte:03o}" if digit_follows else f"\\{byte:o}")
    return f'"{"".join(parts)}{end}'


def address(call: Call, index: int) -> str:
    return pointer(call.arguments[index])


def pointer(value: int) -> str:
    return f"{value:#x}" if value else "NULL"


def path(call: Call, index: int) -> str:
    value = call.arguments[index]
    try:
        return path_text(value, call.task.user.read_cstring(UserAddress(value), _PATH_LIMIT) if value else None)
    except (Fault, ValueError):
        return pointer(value)


def path_text(address: int, text: bytes | None) -> str:
    """A path that was read at an address, or could not be read."""
    return pointer(address) if text is None else quote(text, _PATH_LIMIT)


def descriptor(call: Call, index: int) -> str:
    return str(signed(call.arguments[index]))


def directory(call: Call, index: int) -> str:
    value = signed(call.arguments[index])
    return "AT_FDCWD" if value == -100 else str(value)


def integer(call: Call, index: int) -> str:
    return str(signed(call.arguments[index]))


def unsigned(call: Call, index: int) -> str:
    return str(call.arguments[index])


def long(call: Call, index: int) -> str:
    return str(signed(call.arguments[index], 64))


def hexadecimal(call: Call, index: int) -> str:
    value = call.arguments[index]
    return f"{value:#x}" if value else "0"


def owner(call: Call, index: int) -> str:
    return str(signed(call.arguments[index]))


def mode(call: Call, index: int) -> str:
    return permission(call.arguments[index] & 0xFFFF)


def permission(value: int) -> str:
    """0644, as C writes octal."""
    return f"0{value:03o}" if value else "000"


def device(call: Call, index: int) -> str:
    return device_number(call.arguments[index])


def device_number(value: int) -> str:
    from polynix.kernelproc.registry import major, minor

    return f"makedev({major(value):#x}, {minor(value):#x})"


def node_mode(value: int) -> str:
    kinds = {
        _stat.S_IFREG: "S_IFREG", _stat.S_IFDIR: "S_IFDIR", _stat.S_IFCHR: "S_IFCHR", _stat.S_IFBLK: "S_IFBLK",
        _stat.S_IFIFO: "S_IFIFO", _stat.S_IFSOCK: "S_IFSOCK", _stat.S_IFLNK: "S_IFLNK",
    }  # fmt: skip
    kind = kinds.get(_stat.S_IFMT(value))
    bits = permission(_stat.S_IMODE(value))
    return f"{kind}|{bits}" if kind else bits


def full_mode(call: Call, index: int) -> str:
    return node_mode(call.arguments[index] & 0xFFFFFFFF)


def signal(call: Call, index: int) -> str:
    value = signed(call.arguments[index])
    return names.signal_name(value) if value > 0 else str(value)


def open_flags(call: Call, index: int) -> str:
    return open_mode(call.arguments[index] & 0xFFFFFFFF)


def open_mode(value: int) -> str:
    access = ("O_RDONLY", "O_WRONLY", "O_RDWR", "O_ACCMODE")[value & 3]
    rest = value & ~3 & ~0o100000  # O_LARGEFILE is always on here
    return access if not rest else access + "|" + names.flags("open", rest)


def open_permission(call: Call, index: int) -> str:
    """The mode of open(2), which is there only when something may be created."""
    flags_value = call.arguments[index - 1]
    return mode(call, index) if flags_value & 0o100 or flags_value & 0o20000000 else ""


def flag_set(key: str, zero: str = "0") -> Formatter:
    return lambda call, index: names.flags(key, call.arguments[index] & 0xFFFFFFFF, zero)


def enumeration(key: str) -> Formatter:
    return lambda call, index: names.enum(key, signed(call.arguments[index]))


def strings(call: Call, index: int) -> str:
    """argv."""
    items = _string_array(call, call.arguments[index])
    if items is None:
        return pointer(call.arguments[index])
    return "[" + ", ".join(quote(item) for item in items[:ARRAY_LIMIT]) + (", ..." if len(items) > ARRAY_LIMIT else "") + "]"


def environment(call: Call, index: int) -> str:
    """envp: only how many."""
    items = _string_array(call, call.arguments[index])
    if items is None:
        return pointer(call.arguments[index])
    return f"{call.arguments[index]:#x} /* {len(items)} vars */"


def _string_array(call: Call, base: int) -> list[bytes] | None:
    if not base:
        return None
    items: list[bytes] = []
    while len(items) < 4096:
        word = call.bytes_at(base + 8 * len(items), 8)
        if word is None:
            return None
        value = int.from_bytes(word, "little")
        if not value:
            break
        try:
            items.append(call.task.user.read_cstring(UserAddress(value), 1 << 17) or b"")
        except (Fault, ValueError):
            return None
    return items


def input_buffer(length: int) -> Formatter:
    """Data that goes in; argument ``length`` says how much."""

    def show(call: Call, index: int) -> str:
        count = call.arguments[length]
        data = call.bytes_at(call.arguments[index], min(count, STRING_LIMIT))
        return address(call, index) if data is None else quote(data, more=count > STRING_LIMIT)

    return show


def output_buffer(call: Call, index: int) -> str:
    """Data that came out; the result says how much."""
    if call.failed or call.result is None:
        return address(call, index)
    data = call.bytes_at(call.arguments[index], min(call.result, STRING_LIMIT))
    return address(call, index) if data is None else quote(data, more=call.result > STRING_LIMIT)


def output_path(call: Call, index: int) -> str:
    if call.failed or call.result is None:
        return address(call, index)
    data = call.bytes_at(call.arguments[index], call.result)
    return address(call, index) if data is None else quote(data.rstrip(b"\0"), _PATH_LIMIT)


def vector(length: int, *, output: bool = False) -> Formatter:
    """An iovec array of ``length``."""

    def show(call: Call, index: int) -> str:
        count = min(call.arguments[length], ARRAY_LIMIT)
        if output and call.failed:
            return address(call, index)
        raw = call.bytes_at(call.arguments[index], 16 * count)
        if raw is None:
            return address(call, index)
        left = call.result if output and call.result is not None else 1 << 62
        parts = []
        for base, size in struct.iter_unpack("<QQ", raw):
            shown = min(size, left)
            data = call.bytes_at(base, min(shown, STRING_LIMIT)) if shown else b""
            left -= shown
            text = pointer(base) if data is None else quote(data, more=shown > STRING_LIMIT)
            parts.append(f"{{iov_base={text}, iov_len={size}}}")
        return "[" + ", ".join(parts) + "]"

    return show


def structure(size: int, show: Callable[[bytes], str], *, output: bool = False) -> Formatter:
    """A structure behind a pointer; with ``output`` it is filled by the call."""

    def formatter(call: Call, index: int) -> str:
        if output and call.failed:
            return address(call, index)
        data = call.bytes_at(call.arguments[index], size)
        return address(call, index) if data is None else show(data)

    return formatter


def array(length: int, size: int, show: Callable[[bytes], str], *, output: bool = False, by_result: bool = False) -> Formatter:
    """``length`` (an argument's index, or the result) structures behind a pointer."""

    def formatter(call: Call, index: int) -> str:
        if output and call.failed:
            return address(call, index)
        count = call.result if by_result and call.result is not None else call.arguments[length]
        data = call.bytes_at(call.arguments[index], size * min(count, ARRAY_LIMIT))
        if data is None:
            return address(call, index) if count else "[]"
        items = [show(data[offset : offset + size]) for offset in range(0, len(data), size)]
        return "[" + ", ".join(items) + (", ..." if count > ARRAY_LIMIT else "") + "]"

    return formatter


# -- structures ---------------------------------------------------------------------------------------------------------------


def number(data: bytes) -> str:
    return f"[{int.from_bytes(data, 'little', signed=True)}]"


def pair(data: bytes) -> str:
    first, second = struct.unpack("<ii", data)
    return f"[{first}, {second}]"


def timespec(data: bytes) -> str:
    seconds, rest = struct.unpack("<qq", data)
    return f"{{tv_sec={seconds}, tv_nsec={rest}}}"


def timeval(data: bytes) -> str:
    seconds, rest = struct.unpack("<qq", data)
    return f"{{tv_sec={seconds}, tv_usec={rest}}}"


def itimerspec(data: bytes) -> str:
    return f"{{it_interval={timespec(data[:16])}, it_value={timespec(data[16:])}}}"


def itimerval(data: bytes) -> str:
    return f"{{it_interval={timeval(data[:16])}, it_value={timeval(data[16:])}}}"


def mask(data: bytes) -> str:
    return names.signal_set(int.from_bytes(data, "little"))


def sigaction(data: bytes) -> str:
    handler, flag_bits, restorer, signals = struct.unpack("<QQQQ", data)
    name = {0: "SIG_DFL", 1: "SIG_IGN"}.get(handler, f"{handler:#x}")
    text = f"{{sa_handler={name}, sa_mask={names.signal_set(signals)}, sa_flags={names.flags('sa', flag_bits)}"
    return text + (f", sa_restorer={restorer:#x}}}" if flag_bits & 0x04000000 else "}")


def stack(data: bytes) -> str:
    base, flag_bits, size = struct.unpack("<Qi4xQ", data)
    return f"{{ss_sp={pointer(base)}, ss_flags={names.flags('ss', flag_bits & 0xFFFFFFFF)}, ss_size={size}}}"


def stat(data: bytes) -> str:
    fields = structs.stat.unpack(data)
    if _stat.S_ISCHR(fields.st_mode) or _stat.S_ISBLK(fields.st_mode):
        return f"{{st_mode={node_mode(fields.st_mode)}, st_rdev={device_number(fields.st_rdev)}, ...}}"
    return f"{{st_mode={node_mode(fields.st_mode)}, st_size={fields.st_size}, ...}}"


def statx(data: bytes) -> str:
    fields = structs.statx.unpack(data)
    return f"{{stx_mask={names.flags('statx', fields.stx_mask)}, stx_attributes=0, stx_mode={node_mode(fields.stx_mode)}, stx_size={fields.stx_size}, ...}}"


def rlimit(data: bytes) -> str:
    def limit(value: int) -> str:
        if value == (1 << 64) - 1:
            return "RLIM64_INFINITY"
        return f"{value // 1024}*1024" if value >= 1024 and value % 1024 == 0 else str(value)

    soft, hard = struct.unpack("<QQ", data)
    return f"{{rlim_cur={limit(soft)}, rlim_max={limit(hard)}}}"


def pollfd(data: bytes) -> str:
    fd, events, _ = struct.unpack("<ihH", data)
    return f"{{fd={fd}, events={names.flags('poll', events & 0xFFFF)}}}"


def epoll_event(data: bytes) -> str:
    events, value = struct.unpack("<IQ", data)
    return f"{{events={names.flags('epoll_events', events)}, data={value:#x}}}"


def flock(data: bytes) -> str:
    kind, whence, start, length, _pid = struct.unpack_from("<hh4xqqi", data)
    return f"{{l_type={names.enum('lock', kind)}, l_whence={names.enum('seek', whence)}, l_start={start}, l_len={length}}}"


def winsize(data: bytes) -> str:
    rows, columns, x, y = struct.unpack("<HHHH", data)
    return f"{{ws_row={rows}, ws_col={columns}, ws_xpixel={x}, ws_ypixel={y}}}"


def termios(data: bytes) -> str:
    iflag, oflag, cflag, lflag = struct.unpack_from("<IIII", data)
    return f"{{c_iflag={iflag:#x}, c_oflag={oflag:#x}, c_cflag={cflag:#x}, c_lflag={lflag:#x}, ...}}"


def wait_status(data: bytes) -> str:
    status = int.from_bytes(data, "little")
    if status & 0x7F == 0:
        return f"[{{WIFEXITED(s) && WEXITSTATUS(s) == {status >> 8 & 0xFF}}}]"
    if status & 0xFF == 0x7F:
        return f"[{{WIFSTOPPED(s) && WSTOPSIG(s) == {names.signal_name(status >> 8 & 0xFF)}}}]"
    if status == 0xFFFF:
        return "[{WIFCONTINUED(s)}]"
    return f"[{{WIFSIGNALED(s) && WTERMSIG(s) == {names.signal_name(status & 0x7F)}}}]"


def utsname(data: bytes) -> str:
    fields = [data[offset : offset + 65].split(b"\0", 1)[0] for offset in range(0, len(data) - 64, 65)]
    return f"{{sysname={quote(fields[0])}, nodename={quote(fields[1])}, ...}}"


def ellipsis(data: bytes) -> str:
    return "{...}"


def socket_address(data: bytes) -> str:
    family = int.from_bytes(data[:2], "little")
    name = names.enum("af", family)
    if family == 1:
        if len(data) <= 2:
            return "{sa_family=AF_UNIX}"
        text = data[2:]
        shown = "@" + quote(text[1:]) if text[:1] == b"\0" else quote(text.split(b"\0", 1)[0], 108)
        return f"{{sa_family=AF_UNIX, sun_path={shown}}}"
    return f"{{sa_family={name}, sa_data={quote(data[2:])}}}"


def socket_address_in(length: int) -> Formatter:
    def show(call: Call, index: int) -> str:
        data = call.bytes_at(call.arguments[index], min(call.arguments[length], 128))
        return address(call, index) if data is None or len(data) < 2 else socket_address(data)

    return show


def socket_address_out(length: int) -> Formatter:
    def show(call: Call, index: int) -> str:
        size = call.bytes_at(call.arguments[length], 4)
        if call.failed or size is None:
            return address(call, index)
        data = call.bytes_at(call.arguments[index], min(int.from_bytes(size, "little"), 128))
        return address(call, index) if data is None or len(data) < 2 else socket_address(data)

    return show


def message(call: Call, index: int) -> str:
    """struct msghdr, without its control data."""
    raw = call.bytes_at(call.arguments[index], 56)
    if raw is None:
        return address(call, index)
    name, name_length, iov, iov_length, _control, control_length, flag_bits = struct.unpack("<QI4xQQQQi4x", raw)
    return (
        f"{{msg_name={pointer(name)}, msg_namelen={name_length}, msg_iov={pointer(iov)}, msg_iovlen={iov_length}, "
        f"msg_controllen={control_length}, msg_flags={names.flags('msg', flag_bits & 0xFFFFFFFF)}}}"
    )


def descriptor_set(call: Call, index: int) -> str:
    """An fd_set of select(2)."""
    count = signed(call.arguments[0])
    raw = call.bytes_at(call.arguments[index], (max(count, 0) + 7) // 8)
    if raw is None:
        return address(call, index)
    bits = int.from_bytes(raw, "little")
    return "[" + " ".join(str(fd) for fd in range(count) if bits >> fd & 1) + "]"


def socket_type(call: Call, index: int) -> str:
    value = call.arguments[index] & 0xFFFFFFFF
    extra = value & 0o2004000
    text = names.enum("socktype", value & ~extra)
    return text + "|" + names.flags("sock_flags", extra) if extra else text


def clone_flags(call: Call, index: int) -> str:
    value = call.arguments[index]
    text = names.flags("clone", value & ~0xFF, "")
    exit_signal = value & 0xFF
    parts = [part for part in (text, names.signal_name(exit_signal) if exit_signal else "") if part]
    return "flags=" + ("|".join(parts) or "0")


def clone_arguments(call: Call, index: int) -> str:
    raw = call.bytes_at(call.arguments[index], 64)
    if raw is None:
        return address(call, index)
    flag_bits, _pidfd, child_tid, _parent_tid, exit_signal, base, size, _tls = struct.unpack("<8Q", raw)
    text = f"{{flags={names.flags('clone', flag_bits)}"
    if child_tid:
        text += f", child_tid={child_tid:#x}"
    return text + f", exit_signal={names.signal_name(exit_signal) if exit_signal else 0}, stack={pointer(base)}, stack_size={size:#x}}}"


def futex_operation(call: Call, index: int) -> str:
    value = call.arguments[index] & 0xFFFFFFFF
    text = names.enum("futex", value & 0x7F)
    if value & 128:
        text += "_PRIVATE"
    return text + ("|FUTEX_CLOCK_REALTIME" if value & 256 else "")


def futex_timeout(call: Call, index: int) -> str:
    if call.arguments[1] & 0x7F in (0, 6, 9, 11, 13):
        return structure(16, timespec)(call, index)
    return unsigned(call, index)


def ioctl_request(call: Call, index: int) -> str:
    value = call.arguments[index] & 0xFFFFFFFF
    return names.ioctl_names().get(value, f"{value:#x}")


def ioctl_argument(call: Call, index: int) -> str:
    request = names.ioctl_names().get(call.arguments[index - 1] & 0xFFFFFFFF, "")
    shows: dict[str, Formatter] = {
        "TIOCGWINSZ": structure(8, winsize, output=True), "TIOCSWINSZ": structure(8, winsize),
        "TCGETS": structure(36, termios, output=True), "TCSETS": structure(36, termios), "TCSETSW": structure(36, termios),
        "TCSETSF": structure(36, termios), "TIOCGPGRP": structure(4, number, output=True), "TIOCSPGRP": structure(4, number),
        "FIONREAD": structure(4, number, output=True), "FIONBIO": structure(4, number),
        "TIOCGPTN": structure(4, number, output=True), "TIOCSPTLCK": structure(4, number),
        "TCFLSH": enumeration("tcflsh"),
    }  # fmt: skip
    return shows.get(request, hexadecimal)(call, index)


def fcntl_argument(call: Call, index: int) -> str:
    command = names.enum_names("fcntl").get(signed(call.arguments[index - 1]), "")
    if command in ("F_GETFD", "F_GETFL", "F_GETOWN", "F_GETSIG", "F_GETPIPE_SZ", "F_GETLEASE", "F_GET_SEALS"):
        return ""
    if command == "F_SETFD":
        return names.flags("fdflags", call.arguments[index])
    if command == "F_SETFL":
        return open_mode(call.arguments[index] & 0xFFFFFFFF)
    if "LK" in command:
        return structure(32, flock)(call, index)
    return long(call, index)
