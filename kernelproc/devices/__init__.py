"""Devices: the memory devices, terminals, and what the container's caller handed over.

A terminal (``tty``, ``tty_file``, ``line_discipline``, ``terminal_modes``) has a wire: a ``pty``'s is its master, the ``console``'s is the terminal of the
caller. ``host_file`` is not a device of the guest's: it makes open files of the caller's descriptors.
"""
