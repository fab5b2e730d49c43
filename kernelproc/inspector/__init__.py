"""Answers questions about the running kernel that the shared region has no room for: processes, mappings, descriptors.

A tool connects to an abstract unix socket named after the kernel process (``region_layout.INSPECTOR_PREFIX``), sends one JSON packet
``{"request": NAME, ...}`` and gets the answer as a memory file (:mod:`.server`). Handlers are functions ``(kernel, arguments) -> JSON value`` that register
with ``requests``; modules add their own. Nobody asks, nothing runs: the handlers are not even imported before the first question.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polynix.kernelproc.kernel import Kernel

Handler = Callable[["Kernel", dict[str, Any]], Any]


class RequestError(Exception):
    """The question cannot be answered; the text is one line for whoever asked."""


class Connection:
    """One tool's connection: what a request leaves in force ends with it. In a handler's arguments as ``connection``."""

    def __init__(self) -> None:
        self.on_close: list[Callable[[], None]] = []

    def close(self) -> None:
        while self.on_close:
            self.on_close.pop()()


class RequestRegistry:
    """Handlers by name."""

    def __init__(self) -> None:
        self.handlers: dict[str, Handler] = {}

    def handler(self, name: str) -> Callable[[Handler], Handler]:
        """Decorator: the function answers requests called ``name``."""

        def register(function: Handler) -> Handler:
            self.handlers[name] = function
            return function

        return register

    def answer(self, kernel: Kernel, request: dict[str, Any], connection: Connection) -> Any:
        """The JSON value for one request. Errors: RequestError."""
        function = self.handlers.get(str(request.get("request")))
        if function is None:
            raise RequestError(f"unknown request {request.get('request')!r}")
        return function(kernel, {**request, "connection": connection})


requests = RequestRegistry()
