"""The initial process of one container: a Linux kernel whose every object is a Python object.

It is built in floors, from ``uapi/`` to ``main``, each of which imports only what lies below it; docs/architecture.md lists them.
"""
