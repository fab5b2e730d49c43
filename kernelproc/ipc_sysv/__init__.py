"""System V IPC (man 7 sysvipc): shared memory segments, semaphore sets and message queues.

All three are objects that outlive whoever made them, found by a key or by an id, with an owner and a mode of their own: :mod:`objects` is what they have in
common (Linux's ipc/util.c). There is one table of each kind in a kernel, in ``kernel.expando``; IPC namespaces do not exist.
"""
