"""The virtual file system, in Starnix's terms.

- ``FsNode`` is an inode: attributes and a :class:`~polynix.kernelproc.vfs.ops.FsNodeOps`.
- ``DirEntry`` is one hard link: a name in a parent; directories have exactly one. Dentries cache look-ups.
- ``FileSystem`` owns nodes and its root; ``Mount`` puts one at a place; ``Namespace`` is the tree of mounts.
- ``NamespaceNode`` = (mount, entry) is what paths resolve to; ``FsContext`` holds a task's root, cwd and umask.
- ``FileObject`` is an open file description: node, flags, offset and a :class:`~polynix.kernelproc.vfs.ops.FileOps`.

Invariants: file names are ``bytes``; permissions are checked here, from guest credentials, never by a file system; a file's operations never block
(they return ``-EAGAIN`` and say by ``wait_queue`` and ``query_events`` when to try again), the one blocking loop is
:func:`polynix.kernelproc.vfs.file_object.blocking_operation`.
"""
