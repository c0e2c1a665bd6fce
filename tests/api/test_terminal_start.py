"""GET /exec/{vmid}/terminal and GET /execs/{id}/attach, from the request to the exec that begins, or does not."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.app import create_app
from gateway.auth.administration import Administration
from gateway.auth.tokens import TokenStore
from gateway.auth.trail import Trail
from gateway.clientwatch import Watch
from gateway.config import Config
from gateway.errors import ClientGone, GatewayError, GuestNotRunning, SupervisorUnavailable, TooManyExecs
from gateway.exec.origin import Origin
from gateway.exec.reply import Started
from gateway.supervisor.link.feed import Feed
from gateway.web.live import Live

from .fake_exec import FakeExec
from .fakes import Api, FakeAudit, FakeSupervisor, assert_problem
from .terminals import Client, TimedClient
from .test_terminal_handshake import UPGRADE

Open = Callable[..., Client]


class Refused(Exception):
    """The request was answered by HTTP."""

    def __init__(self, status: int, code: str, headers: dict[str, str]) -> None:
        super().__init__(status, code)
        self.status, self.code, self.headers = status, code, headers


@pytest.fixture
def api(tmp_path: Path) -> Api:
    """The application over fakes, with room for 24 streams, 18 of one token."""
    config = Config.model_validate({"node": "pve1", "web": {"max_streams": 24}})
    tokens = TokenStore(tmp_path / "tokens", tmp_path / "keys" / "token.keys")
    tokens.create()
    supervisor, audit = FakeSupervisor(), FakeAudit()
    app = create_app(config, supervisor=supervisor, audit=audit, tokens=tokens)
    return Api(app.test_client(), supervisor, audit, tokens)


@pytest.fixture
def open_terminal(api: Api) -> Iterator[Open]:
    """Opens a WebSocket as the server would: `open_terminal(path, token, HTTP_ORIGIN=…)`; closes what is left."""
    opened: list[Client] = []

    def open_(path: str = "/exec/101/terminal", token: str | None = None, **changed: str) -> Client:
        path, _, query = path.partition("?")
        environ: dict[str, Any] = UPGRADE | {
            "PATH_INFO": path, "QUERY_STRING": query, "REMOTE_ADDR": "192.0.2.1", "wsgi.input": io.BytesIO(),
            "wsgi.url_scheme": "https", "SERVER_NAME": "pve1", "SERVER_PORT": "39377",
        }  # fmt: skip
        if token:
            environ["HTTP_AUTHORIZATION"] = f"Bearer {token}"
        head: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            head.extend((status, headers))

        body = api.client.application(environ | changed, start_response)
        if not isinstance(body, Live):
            problem = json.loads(b"".join(body))
            raise Refused(int(head[0][:3]), problem["code"], dict(head[1]))
        opened.append(Client(body))
        return opened[-1]

    yield open_
    for client in opened:
        client.terminal.gone()
        client.terminal.close()


def begin(client: Client, **spec: Any) -> dict[str, Any]:
    """Starts an exec; the `started` message."""
    assert client.pump() == []
    client.say("start", **({"command": ["sh"]} | spec))
    started, *client.heard = client.wait()
    assert started["type"] == "started"
    message: dict[str, Any] = started
    return message


def hear(client: Client, count: int) -> list[Any]:
    """The next messages, so many at least."""
    heard = client.pump()
    while len(heard) < count:
        heard += client.wait()
    return heard


def play(api: Api, plays: Callable[[FakeExec], None] = lambda exec_: None) -> None:
    """What the next exec does; nothing, and it runs on."""
    api.supervisor.plays = plays


def running(api: Api, started: dict[str, Any]) -> FakeExec:
    return api.supervisor.live[started["exec"]["id"]]


def refused(open_terminal: Open, *arguments: Any, **options: Any) -> tuple[int, str]:
    with pytest.raises(Refused) as caught:
        open_terminal(*arguments, **options)
    return caught.value.status, caught.value.code


# ---- it works


def test_terminal_runs_a_command(api: Api, open_terminal: Open) -> None:
    """The request's id in the head, then `start`, output, input, the end; the supervisor got the spec and no more."""
    play(api, lambda exec_: exec_.write("stdout", b"$ "))
    client = open_terminal(token=api.token("exec:terminal"))
    started = begin(client, command=["sh", "-l"], tty={"rows": 5, "cols": 7}, window=4096)
    assert b"\r\nX-Request-Id: req_" in client.head
    exec_ = running(api, started)
    assert api.supervisor.bodies == [b'{"command":["sh","-l"],"tty":{"rows":5,"cols":7}}']
    assert api.supervisor.attended == [True]
    assert exec_.tty == (5, 7)
    assert sorted(hear(client, 2), key=str) == [(1, 0, b"$ "), {"type": "ack", "offset": 0}]
    client.input(0, b"exit 3\n")
    assert {"type": "ack", "offset": 7} in client.wait()
    assert exec_.stdin == b"exit 3\n"
    exec_.end(3)
    assert client.wait()[-1]["exit_code"] == 3
    assert client.closed == (1000, "exited")


