"""A kernel module in twenty lines: /dev/dice, and a word about every program that starts.

Load it with ``polynix run --feature docs/dice.py -- head -c 8 /dev/dice``.
"""

import random
import sys

from polynix.scripting import FileOps, device, hook


@device("/dev/dice", mode=0o444)
class Dice(FileOps):
    """Reading it rolls dice."""

    seekable = False

    def read(self, file, offset, out):
        return out.write(bytes(random.choices(b"123456", k=min(out.remaining, 4096))))


@hook("execve")
def who_starts(call):
    """Sees each start of a program; by its return value it could also answer in the kernel's place."""
    print(f"kernel: {call.process} (pid {call.pid}) starts {call.path}", file=sys.stderr)
