"""File systems: what stands behind the nodes of :mod:`polynix.kernelproc.vfs`.

- ``tmpfs`` keeps files in memory (``tmpfs_file``: small ones inside the kernel process, big or mapped ones as a memory object); ``devtmpfs`` is one with a
  node for each registered device.
- ``hostfs`` is a directory of the host, opened beneath a descriptor; immutable for the lower tree, revalidating and writable for binds (``hostfs_bind``).
- ``image`` is an ext2-4 or squashfs image, read-only (``image_ext4``, ``image_squashfs``); the bytes of its files come from the runner's pager.
- ``overlay`` is a tmpfs whose nodes may have a lower node of one of these behind them: the root of a container.
- ``proc``, ``sysfs`` and ``devpts`` are made of computed nodes (``pseudo``); ``nsfs`` holds namespaces.

Invariants: names are bytes without slashes, never ``.`` or ``..``; permissions, read-only mounts and the rules of rename were checked by the VFS before an
operation of ``FsNodeOps`` is called; an operation happens as a whole or raises ``Errno`` and changes nothing; host calls go through ``host_call`` so that
no ``OSError`` reaches a system call.
"""
