"""What stands behind Ansible's connection: commands and files of a guest, byte for byte, over wires that break."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from plugins.plugin_utils.client import Client, Problem
from plugins.plugin_utils.copying import NotAFile, download, upload
from plugins.plugin_utils.keeping import Keeping
from plugins.plugin_utils.running import INLINE, Lost, Output, Run
from plugins.plugin_utils.wire import Address, parse_address

from tests.ansible.plays import COLLECTION, Plays
from tests.exec.inside import labelled, new_mark
from tests.exec.waiting import until
from tests.pvesim.guests import Guest
from tests.pvex.proxy import Proxy

VMID = 101
GUEST = 961
HANDSHAKE = 2500
"""Bytes from the gateway that TLS and a reply's head take, about."""
GROWN_MIB = 16.0
KEEPER_MIB = 80.0
"""An interpreter with asyncio and TLS takes 30."""


class Clients:
    """Clients as Ansible's tasks have them: `keep` seconds, over `url`."""

    def __init__(self, plays: Plays) -> None:
        self._plays = plays
        self._open = contextlib.ExitStack()

    def __call__(self, *, url: str = "", keep: float = 0) -> Client:
        client = Client(self.address(url), self._plays.token, Keeping(self._plays.keepers, keep))
        self._open.callback(client.close)
        return client

    def address(self, url: str = "") -> Address:
        services = self._plays.gateway.services
        return parse_address(url or services.url, str(services.ca), 10)

    def close(self) -> None:
        self._open.close()
        self._plays.end_keepers()


@pytest.fixture
def clients(plays: Plays) -> Iterator[Clients]:
    made = Clients(plays)
    yield made
    made.close()


def run(client: Client, script: str, data: bytes | None = None, *, vmid: int = VMID, **spec: Any) -> Output:
    """A shell's script to its end."""
    return Run(client, vmid, {"command": ["/bin/sh", "-c", script], **spec}, data, None).finish()


def test_streams_and_codes(clients: Clients) -> None:
    """All byte values on both streams, input, exit codes and signals: as they are."""
    every = bytes(range(256)) * 40
    client = clients()
    done = run(client, "cat; echo err >&2; exit 143", every)
    assert (bytes(done.stdout), bytes(done.stderr), done.exit_code) == (every, b"err\n", 143)
    assert run(client, "kill -9 $$").exit_code == 137
    assert bytes(run(client, "cat").stdout) == b""
    assert run(client, "id -u", user="65534").stdout == b"65534\n"


def test_much_of_everything(clients: Clients) -> None:
    """More input than a request takes, more output than a result keeps."""
    data = random.Random(7).randbytes(3 * INLINE)
    done = run(clients(), "cat", data)
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()


