"""Watch: how one who waits for something else hears that the client behind a request has left."""

from __future__ import annotations

from typing import Protocol


class Readiness(Protocol):
    """What a watch saw: the descriptor, or that the client has left; neither, when our own process ends."""

    @property
    def fd(self) -> bool: ...
    @property
    def gone(self) -> bool: ...


class Watch(Protocol):
    """Waits for a descriptor and for the client's leaving at once (web.disconnect, api.standing)."""

    def wait(self, fd: int | None, timeout: float | None) -> Readiness: ...
