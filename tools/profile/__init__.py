"""``polynix profile``: where time and memory of a container's processes go, and whether they are isolated from each other.

The kernel's side is ``--feature profile`` (``kernelproc.modules.profile``), which sees calls, parks and wake-ups; the host's side is its own accounting of
the restricted processes, which owes nothing to polynix. :mod:`.session` brings the two together while the programs run, :mod:`.memory` holds one against
the other page by page, :mod:`.waits` makes the wait graph, :mod:`.interference` measures what programs do to each other, and :mod:`.report` draws it.
"""
