"""A simulated API's settings, a file that the API and `pvesh` read; and what a node needs before either runs."""

import fcntl
import json
from pathlib import Path
from typing import Any

from tests.pvesim import pmxcfs
from tests.pvesim.api import archives, storages
from tests.pvesim.api.call import Simulation
from tests.pvesim.api.qga import Timing

_LOCK = Path("/run/pvesim/prepare.lock")


def save(home: Path, **values: Any) -> None:
    """`values` are the fields of Simulation, `ping_timeout` and `agent_timeout` instead of its timing."""
    (home / "settings.json").write_text(json.dumps(values))


def load(home: Path) -> Simulation:
    """PVE's own times where the file says nothing."""
    file = home / "settings.json"
    values = json.loads(file.read_text()) if file.exists() else {}
    timing = Timing(values.pop("ping_timeout", 3.0), values.pop("agent_timeout", 5.0))
    return Simulation(home, timing=timing, **{**values, "peers": tuple(values.get("peers", ()))})


def prepare(sim: Simulation) -> None:
    """Storages with templates, and the directories of further nodes; once for all APIs of a node."""
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        storages.prepare()
        archives.prepare()
        for peer in sim.peers:
            pmxcfs.make_node(peer)
