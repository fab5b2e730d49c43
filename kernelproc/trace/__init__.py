"""Tracing a kernel into a ring (:mod:`polynix.kernelproc.trace_layout`): system calls, wake-ups, faults, signals, who is who.

Everything is wrapped around the kernel's own functions when the trace is asked for, so that a kernel without one does not know of it. What is written is raw
and of fixed size; decoding is the reader's work.
"""
