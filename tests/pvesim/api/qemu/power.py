"""Start, stop, shutdown, reboot, reset, suspend and resume of machines (qemu-server, API2/Qemu.pm).

Unlike a container's, a start of a running machine or a stop of a stopped one is accepted; the task tells.
"""

from collections.abc import Callable
from typing import Any

from tests.pvesim.api import ha, tasks
from tests.pvesim.api.call import ROOT_USER, Call
from tests.pvesim.api.failure import die, refuse
from tests.pvesim.api.qemu import pending, process
from tests.pvesim.api.qemu.guest import store_of

_ROOT_ONLY = ("skiplock", "stateuri", "migratedfrom", "migration_type", "migration_network", "keepActive", "nocheck",
              "force-cpu", "machine", "targetstorage")  # fmt: skip


def start(call: Call) -> Any:
    _check_options(call)
    call.require_quorum()
    if ha.is_managed("qemu", call.vmid) and not call.by_ha:
        return _ask_ha(call, "start", "started", lambda: start(_by_ha(call)))
    return tasks.fork_worker(call, "qmstart", call.vmid, lambda: _begin(call))


def stop(call: Call) -> Any:
    _check_options(call)
    if ha.is_managed("qemu", call.vmid) and not call.by_ha:
        return _ask_ha(call, "stop", "stopped", lambda: stop(_by_ha(call)))
    return tasks.fork_worker(call, "qmstop", call.vmid, lambda: _end(call, lambda: process.kill(store_of(call))))


def shutdown(call: Call) -> Any:
    """The task fails with a timeout when the machine does not hear of it, unless `forceStop`."""
    _check_options(call)
    if process.is_paused(store_of(call)):
        if not call.get("forceStop"):
            die("VM is paused - cannot shutdown")
        return tasks.fork_worker(
            call, "qmshutdown", call.vmid, lambda: _end(call, lambda: process.kill(store_of(call)))
        )
    if ha.is_managed("qemu", call.vmid) and not call.by_ha:
        return _ask_ha(call, "stop", "stopped", lambda: shutdown(_by_ha(call)))

    def power_down() -> None:
        if not process.power_down(store_of(call), call.get("timeout", 60)):
            if not call.get("forceStop"):
                die("VM quit/powerdown failed - got timeout")
            print("VM quit/powerdown failed - terminating now with SIGTERM")
            process.kill(store_of(call))

    return tasks.fork_worker(call, "qmshutdown", call.vmid, lambda: _end(call, power_down))


def reboot(call: Call) -> Any:
    _require_running(call)
    if process.is_paused(store_of(call)):
        die("VM is paused - cannot shutdown")

    def work() -> None:
        store = store_of(call)
        with store.locked():
            if not process.power_down(store, call.get("timeout", 60)):
                die("VM quit/powerdown failed")
        _begin(call)

    return tasks.fork_worker(call, "qmreboot", call.vmid, work)


def reset(call: Call) -> Any:
    _check_options(call)
    _require_running(call)

    def work() -> None:
        process.kill(store_of(call))
        process.start(store_of(call))

    return tasks.fork_worker(call, "qmreset", call.vmid, lambda: _end(call, work))


def suspend(call: Call) -> Any:
    """Paused in memory; `todisk` ends it and leaves the lock `suspended`."""
    _check_options(call)
    _require_running(call)
    if call.get("todisk") and ha.is_managed("qemu", call.vmid):
        die("Cannot suspend HA managed VM to disk")

    def work() -> None:
        store = store_of(call)
        if call.get("todisk"):
            store.set_lock("suspended")
            process.kill(store)
        else:
            store.check_lock(store.load())
            process.pause(store, True)

    return tasks.fork_worker(call, "qmsuspend" if call.get("todisk") else "qmpause", call.vmid, work)


def resume(call: Call) -> Any:
    _check_options(call)
    store = store_of(call)
    on_disk = store.load().lock == "suspended"
    if not on_disk:
        _require_running(call)

    def work() -> None:
        if on_disk:
            store.remove_lock("suspended")
            process.start(store)
        else:
            process.pause(store, False)

    return tasks.fork_worker(call, "qmresume", call.vmid, work)


def _begin(call: Call) -> None:
    store = store_of(call)
    with store.locked():
        guest = store.load()
        if guest.is_template:
            die("you can't start a vm if it's a template")
        if not call.get("skiplock") and guest.lock != "suspended":
            store.check_lock(guest)
        if process.find_pid(store):
            die(f"VM {call.vmid} already running")
        guest.values.pop("lock", None)
        pending.apply(guest)
        store.write(guest)
        process.start(store)


def _end(call: Call, act: Callable[[], None]) -> None:
    store = store_of(call)
    with store.locked():
        guest = store.load()
        if not call.get("skiplock"):
            store.check_lock(guest)
        act()
        if guest.pending and process.find_pid(store) is None:
            pending.apply(guest)
            store.write(guest)


def _ask_ha(call: Call, verb: str, state: str, act: Callable[[], Any]) -> str:
    def work() -> None:
        print(f"Requesting HA {verb} for VM {call.vmid}")
        ha.request(call.sim, "qemu", call.vmid, state, act)

    return tasks.fork_worker(call, f"ha{verb}", call.vmid, work)


def _by_ha(call: Call) -> Call:
    return Call(call.sim, ROOT_USER, call.node, call.parameters, by_ha=True)


def _check_options(call: Call) -> None:
    for name in _ROOT_ONLY:
        if call.get(name) and not call.is_root:
            refuse({name: "Only root may use this option."})


def _require_running(call: Call) -> None:
    if process.find_pid(store_of(call)) is None:
        die(f"VM {call.vmid} not running")
