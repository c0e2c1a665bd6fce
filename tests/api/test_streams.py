"""POST /exec/{vmid} as a stream of events or detached: it works first, then the refusals."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import Any

import pytest

from gateway.api.events import EventFormat, EventWriter
from gateway.api.streams import EventStream
from gateway.errors import AuditUnavailable, GuestFrozen, SupervisorUnavailable
from gateway.exec.origin import Origin
from gateway.exec.permit import Permit
from gateway.web.live import ROOM

from .fake_exec import FakeExec
from .fakes import Api, assert_problem, make_view

NDJSON = {"Accept": "application/x-ndjson"}
SSE = {"Accept": "text/event-stream"}
ASYNC = {"Prefer": "respond-async"}
RUN: dict[str, Any] = {"json": {"command": ["x"]}}
ORIGIN = Origin("tk_1", "one", (Permit(((101, 101),)),), (), "127.0.0.1", "req_1")


def parse(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines()]


def talk(exec_: FakeExec) -> None:
    """Says something on both streams and ends with 3."""
    exec_.write("stdout", b"one\n")
    exec_.write("stderr", b"two\n")
    exec_.write("stdout", "dré".encode()[:-1])
    exec_.write("stdout", "é".encode()[1:] + b"i\n")
    exec_.end(3)


def test_streams_events(api: Api) -> None:
    """`start` first, the output in its order, `end` last; nothing between us and the client may keep it back."""
    api.supervisor.plays = talk
    response = api.request("POST", "/exec/101", api.token(), headers=NDJSON, **RUN)
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/x-ndjson"
    assert response.headers["X-Accel-Buffering"] == "no"
    assert "Content-Length" not in response.headers
    events = parse(response.data)
    shown = [(event["seq"], event["type"], event.get("offset"), event.get("data")) for event in events]
    assert shown == [
        (0, "start", None, None),
        (4, "stdout", 0, "one\n"),
        (8, "stderr", 0, "two\n"),
        (14, "stdout", 4, "dréi\n"),
        (15, "end", None, None),
    ]
    assert events[0]["exec"]["state"] == "running"
    assert (events[-1]["reason"], events[-1]["exit_code"], events[-1]["exec"]["state"]) == ("exited", 3, "ended")
    assert api.supervisor.attended == [True]
    assert api.supervisor.live[events[0]["exec"]["id"]].wait_for_feeds(0)


def test_streams_as_server_sent_events(api: Api) -> None:
    """The same as SSE, which a browser's EventSource can read."""
    api.supervisor.plays = talk
    response = api.request("POST", "/exec/101", api.token(), headers=SSE, **RUN)
    assert response.headers["Content-Type"] == "text/event-stream"
    first, *_, last = response.text.removesuffix("\n\n").split("\n\n")
    assert first.startswith('id: 0\nevent: start\ndata: {"seq":0,"type":"start","exec":{')
    assert last.startswith('id: 15\nevent: end\ndata: {"seq":15,"type":"end","reason":"exited","exit_code":3,')


def test_events_come_as_they_happen(api: Api) -> None:
    """What the command has said is sent while it runs on, and `start` before it says anything."""
    api.supervisor.plays = lambda exec_: None
    response = api.request("POST", "/exec/101", api.token(), headers=NDJSON, **RUN)
    pieces = response.iter_encoded()
    (start,) = parse(next(pieces))
    exec_ = api.supervisor.live[start["exec"]["id"]]
    for text in ("a", "b"):
        exec_.write("stdout", text.encode())
        assert [event["data"] for event in parse(next(pieces))] == [text]
    exec_.end()
    assert [event["type"] for event in parse(next(pieces))] == ["end"]
    assert next(pieces, None) is None


def test_more_than_one_batch(api: Api) -> None:
    """A megabyte that is there at once comes whole, in several answers."""
    data = bytes(range(256)) * 4096

    def play(exec_: FakeExec) -> None:
        exec_.largest = 100_000
        exec_.write("stdout", data)
        exec_.end()

    api.supervisor.plays = play
    events = parse(api.request("POST", "/exec/101", api.token(), headers=NDJSON, **RUN).data)
    offsets = [event["offset"] for event in events if event["type"] == "stdout"]
    assert offsets == sorted(offsets) and events[-1]["seq"] == len(data) + 1
    (exec_,) = api.supervisor.live.values()
    assert len(exec_.asked) >= 4


