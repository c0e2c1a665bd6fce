"""C3: what is under way, waits or is held in hand ends with the token, the secret, the key or the grant behind it."""

from __future__ import annotations

import json
import os
import signal
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest

from gateway.config import load
from gateway.errors import (
    GuestNotFound,
    InternalError,
    NodeNotReady,
    SupervisorUnavailable,
    TokenStoreError,
    Unauthenticated,
)
from gateway.exec.origin import Origin
from gateway.exec.permit import Permit
from gateway.exec.reply import RunReply
from gateway.pve.guests import GuestMap
from gateway.supervisor.link.calling import Decide
from gateway.supervisor.link.client import SupervisorClient
from tests.exec.api import Api
from tests.exec.gateways import Gateway
from tests.exec.inside import begun, ended, kill_all, labelled, living, new_mark
from tests.exec.streams import Reply
from tests.exec.waiting import BUSY, until
from tests.exec.websocket import Closed, NotUpgraded, WebSocket
from tests.pvesim import guests

VMID = 101
DETACHED = {"Prefer": "respond-async"}
ADMIN = "exec:admin,exec:terminal,token:admin"
GRANT: dict[str, Any] = {"actions": ["exec:run", "exec:terminal"], "guests": "101,102"}
OTHER_GUEST = {"grants": [{**GRANT, "guests": "102"}]}
OTHER_COMMAND = {"grants": [{**GRANT, "commands": [["/bin/echo", "..."]]}]}
MORE = {"grants": [{**GRANT, "guests": "100-199"}], "name": "wider"}


@pytest.fixture(scope="module")
def narrow(make_gateway: Callable[..., Gateway]) -> Gateway:
    """A gateway that runs one exec at a time."""
    return make_gateway(exec={"max_running": 1})


@pytest.fixture(scope="module")
def wide(make_gateway: Callable[..., Gateway]) -> Gateway:
    """One that runs many, and whose keys these tests may change."""
    return make_gateway()


@pytest.fixture
def admin(narrow: Gateway) -> Iterator[Api]:
    """One who sees every exec of the narrow gateway and administers its tokens."""
    opened = narrow.api(narrow.token("admin", actions=ADMIN))
    yield opened
    opened.close()


@pytest.fixture
def seer(wide: Gateway) -> Iterator[Api]:
    """The same at the wide one."""
    opened = wide.api(wide.token("seer", actions=ADMIN))
    yield opened
    opened.close()


@pytest.fixture
def later() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


class Child:
    """A token that others may change, and requests by it."""

    def __init__(self, gateway: Gateway, admin: Api) -> None:
        body = {"name": "child", "grants": [GRANT], "expires": "1h"}
        made = admin.request("POST", "/tokens", body).json()
        self.id = made["id"]
        self.api = gateway.api(made["token"])
        self._gateway = gateway
        self._admin = admin

    def revoke(self) -> None:
        assert self._admin.request("POST", f"/tokens/{self.id}/revoke").status == 200

    def rotate(self) -> None:
        assert self._admin.request("POST", f"/tokens/{self.id}/rotate", {}).status == 200

    def retire_its_key(self) -> None:
        """Its key is taken out of the ring; the admin's token and others get new secrets first."""
        keys = self._gateway.services.command
        keys("keys", "rotate")
        rotated = self._admin.request("POST", f"/tokens/{self._admin_id()}/rotate", {}).json()
        self._admin.token = rotated["token"]
        old = self._admin.get(f"/tokens/{self.id}").json()["secrets"][0]["key"]
        keys("keys", "retire", old, "--force")

    def edit(self, changes: dict[str, Any]) -> None:
        assert self._admin.request("PATCH", f"/tokens/{self.id}", changes).status == 200

    def _admin_id(self) -> str:
        return str(self._admin.get("/tokens/self").json()["id"])


@pytest.fixture
def child(narrow: Gateway, admin: Api) -> Iterator[Child]:
    made = Child(narrow, admin)
    yield made
    made.api.close()