def test_terminal_without_tty_keeps_streams_apart(api: Api, open_terminal: Open) -> None:
    """Without `tty` stderr has its own channel, and input is closed unless it was asked to stay open."""

    def both(exec_: FakeExec) -> None:
        exec_.write("stdout", b"o")
        exec_.write("stderr", b"e")

    play(api, both)
    client = open_terminal(token=api.token("exec:terminal"))
    begin(client)
    assert hear(client, 2) == [(1, 0, b"o"), (2, 0, b"e")]
    client.input(0, b"x")
    assert client.pump()[0]["code"] == "stdin_closed"


def test_input_may_come_before_the_exec_runs(api: Api, open_terminal: Open) -> None:
    """What is typed while the start is under way reaches the command."""
    play(api)
    client = open_terminal(token=api.token("exec:terminal"))
    client.pump()
    client.say("start", command=["sh"], stdin_open=True)
    client.input(0, b"early")
    heard = hear(client, 3)
    assert heard[1:] == [{"type": "ack", "offset": 0}, {"type": "ack", "offset": 5}]
    assert running(api, heard[0]).stdin == b"early"


@pytest.mark.parametrize("by", ["header", "start", "both"])
def test_the_same_start_again_holds_the_same_exec(api: Api, open_terminal: Open, by: str) -> None:
    """A client that never heard the exec's id sends its key again: one exec, from its first byte on, and its input."""
    play(api, lambda exec_: exec_.write("stdout", b"$ "))
    token = api.token("exec:terminal")
    header = {"HTTP_IDEMPOTENCY_KEY": "k1"} if by != "start" else {}
    member = {"idempotency_key": "k1"} if by != "header" else {}
    first = begin(open_terminal(token=token, **header), tty={}, **member)
    again = open_terminal(token=token, **header)
    second = begin(again, tty={}, **member)
    assert (first["replayed"], second["replayed"]) == (False, True)
    assert first["exec"]["id"] == second["exec"]["id"]
    assert api.supervisor.bodies == [b'{"command":["sh"],"tty":{}}']
    assert (1, 0, b"$ ") in hear(again, 2)
    again.input(0, b"x")
    assert {"type": "ack", "offset": 1} in again.wait()


def test_a_key_is_for_one_request(api: Api, open_terminal: Open) -> None:
    """Another start with it, a command with it, two keys at once, or what is no key: refused, and nothing begins."""
    play(api)
    token = api.token("exec:terminal,exec:run")
    begin(open_terminal(token=token), idempotency_key="k1")
    refusals = []
    for options, header in (
        ({"command": ["other"], "idempotency_key": "k1"}, {}),
        ({"command": ["sh"], "idempotency_key": "k1"}, {"HTTP_IDEMPOTENCY_KEY": "k2"}),
        ({"command": ["sh"], "idempotency_key": "two words"}, {}),
    ):
        client = open_terminal(token=token, **header)
        client.pump()
        client.say("start", **options)
        hear(client, 1)
        refusals.append(client.closed)
    assert refusals == [(4409, "idempotency_conflict"), (4422, "invalid_request"), (4422, "invalid_request")]
    assert refused(open_terminal, token=token, HTTP_IDEMPOTENCY_KEY="two words") == (422, "invalid_request")
    run = api.request("POST", "/exec/101", token, json={"command": ["sh"]}, headers={"Idempotency-Key": "k1"})
    assert_problem(run, 409, "idempotency_conflict")
    assert len(api.supervisor.bodies) == 1


