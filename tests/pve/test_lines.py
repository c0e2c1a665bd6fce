"""Connections that are used again: how many there are, which are trusted, and what a lost one means."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.pve.client import PveApi
from gateway.pve.failure import PveSilent
from gateway.pve.lines import CaUnreadable, Lines
from tests.pvesim import pmxcfs

CA = pmxcfs.ROOT / "pve-root-ca.pem"
_BODY = b'{"data":{"release":"9.2"}}'
_OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(_BODY), _BODY)


class Server:
    """Keeps connections; after `answers` of each it closes it with the next request unanswered."""

    def __init__(self) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(pmxcfs.ROOT / "local/pve-ssl.pem", pmxcfs.ROOT / "local/pve-ssl.key")
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}/api2/json"
        self.answers = 10**9
        self.requests: list[bytes] = []
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(plain,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        try:
            with self._context.wrap_socket(plain, server_side=True) as link:
                for _ in range(self.answers):
                    request = link.recv(65536)
                    if not request:
                        return
                    self.requests.append(request.split(b"\r\n")[0])
                    link.sendall(_OK)
                self.requests.append(link.recv(65536).split(b"\r\n")[0])
        except OSError:
            return


@pytest.fixture
def server(node: None) -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture
def client(server: Server, token_file: Path) -> Iterator[PveApi]:
    api = PveApi(server.url, token_file, CA)
    yield api
    api.close()


def test_one_after_the_other_share_one(server: Server, client: PveApi) -> None:
    """No handshake but the first."""
    for _ in range(20):
        client.get("version")
    assert (server.connections, len(server.requests)) == (1, 20)


def test_threads_have_their_own(server: Server, client: PveApi) -> None:
    """Answers never cross; fifty threads need fifty connections at most, and keep no more than 32."""
    wrong: list[object] = []

    def ask() -> None:
        for _ in range(10):
            if client.get("version") != {"release": "9.2"}:
                wrong.append(1)

    threads = [threading.Thread(target=ask) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(server.requests) == 500
    assert len(client._connect()._lines._idle) <= 32


def test_question_on_a_closed_connection_is_asked_again(server: Server, client: PveApi) -> None:
    """pveproxy may close at any time: a GET is sent once more, on a connection of its own."""
    server.answers = 1
    for _ in range(3):
        assert client.get("version")
    assert server.connections >= 2


def test_change_is_never_sent_twice(server: Server, client: PveApi) -> None:
    """Where its connection breaks with no answer, whether it was made is unknown."""
    server.answers = 1
    client.get("version")
    with pytest.raises(PveSilent):
        client.post("nodes", "pve1", "lxc", 101, "status", "start")
    assert [line for line in server.requests if line.startswith(b"POST")] == [
        b"POST /api2/json/nodes/pve1/lxc/101/status/start HTTP/1.1"
    ]


def test_idle_ones_are_not_trusted(server: Server, token_file: Path) -> None:
    """pveproxy closes after 5 s: one that was idle for 2 s is not used any more."""
    now = [0.0]
    client = PveApi(server.url, token_file, CA)
    client._connect()._lines = Lines(CA, lambda: now[0])
    client.get("version")
    now[0] = 1.9
    client.get("version")
    assert server.connections == 1
    now[0] = 4.0
    client.get("version")
    assert server.connections == 2
    client.close()


def test_replaced_ca_counts_at_once(server: Server, token_file: Path, tmp_path: Path) -> None:
    """Connections of before are trusted no more."""
    ca = tmp_path / "ca.pem"
    shutil.copy(CA, ca)
    client = PveApi(server.url, token_file, ca)
    client.get("version")
    other = tmp_path / "other.pem"
    other.write_text(CA.read_text() + "\n")
    other.replace(ca)
    client.get("version")
    assert server.connections == 2
    ca.write_text("no certificate")
    with pytest.raises(CaUnreadable), client._connect()._lines.take():
        pass
    client.close()


def test_fork(server: Server, client: PveApi) -> None:
    """A child does not speak on its parent's connections."""
    client.get("version")
    pid = os.fork()
    if not pid:
        os._exit(0 if client.get("version") else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    client.get("version")
    assert server.connections == 2


def test_broken_answers_are_not_kept(server: Server, client: PveApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """What may still hold bytes of an answer carries no other call."""
    monkeypatch.setitem(globals(), "_OK", _OK.replace(b"application/json", b"text/html"))
    with pytest.raises(PveSilent):
        client.get("version")
    assert client._connect()._lines._idle == []
