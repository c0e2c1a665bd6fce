"""Move a container to another node: its configuration's file moves, its volumes with it (PVE/LXC/Migrate.pm)."""

from typing import Any

from tests.pvesim.api import ha, storages, tasks, volumes
from tests.pvesim.api.call import ROOT_USER, Call
from tests.pvesim.api.config_text import GuestConfig
from tests.pvesim.api.failure import die, refuse
from tests.pvesim.api.lxc import power, properties, runtime
from tests.pvesim.api.lxc.guest import store_of


def migrate(call: Call) -> Any:
    """A running one needs `restart`; `online` is accepted, and its task fails."""
    target = call["target"]
    if target == call.node:
        refuse({"target": "target is local node."})
    call.require_quorum()
    if target not in call.sim.nodes:
        die(f"no such cluster node '{target}'")
    store_of(call).load()
    if runtime.is_running(call.vmid) and not call.get("online") and not call.get("restart"):
        die("can't migrate running container without --online or --restart")
    if ha.is_managed("lxc", call.vmid) and not call.by_ha:

        def ask() -> None:
            print(f"Requesting HA migration for CT {call.vmid} to node {target}")
            by_ha = Call(call.sim, ROOT_USER, call.node, {**call.parameters, "restart": 1}, by_ha=True)
            tasks.run_later(call.sim.ha_delay, lambda: migrate(by_ha))

        return tasks.fork_worker(call, "hamigrate", call.vmid, ask)
    return tasks.fork_worker(call, "vzmigrate", call.vmid, lambda: _carry_out(call, target))


def _carry_out(call: Call, target: str) -> None:
    store = store_of(call)
    with store.locked():
        guest = store.load()
        store.check_lock(guest)
        if target in call.sim.faults.away():
            die("Can't connect to destination address using public key")
        running = runtime.is_running(call.vmid)
        if running and call.get("online"):
            die("lxc live migration is currently not implemented")
        _check_volumes(guest, target)
        if running:
            print(f"shutdown CT {call.vmid}")
            runtime.stop(call.vmid, timeout=int(call.get("timeout", 180)))
        print(f"starting migration of CT {call.vmid} to node '{target}'")
        points = properties.volumes(store.load().values)
        volumes.take_along(store, {point.key: point.volume for point in points}, call.get("target-storage"))
        store.move(target)
    if running:
        print("start container on target node")
        power.start(Call(call.sim, call.user, target, {"vmid": call.vmid}, call.is_cli, by_ha=True))
    print(f"migration finished successfully for CT {call.vmid}")


def _check_volumes(guest: GuestConfig, target: str) -> None:
    for point in properties.mount_points(guest.values):
        if point.type != "volume":
            if point.parts.get("shared") != "1":
                die(f"cannot migrate local {point.type} mount point '{point.key}'")
            continue
        storages.find(point.volume.partition(":")[0], target)
        if guest.snapshots and not storages.parse(point.volume).storage.is_shared:
            die("migration aborted: non-migratable snapshot exists")
