"""What polynix itself gets wrong, or cannot do; light enough for the command line's start."""

from __future__ import annotations


class ContainerError(Exception):
    """polynix itself failed: the container could not be started, or its kernel died. The text is one line for people."""


class NoSuchContainer(ContainerError):
    """A runner knows none of that name."""
