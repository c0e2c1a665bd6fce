"""The API as a process of its own, for tests: `with running_api() as api:`."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.pvesim.api import access
from tests.pvesim.services import REPOSITORY

TOKEN_ID, _SECRET = "gateway@pve!exec", "6f1c2a52-0f6c-4d0e-9a53-2f9f3f0c1b7d"


@dataclass(frozen=True)
class Api:
    """A running API: where it is, and a way to stop it."""

    port: int
    process: subprocess.Popen[str]

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}/api2/json"


@contextlib.contextmanager
def running_api(
    *, port: int = 0, refusal_delay: float = 0.2, ping_timeout: float = 0.5, agent_timeout: float = 1.5
) -> Iterator[Api]:
    """Runs the API on a free port, with time limits shorter than PVE's, which a test need not wait for."""
    options = {
        "port": port,
        "refusal-delay": refusal_delay,
        "ping-timeout": ping_timeout,
        "agent-timeout": agent_timeout,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.pvesim.api", *(f"--{name}={value}" for name, value in options.items())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    assert process.stdout is not None
    try:
        yield Api(int(process.stdout.readline()), process)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def write_token(path: Path, *privileges: str) -> None:
    """Makes the gateway's API token, with the privileges that it needs unless told, and the file that holds it."""
    access.add_token(TOKEN_ID, _SECRET, privileges=privileges or ("VM.GuestAgent.Unrestricted",))
    path.touch(0o600)
    path.write_text(f"{TOKEN_ID}={_SECRET}\n")
