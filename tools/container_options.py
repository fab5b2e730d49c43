"""The options that shape a container, as ``polynix run`` and ``start`` take them: the one table of them. Imports nothing."""

from __future__ import annotations

from typing import NamedTuple


class ContainerOption(NamedTuple):
    """One option, which takes a value."""

    flags: tuple[str, ...]
    destination: str
    """The name of the parameter."""
    metavar: str
    help: str
    default: str | None = None
    repeatable: bool = False
    number: str = ""
    """``count`` or ``seconds`` where the value is no text."""


CONTAINER_OPTIONS = (
    ContainerOption(
        ("--rootfs",),
        "rootfs",
        "DIR|IMAGE",
        "Root directory, or image of an ext2-4 or squashfs file system: the read-only lower layer of an overlay in memory.",
        default="/",
    ),
    ContainerOption(("--bind",), "binds", "SRC:DST[:ro]", "Show a host file or directory inside; writes reach the host. Repeatable.", repeatable=True),
    ContainerOption(("--tmpfs",), "tmpfs", "PATH[:OPTIONS]", "Mount an empty file system in memory: /data:size=64K. Repeatable.", repeatable=True),
    ContainerOption(("--workdir", "-w"), "workdir", "DIR", "Working directory inside; by default the current one, where it exists inside."),
    ContainerOption(("--env", "-e"), "environment", "K=V", "Set an environment variable. Repeatable.", repeatable=True),
    ContainerOption(("--env-file",), "environment_files", "FILE", "Set the K=V lines of a file. Repeatable.", repeatable=True),
    ContainerOption(("--user", "-u"), "user", "UID[:GID]", "User inside.", default="0:0"),
    ContainerOption(("--hostname",), "hostname", "NAME", "Host name inside; by default the host's.", default=""),
    ContainerOption(
        ("--feature",), "features", "NAME[:ARGS]", "Enable a kernel module, or the modules of a Python file (./FILE.py). Repeatable.", repeatable=True
    ),
    ContainerOption(("--memory",), "memory", "SIZE", "Limit of guest memory (K, M, G); by default a share of the host's.", default=""),
    ContainerOption(("--pids",), "pids", "N", "Limit of processes and threads.", number="count"),
    ContainerOption(("--suspend-after",), "suspend_after", "SECONDS", "Suspend the container when it has been idle for so long.", number="seconds"),
    ContainerOption(("--strace",), "strace", "[=FILTER]", "Show decoded system calls; FILTER is strace's: names, %classes, !negation, /regex."),
    ContainerOption(("--strace-file",), "strace_file", "FILE", "Write them to FILE instead of standard error."),
    ContainerOption(("--fail",), "failing", "RULE", "Let system calls fail (see below). Repeatable.", repeatable=True),
    ContainerOption(("--delay",), "delayed", "RULE", "Let system calls begin later. Repeatable.", repeatable=True),
    ContainerOption(("--shorten",), "shortened", "RULE", "Let system calls transfer fewer bytes. Repeatable.", repeatable=True),
    ContainerOption(("--kill",), "killed", "RULE", "Kill the caller of system calls. Repeatable.", repeatable=True),
    ContainerOption(("--log-level",), "log_level", "LEVEL", "debug, info, warning, error.", default="warning"),
)
RUNNER = ContainerOption(("--runner",), "directory", "DIR", "The runner that serves DIR; by default the user's own.")
"""Of the commands for containers that a runner keeps."""
