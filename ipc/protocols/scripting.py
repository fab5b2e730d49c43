"""polynix.container.Scripting: hooks, devices and file systems that a container's owner puts into its running kernel.

What is asked and answered are JSON texts, whose meaning is the scripting's own affair: rules and packed classes change more often than protocols should.
"""

from __future__ import annotations

from polynix.ipc.bindings import FidlProtocol, Openness, protocol, two_way
from polynix.ipc.fidl import member, struct
from polynix.ipc.light_dataclass import dataclass
from polynix.ipc.protocols.programs import Data


@struct
@dataclass(frozen=True)
class ScriptingText:
    """A JSON object."""

    text: Data = member(Data)


@protocol("polynix.container.Scripting", openness=Openness.OPEN)
class Scripting(FidlProtocol):
    """One container's kernel."""

    @two_way()
    async def call(self, request: ScriptingText) -> ScriptingText:
        """``method`` and ``parameters``; the answer has a ``result``, or an ``error`` as one line."""
        raise NotImplementedError
