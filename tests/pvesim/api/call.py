"""What a method of the API gets: who asks, of which node, with which parameters, and the simulation it is part of."""

import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.pvesim import pmxcfs
from tests.pvesim.api.faults import Faults
from tests.pvesim.api.qga import GuestAgent, Timing

Parameters = dict[str, Any]
ROOT_USER = "root@pam"


@dataclass(frozen=True)
class Simulation:
    """One API's settings; all else stands in /etc/pve and /run/pvesim. Times are seconds."""

    home: Path
    """What is this API's own: its faults."""
    peers: tuple[str, ...] = ()
    """Further nodes of the cluster, which exist on paper: their guests run here."""
    refusal_delay: float = 3.0
    lock_timeout: float = 10.0
    ha_delay: float = 0.5
    """Until the HA manager does what it was asked for."""
    dhcp_delay: float = 0.3
    """Until a guest that asks for an address by DHCP has one."""
    status_age: float = 0.0
    """How long `cluster/resources` keeps what it knows of a guest's state: up to 10 in PVE (pvestatd)."""
    can_checkpoint: bool = False
    """Whether CRIU can save and restore containers; it rarely can."""
    timing: Timing = field(default_factory=Timing)

    @property
    def node(self) -> str:
        return socket.gethostname()

    @property
    def nodes(self) -> tuple[str, ...]:
        return (self.node, *self.peers)

    @property
    def faults(self) -> Faults:
        return Faults(self.home / "faults.json")

    def agent(self, node: str, vmid: int) -> GuestAgent:
        config = pmxcfs.ROOT / "nodes" / node / "qemu-server" / f"{vmid}.conf"
        return GuestAgent(vmid, config, Path("/var/run/qemu-server") / f"{vmid}.pid", self.timing)


@dataclass(frozen=True)
class Call:
    """One request that may be carried out, its parameters checked: integers are int, booleans 0 or 1."""

    sim: Simulation
    user: str
    """`user@realm`, or `user@realm!token` of an API token: never root@pam then, whoever owns it."""
    node: str
    parameters: Parameters
    is_cli: bool = False
    """It comes from pvesh: tasks run in the foreground."""
    by_ha: bool = False
    """The HA manager carries out what it was asked for."""

    def __getitem__(self, name: str) -> Any:
        return self.parameters[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self.parameters.get(name, default)

    @property
    def is_root(self) -> bool:
        """The one user that may do everything (PVE.md, "What only root@pam may do")."""
        return self.user == ROOT_USER

    @property
    def vmid(self) -> int:
        return int(self.parameters["vmid"])

    def require_quorum(self) -> None:
        """PVE::Cluster::check_cfs_quorum."""
        self.sim.faults.require_quorum()


@dataclass(frozen=True)
class Listed:
    """A reply with `total` beside `data`."""

    data: Any
    total: int


Handler = Callable[[Call], Any]


def split_list(text: str | None) -> list[str]:
    """PVE::Tools::split_list: by commas, semicolons, NULs and white space."""
    return [word for word in re.split(r"[,;\0\s]+", text or "") if word]


def read_start_time(pid: int) -> int:
    """Field 22 of /proc/PID/stat in ticks; 0 for a process that is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


TICKS = os.sysconf("SC_CLK_TCK")
