"""GET /execs/{id}/events: it works first, then the refusals."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .fake_exec import FakeExec
from .fakes import Api, assert_problem

TEXT = "grün €😀\n"
DATA = TEXT.encode()
SSE = {"Accept": "text/event-stream"}


@pytest.fixture
def running(api: Api) -> tuple[str, str, FakeExec]:
    """A token, the path of the events of a detached exec of it that has said DATA, and the exec."""
    token = api.token()
    api.supervisor.plays = lambda exec_: exec_.write("stdout", DATA)
    headers = {"Prefer": "respond-async"}
    view = api.request("POST", "/exec/101", token, headers=headers, json={"command": ["x"]}).json
    return token, f"/execs/{view['id']}/events", api.supervisor.live[view["id"]]


def parse(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines()]


@pytest.mark.parametrize("accept", [None, "*/*", "application/*", "application/x-ndjson"])
def test_replays_to_the_end(api: Api, running: tuple[str, str, FakeExec], accept: str | None) -> None:
    """An exec that has ended: all that it did, as NDJSON unless something else is asked for."""
    token, path, exec_ = running
    exec_.end()
    response = api.request("GET", path, token, headers={"Accept": accept} if accept else {})
    assert response.headers["Content-Type"] == "application/x-ndjson"
    assert response.headers["X-Accel-Buffering"] == "no"
    start, output, end = parse(response.data)
    assert (start["type"], start["seq"], output["data"]) == ("start", 0, TEXT)
    assert (end["type"], end["seq"]) == ("end", len(DATA) + 1)
    assert exec_.wait_for_feeds(0)


@pytest.mark.parametrize("seq", range(1, len(DATA) + 1))
def test_goes_on_from_any_place(api: Api, running: tuple[str, str, FakeExec], seq: int) -> None:
    """From any seq on exactly the rest comes, without `start`; Last-Event-ID says the same."""
    token, path, exec_ = running
    exec_.end()
    response = api.request("GET", f"{path}?from={seq}", token)
    *outputs, end = parse(response.data)
    assert [event["seq"] for event in outputs][-1:] == [len(DATA)][: len(DATA) - seq]
    assert end["type"] == "end"
    assert all(event["type"] == "stdout" and event["offset"] >= seq for event in outputs)
    by_header = api.request("GET", path, token, headers={"Last-Event-ID": str(seq)})
    assert by_header.data == response.data
    both = api.request("GET", f"{path}?from={seq}", token, headers={"Last-Event-ID": "0"})
    assert both.data == response.data


def test_follows(api: Api, running: tuple[str, str, FakeExec]) -> None:
    """While the command runs what it does comes as it happens."""
    token, path, exec_ = running
    pieces = api.request("GET", path, token).iter_encoded()
    assert [event["type"] for event in parse(next(pieces))] == ["start", "stdout"]
    exec_.write("stderr", b"more")
    assert parse(next(pieces))[0]["seq"] == len(DATA) + 4
    exec_.end()
    assert parse(next(pieces))[0]["type"] == "end"
    assert next(pieces, None) is None
    assert not exec_.left.is_set()


def test_gives_what_there_is(api: Api, running: tuple[str, str, FakeExec]) -> None:
    """With follow=0 the reply ends, without `end` while the command runs; a character begun is left for later."""
    token, path, exec_ = running
    exec_.write("stdout", b"ab\xe2\x82")
    events = parse(api.request("GET", f"{path}?follow=0", token).data)
    assert [event["type"] for event in events] == ["start", "stdout"]
    assert events[-1]["seq"] == len(DATA) + 2
    rest = f"{path}?follow=0&from={events[-1]['seq']}"
    assert api.request("GET", rest, token).data == b""
    exec_.write("stdout", b"\xac")
    exec_.end()
    assert [event.get("data") for event in parse(api.request("GET", rest, token).data)] == ["€", None]


def test_what_was_held_back_comes_with_the_end(api: Api, running: tuple[str, str, FakeExec]) -> None:
    """A character that the command began and never ended is not lost."""
    token, path, exec_ = running
    exec_.write("stdout", b"\xe2\x82")
    pieces = api.request("GET", f"{path}?from={len(DATA) - 1}", token).iter_encoded()
    assert parse(next(pieces))[0]["data"] == "\n"
    exec_.end()
    output, end = parse(next(pieces))
    assert (output["data"], output["encoding"], end["type"]) == ("4oI=", "base64", "end")


def test_an_eventsource_that_comes_again_is_sent_home(api: Api, running: tuple[str, str, FakeExec]) -> None:
    """Behind `end` there is nothing: 204, upon which an EventSource stops; heartbeats are comments."""
    token, path, exec_ = running
    exec_.end()
    last = api.request("GET", path, token, headers=SSE).text.split("\n\n")[-2]
    seq = last.split("\n")[0].removeprefix("id: ")
    response = api.request("GET", path, token, headers={**SSE, "Last-Event-ID": seq})
    assert (response.status_code, response.data) == (204, b"")


def test_head(api: Api, running: tuple[str, str, FakeExec]) -> None:
    """HEAD tells the media type and lets everything go at once."""
    token, path, exec_ = running
    response = api.request("HEAD", path, token)
    assert (response.status_code, response.data) == (200, b"")
    assert response.headers["Content-Type"] == "application/x-ndjson"
    assert exec_.wait_for_feeds(0)


def test_past_the_end(api: Api, running: tuple[str, str, FakeExec]) -> None:
    """A place that has not been reached is 416 and tells how far it is; so is any past the end's."""
    token, path, exec_ = running
    for seq in (len(DATA) + 1, 1 << 62):
        problem = assert_problem(api.request("GET", f"{path}?from={seq}", token), 416, "range_not_satisfiable")
        assert problem["size"] == len(DATA)
    exec_.end()
    assert_problem(api.request("GET", f"{path}?from={len(DATA) + 2}", token), 416, "range_not_satisfiable")
    assert exec_.wait_for_feeds(0)


@pytest.mark.parametrize(
    ("query", "where"),
    [("from=-1", "from"), ("from=x", "from"), ("from_=1", "from_"), ("follow=x", "follow"), ("from=1&from=2", "from")],
)
def test_bad_queries(api: Api, running: tuple[str, str, FakeExec], query: str, where: str) -> None:
    """What is wrong is named."""
    token, path, _ = running
    problem = assert_problem(api.request("GET", f"{path}?{query}", token), 422, "invalid_request")
    assert [error["path"] for error in problem["errors"]] == [where]


@pytest.mark.parametrize("value", ["x", "-1", "1.0", "9" * 19])
def test_bad_last_event_ids(api: Api, running: tuple[str, str, FakeExec], value: str) -> None:
    """A Last-Event-ID that is none of ours is named."""
    token, path, _ = running
    response = api.request("GET", path, token, headers={"Last-Event-ID": value})
    assert assert_problem(response, 422, "invalid_request")["errors"][0]["path"] == "Last-Event-ID"


def test_json_is_no_stream(api: Api, running: tuple[str, str, FakeExec]) -> None:
    """Who takes neither NDJSON nor SSE is told what there is."""
    token, path, exec_ = running
    response = api.request("GET", path, token, headers={"Accept": "application/json"})
    assert assert_problem(response, 406, "not_acceptable")["offered"] == ["application/x-ndjson", "text/event-stream"]
    assert exec_.asked == []


def test_another_tokens_exec(api: Api, running: tuple[str, str, FakeExec]) -> None:
    """Another token's exec does not exist, as everywhere."""
    _, path, exec_ = running
    assert_problem(api.request("GET", path, api.token()), 404, "exec_not_found")
    assert exec_.asked == []