def test_client_that_leaves_ends_its_terminal(api: Api, open_terminal: Open) -> None:
    """The supervisor is told, and all three connections are closed."""
    play(api)
    client = open_terminal(token=api.token("exec:terminal"))
    exec_ = running(api, begin(client, tty={}))
    assert exec_.wait_for_feeds(3)
    client.bye()
    assert exec_.left.wait(20)
    assert exec_.wait_for_feeds(0)


def test_attach_to_what_runs(api: Api, open_terminal: Open) -> None:
    """A reader sees all from the beginning or from a cursor; its leaving is nobody's end."""
    play(api, lambda exec_: exec_.write("stdout", b"hello"))
    token = api.token("exec:terminal,exec:run")
    started = begin(open_terminal(token=token), tty={})
    path = f"/execs/{started['exec']['id']}/attach"
    reader = open_terminal(path, token)
    message, output = hear(reader, 2)
    assert (message["cursor"], output) == (0, (1, 0, b"hello"))
    reader.bye()
    late = open_terminal(path + "?from=3&window=100", token)
    message, output = hear(late, 2)
    assert (message["cursor"], output) == (3, (1, 3, b"lo"))
    exec_ = running(api, started)
    assert exec_.wait_for_feeds(4) and not exec_.left.is_set()


def test_attach_to_what_has_ended(api: Api, open_terminal: Open) -> None:
    """The replay, then the end."""
    token = api.token("exec:terminal,exec:run")

    def all_at_once(exec_: FakeExec) -> None:
        exec_.write("stdout", b"all")
        exec_.end(7)

    play(api, all_at_once)
    client = open_terminal(token=token)
    exec_id = begin(client)["exec"]["id"]
    reader = open_terminal(f"/execs/{exec_id}/attach", token)
    _, output, end = hear(reader, 3)
    assert output == (1, 0, b"all") and end["exit_code"] == 7
    assert reader.closed == (1000, "exited")


# ---- refusals before the upgrade


def test_requests_that_are_no_upgrade(api: Api, open_terminal: Open) -> None:
    """A plain GET is told how to ask; nothing is begun."""
    token = api.token("exec:terminal")
    with pytest.raises(Refused) as caught:
        open_terminal(token=token, HTTP_UPGRADE="")
    assert (caught.value.status, caught.value.code) == (426, "upgrade_required")
    assert caught.value.headers["Upgrade"] == "websocket"
    assert caught.value.headers["Sec-WebSocket-Version"] == "13"
    assert refused(open_terminal, token=token, HTTP_SEC_WEBSOCKET_PROTOCOL="other") == (400, "malformed_request")


def test_foreign_origin_is_refused_and_recorded(api: Api, open_terminal: Open) -> None:
    """A page of another site gets no terminal with a ticket that it was tricked out of; the audit log says so."""
    token = api.token("exec:terminal")
    assert refused(open_terminal, token=token, HTTP_ORIGIN="https://evil.example") == (403, "origin_refused")
    assert api.audit.records[-1]["data"]["reason"] == "foreign_origin"


def test_who_may(api: Api, open_terminal: Open) -> None:
    """exec:terminal on that guest opens terminals, exec:run does not; attaching is for who has begun it, by either."""
    assert refused(open_terminal) == (401, "unauthenticated")
    assert refused(open_terminal, token=api.token("exec:run")) == (403, "forbidden")
    assert refused(open_terminal, token=api.token("exec:terminal", "102")) == (404, "guest_not_found")
    assert refused(open_terminal, "/exec/103/terminal", token=api.token("exec:terminal")) == (404, "guest_not_found")
    assert [record["data"]["reason"] for record in api.audit.records[-2:]] == ["guest_not_granted", "unknown_guest"]
    play(api)
    mine = api.token("exec:terminal")
    exec_id = begin(open_terminal(token=mine))["exec"]["id"]
    path = f"/execs/{exec_id}/attach"
    assert open_terminal(f"{path}?write=1", mine).pump()[0]["exec"]["id"] == exec_id
    assert refused(open_terminal, path, api.token("exec:terminal")) == (404, "exec_not_found")
    assert refused(open_terminal, path, api.token("guest:read")) == (403, "forbidden")
    assert refused(open_terminal, path, api.token("exec:run")) == (404, "exec_not_found")
    assert open_terminal(path, api.token("exec:admin")).pump()[0]["type"] == "started"


