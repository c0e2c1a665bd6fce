"""What becomes of files that are on their way when a part of the gateway, a token or a guest goes."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.exec.api import Api
from tests.exec.gateways import Gateway
from tests.exec.test_hostile_guests import reloading
from tests.exec.waiting import until
from tests.files.paths import ACTIONS, url
from tests.files.test_files import DATA, put
from tests.files.test_hostile_guests import begin_put, leftovers, sessions
from tests.pvesim import guests
from tests.pvesim.guests import Guest

OCTETS = {"Content-Type": "application/octet-stream"}
SIZE = 8 << 20
HALF = SIZE // 2


@pytest.fixture(scope="module")
def gateway(make_gateway: Callable[..., Gateway]) -> Gateway:
    return make_gateway(exec={"max_running_per_guest": 2, "queue_timeout": 2})


def read_reply(sock: ssl.SSLSocket) -> bytes:
    with contextlib.suppress(OSError):
        return sock.recv(65536)
    return b""


def outcome_of(gateway: Gateway, path: str, event: str) -> dict[str, Any]:
    """The outcome of the last such operation on a path, waited for."""
    asked = [record for record in gateway.records(event=event) if record["data"]["path"] == path][-1]
    (ended,) = until(lambda: gateway.records(event="file:outcome", audit_id=asked["audit_id"]))
    data: dict[str, Any] = ended["data"]
    return data


@pytest.fixture
def upload(files: Api, gateway: Gateway) -> Iterator[ssl.SSLSocket]:
    """An upload to /root/ends of guest 101, half of which is on its way; before it stood `old` there."""
    put(files, 101, "/root/ends", b"old")
    with contextlib.closing(begin_put(files, 101, "/root/ends", SIZE)) as sock:
        sock.sendall(DATA[:HALF])
        until(lambda: sessions(guests.get(101), gateway), why="the upload is under way")
        yield sock


def is_old(files: Api, gateway: Gateway) -> bool:
    guest = guests.get(101)
    until(lambda: not sessions(guest, gateway), why="nothing of it runs")
    return files.get(url(101, "/root/ends")).body == b"old" and not leftovers(guest)


def test_a_reload_is_not_noticed(files: Api, gateway: Gateway, upload: ssl.SSLSocket) -> None:
    """An upload and a download that are under way when the supervisor becomes a new image end as if it had not; their
    places come free, and their outcomes are recorded."""
    put(files, 101, "/root/ends-read", DATA)
    connection = files.connect()
    connection.request("GET", url(101, "/root/ends-read"), headers={"Authorization": f"Bearer {files.token}"})
    reply = connection.getresponse()
    first = reply.read(1 << 20)
    with reloading(gateway, files):
        pass
    upload.sendall(DATA[HALF:SIZE])
    assert read_reply(upload).startswith(b"HTTP/1.1 200 ")
    assert first + reply.read() == DATA
    connection.close()
    assert files.get(url(101, "/root/ends")).body == DATA[:SIZE]
    until(lambda: not sessions(guests.get(101), gateway))
    assert outcome_of(gateway, "/root/ends-read", "file:read")["bytes"] == len(DATA)
    until(lambda: SIZE in [record["data"].get("bytes") for record in gateway.records(event="file:outcome")])


def test_reloads_among_many_small_files(files: Api, gateway: Gateway) -> None:
    """What ends just while the supervisor becomes a new image, when the launcher has left and the web's word has not
    come yet, has its outcome in the log all the same, and once; nothing stays in hand."""
    path, stop = "/root/ends-small", threading.Event()

    def write() -> list[int]:
        answers = []
        while not stop.is_set():
            answers.append(files.request("PUT", url(101, path), raw=b"small", headers=OCTETS).status)
        return answers

    with ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(write) for _ in range(2)]
        try:
            for _ in range(3):
                gateway.services.reload("supervisor")
        finally:
            stop.set()
        assert {status for writer in writers for status in writer.result()} <= {200, 201}
    asked = [record for record in gateway.records(event="file:write") if record["data"]["path"] == path]
    assert asked
    ids = {record["audit_id"] for record in asked}

    def ends() -> Counter[str]:
        return Counter(record["audit_id"] for record in gateway.records(event="file:outcome"))

    until(lambda: ids <= ends().keys(), why="all have an end")
    assert {ends()[audit_id] for audit_id in ids} == {1}
    until(lambda: not list((gateway.services.state / "changes").iterdir()), why="no change is in hand")


def test_places_are_counted(files: Api, gateway: Gateway, upload: ssl.SSLSocket) -> None:
    """Files take the places that commands take: with one of two taken a command runs, with both a file is refused."""
    assert files.run(101, ["true"])["exit_code"] == 0
    with contextlib.closing(begin_put(files, 101, "/root/ends-too", SIZE)) as sock:
        sock.sendall(DATA[:HALF])
        until(lambda: len(sessions(guests.get(101), gateway)) == 2)
        refused = files.get(url(101, "/root/ends"))
        assert (refused.status, refused.code) == (429, "too_many_execs")
    upload.close()
    until(lambda: not sessions(guests.get(101), gateway))
    assert files.get(url(101, "/root/ends")).body == b"old"


def test_a_killed_supervisor(files: Api, gateway: Gateway, upload: ssl.SSLSocket) -> None:
    """After SIGKILL to the supervisor the next one ends what is left; the old file stays, the log says `unknown`."""
    gateway.services.kill("supervisor")
    gateway.services.restart("supervisor")
    with contextlib.suppress(OSError):
        upload.sendall(DATA[HALF:SIZE])
    assert read_reply(upload).startswith(b"HTTP/1.1 50")
    assert is_old(files, gateway)
    assert outcome_of(gateway, "/root/ends", "file:write")["reason"] == "unknown"


def test_an_outcome_that_the_audit_writer_could_not_take(files: Api, gateway: Gateway, upload: ssl.SSLSocket) -> None:
    """With the audit writer away, the outcome goes over a reload; a supervisor killed with it in hand leaves the
    change to web, which says `unknown`."""
    gateway.services.kill("audit")
    upload.sendall(DATA[HALF:SIZE])
    assert read_reply(upload).startswith(b"HTTP/1.1 200 ")
    gateway.services.reload("supervisor")
    gateway.services.restart("audit")
    assert outcome_of(gateway, "/root/ends", "file:write")["reason"] == "ok"
    with contextlib.closing(begin_put(files, 101, "/root/ends", SIZE)) as second:
        second.sendall(DATA[:HALF])
        until(lambda: sessions(guests.get(101), gateway), why="the second upload is under way")
        gateway.services.kill("audit")
        second.sendall(DATA[HALF:SIZE])
        assert read_reply(second).startswith(b"HTTP/1.1 200 ")
        gateway.services.kill("supervisor")
    gateway.services.restart("audit")
    gateway.services.restart("supervisor")
    assert outcome_of(gateway, "/root/ends", "file:write")["reason"] == "unknown"


def test_a_killed_web(files: Api, gateway: Gateway, upload: ssl.SSLSocket) -> None:
    """After SIGKILL to the web nothing is written, and the log has an outcome that does not say `ok`."""
    gateway.services.kill("web")
    until(lambda: not sessions(guests.get(101), gateway), why="nothing of it runs")
    told = outcome_of(gateway, "/root/ends", "file:write")
    assert told["reason"] in ("unknown", "failed"), told  # its worker may outlive it for long enough to say a word
    gateway.services.restart("web")
    files.close()
    assert is_old(files, gateway)


def test_a_revoked_token(gateway: Gateway, files: Api) -> None:
    """An upload whose token is revoked in its middle is 401, and the old file stays."""
    token = gateway.token("short", actions=ACTIONS)
    put(files, 101, "/root/ends", b"old")
    short = gateway.api(token)
    with contextlib.closing(begin_put(short, 101, "/root/ends", SIZE)) as sock:
        sock.sendall(DATA[:HALF])
        until(lambda: sessions(guests.get(101), gateway))
        gateway.services.command("token", "revoke", token.removeprefix("pveg_").split(".")[0])

        def refused() -> bool:
            with contextlib.suppress(OSError):
                sock.sendall(b"x")
            return not sessions(guests.get(101), gateway)

        until(refused)
        assert read_reply(sock).startswith(b"HTTP/1.1 401 ")
    assert is_old(files, gateway)


def test_a_guest_that_stops(files: Api, gateway: Gateway, spoilt: Guest) -> None:
    """A guest that stops in the middle of an upload has the old file and no other when it is back."""
    put(files, spoilt.vmid, "/root/ends", b"old")
    with contextlib.closing(begin_put(files, spoilt.vmid, "/root/ends", SIZE)) as sock:
        sock.sendall(DATA[:HALF])
        until(lambda: sessions(spoilt, gateway))
        spoilt.stop(kill=True)
        with contextlib.suppress(OSError):
            sock.sendall(DATA[HALF:SIZE])
        assert read_reply(sock).startswith(b"HTTP/1.1 50")
    spoilt.start()
    assert files.get(url(spoilt.vmid, "/root/ends")).body == b"old"
    assert not leftovers(spoilt)
