"""Move a machine to another node, live or not (qemu-server, API2/Qemu.pm, PVE/QemuMigrate.pm)."""

import re
from typing import Any

from tests.pvesim.api import ha, storages, tasks, volumes
from tests.pvesim.api.call import ROOT_USER, Call
from tests.pvesim.api.failure import die, refuse
from tests.pvesim.api.guest_store import Store
from tests.pvesim.api.qemu import pending, process
from tests.pvesim.api.qemu.guest import store_of


def migrate(call: Call) -> Any:
    """A running one needs `online`; its process stays, as this node plays both."""
    target, store = call["target"], store_of(call)
    if target == call.node:
        refuse({"target": "target is local node."})
    call.require_quorum()
    if target not in call.sim.nodes:
        die(f"no such cluster node '{target}'")
    store.load()
    if process.find_pid(store) and not call.get("online"):
        die("can't migrate running VM without --online")
    if ha.is_managed("qemu", call.vmid) and not call.by_ha:

        def ask() -> None:
            print(f"Requesting HA migration for VM {call.vmid} to node {target}")
            by_ha = Call(call.sim, ROOT_USER, call.node, call.parameters, by_ha=True)
            tasks.run_later(call.sim.ha_delay, lambda: migrate(by_ha))

        return tasks.fork_worker(call, "hamigrate", call.vmid, ask)

    def work() -> None:
        with store.locked():
            store.check_lock(store.load())
            if target in call.sim.faults.away():
                die("Can't connect to destination address using public key")
            _check_volumes(call, store)
            print(f"starting migration of VM {call.vmid} to node '{target}'")
            volumes.take_along(store, pending.disks(store.load().values), call.get("targetstorage"))
            store.move(target)
            print("migration finished successfully")

    return tasks.fork_worker(call, "qmigrate", call.vmid, work)


def _check_volumes(call: Call, store: Store) -> None:
    """scan_local_volumes: what cannot go along stands in the log, and the task says no more than that."""
    live, wrong = process.find_pid(store) is not None, dict[str, str]()
    for key, value in store.load().values.items():
        volume = value.partition(",")[0]
        if not pending.DRIVE.fullmatch(key) or ":" not in volume or storages.parse(volume).storage.is_shared:
            continue
        if re.search(r":iso/", volume):
            wrong[volume] = f"can't migrate local cdrom '{volume}'"
        elif live and not call.get("with-local-disks"):
            wrong[volume] = "can't live migrate attached local disks without with-local-disks option"
    for volume, why in wrong.items():
        print(f"can't migrate local disk '{volume}': {why}")
    if wrong:
        die("Problem found while scanning volumes - can't migrate VM - check log")
