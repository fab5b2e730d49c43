"""Guest memory: address spaces, regions, usercopy, and restricted mode.

The idea: a guest's private memory is one sparse shared memory object (its *restricted region*) laid out so that offset == guest address. The stub process
maps pieces of it where the guest asked; the kernel process reaches the same pages through windows. ``MemoryManager`` (Linux's ``mm_struct``) owns the
VMAs, decides, and queues the host calls that make the stub's maps agree; the stub runs them before the guest goes on. Nothing here knows of tasks, files or
system calls.
"""
