"""Calls to PVE's API: what proves that nothing was done, what leaves it open, and what is never let through."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.errors import GuestAgentUnavailable, GuestNotRunning, NodeNotReady
from gateway.exec.agent import AgentAway, AgentRefused, AgentSilent, CommandForgotten
from gateway.pve.agent import GuestAgents
from gateway.pve.client import PveApi
from gateway.pve.failure import PveRefused, PveSilent, PveUnreachable
from tests.pve.conftest import VMID
from tests.pvesim import pmxcfs
from tests.pvesim.api import access
from tests.pvesim.api.machines import Machine
from tests.pvesim.api.process import TOKEN_ID, write_token
from tests.pvesim.api.process import Api as PveProcess

Treat = Callable[[ssl.SSLSocket], None]
Listen = Callable[[Treat], int]

CA = pmxcfs.ROOT / "pve-root-ca.pem"
NODE = "pve1"


@pytest.fixture
def client(pve: PveProcess, token_file: Path) -> PveApi:
    return PveApi(pve.url, token_file, CA)


@pytest.fixture
def agents(client: PveApi) -> GuestAgents:
    return GuestAgents(client, NODE)


@pytest.fixture
def listen(node: None) -> Iterator[Listen]:
    """A server with the node's certificate that does what it is told with each connection; its port."""
    servers: list[socket.socket] = []

    def make(treat: Treat) -> int:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pmxcfs.ROOT / "local/pve-ssl.pem", pmxcfs.ROOT / "local/pve-ssl.key")
        server = socket.create_server(("", 0))
        servers.append(server)

        def serve() -> None:
            while True:
                try:
                    plain, _ = server.accept()
                    with context.wrap_socket(plain, server_side=True) as link:
                        link.recv(65536)
                        treat(link)
                except OSError:
                    if server.fileno() < 0:
                        return

        threading.Thread(target=serve, daemon=True).start()
        return int(server.getsockname()[1])

    yield make
    for server in servers:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def reply(body: bytes, status: str = "200 OK", kind: str = "application/json") -> Treat:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return lambda link: link.sendall(head.encode() + body)


# ---- the API


def test_reads_and_changes(client: PveApi) -> None:
    """GET and POST with a token; the answer is `data`."""
    assert client.get("version")["release"] == "9.2"


def test_token_file_is_read_anew(pve: PveProcess, tmp_path: Path) -> None:
    """A rotated token holds at once; a revoked one is PVE's 401, after PVE's pause."""
    file = tmp_path / "token"
    write_token(file)
    client = PveApi(pve.url, file, CA)
    assert client.get("version")
    secret = file.read_text()
    file.write_text(f"{TOKEN_ID}=wrong\n")
    begun = time.monotonic()
    with pytest.raises(PveRefused) as refused:
        client.get("version")
    assert refused.value.status == 401 and time.monotonic() - begun >= 0.2
    assert "wrong" not in str(refused.value)
    file.write_text(secret)
    assert client.get("version")


@pytest.mark.parametrize(
    "content", ["", "nonsense", "root@pam=x", "root@pam!ab=c d", "root@pam!ab=é", "a@bc!de=f\nx@yz!ab=w"]
)
def test_damaged_token_file(pve: PveProcess, tmp_path: Path, content: str) -> None:
    """It is named, what it holds is not; nothing is sent."""
    file = tmp_path / "token"
    file.touch(0o600)
    file.write_text(content)
    with pytest.raises(PveUnreachable, match=r"pve\.token_file") as unreachable:
        PveApi(pve.url, file, CA).get("version")
    assert not content or content not in str(unreachable.value)


def test_token_file_that_others_can_read(pve: PveProcess, tmp_path: Path) -> None:
    """A secret that is none any more is not used."""
    file = tmp_path / "token"
    write_token(file)
    file.chmod(0o640)
    with pytest.raises(PveUnreachable, match="chmod 0600"):
        PveApi(pve.url, file, CA).get("version")
    with pytest.raises(PveUnreachable, match="absent"):
        PveApi(pve.url, tmp_path / "none", CA).get("version")


