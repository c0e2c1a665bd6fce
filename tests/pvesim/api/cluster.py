"""The cluster: its resources, status, nodes and next free vmid (pve-manager, API2/Cluster.pm and API2/Nodes.pm)."""

import os
import time
from pathlib import Path
from typing import Any

from tests.pvesim import boot
from tests.pvesim.api import ha, storages, users
from tests.pvesim.api.call import Call, Handler
from tests.pvesim.api.failure import die, refuse
from tests.pvesim.api.guest_store import Store, every_guest
from tests.pvesim.api.lxc import guest as containers
from tests.pvesim.api.privileges import may
from tests.pvesim.api.qemu import guest as machines
from tests.pvesim.api.storage_routes import usage

VERSION = {"version": "9.2.11", "release": "9.2", "repoid": "0123456789abcdef"}
_GUEST_FIELDS = (
    *("name", "status", "template", "uptime", "cpu", "mem", "maxmem", "disk", "maxdisk", "tags", "lock"),
    *("netin", "netout", "diskread", "diskwrite"),
)

_told: dict[tuple[Path, int], tuple[float, dict[str, Any]]] = {}  # by pvestatd: when, and what


def show_version(_: Call) -> Any:
    return VERSION


def next_id(call: Call) -> Any:
    """A text, not a number, and nothing is reserved [M]."""
    taken = every_guest()
    if call.get("vmid"):
        if call["vmid"] in taken:
            refuse({"vmid": f"VM {call['vmid']} already exists"})
        return str(call["vmid"])
    free = next((vmid for vmid in range(100, 1_000_000) if vmid not in taken), None)
    if free is None:
        die("unable to get any free VMID in range [100, 1000000]")
    return str(free)


def list_resources(call: Call) -> Any:
    """What the caller may see; guests of a node that is away are `unknown`."""
    wanted = call.get("type")
    found: list[dict[str, Any]] = []
    if wanted in (None, "vm"):
        known = users.read()
        for vmid, (kind, node) in every_guest().items():
            if may(call.user, f"/vms/{vmid}", "VM.Audit"):
                found.append(_guest_resource(call, vmid, kind, node, known.pool_of(vmid)))
    if wanted in (None, "node"):
        found += [{"id": f"node/{one['node']}", "level": "", **one} for one in list_nodes(call)]
    if wanted in (None, "storage"):
        found += _storage_resources(call)
    if wanted is None:
        pools = [name for name in users.read().pools if may(call.user, f"/pool/{name}", "Pool.Audit")]
        found += [{"id": f"/pool/{name}", "type": "pool", "pool": name} for name in sorted(pools)]
    return found


def show_status(call: Call) -> Any:
    """A single node is no cluster: no `cluster` entry then."""
    away = call.sim.faults.away()
    nodes = [
        {
            "type": "node", "id": f"node/{name}", "name": name, "nodeid": number if call.sim.peers else 0,
            "local": int(name == call.sim.node), "online": int(name not in away), "level": "",
            "ip": boot.ADDRESS if name == call.sim.node else f"10.255.255.{number}",
        }
        for number, name in enumerate(call.sim.nodes, 1)
    ]  # fmt: skip
    if not call.sim.peers:
        return nodes
    quorate = int(call.sim.faults.is_quorate())
    head = {"type": "cluster", "id": "cluster", "name": "sim", "nodes": len(nodes), "version": 2, "quorate": quorate}
    return [head, *nodes]


def list_nodes(call: Call) -> Any:
    """Figures only with Sys.Audit on the node."""
    told = []
    for name in call.sim.nodes:
        online = name not in call.sim.faults.away()
        node: dict[str, Any] = {
            "node": name,
            "type": "node",
            "id": f"node/{name}",
            "status": "online" if online else "offline",
        }
        if online and may(call.user, f"/nodes/{name}", "Sys.Audit"):
            node |= {
                **_memory(),
                "cpu": 0.01,
                "maxcpu": os.cpu_count(),
                "uptime": _uptime(),
                "disk": 0,
                "maxdisk": 100 << 30,
            }
        told.append(node)
    return told


