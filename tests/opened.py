"""Sockets that tests have opened: one that fails leaves them open, and collected later they would fail another test."""

from __future__ import annotations

import os
import socket
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

S = TypeVar("S", bound=socket.socket)

_noted: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def noted(sock: S) -> S:
    """The same socket, which `closing_all` closes if nobody else does."""
    _noted.add(sock)
    return sock


@contextmanager
def closing_all() -> Iterator[None]:
    """Closes what is noted in the block and still open at its end, replies that are read from it notwithstanding."""
    before = set(_noted)
    try:
        yield
    finally:
        for sock in set(_noted) - before:
            if sock.fileno() >= 0:
                os.close(sock.detach())
