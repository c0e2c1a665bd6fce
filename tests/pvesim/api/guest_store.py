"""The guests of the cluster as /etc/pve has them: load, write, lock, move, remove (AbstractConfig.pm, PVE::Cluster).

Two locks, as in PVE: `lock:` in a configuration lasts as long as an operation, and a flock on the node guards each
change; who does not get that within ten seconds fails.
"""

import contextlib
import fcntl
import json
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from tests.pvesim import pmxcfs
from tests.pvesim.api import config_text
from tests.pvesim.api.call import Simulation
from tests.pvesim.api.config_text import GuestConfig
from tests.pvesim.api.failure import die

Kind = Literal["lxc", "qemu"]
DIRECTORY: dict[Kind, str] = {"lxc": "lxc", "qemu": "qemu-server"}
TITLE: dict[Kind, str] = {"lxc": "CT", "qemu": "VM"}
_LOCKS: dict[Kind, str] = {"lxc": "/run/lock/lxc/pve-config-{}.lock", "qemu": "/run/lock/qemu-server/lock-{}.conf"}


@dataclass(frozen=True)
class Store:
    """The configuration of one guest of one node."""

    sim: Simulation
    kind: Kind
    node: str
    vmid: int

    @property
    def title(self) -> str:
        return TITLE[self.kind]

    @property
    def path(self) -> Path:
        return pmxcfs.ROOT / "nodes" / self.node / DIRECTORY[self.kind] / f"{self.vmid}.conf"

    def exists(self) -> bool:
        return self.path.is_file()

    def load(self) -> GuestConfig:
        """Raises Failure: a 500 for a guest that is absent or on another node."""
        try:
            return config_text.parse(self.path.read_text())
        except FileNotFoundError:
            die(f"Configuration file 'nodes/{self.node}/{DIRECTORY[self.kind]}/{self.vmid}.conf' does not exist")

    def look(self) -> GuestConfig:
        """The same to look at, not to change: read anew only when the file is another."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return GuestConfig()
        return _parse_once(self.path, status.st_ino, status.st_size, status.st_mtime_ns)

    def write(self, config: GuestConfig) -> None:
        """Raises Failure without quorum, as pmxcfs refuses."""
        self._require_writable()
        is_new = not self.exists()
        pmxcfs.write(self.path, config_text.print_config(config))
        if is_new:
            pmxcfs.register(self.vmid, node=self.node, kind=self.kind)

    def remove(self) -> None:
        self._require_writable()
        self.path.unlink(missing_ok=True)
        pmxcfs.unregister(self.vmid)

    def move(self, target: str) -> None:
        """move_config_to_node: one rename in pmxcfs."""
        self._require_writable()
        self.path.rename(pmxcfs.ROOT / "nodes" / target / DIRECTORY[self.kind] / f"{self.vmid}.conf")
        pmxcfs.register(self.vmid, node=target, kind=self.kind)

    @contextlib.contextmanager
    def locked(self, timeout: float | None = None) -> Iterator[None]:
        """lock_config: the flock on this node. Raises Failure after `timeout` seconds, ten in PVE."""
        name = _LOCKS[self.kind].format(self.vmid)
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + (self.sim.lock_timeout if timeout is None else timeout)
        with Path(name).open("a") as file:
            waited = False
            while True:
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                if not waited:
                    _say("trying to acquire lock...")
                    waited = True
                if time.monotonic() > deadline:
                    die(f"can't lock file '{name}' - got timeout")
                time.sleep(0.01)
            if waited:
                _say(" OK")
            yield

    def check_lock(self, config: GuestConfig) -> None:
        if config.lock:
            die(f"{self.title} is locked ({config.lock})")

    def check_protection(self, config: GuestConfig, what: str) -> None:
        if config.get("protection") == "1":
            die(f"{what} - protection mode enabled")

    def set_lock(self, lock: str) -> GuestConfig:
        """Lock it for an operation and return what it was. Raises Failure when it is locked."""
        with self.locked():
            config = self.load()
            self.check_lock(config)
            config.values["lock"] = lock
            self.write(config)
        return config

    def remove_lock(self, expected: str) -> None:
        with self.locked():
            config = self.load()
            if config.lock != expected:
                die(f"no lock found trying to remove '{expected}'  lock")
            del config.values["lock"]
            self.write(config)

    def create_and_lock(self, *, allow_existing: bool = False, lock: str = "create") -> None:
        """Take a free vmid. Raises Failure when it is taken."""
        with self.locked(5):
            if not allow_existing:
                check_unused(self.vmid)
            config = self.load() if self.exists() else GuestConfig()
            self.check_lock(config)
            config.values["lock"] = lock
            self.write(config)

    def _require_writable(self) -> None:
        if not self.sim.faults.is_quorate():
            die(f"unable to open file '{self.path}.tmp.1' - Permission denied")


def _say(text: str) -> None:
    """On stderr, as PVE: a task's log, or pvesh's, of which proxmoxer makes a failure. Not the API's own threads."""
    if threading.current_thread() is threading.main_thread():
        print(text, file=sys.stderr, flush=True)


@lru_cache(maxsize=4096)
def _parse_once(path: Path, *_: int) -> GuestConfig:
    return config_text.parse(path.read_text())


def every_guest() -> dict[int, tuple[Kind, str]]:
    """Kind and node of each guest of the cluster, from `.vmlist`."""
    ids = json.loads((pmxcfs.ROOT / ".vmlist").read_text())["ids"]
    return {int(vmid): (entry["type"], entry["node"]) for vmid, entry in sorted(ids.items())}


def check_unused(vmid: int) -> None:
    """check_vmid_unused: 500, not 409."""
    taken = every_guest().get(vmid)
    if taken:
        die(f"{TITLE[taken[0]]} {vmid} already exists on node '{taken[1]}'")
