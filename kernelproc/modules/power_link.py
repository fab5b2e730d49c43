"""``--feature power_link:DIRECTORY``: let whoever has a broker in DIRECTORY play the runner's part in suspends; for benchmarks and tests.

The first message on the session's root channel carries the client's end of Power, the server's end of Manager, and the job.
"""

from __future__ import annotations

import os
import select

from polynix.ipc.objects import Channel, Job
from polynix.ipc.session import Session
from polynix.kernelproc.kernel import Kernel
from polynix.kernelproc.power.runner_link import RunnerSuspender, serve_power
from polynix.kernelproc.registry import modules


@modules.module("power_link")
def initialise(kernel: Kernel, arguments: str) -> None:
    session = Session.connect(arguments, threaded=False)
    job = Job.create()
    power_client, power_server = Channel.create()
    manager_client, manager_server = Channel.create()
    session.root.write(str(os.getpid()).encode(), [power_client, manager_server, job.duplicate()])
    serve_power(kernel.power, power_server)
    RunnerSuspender(kernel.power, lambda: manager_client, job)
    kernel.engine.watch(session.fileno(), select.EPOLLIN, lambda _events: session.process())
    kernel.engine.call_soon(session.process)
    kernel.expando.get(_Link).session = session


class _Link:
    """Keeps the session."""

    session: Session