@pytest.mark.parametrize("query", ["from=-1", "from=x", "write=maybe", "window=0", "window=1&window=2", "nope=1"])
def test_wrong_query_is_422(api: Api, open_terminal: Open, query: str) -> None:
    """As everywhere."""
    play(api)
    token = api.token("exec:terminal,exec:run")
    exec_id = begin(open_terminal(token=token))["exec"]["id"]
    assert refused(open_terminal, f"/execs/{exec_id}/attach?{query}", token) == (422, "invalid_request")


def test_streams_are_counted(api: Api, open_terminal: Open) -> None:
    """An open WebSocket is a stream of its token until it is closed; a refused one is none."""
    token = api.token("exec:terminal")
    for _ in range(24):
        refused(open_terminal, token=token, HTTP_UPGRADE="")
    clients = [open_terminal(token=token) for _ in range(18)]
    assert refused(open_terminal, token=token) == (429, "too_many_requests")
    clients[0].terminal.close()
    open_terminal(token=token)


# ---- tickets


@pytest.mark.parametrize("way", ["subprotocol", "query"])
def test_ticket_opens_once(api: Api, open_terminal: Open, way: str) -> None:
    """A browser's way in: the ticket stands for the token, on that path, one time."""
    play(api)
    token = api.token("exec:terminal")
    answer = api.request("POST", "/tickets", token, json={"path": "/exec/101/terminal"})
    assert answer.status_code == 200
    ticket = answer.json["ticket"]
    fields, path = {"HTTP_SEC_WEBSOCKET_PROTOCOL": f"pvex.v1, pvex.ticket.{ticket}"}, "/exec/101/terminal"
    if way == "query":
        fields, path = {}, f"{path}?ticket={ticket}"
    client = open_terminal(path, HTTP_ORIGIN="https://pve1:39377", **fields)
    assert begin(client)["exec"]["vmid"] == 101
    assert b"Sec-WebSocket-Protocol: pvex.v1\r\n" in client.head
    assert refused(open_terminal, path, **fields) == (401, "unauthenticated")
    assert api.audit.records[-1]["data"]["reason"] == "bad_ticket"


def test_ticket_is_for_its_path_alone(api: Api, open_terminal: Open) -> None:
    """On another path it opens nothing, and it is gone then."""
    token = api.token("exec:terminal")
    ticket = api.request("POST", "/tickets", token, json={"path": "/exec/102/terminal"}).json["ticket"]
    assert refused(open_terminal, f"/exec/101/terminal?ticket={ticket}") == (401, "unauthenticated")


def test_ticket_of_a_revoked_token_opens_nothing(api: Api, open_terminal: Open) -> None:
    """What the token may do is asked when the ticket is used."""
    token = api.token("exec:terminal")
    ticket = api.request("POST", "/tickets", token, json={"path": "/exec/101/terminal"}).json["ticket"]
    (record,) = api.tokens.list()
    Administration(api.tokens, Trail(api.audit, "pve1")).revoke(record.id)
    assert refused(open_terminal, f"/exec/101/terminal?ticket={ticket}") == (401, "unauthenticated")


# ---- refusals of the start


@pytest.mark.parametrize(
    ("message", "code", "reason"),
    [
        ("{", 4400, "malformed_request"),
        ('{"type": "resize", "rows": 1, "cols": 1}', 4400, "malformed_request"),
        ('{"command": ["sh"]}', 4400, "malformed_request"),
        ('{"type": "start", "command": ["sh"], "command": ["rm"]}', 4422, "invalid_request"),
        ('{"type": "start"}', 4422, "invalid_request"),
        ('{"type": "start", "command": []}', 4422, "invalid_request"),
        ('{"type": "start", "command": ["sh"], "window": 0}', 4422, "invalid_request"),
        ('{"type": "start", "command": ["sh"], "tty": {"rows": 0}}', 4422, "invalid_request"),
        ('{"type": "start", "command": ["sh"], "nope": 1}', 4422, "invalid_request"),
        (b"\x00" * 9, 4400, "malformed_request"),
    ],
)
def test_bad_start(api: Api, open_terminal: Open, message: str | bytes, code: int, reason: str) -> None:
    """The field is named in the `error` message, the close says the rest; nothing ran."""
    client = open_terminal(token=api.token("exec:terminal"))
    client.pump()
    if isinstance(message, str):
        client.text(message)
    else:
        client.binary(message)
    (error,) = client.wait() if client.terminal.sources() else client.pump()
    assert error["code"] == reason
    assert ("errors" in error) == (code == 4422)
    assert client.closed == (code, reason)
    assert api.supervisor.bodies == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (GuestNotRunning("stopped", vmid=101), 4409),
        (TooManyExecs("full", retry_after=1), 4429),
        (SupervisorUnavailable("away"), 4503),
    ],
)
def test_refused_start(api: Api, open_terminal: Open, error: GatewayError, code: int) -> None:
    """What POST /exec answers as a status is the close code here."""
    client = open_terminal(token=api.token("exec:terminal"))
    client.pump()
    api.supervisor.fails = error
    client.say("start", command=["sh"])
    assert client.wait()[-1]["code"] == error.code
    assert client.closed == (code, error.code)


