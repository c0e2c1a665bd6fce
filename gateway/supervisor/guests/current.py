"""Which run of each guest is the present one: containers and virtual machines alike."""

from __future__ import annotations

import os
import select
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from gateway.errors import GuestNotRunning


@dataclass
class Run:
    """One run of a guest: of process `pid`, which began at `start` (clock ticks since boot) and is held by `pidfd`."""

    vmid: int
    pid: int
    start: int
    pidfd: int
    closed: bool = field(default=False, kw_only=True)
    _death: select.poll = field(default_factory=select.poll, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._death.register(self.pidfd, select.POLLIN)

    @property
    def key(self) -> str:
        """Names this run; the same pid at another time has another key."""
        return f"{self.pid}.{self.start}"

    def alive(self) -> bool:
        return not self.closed and not self._death.poll(0)

    def close(self) -> None:
        """Gives the descriptor back; from now on it counts as dead."""
        self.closed = True
        os.close(self.pidfd)


R = TypeVar("R", bound=Run)


class CurrentRuns(ABC, Generic[R]):
    """At most one run of a vmid, found when it is asked for and known until its death is seen."""

    def __init__(self, on_found: Callable[[R], None]) -> None:
        """`on_found` is called with each run that becomes known."""
        self._on_found = on_found
        self._known: dict[int, R] = {}

    def require(self, vmid: int) -> R:
        """The run that is now. Raises GuestNotRunning."""
        run = self.current(vmid)
        if run is None:
            raise GuestNotRunning(f"guest {vmid} is not running; start it first", vmid=vmid)
        return run

    def current(self, vmid: int) -> R | None:
        """The run that is now, frozen or not; None when the guest does not run."""
        known = self._known.get(vmid)
        if known is not None:
            if known.alive():
                return known
            del self._known[vmid]
        run = self._discover(vmid)
        if run is not None:
            self.adopt(run)
        return run

    def adopt(self, run: R) -> None:
        """Knows it from now on."""
        self._known[run.vmid] = run
        self._on_found(run)

    def known(self) -> list[R]:
        return list(self._known.values())

    def forget(self, run: R) -> None:
        """Drops a run that is over; its descriptors are closed by whoever holds the last exec of it."""
        if self._known.get(run.vmid) is run:
            del self._known[run.vmid]

    @abstractmethod
    def _discover(self, vmid: int) -> R | None:
        """Looks for it on the node."""
