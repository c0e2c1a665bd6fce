"""The machine as a PVE node, from inside: /etc/pve, guests and PVE's API as the simulated node has them; the gateway.

Runs in the machine with Debian's own Python, or in any Debian 13 where a package's test may change everything.
"""

import contextlib
import functools
import http.client
import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.pvesim import boot, pmxcfs, sets
from tests.pvesim.api.process import start_api
from tests.pvesim.services import make_client_context

GUESTS = (101, 102, 104)
PORT = 39377
CA = pmxcfs.ROOT / "pve-root-ca.pem"
UNITS = ("pve-exec-gateway-audit", "pve-exec-gateway-supervisor", "pve-exec-gateway")

_RUN = Path("/run/pvesim")
_PVESH = Path("/usr/bin/pvesh")
_READY_SECONDS = 60.0


class TrialError(AssertionError):
    """The gateway did not do what the package promises."""


def prepare() -> None:
    """Make this machine a node with running guests, unless it is one."""
    if (pmxcfs.ROOT / "local").exists():
        return
    boot.name_node("pve1")
    boot.make_network()
    for directory in ("storage", "devices", "api"):
        (_RUN / directory).mkdir(parents=True)
    pmxcfs.ROOT.mkdir(exist_ok=True)
    pmxcfs.create("pve1")
    sets.create("demo")
    api = start_api(_RUN / "api", port=8006, log=_RUN / "api.log")
    _PVESH.symlink_to(api.pvesh)


def run(*command: str, timeout: float = 120, environment: dict[str, str] | None = None) -> str:
    """What it prints; raises TrialError where it fails. `environment` is added to ours."""
    done = subprocess.run(
        command,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        env={**os.environ, **(environment or {})},
    )
    if done.returncode:
        raise TrialError(f"{' '.join(command)} failed ({done.returncode}):\n{done.stdout}\n{logged()}")
    return done.stdout


def apt(*arguments: str) -> str:
    """apt-get, without a question and without what is only recommended."""
    words = ("-q", "-y", "--no-install-recommends", "--allow-downgrades", "-o", "Dpkg::Use-Pty=0")
    return run("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", *words, *arguments, timeout=240)


def logged() -> str:
    """The last lines of the gateway's journal, for a message."""
    command = ["journalctl", "--no-pager", "-o", "short", "-n", "40", *(f"-u{unit}" for unit in UNITS)]
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout


def check(holds: object, what: str) -> None:
    """Raise TrialError with `what` and the journal unless it holds."""
    if not holds:
        raise TrialError(f"{what}\n{logged()}")


@dataclass
class Gateway:
    """The gateway of this node over HTTPS, with a token; each request on a connection of its own."""

    token: str = ""

    def ask(
        self, method: str, path: str, body: Any = None, *, key: str | None = None, timeout: float = 60
    ) -> tuple[int, Any]:
        """Status and what the JSON says; raises OSError where there is no answer. `key`: an Idempotency-Key."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        if data is not None:
            kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
            headers["Content-Type"] = kind
        if key:
            headers["Idempotency-Key"] = key
        if path.startswith("/exec/") and path.endswith("?async"):
            path, headers["Prefer"] = path.removesuffix("?async"), "respond-async"
        context = make_client_context(CA)
        connection = http.client.HTTPSConnection("127.0.0.1", PORT, timeout=timeout, context=context)
        with contextlib.closing(connection):
            connection.request(method, path, data, headers)
            reply = connection.getresponse()
            text = reply.read()
        return reply.status, json.loads(text) if text else None

    def get_token(self) -> None:
        """Make one by the administrator's command, as the package says."""
        said = run(
            *("pve-exec-gateway", "token", "create", "--name", "trial", "--allow", "exec:run"),
            *("--guests", "101-104", "--expires", "1d"),
        )
        self.token = next(line for line in said.splitlines() if line.startswith("pveg_"))

    def await_ready(self) -> None:
        """Return at the first 200 of /health/ready; raises TrialError after a minute."""
        deadline, said = time.monotonic() + _READY_SECONDS, ""
        while time.monotonic() < deadline:
            try:
                status, body = self.ask("GET", "/health/ready")
                if status == 200:
                    return
                said = f"{status} {body}"
            except (OSError, http.client.HTTPException) as error:
                said = repr(error)
            time.sleep(0.05)
        raise TrialError(f"not ready: {said}\n{logged()}")

    def execute(self, vmid: int, command: list[str] | str, **fields: Any) -> dict[str, Any]:
        """A command's result; raises TrialError for any answer but 200."""
        status, body = self.ask("POST", f"/exec/{vmid}", {"command": command, **fields})
        check(status == 200, f"exec in {vmid}: {status} {body}")
        result: dict[str, Any] = body
        return result


def show(unit: str, name: str) -> str:
    """A property of a unit, as systemd has it."""
    return run("systemctl", "show", "--value", "-p", name, unit).strip()


def is_listening() -> bool:
    """Whether the gateway's port takes connections."""
    try:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", PORT, timeout=5)) as connection:
            connection.connect()
    except OSError:
        return False
    return True


def products() -> list[Path]:
    """The gateway's package files, an earlier version first; empty where a test runner has none for us."""
    directory = Path(os.environ.get("PVEG_PACKAGES", "/srv/packages"))
    return sorted(directory.rglob("pve-exec-*.deb"), key=functools.cmp_to_key(_compare_versions))


def version_of(package: Path) -> str:
    """What the package file says."""
    return run("dpkg-deb", "-f", str(package), "Version").strip()


def _compare_versions(one: Path, other: Path) -> int:
    later = subprocess.run(["dpkg", "--compare-versions", version_of(one), "gt", version_of(other)], check=False)
    return 1 if later.returncode == 0 else -1


@contextlib.contextmanager
def in_order(what: str) -> Iterator[None]:
    """Says what holds, and how long that took."""
    began = time.monotonic()
    yield
    print(f"  {what} ({time.monotonic() - began:.1f} s)", flush=True)


if __name__ == "__main__":
    prepare()