def test_starts_at_a_time_are_bounded(api: Api, open_terminal: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """One token has at most 16 starts that wait for their turn; then 4429."""
    queue = Queue(api, monkeypatch)
    token = api.token("exec:terminal")
    clients = [open_terminal(token=token) for _ in range(17)]
    for client in clients:
        client.pump()
        client.say("start", command=["sh"])
    assert clients[-1].pump()[-1]["code"] == "too_many_requests"
    assert clients[-1].closed == (4429, "too_many_requests")
    queue.open.set()
    assert all(client.wait()[0]["type"] == "started" for client in clients[:16])


def test_client_that_leaves_the_queue_gives_up_its_place(
    api: Api, open_terminal: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start that waits for a place is given up with its client; nothing runs later for nobody."""
    queue = Queue(api, monkeypatch)
    client = open_terminal(token=api.token("exec:terminal"))
    client.pump()
    client.say("start", command=["sh"])
    assert queue.entered.acquire(timeout=20)
    client.bye()
    assert queue.given_up.acquire(timeout=20)
    client.terminal.close()


def test_exec_that_begins_for_nobody_is_ended(api: Api, open_terminal: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that leaves in the moment of the start leaves no exec behind; a web that stops ends none."""
    for left in (True, False):
        play(api)
        queue = Queue(api, monkeypatch, deaf=True)
        client = open_terminal(token=api.token("exec:terminal"))
        client.pump()
        client.say("start", command=["sh"])
        assert queue.entered.acquire(timeout=20)
        if left:
            client.terminal.gone()
        client.terminal.close()
        before = set(api.supervisor.live)
        queue.open.set()
        assert queue.passed.acquire(timeout=20)
        (exec_id,) = set(api.supervisor.live) - before
        exec_ = api.supervisor.live[exec_id]
        assert exec_.wait_for_feeds(0)
        assert exec_.left.is_set() is left


def test_no_start_in_time_is_4408(api: Api, open_terminal: Open) -> None:
    """A terminal that nobody tells what to run is closed after ten seconds."""
    client = TimedClient(start=lambda message: pytest.fail("nothing was asked"))
    client.pump()
    assert client.terminal.wake_at() == client.clock.now + 10
    client.clock.now += 9.9
    client.pump()
    assert client.closed is None
    client.clock.now += 0.1
    client.pump()
    assert client.closed == (4408, "request_timeout")
    client.terminal.close()


class Queue:
    """Makes every start wait until it is let through or its client leaves; a `deaf` one does not hear that."""

    def __init__(self, api: Api, monkeypatch: pytest.MonkeyPatch, *, deaf: bool = False) -> None:
        self.entered, self.given_up, self.passed = (threading.Semaphore(0) for _ in range(3))
        self.open = threading.Event()
        self._supervisor = api.supervisor
        self._deaf = deaf
        monkeypatch.setattr(api.supervisor, "start", self._start)

    def _start(
        self, vmid: int, body: bytes, origin: Origin, *, watch: Watch | None = None, **options: Any
    ) -> tuple[Started, Feed]:
        self.entered.release()
        assert watch is not None
        while not self.open.wait(0.01):
            if not self._deaf and watch.wait(None, 0).gone:
                self.given_up.release()
                raise ClientGone
        try:
            return FakeSupervisor.start(self._supervisor, vmid, body, origin, **options)
        finally:
            self.passed.release()
