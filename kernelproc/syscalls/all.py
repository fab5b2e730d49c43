"""Imports every module of system calls, so that the table is full; one line each, in alphabetical order."""

from polynix.kernelproc.syscalls import (  # noqa: F401
    credentials,
    directory,
    fd,
    file,
    futex,
    job,
    lock,
    memory,
    name,
    open,
    pipe,
    process,
    signal,
    stat,
    storage,
    time,
)
