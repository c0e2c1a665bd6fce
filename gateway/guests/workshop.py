"""Workshop: what all who make guests on this node share: PVE, the vmids in use, the turns at a source, tasks begun."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.errors_pve import GuestExists
from gateway.exec.permit import Ranges
from gateway.guests.changes import Changes
from gateway.guests.pace import Pace
from gateway.guests.turns import Turns
from gateway.guests.vmids import first_free
from gateway.pve.guests import GuestMap
from gateway.pve.ids import Upid
from gateway.pve.root import Root
from gateway.pve.service import Pve


class Workshop:
    """Safe in many threads. `alone`: no other process uses PVE's token, so that a task of it which nobody announced is
    surely ours; `find_seconds`: for how long such a task is looked for when PVE's answer was lost."""

    def __init__(
        self,
        pve: Pve,
        guests: GuestMap,
        changes: Changes,
        pace: Pace,
        root: Root,
        node: str,
        *,
        alone: bool,
        find_seconds: float = 15.0,
    ) -> None:
        self.pve = pve
        self.pace = pace
        self.guests = guests
        self.changes = changes
        self.root = root
        self.node = node
        self.alone = alone
        self.find_seconds = find_seconds
        self.turns = Turns()
        self._lock = threading.Lock()
        self._reserved: set[int] = set()
        self._begun: deque[str] = deque(maxlen=1000)

    @contextmanager
    def reserve(self, reach: Ranges, wanted: int | None, tried: set[int]) -> Iterator[int]:
        """A vmid that nobody in the cluster has and no other making here uses meanwhile: the cluster's own list tells,
        which is all that PVE's nextid looks at. Raises GuestExists, NoFreeVmid, NodeNotReady."""
        vmid = self._take(reach, wanted, tried)
        try:
            yield vmid
        finally:
            with self._lock:
                self._reserved.discard(vmid)

    def _take(self, reach: Ranges, wanted: int | None, tried: set[int]) -> int:
        known = self.guests.vmids()
        with self._lock:
            taken = known | self._reserved
            if wanted is None:
                vmid = first_free(reach, taken | tried)
            elif wanted in taken:
                raise GuestExists(f"vmid {wanted} is taken; see GET /nextid", vmid=wanted)
            else:
                vmid = wanted
            self._reserved.add(vmid)
        return vmid

    def begun(self, upid: Upid) -> bool:
        """Remembers a task as that of one guest's making; False if it is another's already."""
        with self._lock:
            if str(upid) in self._begun:
                return False
            self._begun.append(str(upid))
            return True

    def knows(self, upid: Upid) -> bool:
        """Whether the task is that of one guest's making."""
        with self._lock:
            return str(upid) in self._begun
