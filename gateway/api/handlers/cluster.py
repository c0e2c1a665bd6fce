"""What the cluster has beside guests: nodes, storages, pools, and the next free vmid."""

from __future__ import annotations

from gateway.api.call import Call, Reply
from gateway.api.models.cluster import NextVmid, NodeList, PoolList, StorageList, StoragesQuery
from gateway.api.services import Services
from gateway.auth.actions import Action
from gateway.guests.listing import pools_within
from gateway.guests.vmids import pick_vmid


def list_nodes(services: Services, call: Call) -> Reply:
    nodes: NodeList = {
        "nodes": [
            {
                "name": node.name,
                "online": node.online,
                "cpus": node.cpus,
                "cpu_used": node.cpu_used,
                "memory": node.memory,
                "memory_used": node.memory_used,
                "uptime": node.uptime,
            }
            for node in services.pve.inventory.nodes()
        ]
    }
    return Reply(nodes)


def list_storages(services: Services, call: Call) -> Reply:
    """Those of one node."""
    asked: StoragesQuery = call.query
    node = services.guests.require_node(asked.node or services.config.node)
    storages: StorageList = {
        "storages": [
            {
                "name": storage.name,
                "node": storage.node,
                "type": storage.kind,
                "content": list(storage.content),
                "active": storage.active,
                "enabled": storage.enabled,
                "shared": storage.shared,
                "total": storage.total,
                "used": storage.used,
                "available": storage.available,
            }
            for storage in services.pve.storages.on_node(node, content=asked.content)
        ]
    }
    return Reply(storages)


def list_pools(services: Services, call: Call) -> Reply:
    """With their guests within the grant."""
    reach = call.actor.reach(Action.GUEST_READ)
    found = pools_within(services.pve.inventory.pools(), services.pools.read(), reach)
    pools: PoolList = {
        "pools": [{"name": pool.name, "comment": pool.comment, "guests": vmids} for pool, vmids in found]
    }
    return Reply(pools)


def show_next_vmid(services: Services, call: Call) -> Reply:
    """The lowest free one within the grant."""
    reach = call.actor.reach(Action.GUEST_CREATE)
    free: NextVmid = {"vmid": pick_vmid(services.pve.inventory, services.guests, reach)}
    return Reply(free)