@pytest.fixture
def held(wide: Gateway, seer: Api) -> Iterator[Child]:
    """One at the wide gateway."""
    made = Child(wide, seer)
    yield made
    made.api.close()


@contextmanager
def occupied(api: Api) -> Iterator[Callable[[], None]]:
    """Somebody has the only place, until the block ends or what it gives is called."""
    mark = new_mark()
    with api.begin(VMID, {"command": ["sleep", mark]}), ExitStack() as undo:
        undo.callback(kill_all, mark)
        until(lambda: living(mark, alone=True), why="the place is taken")
        yield lambda: kill_all(mark)


def ask(later: ThreadPoolExecutor, child: Child, admin: Api, mark: str, way: str) -> Future[tuple[int, str]]:
    """Asks for an exec that has to wait, which it does when this returns: the status and code that come of it."""
    spec = {"command": ["touch", f"/root/{mark}"], "queue_timeout": 30, "labels": {"test": mark}}

    def by_http() -> tuple[int, str]:
        headers = {"detached": DETACHED, "events": {"Accept": "application/x-ndjson"}}.get(way, {})
        answer = child.api.post(VMID, spec, headers=headers)
        return answer.status, answer.code or ""

    def by_terminal() -> tuple[int, str]:
        with WebSocket(child.api, f"/exec/{VMID}/terminal") as opened:
            opened.say("start", **spec)
            heard = opened.receive_until("error")
            closed = opened.receive()
            assert isinstance(closed, Closed)
            return closed.code - 4000, heard["code"]

    answer = later.submit(by_terminal if way == "terminal" else by_http)
    until(lambda: answer.done() or _waits(admin, mark), why="it waits")
    assert not answer.done(), answer.result()
    return answer


def _waits(api: Api, mark: str) -> bool:
    view = labelled(api, mark)
    return view is not None and view["state"] == "queued"


def ran(mark: str) -> bool:
    return (guests.get(VMID).rootfs / "root" / mark).exists()


WAYS = ["json", "detached", "events", "terminal"]
ENDS: list[Any] = [
    pytest.param(Child.revoke, (401, "unauthenticated"), "revoked", id="revoked"),
    pytest.param(Child.rotate, (401, "unauthenticated"), "replaced", id="rotated"),
    pytest.param(lambda child: child.edit(OTHER_GUEST), (404, "guest_not_found"), "guest_not_granted", id="guest"),
    pytest.param(
        lambda child: child.edit(OTHER_COMMAND), (403, "command_not_granted"), "command_not_granted", id="command"
    ),
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("end", "told", "reason"), ENDS)
def test_what_waits_is_decided_again_at_its_turn(
    narrow: Gateway,
    admin: Api,
    child: Child,
    later: ThreadPoolExecutor,
    end: Callable[[Child], None],
    told: tuple[int, str],
    reason: str,
    way: str,
) -> None:
    """A token that was revoked, replaced or narrowed while its command waited for a place runs nothing when that comes;
    its caller is told why, the log too, and the place goes to the next."""
    mark = new_mark()
    before = len(narrow.records(event="request:denied"))
    with occupied(admin) as free:
        answer = ask(later, child, admin, mark, way)
        end(child)
        free()
        assert answer.result(30) == told
    until(lambda: labelled(admin, mark) is None, why="the supervisor has heard it, too")
    assert not ran(mark)
    assert not [record for record in narrow.records(event="exec:intent") if mark in json.dumps(record)]
    denied = narrow.records(event="request:denied")[before:]
    assert [(record["data"]["reason"], record["actor"]["token_id"]) for record in denied] == [(reason, child.id)]
    assert admin.run(VMID, ["true"])["exit_code"] == 0


