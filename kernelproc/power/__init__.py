"""Holding guest threads, suspending the container, and what keeps it awake.

The idea: a guest thread that waits at its hand-off uses nothing and changes nothing, so a container is suspended when all of its threads wait there
and nobody resumes them (:mod:`hold`). CLOCK_MONOTONIC stands still meanwhile (``kernelproc.clock``), and with it every timer.
"""
