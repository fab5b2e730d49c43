"""Option values as people write them (``SRC:DST[:ro]``, ``512M``, ``UID[:GID]``), checked; shared by the command line and the
Python API.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import TYPE_CHECKING

from polynix.kernelproc.hook_rule import HookRule, RuleError, parse_rule
from polynix.kernelproc.options import Bind

if TYPE_CHECKING:
    from polynix.ipc.protocols.connections import ProxyTarget, TcpAddress

_UNITS = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
MAX_HOSTNAME = 64
MAX_ID = (1 << 32) - 2


class ParameterError(ValueError):
    """An option's value is wrong; the text is one line for the user."""


def parse_bind(text: str) -> Bind:
    """``SRC:DST[:ro|:rw]``: an existing host path, an absolute path inside."""
    source, separator, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    if not separator or not source or not target or mode not in ("", "ro", "rw"):
        raise ParameterError(f"bind {text!r} is not SRC:DST[:ro]")
    if not target.startswith("/"):
        raise ParameterError(f"bind target {target!r} is not an absolute path")
    source = os.path.abspath(source)
    if not os.path.exists(source):
        raise ParameterError(f"bind source {source!r} does not exist")
    return Bind(source, target, mode == "ro")


def resolve_feature(text: str) -> str:
    """``NAME[:ARGS]``; of ``FILE.py[:ARGS]`` the file's absolute path, since the kernel process has another working directory."""
    path, suffix, arguments = text.partition(".py")
    return os.path.abspath(path + suffix) + arguments if suffix and arguments[:1] in ("", ":") else text


def check_tmpfs(text: str) -> str:
    """``PATH[:OPTIONS]``, mount(8)'s options of a tmpfs: ``/data:size=64K``."""
    path, _, options = text.partition(":")
    if not path.startswith("/"):
        raise ParameterError(f"tmpfs {text!r} does not begin with an absolute path")
    known = ("size", "mode", "uid", "gid", "nr_inodes", "nr_blocks")
    if any(option.partition("=")[0] not in known for option in filter(None, options.split(","))):
        raise ParameterError(f"tmpfs {text!r} has an option that is none of {', '.join(known)}")
    return text


def parse_hook(action: str, text: str) -> HookRule:
    """``CALL[+CALL…][:KEY=VALUE[,KEY=VALUE…]]``, as ``polynix run --fail`` takes it."""
    try:
        return parse_rule(action, text)
    except RuleError as error:
        raise ParameterError(str(error)) from None


def parse_user(text: str) -> tuple[int, int]:
    """``UID[:GID]``, numbers; the group is the user's number when left out."""
    uid, separator, gid = text.partition(":")
    try:
        numbers = int(uid), int(gid if separator else uid)
    except ValueError:
        raise ParameterError(f"user {text!r} is not UID[:GID] in numbers") from None
    if not all(0 <= number <= MAX_ID for number in numbers):
        raise ParameterError(f"user {text!r} is out of range")
    return numbers


def parse_environment(text: str) -> tuple[str, str]:
    """``NAME=VALUE``; a bare ``NAME`` takes the caller's value."""
    name, separator, value = text.partition("=")
    if not name or "\0" in text:
        raise ParameterError(f"environment {text!r} is not NAME=VALUE")
    return name, value if separator else os.environ.get(name, "")


def read_environment_file(path: str) -> dict[str, str]:
    """One ``NAME=VALUE`` a line; empty lines and lines that start with ``#`` are skipped."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.rstrip("\n") for line in file]
    except OSError as error:
        raise ParameterError(f"environment file {path!r}: {error.strerror}") from None
    return dict(parse_environment(line) for line in lines if line.strip() and not line.lstrip().startswith("#"))


def parse_size(text: str) -> int:
    """Bytes, with an optional K, M, G or T (powers of 1024)."""
    number = text.strip().upper().removesuffix("IB")
    unit = number[-1:] if number[-1:].isalpha() else ""
    try:
        size = float(number.removesuffix(unit)) * _UNITS[unit]
        valid = size >= 1 and size < 1 << 63
    except (ValueError, KeyError):
        valid = False
    if not valid:
        raise ParameterError(f"size {text!r} is not a positive number with K, M, G or T")
    return int(size)


def check_rootfs(path: str) -> str:
    """A readable directory, or a file or block device with the image of a file system; returns its absolute path."""
    path = os.path.abspath(path)
    if not os.path.exists(path):
        raise ParameterError(f"rootfs {path!r} does not exist")
    kind = os.stat(path).st_mode
    if not (stat.S_ISDIR(kind) or stat.S_ISREG(kind) or stat.S_ISBLK(kind)):
        raise ParameterError(f"rootfs {path!r} is neither a directory nor an image")
    if not os.access(path, os.R_OK | (os.X_OK if stat.S_ISDIR(kind) else 0)):
        raise ParameterError(f"rootfs {path!r} is not readable")
    return path


def check_hostname(name: str) -> str:
    """At most 64 bytes, as sethostname(2) takes."""
    if len(os.fsencode(name)) > MAX_HOSTNAME or "\0" in name:
        raise ParameterError(f"hostname of more than {MAX_HOSTNAME} bytes")
    return name


def check_log_level(name: str) -> str:
    if name.lower() not in LOG_LEVELS:
        raise ParameterError(f"log level {name!r} is none of {', '.join(LOG_LEVELS)}")
    return name.lower()


def tcp_address(text: str) -> TcpAddress:
    """``tcp://HOST:PORT``: the host is an IP address or ``localhost``, port 0 any free one."""
    import ipaddress

    from polynix.ipc.protocols.connections import TcpAddress

    scheme, separator, rest = text.partition("://")
    host, colon, port = rest.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if scheme == "tcp" and separator and colon and port.isascii() and port.isdigit() and int(port) < 65536:
        try:
            return TcpAddress(str(ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)), int(port))
        except ValueError:
            pass
    raise ParameterError(f"proxy address {text!r} is not tcp://ADDRESS:PORT")


def tcp_url(address: TcpAddress) -> str:
    """The text that :func:`tcp_address` reads."""
    return f"tcp://[{address.host}]:{address.port}" if ":" in address.host else f"tcp://{address.host}:{address.port}"


def proxy_target(text: str) -> ProxyTarget:
    """``unix:/PATH``, ``unix:@ABSTRACT`` or ``port:N``."""
    from polynix.ipc.protocols.connections import ProxyTarget

    kind, _, rest = text.partition(":")
    if kind == "unix" and (rest[:1] == "/" or (rest[:1] == "@" and len(rest) > 1)) and len(os.fsencode(rest)) < 108 and "\0" not in rest:
        return ProxyTarget(unix_path=os.fsencode(rest))
    if kind == "port" and rest.isascii() and rest.isdigit() and 0 < int(rest) < (1 << 32) - 1:
        return ProxyTarget(port=int(rest))
    raise ParameterError(f"proxy target {text!r} is neither unix:/PATH nor port:N")


def target_text(target: ProxyTarget) -> str:
    """The text that :func:`proxy_target` reads."""
    return f"port:{target.port}" if target.unix_path is None else f"unix:{os.fsdecode(bytes(target.unix_path))}"


def environment_list(environment: Mapping[str, str]) -> list[str]:
    """An environment as the kernel takes it."""
    return [f"{name}={value}" for name, value in environment.items()]