@pytest.mark.parametrize("way", ["json", "detached"])
def test_what_waits_runs_for_a_token_that_may_still(
    admin: Api, child: Child, later: ThreadPoolExecutor, way: str
) -> None:
    """Another name and more grants change nothing for it."""
    mark = new_mark()
    with occupied(admin) as free:
        answer = ask(later, child, admin, mark, way)
        child.edit(MORE)
        free()
        assert answer.result(30)[0] in (200, 202)
    until(lambda: ran(mark))


def test_what_waits_for_its_key_is_decided_again(
    narrow: Gateway, admin: Api, child: Child, later: ThreadPoolExecutor
) -> None:
    """A request that waits for another with the same Idempotency-Key, and then begins by itself, is asked after."""
    mark = new_mark()
    spec = {"command": ["touch", f"/root/{mark}"], "labels": {"test": mark}, "queue_timeout": 3}
    key = {"Idempotency-Key": mark}
    with occupied(admin) as free:
        first = later.submit(child.api.post, VMID, spec, headers=key)
        until(lambda: _waits(admin, mark))
        second = later.submit(child.api.post, VMID, spec, headers=key)
        assert first.result(30).code == "too_many_execs"
        until(lambda: _waits(admin, mark))
        child.revoke()
        free()
        assert second.result(30).code == "unauthenticated"
    assert not ran(mark)


@pytest.mark.parametrize("way", ["json", "detached", "terminal"])
@pytest.mark.parametrize("end", [Child.revoke, lambda child: child.edit(OTHER_GUEST)], ids=["revoked", "narrowed"])
def test_what_waits_leaves_the_queue_with_its_token(
    narrow: Gateway, admin: Api, child: Child, later: ThreadPoolExecutor, end: Callable[[Child], None], way: str
) -> None:
    """Within two seconds, not only when its turn comes, so that nobody waits behind it; and the log says so."""
    mark = new_mark()
    with occupied(admin):
        answer = ask(later, child, admin, mark, way)
        exec_id = str(labelled(admin, mark)["id"])  # type: ignore[index]
        end(child)
        began = time.monotonic()
        until(lambda: labelled(admin, mark) is None, why="it has left the queue")
        assert time.monotonic() - began < 2 + BUSY
        if way != "terminal":  # which is cut, perhaps before it is told why
            assert answer.result(30)[0] in (401, 404)
        until(answer.done)
    until(lambda: narrow.records(exec_id=exec_id, event="exec:aborted"), why="it is recorded")
    assert not narrow.records(exec_id=exec_id, event="exec:intent")


def test_a_reload_in_between_asks_too(narrow: Gateway, admin: Api, child: Child, later: ThreadPoolExecutor) -> None:
    """What waits over an upgrade of the supervisor is decided again by the next image of it."""
    allowed, revoked = new_mark(), new_mark()
    other = Child(narrow, admin)
    with occupied(admin) as free:
        answers = [ask(later, child, admin, revoked, "json"), ask(later, other, admin, allowed, "json")]
        narrow.services.reload("supervisor")
        until(lambda: _waits(admin, revoked) and _waits(admin, allowed), why="they wait again")
        child.revoke()
        free()
        assert [answer.result(15)[0] for answer in answers] == [401, 200]
    assert (ran(revoked), ran(allowed)) == (False, True)
    other.api.close()


# ---- the supervisor's side of it, asked as the web asks it

ORIGIN = Origin("t", "test", (Permit(((100, 999),)),), (), "127.0.0.1", "req_1")


@pytest.fixture
def client(narrow: Gateway) -> Iterator[SupervisorClient]:
    """A web of our own."""
    config = load(narrow.services.config)
    opened = SupervisorClient(config.supervisor.socket, GuestMap(config.pve.etc, config.node))
    yield opened
    opened.close()


def run_behind(
    client: SupervisorClient,
    admin: Api,
    later: ThreadPoolExecutor,
    mark: str,
    again: Decide | None,
    origin: Origin = ORIGIN,
) -> Future[RunReply]:
    """A run that waits for a place when this returns."""
    body = json.dumps({"command": ["touch", f"/root/{mark}"], "queue_timeout": 30, "labels": {"test": mark}}).encode()
    answer = later.submit(client.run, VMID, body, origin, None, again=again)
    until(lambda: answer.done() or _waits(admin, mark), why="it waits")
    assert not answer.done(), answer.result()
    return answer


