"""The simulated API keeps PVE's traps: what was measured with PVE's own code holds here, too."""

from __future__ import annotations

import gzip
import http.client
import json
import re
import time
import urllib.parse
from pathlib import Path
from typing import Any

import pytest

from tests.pve.conftest import VMID
from tests.pvesim import pmxcfs
from tests.pvesim.api import facts
from tests.pvesim.api.machines import Machine
from tests.pvesim.api.process import Api as PveProcess
from tests.pvesim.api.routes import ROUTES
from tests.pvesim.services import make_client_context

AGENT = f"/nodes/pve1/qemu/{VMID}/agent"
JSON, FORM = "application/json", "application/x-www-form-urlencoded"


class Raw:
    """Requests without a library between."""

    def __init__(self, pve: PveProcess, token: str) -> None:
        self._port = pve.port
        self._context = make_client_context(pmxcfs.ROOT / "pve-root-ca.pem")
        self.headers = {"Authorization": f"PVEAPIToken={token}"}

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, str, bytes]:
        """Status, reason and body."""
        connection = http.client.HTTPSConnection("127.0.0.1", self._port, context=self._context, timeout=20)
        try:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, f"/api2/json{path}", body, {**self.headers, **sent})
            reply = connection.getresponse()
            return reply.status, reply.reason, reply.read()
        finally:
            connection.close()

    def run(self, *command: str) -> dict[str, Any]:
        """The status of a command that has ended."""
        _, _, body = self.ask("POST", f"{AGENT}/exec", json.dumps({"command": command}).encode(), Content_Type=JSON)
        pid = json.loads(body)["data"]["pid"]
        while True:
            told: dict[str, Any] = json.loads(self.ask("GET", f"{AGENT}/exec-status?pid={pid}")[2])["data"]
            if told["exited"]:
                return told


@pytest.fixture
def raw(pve: PveProcess, token_file: Path, machine: Machine) -> Raw:
    return Raw(pve, token_file.read_text().strip())


def test_every_route_has_its_facts() -> None:
    """Parameters and privileges are PVE's own: no route without them, none of them without a route."""
    assert set(facts.load()) == set(ROUTES) | {("POST", "/access/ticket")}
    for (_, path), method in facts.load().items():
        assert set(re.findall(r"{(\w+)}", path)) <= method["parameters"].keys()


def test_failed_login_is_slow(raw: Raw) -> None:
    """401 after the pause; PVE's is three seconds, this one's 0.2."""
    raw.headers = {"Authorization": "PVEAPIToken=gateway@pve!exec=wrong"}
    begun = time.monotonic()
    assert raw.ask("GET", "/version")[:2] == (401, "Authentication failed!")
    assert time.monotonic() - begun >= 0.2
    raw.headers = {}
    assert raw.ask("GET", "/version")[:2] == (401, "No ticket")


def test_most_failures_are_500(raw: Raw) -> None:
    """The text tells, in the status line and in the body."""
    status, reason, body = raw.ask("GET", "/nodes/pve1/qemu/999/agent/exec-status?pid=1")
    assert (status, reason) == (500, "Configuration file 'nodes/pve1/qemu-server/999.conf' does not exist")
    assert json.loads(body)["message"] == f"{reason}\n"
    assert raw.ask("GET", "/nodes/pve9/qemu/301/agent/exec-status?pid=1")[0] == 500
    assert raw.ask("GET", "/nodes/pve1/nothing")[0] == 501


def test_parameters_are_checked(raw: Raw) -> None:
    """400 that names each."""
    status, reason, body = raw.ask(
        "POST", f"{AGENT}/exec", b'{"input-data":"%s","x":1}' % (b"a" * 65537), Content_Type=JSON
    )
    assert (status, reason) == (400, "Parameter verification failed.")
    assert json.loads(body)["errors"].keys() == {"input-data", "x", "command"}
    assert raw.ask("GET", f"{AGENT}/exec-status?pid=one")[0] == 400
    assert raw.ask("GET", f"{AGENT}/exec-status?pid=1&vmid=302")[0] == 400


def test_form_forgets_arguments(raw: Raw) -> None:
    """At an empty argument a form loses all those before it: why the gateway sends JSON."""
    form = urllib.parse.urlencode([("command", word) for word in ("rm", "-r", "", "echo", "left")])
    _, _, body = raw.ask("POST", f"{AGENT}/exec", form.encode(), Content_Type=FORM)
    pid = json.loads(body)["data"]["pid"]
    told = {"exited": 0}
    while not told["exited"]:
        told = json.loads(raw.ask("GET", f"{AGENT}/exec-status?pid={pid}")[2])["data"]
    assert told == {"exited": 1, "exitcode": 0, "out-data": "left\n", "out-truncated": 0}


def test_body_over_the_limit(raw: Raw) -> None:
    """501 from half a MiB on, before anything is looked at."""
    assert raw.ask("POST", f"{AGENT}/exec", b"", Content_Type=JSON, Content_Length="524289")[0] == 501


def test_answers_are_compressed_on_demand(raw: Raw) -> None:
    """As pveproxy does, from 1 KiB on."""
    raw.headers["Accept-Encoding"] = "gzip"
    body = raw.ask("GET", f"{AGENT}/exec-status?pid={'9' * 2000}")[2]
    assert json.loads(gzip.decompress(body))["data"] is None


def test_agent_tells_once(raw: Raw) -> None:
    """The second question about a command that has ended is an error."""
    _, _, body = raw.ask("POST", f"{AGENT}/exec", b'{"command":["true"]}', Content_Type=JSON)
    path = f"{AGENT}/exec-status?pid={json.loads(body)['data']['pid']}"
    while not json.loads(raw.ask("GET", path)[2])["data"]["exited"]:
        pass
    assert re.fullmatch(r"Agent error: PID \d+ does not exist", raw.ask("GET", path)[1])


def test_agent_waits_for_whoever_holds_the_output(raw: Raw) -> None:
    """A child left behind delays the end, though the command has ended."""
    begun = time.monotonic()
    assert raw.run("sh", "-c", "sleep 0.5 & echo x")["out-data"] == "x\n"
    assert time.monotonic() - begun >= 0.5
    begun = time.monotonic()
    raw.run("sh", "-c", "sleep 8 >/dev/null 2>&1 & echo x")
    assert time.monotonic() - begun < 7


def test_bytes_are_characters(raw: Raw) -> None:
    """Output that is no text arrives as the characters U+0000 to U+00FF."""
    assert raw.run("printf", "\\377\\0a")["out-data"] == "\xff\0a"


def test_flags_are_numbers(raw: Raw) -> None:
    """Booleans are 0 and 1; what a signal ended has no exit code; without output nothing is said of it."""
    assert raw.run("sh", "-c", "kill -9 $$") == {"exited": 1, "signal": 9}
    told = raw.run("head", "-c", str((16 << 20) + 1), "/dev/zero")
    assert (told["out-truncated"], len(told["out-data"])) == (1, 16 << 20)