def test_cut_wires(clients: Clients, plays: Plays) -> None:
    """Cut before its answer, and again and again in its output: it runs once, and no byte is lost or comes twice."""
    mark = new_mark()
    places = random.Random(8)
    cuts = iter([HANDSHAKE // 2, HANDSHAKE // 2, *(HANDSHAKE + places.randrange(100_000) for _ in range(5))])
    script = (
        "head -c 300000 /dev/urandom > /tmp/ansible; cat /tmp/ansible; sha256sum < /tmp/ansible >&2; rm /tmp/ansible"
    )
    with Proxy(plays.gateway.services.port, cuts) as proxy:
        done = run(clients(url=proxy.url), script, labels={"test": mark})
        assert proxy.broken >= 4
    assert hashlib.sha256(done.stdout).hexdigest().encode() == done.stderr.split()[0]
    with contextlib.closing(plays.gateway.api(plays.token)) as api:
        assert labelled(api, mark)
        assert len(api.get(f"/execs?label=test={mark}").json()["execs"]) == 1


def test_interrupted(clients: Clients, plays: Plays) -> None:
    """What Ansible's time limit or Ctrl-C interrupts is ended in the guest, too."""
    mark = new_mark()
    waiting = Run(
        clients(), VMID, {"command": ["/bin/sh", "-c", "echo on; sleep 60"], "labels": {"test": mark}}, None, None
    )

    class Interrupting(bytearray):
        def extend(self, data: Any) -> None:
            raise KeyboardInterrupt

    waiting.output.stdout = Interrupting()
    with pytest.raises(KeyboardInterrupt):
        waiting.finish()
    with contextlib.closing(plays.gateway.api(plays.token)) as api:
        (view,) = api.get(f"/execs?label=test={mark}").json()["execs"]
        assert until(lambda: api.get(f"/execs/{view['id']}").json()["reason"]) == "cancelled"


def test_ends_that_are_none(clients: Clients, make_guest: Callable[..., Guest]) -> None:
    """Its time over, its guest stopped, nothing that could be run: no exit code is made up."""
    client = clients()
    with pytest.raises(Lost, match="ansible_pve_exec_command_timeout"):
        run(client, "sleep 60", timeout=0.2)
    with pytest.raises(Lost, match="nothing could be run in guest 101"):
        run(client, "true", user="no-such-user")
    guest = make_guest(GUEST)
    stop = Run(client, GUEST, {"command": ["/bin/sh", "-c", "echo on; sleep 60"]}, None, None)

    class Stopping(bytearray):
        def extend(self, data: Any) -> None:
            guest.stop(kill=True)

    stop.output.stdout = Stopping()
    with pytest.raises(Lost, match="was stopped while the command ran"):
        stop.finish()


@pytest.mark.parametrize(
    ("name", "data"), [(b"em pty", b""), (b"b\xffn\n'\"", bytes(range(256))), ("\u00fc".encode(), b"x" * 300_000)]
)
def test_files(clients: Clients, tmp_path: Path, name: bytes, data: bytes) -> None:
    """Empty, binary, larger than a piece; with spaces, quotes and bytes that are no text in their names."""
    client = clients()
    (tmp_path / "source").write_bytes(data)
    path = b"/tmp/ansible-" + name
    got = io.BytesIO()
    with open(tmp_path / "source", "rb") as source:
        upload(client, VMID, source, path, "65534")
    download(client, VMID, path, got)
    assert got.getvalue() == data
    done = run(client, "stat -c '%u %s' /tmp/ansible-*; rm /tmp/ansible-*")
    assert done.stdout.split() == [b"65534", str(len(data)).encode()]


def test_no_file(clients: Clients) -> None:
    """A directory, and nothing at all."""
    with pytest.raises(NotAFile):
        download(clients(), VMID, b"/tmp", io.BytesIO())
    with pytest.raises(Problem, match="file_not_found"):
        download(clients(), VMID, b"/tmp/none", io.BytesIO())


def test_files_over_cut_wires(clients: Clients, plays: Plays, tmp_path: Path) -> None:
    """A download goes on where it was cut, an upload begins anew: both arrive whole."""
    data = random.Random(9).randbytes(3 << 20)
    (tmp_path / "source").write_bytes(data)
    got = io.BytesIO()
    cuts = iter([HANDSHAKE - 1000, HANDSHAKE + 1_000_000, HANDSHAKE + 50_000])
    with Proxy(plays.gateway.services.port, cuts) as proxy, open(tmp_path / "source", "rb") as source:
        client = clients(url=proxy.url)
        upload(client, VMID, source, b"/tmp/ansible", None)
        download(client, VMID, b"/tmp/ansible", got)
        assert proxy.broken == 3
        run(client, "rm /tmp/ansible")
    assert got.getvalue() == data


def test_memory(plays: Plays, tmp_path: Path) -> None:
    """100 MB to a guest and back, through a keeper: neither the task's process nor the keeper grows with it."""
    program = """
import resource, sys, io
from pathlib import Path
from plugins.plugin_utils.client import Client
from plugins.plugin_utils.copying import download, upload
from plugins.plugin_utils.keeping import Keeping
from plugins.plugin_utils.running import Run
from plugins.plugin_utils.wire import parse_address
url, ca, keepers, file, token = sys.stdin.read().split()
client = Client(parse_address(url, ca, 10), token, Keeping(Path(keepers), 60))
run = lambda script: Run(client, 101, {"command": ["/bin/sh", "-c", script]}, None, None).finish()
run("true")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with open(file, "rb") as source:
    upload(client, 101, source, b"/tmp/ansible-100", None)
print(run("sha256sum < /tmp/ansible-100").stdout.split()[0].decode())
with open(file, "wb") as target:
    download(client, 101, b"/tmp/ansible-100", target)
run("rm /tmp/ansible-100")
client.close()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    file = tmp_path / "100"
    piece, digest = os.urandom(1_000_000), hashlib.sha256()
    with file.open("wb") as written:
        for _ in range(100):
            written.write(piece)
            digest.update(piece)
    services = plays.gateway.services
    given = " ".join([services.url, str(services.ca), str(plays.keepers), str(file), plays.token])
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=COLLECTION, input=given, capture_output=True, text=True, check=True
    )
    sent, grown = done.stdout.split()
    (keeper,) = plays.find_keepers()
    peak = int(Path(f"/proc/{keeper}/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
    plays.end_keepers()
    assert sent == digest.hexdigest() == hashlib.sha256(file.read_bytes()).hexdigest()
    assert float(grown) < GROWN_MIB
    assert peak < KEEPER_MIB


def test_keeping(clients: Clients, plays: Plays) -> None:
    """Tasks one after another share a connection, two at a time have one each; a keeper that is killed, a gateway that
    has closed what was kept, and a reset cost nothing but a new one."""
    with Proxy(plays.gateway.services.port, iter(())) as proxy:

        def task() -> None:
            client = clients(url=proxy.url, keep=60)
            assert run(client, "echo on").stdout == b"on\n"
            client.close()

        for _ in range(3):
            task()
        assert proxy.connections == 1
        one, other = clients(url=proxy.url, keep=60), clients(url=proxy.url, keep=60)
        for client in (one, other):
            assert run(client, "true").exit_code == 0
        for client in (one, other):
            client.close()
        assert proxy.connections == 2
        (keeper,) = plays.find_keepers()
        os.kill(keeper, signal.SIGKILL)
        task()
        assert proxy.connections == 3
        clients(url=proxy.url, keep=60).forget()
        until(lambda: not plays.find_keepers())
        task()
        assert proxy.connections == 4
        plays.gateway.services.restart("web")
        task()


def test_nobody_elses_directory(clients: Clients, plays: Plays, tmp_path: Path) -> None:
    """Where others may put a socket, none is looked for: it would be sent the token."""
    tmp_path.chmod(0o777)
    keeping = Keeping(tmp_path, 60)
    client = Client(clients.address(), plays.token, keeping)
    assert run(client, "true").exit_code == 0
    client.close()
    assert not list(tmp_path.iterdir())