def raises(error: Exception) -> Decide:
    """A decision against the caller."""

    def decide(exec_id: str) -> Origin:
        raise error

    return decide


@pytest.mark.parametrize(
    ("again", "outcome"),
    [
        (None, InternalError),
        (raises(Unauthenticated("no more")), Unauthenticated),
        (lambda exec_id: replace(ORIGIN, token_id="another"), SupervisorUnavailable),
        (lambda exec_id: replace(ORIGIN, permits=()), GuestNotFound),
        (lambda exec_id: replace(ORIGIN, permits=(Permit(((102, 102),)),)), GuestNotFound),
    ],
    ids=["nobody", "refused", "another's", "nothing", "another guest"],
)
def test_only_a_good_decision_begins(
    client: SupervisorClient,
    admin: Api,
    later: ThreadPoolExecutor,
    again: Decide | None,
    outcome: type[Exception],
) -> None:
    """Whatever else a web says when a turn comes, nothing runs, and the place goes on to the next."""
    mark = new_mark()
    with occupied(admin) as free:
        answer = run_behind(client, admin, later, mark, again)
        free()
        with pytest.raises(outcome):
            answer.result(30)
    assert not ran(mark)
    assert admin.run(VMID, ["true"])["exit_code"] == 0


class Older(Origin):
    """What a web tells that knows of no files, no pauses and no limits of tokens yet."""

    def to_wire(self) -> dict[str, Any]:
        known = ("token_id", "token_name", "permits", "admin_guests", "remote", "request_id")
        return {name: value for name, value in super().to_wire().items() if name in known}


class Newer(Origin):
    """What one tells that knows of a right more."""

    def to_wire(self) -> dict[str, Any]:
        return {**super().to_wire(), "backup_guests": [[100, 999]]}


@pytest.mark.parametrize("other", [Older, Newer])
def test_a_web_of_another_version(
    narrow: Gateway, client: SupervisorClient, admin: Api, later: ThreadPoolExecutor, other: type[Origin]
) -> None:
    """A16: what it asks for is run, also what has waited over a reload of the supervisor alone."""
    mark, origin = new_mark(), other(**vars(ORIGIN))
    with occupied(admin) as free:
        answer = run_behind(client, admin, later, mark, lambda exec_id: origin, origin)
        narrow.services.reload("supervisor")
        free()
        assert answer.result(30).view["exit_code"] == 0
    assert ran(mark)


def test_a_web_that_hangs_loses_the_turn(client: SupervisorClient, admin: Api, later: ThreadPoolExecutor) -> None:
    """After two seconds without a decision nothing is run, and the next one has the place."""
    mark, go = new_mark(), threading.Event()

    def hang(exec_id: str) -> Origin:
        assert go.wait(20)
        return ORIGIN

    with occupied(admin) as free:
        answer = run_behind(client, admin, later, mark, hang)
        free()
        assert admin.run(VMID, ["true"], queue_timeout=20)["exit_code"] == 0
        go.set()
        with pytest.raises(TokenStoreError):
            answer.result(30)
    assert not ran(mark)