@pytest.mark.parametrize("headers", [NDJSON, SSE, ASYNC], ids=["ndjson", "sse", "detached"])
@pytest.mark.parametrize(
    ("error", "status"),
    [(GuestFrozen("frozen", vmid=101), 409), (AuditUnavailable("no"), 503), (SupervisorUnavailable("no"), 503)],
)
def test_errors_before_the_start_are_problems(api: Api, headers: dict[str, str], error: Any, status: int) -> None:
    """What cannot begin is a problem, never a stream; nothing stays taken."""
    api.supervisor.fails = error
    for _ in range(5):
        response = api.request("POST", "/exec/101", api.token(), headers=headers, **RUN)
        assert_problem(response, status, error.code)


@pytest.mark.parametrize("headers", [NDJSON, ASYNC])
def test_guests_out_of_reach_look_unknown_to_streams_too(api: Api, headers: dict[str, str]) -> None:
    """The same 404 as for a run, recorded the same."""
    api.supervisor.guests.add(300)
    for vmid in (300, 198):
        assert_problem(
            api.request("POST", f"/exec/{vmid}", api.token(), headers=headers, **RUN), 404, "guest_not_found"
        )
    assert len(api.audit.records) == 2


def test_a_supervisor_that_goes_cuts_the_stream(api: Api) -> None:
    """When the supervisor goes away the stream breaks off, and no `end` is made up."""
    seen: list[FakeExec] = []

    def play(exec_: FakeExec) -> None:
        exec_.cut_after = 1
        exec_.write("stdout", b"x")
        seen.append(exec_)

    api.supervisor.plays = play
    response = api.request("POST", "/exec/101", api.token(), headers=NDJSON, **RUN)
    got = b""
    with pytest.raises(SupervisorUnavailable):
        for piece in response.iter_encoded():
            got += piece
    assert [event["type"] for event in parse(got)] == ["start", "stdout"]
    assert seen[0].wait_for_feeds(0)


def make_stream(exec_: FakeExec, **options: Any) -> EventStream:
    holds = ExitStack()
    feed = exec_.feed(ORIGIN)
    holds.callback(feed.close)
    return EventStream(feed, EventWriter(EventFormat.NDJSON), holds, **options)


def test_silence_is_broken_by_heartbeats() -> None:
    """While nothing happens a heartbeat comes now and then, with the place that has been reached."""
    exec_ = FakeExec(make_view(101, ["x"], "running"))
    exec_.write("stdout", b"ab\xe2\x82")
    stream = make_stream(exec_, heartbeat_s=0.02)
    pieces = iter(stream)
    events = parse(b"".join(next(pieces) for _ in range(4)))
    assert [event["type"] for event in events] == ["stdout", "heartbeat", "heartbeat", "heartbeat"]
    assert {event["seq"] for event in events} == {2}
    exec_.write("stdout", b"\xac")
    while (event := parse(next(pieces))[0])["type"] == "heartbeat":
        pass
    assert (event["seq"], event["data"]) == (5, "€")
    pieces.close()  # type: ignore[attr-defined]
    assert exec_.wait_for_feeds(0)


@pytest.mark.parametrize("attended", [True, False])
def test_a_client_that_leaves(attended: bool) -> None:
    """The leaving of the client that began the exec is told to the supervisor; that of one who looked on is not."""
    exec_ = FakeExec(make_view(101, ["x"], "running"))
    stream = make_stream(exec_, attended=attended)
    assert stream.produce() == b""
    stream.gone()
    stream.close()
    assert exec_.wait_for_feeds(0)
    assert exec_.left.is_set() is attended


def test_a_web_that_dies_says_nothing() -> None:
    """A stream that is only closed has not lost its client."""
    exec_ = FakeExec(make_view(101, ["x"], "running"))
    stream = make_stream(exec_, attended=True)
    stream.produce()
    stream.close()
    assert exec_.wait_for_feeds(0)
    assert not exec_.left.is_set()


def test_detached(api: Api) -> None:
    """202 at once with where the exec is; its output and its end are there for whoever asks."""
    api.supervisor.plays = lambda exec_: None
    token = api.token()
    response = api.request("POST", "/exec/101", token, headers=ASYNC, **RUN)
    assert response.status_code == 202
    assert response.headers["Preference-Applied"] == "respond-async"
    assert response.json["state"] == "running"
    location = response.headers["Location"]
    assert location == f"/execs/{response.json['id']}"
    assert api.supervisor.attended == [False]
    exec_ = api.supervisor.live[response.json["id"]]
    assert exec_.wait_for_feeds(0)
    talk(exec_)
    assert api.request("GET", location, token).json["exit_code"] == 3
    assert parse(api.request("GET", f"{location}/events", token).data)[-1]["type"] == "end"


