"""One container as the methods of the API see it: its configuration's store, made for the call's node."""

from typing import Any

from tests.pvesim.api import ha
from tests.pvesim.api.call import Call
from tests.pvesim.api.config_text import GuestConfig
from tests.pvesim.api.formats import parse_size
from tests.pvesim.api.guest_store import Store, every_guest
from tests.pvesim.api.lxc import properties, runtime
from tests.pvesim.api.privileges import may


def store_of(call: Call, vmid: int | None = None, node: str | None = None) -> Store:
    return Store(call.sim, "lxc", node or call.node, vmid or call.vmid)


def list_containers(call: Call) -> Any:
    """Those of the node that the caller may see."""
    vmids = [vmid for vmid, (kind, node) in every_guest().items() if kind == "lxc" and node == call.node]
    return [describe(store_of(call, vmid)) for vmid in vmids if may(call.user, f"/vms/{vmid}", "VM.Audit")]


def show_status(call: Call) -> Any:
    store = store_of(call)
    store.load()
    return {**describe(store), "ha": ha.show("lxc", call.vmid)}


def show_interfaces(call: Call) -> Any:
    return runtime.interfaces(call.vmid)


def describe(store: Store) -> dict[str, Any]:
    """vmstatus of one container."""
    vmid, guest = store.vmid, store.look()
    pid = runtime.init_pid(vmid) if runtime.is_running(vmid) else 0
    told: dict[str, Any] = {
        "vmid": vmid,
        "type": "lxc",
        "status": "running" if pid else "stopped",
        "name": guest.get("hostname", f"CT{vmid}"),
        "cpus": int(guest.get("cores", "2")),
        "maxmem": int(guest.get("memory", "512")) << 20,
        "maxswap": int(guest.get("swap", "0")) << 20,
        "maxdisk": _disk_size(guest),
        "uptime": runtime.uptime(pid) if pid else 0,
        **dict.fromkeys(("disk", "mem", "swap", "cpu", "netin", "netout", "diskread", "diskwrite"), 0),
    }
    if pid:
        told["pid"] = pid
    for key in ("tags", "lock"):
        if guest.get(key):
            told[key] = guest.get(key)
    if guest.is_template:
        told["template"] = 1
    return told


def _disk_size(guest: GuestConfig) -> int:
    root = guest.get("rootfs")
    return parse_size(properties.parse("rootfs", root).get("size", "4G")) if root else 4 << 30