def test_foreign_certificate(pve: PveProcess, token_file: Path, tmp_path: Path) -> None:
    """A server that the CA did not sign gets no request, and no token."""
    other = tmp_path / "other.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=other",
         "-keyout", str(tmp_path / "key"), "-out", str(other)],
        check=True, capture_output=True,
    )  # fmt: skip
    with pytest.raises(PveUnreachable, match=r"pve\.ca"):
        PveApi(pve.url, token_file, other).get("version")
    with pytest.raises(PveUnreachable, match=r"pve\.ca"):
        PveApi(pve.url, token_file, tmp_path / "none.pem").get("version")


def test_foreign_name(listen: Listen, token_file: Path) -> None:
    """The certificate has to name the address that was asked."""
    with pytest.raises(PveUnreachable, match="certificate"):
        PveApi(f"https://127.0.0.2:{listen(reply(b'{}'))}/api2/json", token_file, CA).get("version")


def test_environment_is_no_way_in(client: PveApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies and CAs of the environment are not asked."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/dev/null")
    assert client.get("version")


def test_nobody_listens(token_file: Path) -> None:
    """Nothing was sent, and it says so."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(PveUnreachable, match="pveproxy"):
        PveApi(f"https://127.0.0.1:{port}/api2/json", token_file, CA).get("version")


@pytest.mark.parametrize(
    "treat",
    [
        pytest.param(lambda link: None, id="closed without a word"),
        pytest.param(reply(b'{"data":{"pid"'), id="cut JSON"),
        pytest.param(lambda link: link.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"), id="cut body"),
        pytest.param(reply(b"<html>", kind="text/html"), id="not JSON"),
        pytest.param(reply(b"x", "599 Too many redirections", "text/plain"), id="599"),
        pytest.param(reply(b"x", "596 Connection timed out", "text/plain"), id="596"),
        pytest.param(reply(b"", "302 Found\r\nLocation: https://127.0.0.1:1/", "text/plain"), id="redirect"),
    ],
)
def test_broken_answers_leave_it_open(listen: Listen, token_file: Path, treat: Treat) -> None:
    """The request has arrived: whether it was carried out is unknown."""
    client = PveApi(f"https://127.0.0.1:{listen(treat)}/api2/json", token_file, CA)
    with pytest.raises(PveSilent):
        client.post("nodes", NODE, "qemu", VMID, "agent", "exec", command=["true"])


def test_an_answer_that_drips_takes_no_longer_than_any(listen: Listen, token_file: Path) -> None:
    """The time limit is that of the whole call, however often another byte of it comes."""

    def drip(link: ssl.SSLSocket) -> None:
        link.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99999\r\n\r\n")
        for _ in range(50):
            link.sendall(b" ")
            time.sleep(0.1)

    client = PveApi(f"https://127.0.0.1:{listen(drip)}/api2/json", token_file, CA)
    begun = time.monotonic()
    with pytest.raises(PveSilent):
        client.call("GET", ("version",), {}, timeout=1)
    assert time.monotonic() - begun < 4.5


def test_bad_parameter_is_named(client: PveApi, machine: Machine) -> None:
    """PVE's 400 tells which."""
    with pytest.raises(PveRefused, match=r"400.*bogus") as refused:
        client.post("nodes", NODE, "qemu", VMID, "agent", "exec", command=["true"], bogus=1)
    assert refused.value.status == 400


@pytest.mark.parametrize("part", ["..", "a/b", "", "%2e%2e", "a?b", "a#b", "-", "ä", "1 2"])
def test_paths_hold_names_only(client: PveApi, part: str) -> None:
    """No part of a path can leave its place (PVE.md: `../../../version` did)."""
    with pytest.raises(ValueError, match="name or a number"):
        client.get("nodes", part)


# ---- agents


