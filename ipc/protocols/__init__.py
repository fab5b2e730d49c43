"""The protocols between runner, containers and their clients, as STARNIX.md's part B gives them."""

from __future__ import annotations

from polynix.ipc.bindings import FidlProtocol
from polynix.ipc.protocols.controller import Controller
from polynix.ipc.protocols.manager import Manager
from polynix.ipc.protocols.pager import Pager

PROTOCOLS: tuple[type[FidlProtocol], ...] = (Manager, Pager, Controller)

__all__ = ["PROTOCOLS", "Controller", "Manager", "Pager"]
