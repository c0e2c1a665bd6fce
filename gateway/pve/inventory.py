"""What the cluster has: its guests, nodes and pools, and the next free vmid."""

from __future__ import annotations

from gateway.errors import GuestNotFound
from gateway.errors_pve import GuestExists, PoolNotFound, PveNonsense
from gateway.exec.order import GuestKind
from gateway.pve.caller import Caller
from gateway.pve.ids import parse_pool, parse_vmid
from gateway.pve.models import Guest, GuestRef
from gateway.pve.resources import Node, Pool
from gateway.pve.scalars import number


class Inventory:
    """Looks at the cluster, as far as the gateway's token may see it: a request each. All raise GatewayError."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def guests(
        self,
        *,
        node: str | None = None,
        kind: GuestKind | None = None,
        pool: str | None = None,
        tag: str | None = None,
        status: str | None = None,
    ) -> list[Guest]:
        """The guests of the cluster by vmid, those that fit all of what is given."""
        rows = self._caller.ask_list("cluster", "resources", options={"type": "vm"})
        found = [guest for guest in map(Guest.read, rows) if guest is not None]
        return sorted(
            (
                guest
                for guest in found
                if node in (None, guest.node)
                and kind in (None, guest.kind)
                and pool in (None, guest.pool)
                and status in (None, guest.status)
                and (tag is None or tag in guest.tags)
            ),
            key=lambda guest: guest.vmid,
        )

    def find(self, vmid: int) -> GuestRef:
        """Where a guest is, wherever in the cluster. Raises GuestNotFound. GuestMap.find knows it without PVE's API."""
        parse_vmid(vmid)
        for guest in self.guests():
            if guest.vmid == vmid:
                return guest.ref
        raise GuestNotFound.for_vmid(vmid)

    def next_vmid(self, wanted: int | None = None) -> int:
        """The lowest free vmid, or `wanted` if that is free. Nothing is reserved. Raises GuestExists."""
        if wanted is not None:
            parse_vmid(wanted)
        try:
            found = number(self._caller.ask("cluster", "nextid", options={"vmid": wanted}))
        except GuestExists as error:
            error.evidence["vmid"] = wanted
            raise
        if found is None:
            raise PveNonsense("PVE tells no free vmid")
        return found

    def nodes(self) -> list[Node]:
        """The nodes of the cluster by name, those that are offline too."""
        rows = self._caller.ask_list("nodes")
        return sorted((node for node in map(Node.read, rows) if node is not None), key=lambda node: node.name)

    def pools(self) -> list[Pool]:
        """The pools by name, without their members."""
        rows = self._caller.ask_list("pools")
        return sorted((pool for pool in map(Pool.read, rows) if pool is not None), key=lambda pool: pool.name)

    def pool(self, name: str) -> Pool:
        """A pool with its members. Raises PoolNotFound."""
        about = {"pool": name}
        for row in self._caller.ask_list("pools", about=about, options={"poolid": parse_pool(name)}):
            found = Pool.read(row)
            if found is not None and found.name == name:
                return found
        raise PoolNotFound(f"no pool {name}; see GET /pools", **about)