def test_an_upgrade_waits_for_a_decision(
    narrow: Gateway, client: SupervisorClient, admin: Api, later: ThreadPoolExecutor
) -> None:
    """A decision that is asked for when the supervisor is reloaded is heard, and its command runs once."""
    mark, asked, go = new_mark(), threading.Event(), threading.Event()

    def decide(exec_id: str) -> Origin:
        asked.set()
        assert go.wait(20)
        return ORIGIN

    with occupied(admin) as free:
        answer = run_behind(client, admin, later, mark, decide)
        reloaded = later.submit(narrow.services.reload, "supervisor")
        (check,) = until(checks, why="the next image is looked at")
        os.kill(check, signal.SIGSTOP)
        try:
            os.setpriority(os.PRIO_PROCESS, check, -20)  # a decision has 2 s, however busy the machine is
            free()
            assert asked.wait(10)
        finally:
            os.kill(check, signal.SIGCONT)
        until(lambda: not checks(), why="it can be")
        go.set()
        assert answer.result(30).view["reason"] == "exited"
        reloaded.result(20)
    assert ran(mark)
    assert admin.run(VMID, ["true"])["exit_code"] == 0


def test_a_stop_while_a_decision_is_asked_for(
    narrow: Gateway, client: SupervisorClient, admin: Api, later: ThreadPoolExecutor
) -> None:
    """A supervisor that stops then waits for no answer: it says that nothing ran, and that is heard though it has ended
    when the decision is there."""
    mark = new_mark()

    def decide(exec_id: str) -> Origin:
        narrow.services.kill("supervisor", signal.SIGTERM)
        narrow.services.wait_end("supervisor", 15)
        return ORIGIN

    with occupied(admin) as free:
        answer = run_behind(client, admin, later, mark, decide)
        free()
        with pytest.raises(NodeNotReady, match="nothing of this request has run"):
            answer.result(20)
    narrow.services.restart("supervisor")
    assert not ran(mark)


def checks() -> list[int]:
    """The processes of supervisors that are tried out."""
    return living("--check", alone=True)


@pytest.mark.parametrize("end", [Child.revoke, Child.rotate, Child.retire_its_key])
def test_a_ticket_ends_with_its_secret(wide: Gateway, seer: Api, held: Child, end: Callable[[Child], None]) -> None:
    """What a token made for a browser is worth nothing once the secret is not that it was made by."""
    path = f"/exec/{VMID}/terminal"
    ticket, good = (held.api.request("POST", "/tickets", {"path": path}).json()["ticket"] for _ in range(2))
    browser = wide.api("none")
    browser.token = None
    WebSocket(browser, f"{path}?ticket={good}").close()
    end(held)
    with pytest.raises(NotUpgraded) as refused:
        WebSocket(browser, f"{path}?ticket={ticket}").close()
    assert refused.value.answer.status == 401


def test_a_stream_ends_with_its_key(wide: Gateway, seer: Api, held: Child) -> None:
    """Retiring the key that signed a secret ends what that secret has open, as it ends the secret."""
    mark = new_mark()
    spec = {"command": ["sleep", mark], "labels": {"test": mark}, "kill_grace": 0.2}
    with Reply(held.api, "POST", f"/exec/{VMID}", spec, headers={"Accept": "application/x-ndjson"}) as stream:
        stream.next_event("start")
        exec_id = begun(seer, mark, mark)
        held.retire_its_key()
        assert ended(seer, exec_id)["reason"] == "client_gone"


@pytest.mark.parametrize("end", [Child.revoke, lambda child: child.edit(OTHER_GUEST)], ids=["revoked", "narrowed"])
def test_a_command_that_is_waited_for_ends_with_its_token(
    seer: Api, held: Child, later: ThreadPoolExecutor, end: Callable[[Child], None]
) -> None:
    """A plain POST ends like a stream: within two seconds, its command as if the client had left, and nothing of the
    output is shown."""
    mark = new_mark()
    spec = {"command": f"echo secret; sleep {mark}", "labels": {"test": mark}, "kill_grace": 0.2}
    answer = later.submit(held.api.post, VMID, spec)
    exec_id = begun(seer, mark, mark)
    end(held)
    began = time.monotonic()
    refused = answer.result(30)
    assert time.monotonic() - began < 2 + BUSY
    assert refused.status in (401, 404) and b"secret" not in refused.body
    assert ended(seer, exec_id)["reason"] == "client_gone"


