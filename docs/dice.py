"""A kernel module in twenty lines: /dev/dice, and a word about every program that starts.

Load it with ``polynix run --feature docs/dice.py -- head -c 8 /dev/dice``.
"""

import random
import sys

from polynix.kernelproc.observer import SyscallObserver
from polynix.kernelproc.registry import modules
from polynix.kernelproc.uapi.unistd import SYSCALLS
from polynix.kernelproc.vfs.ops import FileOps


class Dice(FileOps):
    """Reading it rolls dice."""

    seekable = False

    def read(self, file, offset, out):
        return out.write(bytes(random.choices(b"123456", k=min(out.remaining, 4096))))


class WhoStarts(SyscallObserver):
    """Sees each system call of each process; it could also answer in the kernel's place."""

    def enter(self, task, number, arguments):
        if number == SYSCALLS["execve"]:
            print(f"kernel: {task.comm.decode()} (pid {task.pid}) starts another program", file=sys.stderr)


@modules.module("dice")
def initialise(kernel, arguments):
    kernel.devices.register(242, 0, lambda task, dev, node, flags: Dice(), name=b"dice", mode=0o444)
    kernel.syscall_observers.append(WhoStarts())
