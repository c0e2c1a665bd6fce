"""The HA manager as far as guests see it: `/etc/pve/ha/resources.cfg`, and that it acts later than it is asked."""

import fcntl
from collections.abc import Callable
from pathlib import Path

from tests.pvesim import pmxcfs
from tests.pvesim.api import tasks
from tests.pvesim.api.call import Simulation
from tests.pvesim.api.guest_store import Kind

_FILE = pmxcfs.ROOT / "ha/resources.cfg"
_LOCK = Path("/run/pvesim/ha.lock")
_SERVICE: dict[Kind, str] = {"lxc": "ct", "qemu": "vm"}


def state_of(kind: Kind, vmid: int) -> str | None:
    """What HA is to keep the guest in: started, stopped, disabled, ignored; None when HA does not manage it."""
    return _read().get(f"{_SERVICE[kind]}:{vmid}")


def is_managed(kind: Kind, vmid: int) -> bool:
    """vm_is_ha_managed: a resource that is `ignored` does not count."""
    return state_of(kind, vmid) not in (None, "ignored")


def manage(kind: Kind, vmid: int, state: str | None) -> None:
    """Put a guest under HA, or with None take it out."""
    _FILE.parent.mkdir(exist_ok=True)
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        services = _read()
        services.pop(f"{_SERVICE[kind]}:{vmid}", None)
        if state is not None:
            services[f"{_SERVICE[kind]}:{vmid}"] = state
        blocks = [f"{name.replace(':', ': ')}\n\tstate {wanted}\n\n" for name, wanted in services.items()]
        pmxcfs.write(_FILE, "".join(blocks))


def show(kind: Kind, vmid: int) -> dict[str, object]:
    """The `ha` of a guest's status."""
    state = state_of(kind, vmid)
    return {"managed": 0} if state is None else {"managed": 1, "state": state, "group": None}


def request(sim: Simulation, kind: Kind, vmid: int, state: str, act: Callable[[], None]) -> None:
    """`ha-manager set`: the wish is written down, and `act` follows in another task when the manager gets to it.

    By then the wish may be another, or the guest no longer the manager's: it does not act then.
    """
    manage(kind, vmid, state)

    def attend() -> None:
        if state_of(kind, vmid) == state:
            act()

    tasks.run_later(sim.ha_delay, attend)


def _read() -> dict[str, str]:
    """The state of each service, `ct:101`; started where the file does not say."""
    found: dict[str, str] = {}
    name = ""
    for line in _FILE.read_text().splitlines() if _FILE.exists() else ():
        if line[:1].isalpha():
            name = line.replace(": ", ":")
            found[name] = "started"
        elif line.strip().startswith("state "):
            found[name] = line.split()[1]
    return found
