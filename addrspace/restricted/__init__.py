"""Restricted mode: guest code runs natively in a process of its own; every trap brings it back here, with a reason.

What it models: Zircon's `zx_restricted_enter`, which Starnix stands on and Linux does not have. A *stub* process is one
address space; each of its host threads has a *slot*, memory shared with the kernel process in which the guest's registers
lie whenever the thread is held. The kernel process holds a slot or has resumed it, never both.

Invariants. A guest owns its stub, text and control pages included: nothing in a slot is trusted, and the seccomp filter
(`filter.h`) lets a stub do no more than its guest may do to itself. Every map in it is one that the kernel process asked for.
A stub dies with the kernel process. Waiting costs no CPU time: after a bounded spin both sides sleep.

`layout.h` defines every constant; `stub.c` is the stub; the other C files are the extension `polynix.addrspace._restricted`.
"""

from pathlib import Path
from typing import Final

STUB_PATH: Final = str(Path(__file__).with_name("stub"))