def show_node(call: Call) -> Any:
    memory = _memory()
    return {
        "uptime": _uptime(), "loadavg": [f"{load:.2f}" for load in os.getloadavg()], "cpu": 0.01, "wait": 0,
        "pveversion": f"pve-manager/{VERSION['version']}/{VERSION['repoid']}", "kversion": " ".join(os.uname()[0:3:2]),
        "memory": {"total": memory["maxmem"], "used": memory["mem"], "free": memory["maxmem"] - memory["mem"]},
        "swap": {"total": 0, "used": 0, "free": 0}, "cpuinfo": {"cpus": os.cpu_count(), "sockets": 1},
        "rootfs": {"total": 100 << 30, "used": 0, "avail": 100 << 30, "free": 100 << 30},
    }  # fmt: skip


def _guest_resource(call: Call, vmid: int, kind: str, node: str, pool: str | None) -> dict[str, Any]:
    entry: dict[str, Any] = {"id": f"{kind}/{vmid}", "vmid": vmid, "node": node, "type": kind, "status": "unknown"}
    if pool:
        entry["pool"] = pool
    if node not in call.sim.nodes or node in call.sim.faults.away():
        return entry
    store = Store(call.sim, "lxc" if kind == "lxc" else "qemu", node, vmid)
    shown = containers.describe(store) if kind == "lxc" else machines.describe(store)
    now: dict[str, Any] = {key: shown[key] for key in _GUEST_FIELDS if key in shown}
    known = _known_of(call, vmid, {**now, "template": shown.get("template", 0), "maxcpu": shown["cpus"]})
    entry |= known
    entry |= {key: shown[key] for key in ("tags", "lock") if key in shown}
    state = ha.state_of(store.kind, vmid)
    return {**entry, "hastate": state} if state else entry


def _known_of(call: Call, vmid: int, now: dict[str, Any]) -> dict[str, Any]:
    """What pvestatd last told of a guest: of one that it has not seen yet nothing, so that its status is `unknown`."""
    if not call.sim.status_age:
        return now
    unseen: tuple[float, dict[str, Any]] = (time.monotonic(), {})
    seen, state = _told.get((call.sim.home, vmid), unseen)
    if time.monotonic() - seen >= call.sim.status_age:
        seen, state = time.monotonic(), now
    _told[call.sim.home, vmid] = seen, state
    return state


def _storage_resources(call: Call) -> list[dict[str, Any]]:
    found = []
    for storage in storages.every_storage().values():
        for node in call.sim.nodes:
            if storage.is_on(node) and may(call.user, f"/storage/{storage.id}", "Datastore.Audit"):
                room = usage(call, storage)
                found.append({
                    "id": f"storage/{node}/{storage.id}", "type": "storage", "storage": storage.id, "node": node,
                    "plugintype": storage.type, "status": "available", "shared": int(storage.is_shared),
                    "content": ",".join(sorted(storage.content)), "disk": room["used"], "maxdisk": room["total"],
                })  # fmt: skip
    return found


def _memory() -> dict[str, int]:
    lines = Path("/proc/meminfo").read_text().splitlines()
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return {"maxmem": kib["MemTotal"] << 10, "mem": (kib["MemTotal"] - kib["MemAvailable"]) << 10}


def _uptime() -> int:
    return int(float(Path("/proc/uptime").read_text().split()[0]))


ROUTES: dict[tuple[str, str], Handler] = {
    ("GET", "/version"): show_version,
    ("GET", "/nodes/{node}/version"): show_version,
    ("GET", "/cluster/nextid"): next_id,
    ("GET", "/cluster/resources"): list_resources,
    ("GET", "/cluster/status"): show_status,
    ("GET", "/nodes"): list_nodes,
    ("GET", "/nodes/{node}/status"): show_node,
}
