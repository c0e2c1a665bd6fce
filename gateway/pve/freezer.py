"""Freezer: which containers of this node stand still, as the kernel shows it; PVE itself calls them running."""

from __future__ import annotations

from pathlib import Path

from gateway.exec.order import GuestKind
from gateway.pve.models import GuestRef


class Freezer:
    """`cgroup`: where cgroup v2 is mounted. Any thread may use it; nothing is remembered."""

    def __init__(self, cgroup: Path, node: str) -> None:
        self._cgroup = cgroup
        self._node = node

    def is_frozen(self, guest: GuestRef) -> bool | None:
        """Whether a container is frozen: paused, or for a moment by a snapshot or backup of PVE's. None for what cannot
        be told from here: a machine, or a container of another node."""
        if guest.kind is not GuestKind.LXC or guest.node != self._node:
            return None
        try:
            told = (self._cgroup / "lxc" / str(guest.vmid) / "ns" / "cgroup.events").read_text()
        except OSError:  # it is stopped
            return False
        return "frozen 1" in told.splitlines()
