"""The protocols between runner, containers and their clients: Starnix's and the component framework's, as STARNIX.md's part B gives them, and polynix's own."""

from __future__ import annotations

from polynix.ipc.bindings import FidlProtocol
from polynix.ipc.protocols.component import ComponentController, ComponentRunner, Directory
from polynix.ipc.protocols.controller import Controller
from polynix.ipc.protocols.manager import Manager
from polynix.ipc.protocols.pager import Pager
from polynix.ipc.protocols.power import Power
from polynix.ipc.protocols.programs import Program, Programs

PROTOCOLS: tuple[type[FidlProtocol], ...] = (Manager, Pager, Controller, ComponentRunner, ComponentController, Directory, Programs, Program, Power)

__all__ = ["PROTOCOLS", "ComponentController", "ComponentRunner", "Controller", "Directory", "Manager", "Pager", "Power", "Program", "Programs"]
