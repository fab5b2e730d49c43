"""What polynix asks of the host, checked before anything is started, so that each lack is one clear line."""

from __future__ import annotations

import importlib.util
import os
import re
import sys

MINIMUM_KERNEL = (5, 15)  # the oldest that polynix is made for; epoll_pwait2, the newest call it needs, came with 5.11
EXTENSIONS = ("polynix.addrspace._restricted", "polynix.addrspace._usercopy")


class UnsuitableHost(Exception):
    """The host cannot run polynix; the text is one line for the user."""


def check_host() -> None:
    """Errors: UnsuitableHost."""
    host = os.uname()
    if not sys.platform.startswith("linux") or host.machine not in ("x86_64", "amd64"):
        raise UnsuitableHost(f"needs Linux on x86-64, this is {host.sysname} on {host.machine}")
    numbers = re.match(r"(\d+)\.(\d+)", host.release)
    if numbers is not None and (int(numbers[1]), int(numbers[2])) < MINIMUM_KERNEL:
        raise UnsuitableHost(f"needs Linux {MINIMUM_KERNEL[0]}.{MINIMUM_KERNEL[1]} or newer, this is Linux {host.release}")
    for name in EXTENSIONS:
        if importlib.util.find_spec(name) is None:
            raise UnsuitableHost(f"{name} is not built; install polynix with a C compiler at hand")
    if not os.path.exists("/proc/self/fd"):
        raise UnsuitableHost("needs /proc")
