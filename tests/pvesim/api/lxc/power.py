"""Start, stop, shutdown, reboot, suspend and resume of containers (pve-container, API2/LXC/Status.pm).

What a request finds wrong at once is a 500; what its task finds wrong later stands in the task alone.
"""

from collections.abc import Callable
from typing import Any

from tests.pvesim.api import ha, tasks
from tests.pvesim.api.call import ROOT_USER, Call
from tests.pvesim.api.failure import die, refuse
from tests.pvesim.api.lxc import pending, runtime
from tests.pvesim.api.lxc.guest import store_of


def start(call: Call) -> Any:
    """200 with a UPID also for a container that does not exist, is locked or is a template."""
    _check_skiplock(call)
    if runtime.is_running(call.vmid):
        die(f"CT {call.vmid} already running")
    call.require_quorum()
    if ha.is_managed("lxc", call.vmid) and not call.by_ha:
        return _ask_ha(call, "start", "started", lambda: start(_by_ha(call)))
    return tasks.fork_worker(call, "vzstart", call.vmid, lambda: carry_out_start(call))


def stop(call: Call) -> Any:
    _check_skiplock(call)
    if not runtime.is_running(call.vmid):
        die(f"CT {call.vmid} not running")
    if ha.is_managed("lxc", call.vmid) and not call.by_ha:
        if call.get("overrule-shutdown"):
            refuse({"overrule-shutdown": "Not applicable for HA resources."})
        return _ask_ha(call, "stop", "stopped", lambda: stop(_by_ha(call)))

    def work() -> None:
        if call.get("overrule-shutdown"):
            _abort_shutdowns(call)
        store = store_of(call)
        with store.locked():
            guest = store.load()
            if not call.get("skiplock") and guest.lock != "mounted":
                store.check_lock(guest)
            runtime.stop(call.vmid, kill=True)

    return tasks.fork_worker(call, "vzstop", call.vmid, work)


def shutdown(call: Call) -> Any:
    """The task fails with `container did not stop` when the guest has not ended in time, unless `forceStop`."""
    timeout = call.get("timeout", 60)
    if not runtime.is_running(call.vmid):
        die(f"CT {call.vmid} not running")
    if ha.is_managed("lxc", call.vmid) and not call.by_ha:
        return _ask_ha(call, "stop", "stopped", lambda: shutdown(_by_ha(call)))

    def work() -> None:
        store = store_of(call)
        with store.locked():
            store.check_lock(store.load())
            runtime.stop(call.vmid, timeout=timeout, then_kill=bool(call.get("forceStop")))

    return tasks.fork_worker(call, "vzshutdown", call.vmid, work)


def reboot(call: Call) -> Any:
    """Kills after the timeout, and applies what is pending. It looks at no lock in the configuration."""
    if not runtime.is_running(call.vmid):
        die(f"VM {call.vmid} not running")  # PVE says VM here, too

    def work() -> None:
        store = store_of(call)
        with store.locked():
            if runtime.is_running(call.vmid):
                runtime.stop(call.vmid, timeout=call.get("timeout"), then_kill=True)
                _begin(call)

    return tasks.fork_worker(call, "vzreboot", call.vmid, work)


def suspend(call: Call) -> Any:
    """By CRIU, which rarely can: the container is `stopped` afterwards. Where it cannot the task fails."""
    if not runtime.is_running(call.vmid):
        die(f"CT {call.vmid} not running")

    def work() -> None:
        store = store_of(call)
        with store.locked():
            store.check_lock(store.load())
            _run_criu(call, f"lxc-checkpoint -n {call.vmid} -s -D /var/lib/vz/dump")
            runtime.stop(call.vmid, kill=True)

    return tasks.fork_worker(call, "vzsuspend", call.vmid, work)


def resume(call: Call) -> Any:
    if runtime.is_running(call.vmid):
        die(f"CT {call.vmid} already running")

    def work() -> None:
        _run_criu(call, f"lxc-checkpoint -n {call.vmid} -r --foreground -D /var/lib/vz/dump")
        _begin(call)

    return tasks.fork_worker(call, "vzresume", call.vmid, work)


def carry_out_start(call: Call) -> None:
    """The task of a start."""
    store = store_of(call)
    with store.locked():
        guest = store.load()
        if guest.is_template:
            die("you can't start a CT if it's a template")
        if not call.get("skiplock") and guest.lock != "mounted":
            store.check_lock(guest)
        _begin(call)


def _begin(call: Call) -> None:
    store = store_of(call)
    guest = store.load()
    if guest.pending:
        pending.apply(guest)
        store.write(guest)
    runtime.start(call.vmid, guest, dhcp_delay=call.sim.dhcp_delay)


def _ask_ha(call: Call, verb: str, state: str, act: Callable[[], Any]) -> str:
    """The task only passes the wish on: it has ended well before anything has changed."""

    def work() -> None:
        print(f"Requesting HA {verb} for CT {call.vmid}")
        ha.request(call.sim, "lxc", call.vmid, state, act)

    return tasks.fork_worker(call, f"ha{verb}", call.vmid, work)


def _by_ha(call: Call) -> Call:
    return Call(call.sim, ROOT_USER, call.node, call.parameters, by_ha=True)


def _check_skiplock(call: Call) -> None:
    if call.get("skiplock") and not call.is_root:
        refuse({"skiplock": "Only root may use this option."})


def _abort_shutdowns(call: Call) -> None:
    running = [task for task in tasks.every_task() if task.type == "vzshutdown" and task.id == str(call.vmid)]
    stopped = [task for task in running if tasks.is_running(task)]
    for task in stopped:
        tasks.stop(task)
    if stopped:
        print(f"overruled vzshutdown tasks: {', '.join(map(str, stopped))}")


def _run_criu(call: Call, command: str) -> None:
    """Its processes are not really kept: a resume starts the container anew."""
    if not call.sim.can_checkpoint:
        die(f"command '{command}' failed: exit code 1")
