"""What starts containers and looks after them, and the clients of that.

The idea: a runner is the broker of a realm (``broker``, ``member``), whose children are kernel processes (``realm``, ``kernels``), forked from a ``launcher``.
``runner`` is its loop and ``runner_process`` the process; a private one ends with the program that started it (``private_runner``), a service keeps named
``containers``. What it does for each is its ``container_instance``: power (``suspend``, ``process_hold``, ``wake_sources``), connections from outside
(``proxy``, ``tcp_proxy``), pages of files (``pager``). ``container``, ``process`` and ``client`` are the Python API. Of the kernel it knows only what a
container is started with.
"""
