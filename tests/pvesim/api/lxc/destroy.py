"""Remove a container with its volumes (pve-container, API2/LXC.pm, destroy_vm)."""

import shutil
from typing import Any

from tests.pvesim.api import ha, storages, tasks, users, volumes
from tests.pvesim.api.call import Call
from tests.pvesim.api.config_text import GuestConfig
from tests.pvesim.api.failure import die
from tests.pvesim.api.guest_store import Store
from tests.pvesim.api.lxc import properties, runtime
from tests.pvesim.api.lxc.guest import store_of


def destroy(call: Call) -> Any:
    """Refused for one that runs (without `force`), is protected, locked, or in HA (without `purge`)."""
    store = store_of(call)
    _check(call, store, store.load())
    if not call.get("force") and runtime.is_running(call.vmid):
        die(f"unable to destroy CT {call.vmid} - container is running")

    def work() -> None:
        with store.locked():
            guest = store.load()
            is_managed = _check(call, store, guest)
            if runtime.is_running(call.vmid):
                if not call.get("force"):
                    die(f"unable to destroy CT {call.vmid} - container is running")
                print(f"forced to stop CT {call.vmid} before destroying!")
                runtime.stop(call.vmid, kill=True)
            remove_volumes(guest)
            if call.get("destroy-unreferenced-disks"):
                for storage in storages.every_storage().values():
                    for volume in volumes.used_by(storage, call.vmid):
                        volumes.free(volume)
            users.forget_guest(call.vmid)
            if call.get("purge"):
                print(f"purging CT {call.vmid} from related configurations..")
                if is_managed:
                    ha.manage("lxc", call.vmid, None)
                    print(f"NOTE: removed CT {call.vmid} from HA resource configuration.")
            shutil.rmtree(runtime.LXC / str(call.vmid), ignore_errors=True)
            store.remove()

    return tasks.fork_worker(call, "vzdestroy", call.vmid, work)


def remove_volumes(guest: GuestConfig) -> None:
    """All that its configuration names: now, pending, unused, each once. Raises Failure for a base in use."""
    named = {point.volume for part in (guest.values, guest.pending) for point in properties.volumes(part)}
    named |= {value for key, value in guest.values.items() if key.startswith("unused")}
    for volume in sorted(named):
        volumes.free(volume)


def _check(call: Call, store: Store, guest: GuestConfig) -> bool:
    """Whether HA manages it. Raises Failure."""
    store.check_protection(guest, f"can't remove CT {call.vmid}")
    store.check_lock(guest)
    is_managed = ha.state_of("lxc", call.vmid) is not None
    if is_managed and not call.get("purge"):
        die(f"unable to remove CT {call.vmid} - used in HA resources and purge parameter not set.")
    return is_managed