def test_a_result_cannot_be_typed_into(api: Api) -> None:
    """One that is answered when it has ended refuses open input and a terminal by name; the others take them."""
    body = {"command": ["x"], "tty": {"rows": 5, "cols": 6}, "stdin_open": True}
    problem = assert_problem(api.request("POST", "/exec/101", api.token(), json=body), 422, "invalid_request")
    assert [error["path"] for error in problem["errors"]] == ["tty", "stdin_open"]
    assert api.supervisor.bodies == []
    for headers, status in ((NDJSON, 200), (ASYNC, 202)):
        assert api.request("POST", "/exec/101", api.token(), json=body, headers=headers).status_code == status


@pytest.mark.parametrize("accept", ["text/html", "application/xml, image/*", "application/json;q=0", "*/*;q=0"])
def test_an_accept_that_takes_none_of_ours(api: Api, accept: str) -> None:
    """406 names what there is, and nothing is run."""
    response = api.request("POST", "/exec/101", api.token(), headers={"Accept": accept}, **RUN)
    problem = assert_problem(response, 406, "not_acceptable")
    assert problem["offered"] == ["application/json", "application/x-ndjson", "text/event-stream"]
    assert api.supervisor.bodies == []


def test_one_token_cannot_take_all_streams(api: Api) -> None:
    """Of 4 streams in all a token may have 3 (429); when all are taken it is 503; what ends makes room."""
    api.supervisor.plays = lambda exec_: None
    token, other, third = api.token(), api.token(), api.token()

    def begin(token: str) -> Any:
        return api.request("POST", "/exec/101", token, headers=NDJSON, **RUN)

    streams = [begin(token) for _ in range(3)]
    assert_problem(begin(token), 429, "too_many_requests")
    streams.append(begin(other))
    assert_problem(begin(third), 503, "overloaded")
    assert len(api.supervisor.bodies) == 4
    streams.pop().close()
    assert begin(third).status_code == 200
    for stream in streams:
        stream.close()


def test_a_server_without_room_begins_nothing(api: Api) -> None:
    """Where the server says that it can carry no further stream, it is 503 before anything is run."""
    environ = {ROOM: lambda: False}
    response = api.request("POST", "/exec/101", api.token(), headers=NDJSON, environ_overrides=environ, **RUN)
    assert_problem(response, 503, "overloaded")
    assert api.supervisor.bodies == []
    assert api.request("POST", "/exec/101", api.token(), environ_overrides=environ, **RUN).status_code == 200


@pytest.mark.parametrize("headers", [{}, NDJSON, ASYNC], ids=["json", "ndjson", "detached"])
def test_an_idempotency_key_replays(api: Api, headers: dict[str, str]) -> None:
    """The same key with the same request is the same exec, and says so; for another token it is another."""
    token = api.token()

    def post(token: str) -> Any:
        response = api.request("POST", "/exec/101", token, headers={**headers, "Idempotency-Key": "k-1"}, **RUN)
        return response.headers.get("Idempotency-Replayed"), json.loads(response.data.splitlines()[0])

    (first, one), (second, two), (third, three) = post(token), post(token), post(api.token())
    assert (first, second, third) == (None, "true", None)
    ids = [reply.get("exec", reply)["id"] for reply in (one, two, three)]
    assert ids[0] == ids[1] != ids[2]
    assert len(api.supervisor.bodies) == 2


def test_an_idempotency_key_for_another_request(api: Api) -> None:
    """409, and nothing is run."""
    token, headers = api.token(), {"Idempotency-Key": "k-1"}
    api.request("POST", "/exec/101", token, headers=headers, **RUN)
    for vmid, command in ((101, ["y"]), (102, ["x"])):
        response = api.request("POST", f"/exec/{vmid}", token, headers=headers, json={"command": command})
        assert_problem(response, 409, "idempotency_conflict")
    assert len(api.supervisor.bodies) == 1


@pytest.mark.parametrize("key", ["", "a b", "k\u00e9", "k" * 256, "\x7f", "\t"])
def test_impossible_idempotency_keys(api: Api, key: str) -> None:
    """A key that is no key names the header, does not repeat it, and runs nothing."""
    response = api.request("POST", "/exec/101", api.token(), environ_overrides={"HTTP_IDEMPOTENCY_KEY": key}, **RUN)
    problem = assert_problem(response, 422, "invalid_request")
    assert [error["path"] for error in problem["errors"]] == ["Idempotency-Key"]
    assert api.supervisor.bodies == []
