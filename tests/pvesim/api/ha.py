"""The HA manager as far as guests see it: `/etc/pve/ha/resources.cfg`, and that it acts later than it is asked."""

import re
from collections.abc import Callable

from tests.pvesim import pmxcfs
from tests.pvesim.api import tasks
from tests.pvesim.api.call import Simulation
from tests.pvesim.api.guest_store import Kind

_FILE = pmxcfs.ROOT / "ha/resources.cfg"
_SERVICE: dict[Kind, str] = {"lxc": "ct", "qemu": "vm"}


def state_of(kind: Kind, vmid: int) -> str | None:
    """What HA is to keep the guest in: started, stopped, disabled, ignored; None when HA does not manage it."""
    text = _FILE.read_text() if _FILE.exists() else ""
    found = re.search(rf"^{_SERVICE[kind]}: {vmid}$((?:\n\t.*)*)", text, re.MULTILINE)
    state = re.search(r"\tstate (\w+)", found[1]) if found else None
    return (state[1] if state else "started") if found else None


def is_managed(kind: Kind, vmid: int) -> bool:
    """vm_is_ha_managed: a resource that is `ignored` does not count."""
    return state_of(kind, vmid) not in (None, "ignored")


def manage(kind: Kind, vmid: int, state: str | None) -> None:
    """Put a guest under HA, or with None take it out."""
    _FILE.parent.mkdir(exist_ok=True)
    text = _FILE.read_text() if _FILE.exists() else ""
    text = re.sub(rf"^{_SERVICE[kind]}: {vmid}$(?:\n\t.*)*\n+", "", text, flags=re.MULTILINE)
    if state is not None:
        text += f"{_SERVICE[kind]}: {vmid}\n\tstate {state}\n\n"
    pmxcfs.write(_FILE, text)


def show(kind: Kind, vmid: int) -> dict[str, object]:
    """The `ha` of a guest's status."""
    state = state_of(kind, vmid)
    return {"managed": 0} if state is None else {"managed": 1, "state": state, "group": None}


def request(sim: Simulation, kind: Kind, vmid: int, state: str, act: Callable[[], None]) -> None:
    """`ha-manager set`: the wish is written down and `act` follows when the manager gets to it, in another task."""
    manage(kind, vmid, state)
    tasks.run_later(sim.ha_delay, act)
