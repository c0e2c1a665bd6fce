"""The API as a process of its own: `with running_api() as api:` in tests, `start_api` where it outlives its caller."""

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.pvesim.api import access, pvesh, settings
from tests.pvesim.api.faults import Faults
from tests.pvesim.services import REPOSITORY

TOKEN_ID, _SECRET = "gateway@pve!exec", "6f1c2a52-0f6c-4d0e-9a53-2f9f3f0c1b7d"


@dataclass(frozen=True)
class Api:
    """A running API: where it is, what it does wrong, and a way to stop it."""

    port: int
    process: subprocess.Popen[str]
    home: Path

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}/api2/json"

    @property
    def faults(self) -> Faults:
        """What it is told to do wrong: `api.faults.add("slow", "/nodes/.*/lxc", seconds=3, times=1)`."""
        return Faults(self.home / "faults.json")

    @property
    def pvesh(self) -> Path:
        """The node's `pvesh`, with this API's settings and faults: a program to put into a PATH."""
        return self.home / "bin/pvesh"


@contextlib.contextmanager
def running_api(
    *,
    port: int = 0,
    peers: Sequence[str] = (),
    refusal_delay: float = 0.2,
    ping_timeout: float = 0.5,
    agent_timeout: float = 1.5,
    lock_timeout: float = 1.0,
    ha_delay: float = 0.5,
    status_age: float = 0.0,
    can_checkpoint: bool = False,
) -> Iterator[Api]:
    """Runs the API on a free port, with time limits shorter than PVE's, which a test need not wait for.

    The settings are the fields of call.Simulation.
    """
    with tempfile.TemporaryDirectory(prefix="api-", dir="/run/pvesim") as home:
        settings.save(
            Path(home),
            peers=list(peers),
            refusal_delay=refusal_delay,
            ping_timeout=ping_timeout,
            agent_timeout=agent_timeout,
            lock_timeout=lock_timeout,
            ha_delay=ha_delay,
            status_age=status_age,
            can_checkpoint=can_checkpoint,
        )
        api = start_api(Path(home), port=port)
        try:
            yield api
        finally:
            api.process.kill()
            api.process.wait()


def start_api(home: Path, *, port: int, log: Path | None = None) -> Api:
    """Runs the API with `home` as its directory until the node ends; returns when it listens. Raises OSError.

    `log`: a file for what it says of itself, for a process that outlives its caller's stderr.
    """
    pvesh.install(home)
    with contextlib.ExitStack() as files:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.pvesim.api", f"--port={port}", f"--home={home}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=None if log is None else files.enter_context(log.open("ab")),
            text=True,
            cwd=REPOSITORY,
            start_new_session=log is not None,
        )
    assert process.stdout is not None
    with process.stdout as told:
        line = told.readline()
    if not line:
        raise ChildProcessError(f"the simulated PVE API ended with {process.wait()}")
    return Api(int(line), process, home)


def write_token(path: Path, *privileges: str) -> None:
    """Makes the gateway's API token, with the privileges that it needs unless told, and the file that holds it."""
    access.store_token(path, TOKEN_ID, _SECRET, privileges=privileges or ("VM.GuestAgent.Unrestricted",))
