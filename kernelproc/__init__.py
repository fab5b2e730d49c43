"""The initial process of one container: a Linux kernel whose every object is a Python object.

Floors, each of which imports only what lies below it: ``main`` · ``syscall_loop`` · ``syscalls/ fs/ devices/ modules/`` ·
``signals/ task/`` · ``vfs/`` · ``kernel registry`` · ``engine wait_queue kthreads clock`` · ``uapi/``.
"""
