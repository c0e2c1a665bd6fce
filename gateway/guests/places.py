"""Places: the node of the cluster on which a new guest is made, looked at before anything is made there."""

from __future__ import annotations

from gateway.errors_pve import NodeUnreachable, PveRootOnly
from gateway.guests.container import ContainerRequest
from gateway.guests.wish import Wish
from gateway.pve.guests import GuestMap
from gateway.pve.service import Pve


def require_place(pve: Pve, guests: GuestMap, wish: Wish, *, here: str) -> str:
    """The node that a guest is asked for on, `here` where none is named. Raises NodeNotFound, NodeUnreachable for one
    that is offline, PveRootOnly for what root@pam alone may make: that is this node's pvesh, and no other node's."""
    node = guests.require_node(wish.node or here)
    if node == here:
        return node
    if isinstance(wish, ContainerRequest) and wish.for_root:
        raise PveRootOnly(
            f"PVE allows {', '.join(wish.for_root)} to root@pam alone, which this gateway is on node {here}; ask the "
            f"gateway of {node}",
            node=node,
        )
    if not any(one.name == node and one.online for one in pve.inventory.nodes()):
        raise NodeUnreachable(f"node {node} is offline; take another one, see GET /nodes", node=node)
    return node
