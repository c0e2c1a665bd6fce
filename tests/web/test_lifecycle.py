"""Start, stop and reload: nobody is refused, what has begun ends."""

import contextlib
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.web.settings import WebSettings
from tests.web.conftest import Client, Server, StartServer


def test_ready_is_said_by_a_worker_that_accepts(start_server: StartServer, tmp_path: Path) -> None:
    """READY=1 comes from the worker, once, not from a master whose workers may still fail."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(path))
        notify.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        notify.settimeout(15)
        server = start_server(env={"NOTIFY_SOCKET": str(path)})
        data, ancillary, _, _ = notify.recvmsg(100, 100)
        assert data.startswith(b"READY=1\n")
        pid = int.from_bytes(ancillary[0][2][:4], "little")
        assert pid == server.client().request("GET", "/").json()["pid"] != server.process.pid


def test_reload_is_told(start_server: StartServer, tmp_path: Path) -> None:
    """The master says when a reload begins, by the clock that `Type=notify-reload` compares, and that it lives; a new
    worker that the reload is over."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(path))
        notify.settimeout(15)
        server = start_server(env={"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "1000000"})
        assert "READY" in hear(notify, until="READY=1")
        before = time.monotonic()
        server.process.send_signal(signal.SIGHUP)
        told = hear(notify, until="RELOADING=1")["MONOTONIC_USEC"]
        assert before <= int(told) / 1e6 <= time.monotonic()
        assert "STATUS" in hear(notify, until="READY=1")
        assert hear(notify, until="WATCHDOG=1")


def hear(notify: socket.socket, *, until: str) -> dict[str, str]:
    """What the first message that begins so says."""
    while True:
        message = notify.recv(1000).decode()
        if message.startswith(until):
            return dict(line.split("=", 1) for line in message.splitlines())


def test_listens_without_systemd(start_server: StartServer) -> None:
    """Without LISTEN_FDS the configured address is bound, IPv6 too."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as free:
        port = free.getsockname()[1]
    server = start_server(inherit=None, listen=["::1", port])
    deadline = time.monotonic() + 15
    while True:
        try:
            sock = socket.create_connection(("::1", port))
            break
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
    sock.close()
    assert server.stop() == 0


class Load:
    """Clients that send requests without pause, on kept and on new connections, and count what fails."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._stop = threading.Event()
        self._progress = threading.Event()
        self._lock = threading.Lock()
        self.pids: set[int] = set()
        self.done = 0
        self.failures: list[str] = []
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(4)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def await_more(self, requests: int) -> None:
        """Wait until this many more requests were answered."""
        goal = self.done + requests
        self.await_until(lambda: self.done >= goal)

    def await_until(self, reached: Callable[[], bool]) -> None:
        """Wait, at most 20 s, for what the clients see."""
        deadline = time.monotonic() + 20
        while not reached():
            assert time.monotonic() < deadline
            self._progress.wait(1)
            self._progress.clear()

    def _run(self, number: int) -> None:
        client: Client | None = None
        while not self._stop.is_set():
            try:
                client = client or Client(self._server.port, tls=self._server.tls)
                reply = client.request("GET", "/")
                self.pids.add(reply.json()["pid"])
                with self._lock:
                    self.done += 1
                self._progress.set()
                if number % 2 or reply.headers["connection"] == "close":
                    client.close()
                    client = None
            except OSError as error:
                self.failures.append(repr(error))
                client = None
        if client:
            client.close()


def test_reload_under_load_fails_no_request(start_server: StartServer) -> None:
    """SIGHUP changes the worker; every request before, during and after it is answered."""
    server = start_server()
    server.client().request("GET", "/")
    with Load(server) as load:
        for expected in (2, 3, 4):
            load.await_more(50)
            server.process.send_signal(signal.SIGHUP)
            load.await_until(lambda: len(load.pids) >= expected)  # noqa: B023 - called before the loop goes on
        load.await_more(50)
    assert load.failures == []


def test_reload_that_fails_keeps_serving(start_server: StartServer) -> None:
    """An application that cannot be made anew on SIGHUP leaves the old one in service."""
    server = start_server()
    client = server.client()
    first = client.request("GET", "/").json()["pid"]
    server.broken.touch()
    server.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 15
    while True:
        client = server.client()
        reply = client.request("GET", "/")
        assert reply.status == 200
        client.close()
        if reply.json()["pid"] != first:
            break
        assert time.monotonic() < deadline
    assert "this configuration cannot be used" in server.log.read_text()


def test_stop_lets_requests_end(start_server: StartServer) -> None:
    """SIGTERM: a running request is answered, an open connection gets its next reply with `close`."""
    server = start_server()
    slow, open_one, silent = server.client(), server.client(), server.raw()
    open_one.request("GET", "/")
    slow.send("GET", "/slow")
    server.report()
    server.process.send_signal(signal.SIGTERM)
    open_one.send("GET", "/slow")
    assert server.report() == {"event": "begun"}
    assert slow.read().status == 200
    assert open_one.read().status == 200
    assert server.process.wait(10) == 0
    silent.close()


def test_worker_that_dies_is_replaced(start_server: StartServer) -> None:
    """kill -9 of the worker: the next connection waits for its successor and is served."""
    server = start_server()
    pid = server.client().request("GET", "/").json()["pid"]
    os.kill(pid, signal.SIGKILL)
    assert server.client().request("GET", "/").json()["pid"] != pid


def test_worker_whose_master_dies_ends(start_server: StartServer) -> None:
    """kill -9 of the master: nobody would tell its worker to end any more, so that ends by itself."""
    server = start_server()
    worker = os.pidfd_open(server.worker())
    try:
        server.process.kill()
        server.process.wait()
        assert select.select([worker], [], [], 20)[0], "it goes on without a master"
    finally:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(worker, signal.SIGKILL)
        os.close(worker)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "example.org", ""])
def test_plain_http_only_on_loopback(host: str) -> None:
    """Without TLS only 127.0.0.0/8, ::1 and localhost may be listened on; names never."""
    with pytest.raises(ValueError, match="listen"):
        WebSettings(listen=(host, 80))
    assert WebSettings(listen=("127.0.0.9", 80)).listen[1] == 80


def test_plain_http_on_an_inherited_public_socket_is_refused(start_server: StartServer) -> None:
    """Also a socket that systemd bound is looked at."""
    server = start_server(tls=False, host="0.0.0.0")
    assert server.process.wait(15) != 0
    assert "without TLS only a loopback address" in server.log.read_text()


@pytest.mark.parametrize(
    "change", [{"threads": 0}, {"head_s": -1}, {"tls_cert": Path("x")}, {"listen": ("::1", 70000)}]
)
def test_settings_out_of_range(change: dict[str, object]) -> None:
    """A value that makes no sense is a ValueError that names it."""
    with pytest.raises(ValueError, match=next(iter(change)).split("_")[0]):
        WebSettings(**change)  # type: ignore[arg-type]
