"""Clients that generators make of openapi/openapi.yaml, each compiled and driving a live gateway."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.clients.programs import BUILDS, GENERATED, REPOSITORY, SOURCES, Start
from tests.exec.gateways import Gateway
from tests.guests.conftest import PRIVILEGES
from tests.guests.made import TEMPLATE, assert_nothing_left, sweep
from tests.pvesim.api import access
from tests.pvesim.api.process import running_api

FIRST, LAST = 7730, 7739
"""The guests that the programs make."""

SEEN = {
    "guest": ["made", "ended", "running", "ended"],
    "run": ["out\n", "err\n", 3, "exited"],
    "stream": [["stdout: ready", "stdout: gone", "end: 0"]],
    "detached": [0, "later\n"],
    "file": [1 << 18, "0600", True],
    "problem": [404, "guest_not_found", 999_999_999],
}
"""What each of them tells. The streamed command waits for a file that is written when its `ready` has been seen."""

SECRET = "6c9f1f0e-2a64-4f10-8c0b-5e1d8a4b7c33"


@dataclass(frozen=True)
class Programs:
    """Those of one language. `vmid`: the guest that they may make."""

    start: Start
    vmid: int
    environment: dict[str, str]

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.start(program), *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture(scope="module")
def gateway(make_gateway: Callable[..., Gateway], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that makes guests by the simulated PVE API."""
    token = tmp_path_factory.mktemp("clients") / "pve.token"
    with running_api() as pve:
        access.store_token(token, "gateway@pve!clients", SECRET, privileges=PRIVILEGES)
        yield make_gateway(
            pve={"api": pve.url, "token_file": str(token), "agent_token_file": str(token), "pvesh": str(pve.pvesh)}
        )
        sweep(FIRST, LAST)


@pytest.fixture(scope="module")
def token(gateway: Gateway) -> str:
    return gateway.token("clients", actions="all", guests=f"101,{FIRST}-{LAST}")


@pytest.fixture(scope="module", params=BUILDS)
def programs(
    request: pytest.FixtureRequest, gateway: Gateway, token: str, tmp_path_factory: pytest.TempPathFactory
) -> Programs:
    """The programs of each language in turn, compiled as strictly as it can."""
    assert (GENERATED / ".generated").exists(), "there are no clients yet: make clients"
    vmid = FIRST + list(BUILDS).index(request.param)
    ca = str(gateway.services.ca)
    return Programs(
        start=BUILDS[request.param](tmp_path_factory.mktemp(request.param)),
        vmid=vmid,
        environment={
            "PATH": os.environ["PATH"],
            "GATEWAY_URL": gateway.services.url,
            "GATEWAY_TOKEN": token,
            "GATEWAY_CA": ca,
            "GATEWAY_VMID": str(vmid),
            "NODE_EXTRA_CA_CERTS": ca,
            "SSL_CERT_FILE": ca,
            "TEMPLATE": TEMPLATE,
        },
    )


def test_runs_a_command(programs: Programs) -> None:
    """The first program of the documentation passes on what it printed, and its exit code."""
    done = programs.run("first", "101", "sh", "-c", "hostname; exit 7")
    assert (done.stdout, done.returncode) == ("ct101\n", 7), done.stderr[-5000:]


def test_drives_a_gateway(programs: Programs) -> None:
    """Guests, commands, streams, detached runs, files and problems are what they are, by names and types."""
    done = programs.run("drive")
    assert done.returncode == 0, done.stderr[-5000:]
    assert json.loads(done.stdout) == SEEN
    assert_nothing_left(programs.vmid)


def test_documentation_shows_these_programs() -> None:
    """Each piece of code in docs/clients.md is a part of a program that these tests run."""
    page = (REPOSITORY / "docs/clients.md").read_text()
    shown = re.findall(r"```(python|ts|go)\n(.*?)```", page, re.DOTALL)
    assert {language for language, _ in shown} == {"python", "ts", "go"}
    for language, code in shown:
        directory = SOURCES / {"ts": "typescript"}.get(language, language)
        suffix = {"python": "py"}.get(language, language)
        assert any(code in path.read_text() for path in directory.rglob(f"*.{suffix}")), code
