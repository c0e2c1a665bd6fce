"""One virtual machine as the methods of the API see it, and its process."""

from typing import Any

from tests.pvesim.api import ha
from tests.pvesim.api.call import Call
from tests.pvesim.api.formats import parse_size
from tests.pvesim.api.guest_store import Store, every_guest
from tests.pvesim.api.lxc.runtime import uptime
from tests.pvesim.api.privileges import may
from tests.pvesim.api.qemu import process


def store_of(call: Call, vmid: int | None = None, node: str | None = None) -> Store:
    return Store(call.sim, "qemu", node or call.node, vmid or call.vmid)


def list_machines(call: Call) -> Any:
    vmids = [vmid for vmid, (kind, node) in every_guest().items() if kind == "qemu" and node == call.node]
    return [describe(store_of(call, vmid)) for vmid in vmids if may(call.user, f"/vms/{vmid}", "VM.Audit")]


def show_status(call: Call) -> Any:
    store = store_of(call)
    store.load()
    told = {**describe(store), "ha": ha.show("qemu", call.vmid)}
    return {**told, "agent": 1} if store.load().get("agent") else told


def describe(store: Store) -> dict[str, Any]:
    """vmstatus of one machine."""
    guest = store.look()
    pid = store.sim.agent(store.node, store.vmid).pid()
    sizes = [part[5:] for value in guest.values.values() for part in value.split(",") if part.startswith("size=")]
    told: dict[str, Any] = {
        "vmid": store.vmid,
        "name": guest.get("name", f"VM {store.vmid}"),
        "status": "running" if pid else "stopped",
        "qmpstatus": ("paused" if process.is_paused(store) else "running") if pid else "stopped",
        "cpus": int(guest.get("cores", "1")) * int(guest.get("sockets", "1")),
        "maxmem": int(guest.get("memory", "512")) << 20,
        "maxdisk": parse_size(sizes[0]) if sizes else 0,
        "uptime": uptime(pid) if pid else 0,
        **dict.fromkeys(("disk", "mem", "cpu", "netin", "netout", "diskread", "diskwrite"), 0),
    }
    if pid:
        told["pid"] = pid
    for key in ("tags", "lock"):
        if guest.get(key):
            told[key] = guest.get(key)
    return {**told, "template": 1} if guest.is_template else told
