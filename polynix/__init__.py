"""polynix: a Linux kernel in Python that runs unmodified x86-64 Linux programs.

>>> import polynix
>>> polynix.run(["echo", "hello"], capture_output=True, text=True).stdout
'hello\\n'

``Container`` runs several programs on one kernel; see :mod:`polynix.runner.container`. ``Runner`` keeps containers; see :mod:`polynix.runner.client`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polynix.runner.client import Runner as Runner
    from polynix.runner.container import Container as Container
    from polynix.runner.container import run as run
    from polynix.runner.errors import ContainerError as ContainerError
    from polynix.runner.process import Process as Process
    from polynix.runner.streams import DEVNULL as DEVNULL
    from polynix.runner.streams import PIPE as PIPE
    from polynix.runner.streams import STDOUT as STDOUT

__version__ = "0.1.0"
__all__ = ["DEVNULL", "PIPE", "STDOUT", "Container", "ContainerError", "Process", "Runner", "run"]


def __getattr__(name: str) -> Any:
    # Lazily: the command line imports this package before it knows what it will need.
    if name in __all__:
        import importlib

        places = {"ContainerError": "errors", "Process": "process", "Runner": "client", "PIPE": "streams", "STDOUT": "streams", "DEVNULL": "streams"}
        return getattr(importlib.import_module(f"polynix.runner.{places.get(name, 'container')}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
