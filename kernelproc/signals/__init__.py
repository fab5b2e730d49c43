"""Signals: what is pending where, how it is sent, and how it reaches guest code.

A signal is a :class:`~polynix.kernelproc.signals.siginfo.SigInfo`. It waits in one of two places, as in Linux: the
``SignalState`` of a task (directed at one thread) or the ``ProcessSignals`` of a thread group (any thread may take it). ``send``
decides at once what needs no thread: an ignored signal vanishes, a deadly one begins the group's exit, SIGCONT lets a stopped
group go on. All else is decided on the receiving task's way back to guest code, in ``delivery.prepare_return``: handlers
(``frame`` builds what they see on their stack), stops, and whether an interrupted system call is restarted.

``Task.attention`` is the flag that sends a task through ``prepare_return``; it may be set without cause, never the other way
round.
"""
