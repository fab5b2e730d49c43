"""Sockets: what is common to all families, AF_UNIX, and AF_VSOCK.

- :class:`~polynix.kernelproc.net.socket.Socket` is one endpoint: options, errors, shutdown, and what each family must answer. None of it blocks: ``send``,
  ``receive``, ``accept`` and ``connect`` make one attempt and give ``-EAGAIN``.
- :mod:`~polynix.kernelproc.net.socket_file` makes it a file, and has the loops in which calls on it block, with SO_RCVTIMEO and SO_SNDTIMEO.
- :mod:`~polynix.kernelproc.net.messages` is what lies in a queue between sender and receiver (Linux's ``sk_buff``), with descriptors and credentials.
- ``unix_*`` is AF_UNIX, after Linux's net/unix/af_unix.c; :mod:`~polynix.kernelproc.net.garbage` frees descriptors that only they themselves still hold.
- ``vsock`` is AF_VSOCK streams within the container and from outside, by way of ``bridge``, the kernel's end of a connection whose other end is ``outside``.
"""
