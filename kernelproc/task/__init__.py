"""Processes and threads: Linux's ``task_struct`` and ``signal_struct`` as Task and ThreadGroup, and what hangs on them.

A Task is one guest thread. It has at most one host thread (its *slot* in a stub) and at most one routine (the system call it is blocked in). A ThreadGroup is
a process. An address space (``MemoryManager``) may be shared by tasks of several groups (CLONE_VM): it owns the stub.
"""