@pytest.mark.parametrize(
    ("end", "wait", "told"),
    [(Child.revoke, 30, "unauthenticated"), (lambda child: child.edit(OTHER_GUEST), 2, "exec_not_found")],
    ids=["revoked", "narrowed"],
)
def test_who_waits_for_an_end_is_told_nothing_more(
    seer: Api, held: Child, later: ThreadPoolExecutor, end: Callable[[Child], None], wait: float, told: str
) -> None:
    """A long poll ends within two seconds of its token; for one whose grant is gone there is no such exec at its end.
    The detached exec runs on."""
    mark = new_mark()
    spec = {"command": ["sleep", mark], "labels": {"test": mark}}
    exec_id = held.api.post(VMID, spec, headers=DETACHED).json()["id"]
    polls = [later.submit(held.api.get, f"/execs/{exec_id}?wait={wait}") for _ in range(3)]
    until(lambda: living(mark))
    end(held)
    began = time.monotonic()
    assert [poll.result(30).code for poll in polls] == [told] * 3
    assert time.monotonic() - began < 2 + BUSY
    assert living(mark)
    assert seer.request("DELETE", f"/execs/{exec_id}?wait=10").status == 200


def upload(child: Child, exec_id: str) -> ssl.SSLSocket:
    """A PUT of input whose body is still to come, in chunks."""
    connection = child.api.connect()
    connection.connect()
    assert isinstance(connection.sock, ssl.SSLSocket)
    head = (
        f"PUT /execs/{exec_id}/stdin HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {child.api.token}\r\n"
        "Transfer-Encoding: chunked\r\n\r\n"
    )
    connection.sock.sendall(head.encode())
    return connection.sock


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@pytest.mark.parametrize("end", [Child.revoke, lambda child: child.edit(OTHER_COMMAND)], ids=["revoked", "narrowed"])
def test_an_upload_ends_with_its_token(seer: Api, held: Child, end: Callable[[Child], None]) -> None:
    """Whoever holds an upload of input open types no more two seconds after the token has ended, or may not type."""
    mark = new_mark()
    spec = {"command": f": {mark}; exec /bin/sh", "stdin_open": True, "labels": {"test": mark}}
    exec_id = held.api.post(VMID, spec, headers=DETACHED).json()["id"]
    with upload(held, exec_id) as sock:
        sock.sendall(chunk(b"echo one\n"))
        until(lambda: seer.get(f"/execs/{exec_id}/stdout").body == b"one\n")
        end(held)
        began = time.monotonic()
        while not heard(sock, 0.1):
            assert time.monotonic() < began + 2 + BUSY
            sock.sendall(chunk(b"\n"))
        with suppress(OSError):
            sock.sendall(chunk(b"echo two\n"))
    assert seer.get(f"/execs/{exec_id}/stdout").body == b"one\n"
    assert seer.request("DELETE", f"/execs/{exec_id}?wait=10").status == 200


def heard(sock: ssl.SSLSocket, within: float) -> bool:
    """Whether the server says something, or closes, in so many seconds."""
    sock.settimeout(within)
    try:
        sock.recv(1)
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


def test_a_body_that_came_late_is_judged_when_it_is_here(seer: Api, held: Child) -> None:
    """A request whose body took long begins nothing for a token that was revoked meanwhile."""
    mark = new_mark()
    body = json.dumps({"command": ["touch", f"/root/{mark}"]}).encode()
    connection = held.api.connect()
    connection.connect()
    assert isinstance(connection.sock, ssl.SSLSocket)
    head = (
        f"POST /exec/{VMID} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {held.api.token}\r\n"
        f"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    with connection.sock as sock:
        sock.sendall(head.encode() + chunk(body[:5]))
        assert not heard(sock, 1)
        held.revoke()
        sock.sendall(chunk(body[5:]) + b"0\r\n\r\n")
        sock.settimeout(10)
        assert sock.recv(12) == b"HTTP/1.1 401"
    assert not ran(mark)