def test_check_tells_what_is_wrong(agents: GuestAgents, machine: Machine) -> None:
    """Each of PVE's texts is an error of its own."""
    agents.check(VMID)
    machine.set_quirks(away=True)
    with pytest.raises(GuestAgentUnavailable):
        agents.check(VMID)
    machine.set_quirks()
    machine.stop()
    with pytest.raises(GuestNotRunning):
        agents.check(VMID)
    with pytest.raises(NodeNotReady, match="999"):
        agents.check(999)


def test_token_without_the_privilege(pve: PveProcess, machine: Machine, tmp_path: Path) -> None:
    """PVE's 403 says which privilege the token needs."""
    file = tmp_path / "token"
    access.store_token(file, "poor@pve!test", "secret", privileges=["VM.Audit"])
    poor = GuestAgents(PveApi(pve.url, file, CA), NODE)
    with pytest.raises(NodeNotReady, match=r"VM\.GuestAgent\.Unrestricted"):
        poor.check(VMID)
    with pytest.raises(AgentAway, match="403"):
        poor.start(VMID, ["true"], b"")


def test_start_and_poll(agents: GuestAgents, machine: Machine) -> None:
    """A result is told once."""
    pid = agents.start(VMID, ["cat"], bytes(range(256)))
    while (result := agents.poll(VMID, pid)) is None:
        pass
    assert (result.exit_code, result.signal, result.stdout.data) == (0, None, bytes(range(256)))
    with pytest.raises(CommandForgotten):
        agents.poll(VMID, pid)


def test_starts_that_fail(agents: GuestAgents, machine: Machine) -> None:
    """What was not started, what cannot be, and what nobody knows of."""
    with pytest.raises(AgentRefused, match="No such file") as refused:
        agents.start(VMID, ["/no/such"], b"")
    assert refused.value.errno == "ENOENT"
    with pytest.raises(AgentSilent):  # what PVE does to arguments beyond ASCII: its half request hangs
        agents.start(VMID, ["echo", "äöü"], b"")
    machine.set_quirks(mute=["guest-exec"])
    with pytest.raises(AgentSilent):
        agents.start(VMID, ["true"], b"")
    machine.set_quirks(away=True)
    with pytest.raises(AgentAway):
        agents.start(VMID, ["true"], b"")
    machine.stop()
    with pytest.raises(AgentAway, match="not running"):
        agents.start(VMID, ["true"], b"")


def test_agent_that_floods(listen: Listen, token_file: Path) -> None:
    """A machine's root writes its own agent: more than an agent can keep is cut, and counts as truncated."""
    body = json.dumps({"data": {"exited": 1, "exitcode": 0, "out-data": "x" * (40 << 20), "err-data": "\0long:0"}})
    agents = GuestAgents(PveApi(f"https://127.0.0.1:{listen(reply(body.encode()))}/api2/json", token_file, CA), NODE)
    result = agents.poll(VMID, 1)
    assert result is not None
    assert (len(result.stdout.data), result.stdout.truncated) == (16 << 20, True)
    assert (result.stderr.data, result.stderr.truncated) == (b"\0long:0", False)


@pytest.mark.parametrize(
    "data",
    ['"exited"', "[]", '{"exited":1,"out-data":"\\u20ac"}', '{"exited":1,"out-data":"' + "€" * 70000 + '"}'],
)
def test_agent_that_talks_nonsense(listen: Listen, token_file: Path, data: str) -> None:
    """It is no result, and breaks nothing."""
    treat = reply(f'{{"data":{data}}}'.encode())
    agents = GuestAgents(PveApi(f"https://127.0.0.1:{listen(treat)}/api2/json", token_file, CA), NODE)
    with pytest.raises(AgentSilent):
        agents.poll(VMID, 1)


def test_web_starts_without_it() -> None:
    """What speaks HTTPS is loaded when PVE is first asked: it takes 50 ms and 8 MB."""
    program = "import sys, gateway.app; print({'requests', 'urllib3', 'proxmoxer'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"
