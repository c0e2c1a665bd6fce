"""The supervisor followed, fed and acted upon over its own socket, with real commands in a real container."""

from __future__ import annotations

import contextlib
import hashlib
import json
import select
import time
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.config import load
from gateway.errors import (
    ExecEnded,
    NotATerminal,
    StdinClosed,
    StdinOffset,
    WriterTaken,
)
from gateway.exec.origin import Origin
from gateway.exec.permit import Permit
from gateway.exec.reply import EventBatch, GapEvent, OutputEvent, StdinReply
from gateway.pve.guests import GuestMap
from gateway.supervisor.link.client import SupervisorClient
from gateway.supervisor.link.feed import Answer, Feed
from tests.exec.gateways import Gateway
from tests.exec.waiting import until

ORIGIN = Origin("t", "test", (Permit(((100, 999),)),), (), "127.0.0.1", "req_1")


@pytest.fixture
def client(gateway: Gateway) -> Iterator[SupervisorClient]:
    """The supervisor of the session's gateway, asked as the web asks it."""
    config = load(gateway.services.config)
    client = SupervisorClient(config.supervisor.socket, GuestMap(config.pve.etc, config.node))
    yield client
    client.close()


def spec(command: str | list[str], **fields: Any) -> bytes:
    return json.dumps({"command": command, **fields}).encode()


def answer(feed: Feed, timeout: float = 20.0) -> Answer:
    """Waits for what was asked."""
    deadline = time.monotonic() + timeout
    while (found := feed.take()) is None:
        left = deadline - time.monotonic()
        assert left > 0, "no answer"
        select.select([feed.fd], [], [], left)
    return found


def follow(feed: Feed, cursor: int = 0, limit: int = 1 << 20) -> Iterator[EventBatch]:
    """What comes, to the end."""
    while True:
        feed.ask_events(cursor, seen=cursor, limit=limit, wait=5)
        batch = answer(feed)
        assert isinstance(batch, EventBatch)
        cursor = batch.cursor
        yield batch
        if batch.ended:
            return


def read_all(feed: Feed, stream: str = "stdout") -> bytes:
    """One stream, whole. Fails on a gap."""
    found = bytearray()
    for batch in follow(feed):
        for event in batch.events:
            assert isinstance(event, OutputEvent), event
            if event.stream == stream:
                assert event.offset == len(found)
                found += event.data
    return bytes(found)


def test_output_comes_while_it_runs(client: SupervisorClient) -> None:
    """Each line is there before the next is written, and the end is told with the exit code."""
    command = "echo one; read x; echo two >&2; read x; echo three; exit 7"
    started, feed = client.start(101, spec(command, stdin_open=True), ORIGIN, attended=True)
    assert (started.view["state"], started.replayed) == ("running", False)
    seen: list[tuple[str, bytes]] = []
    for batch in follow(feed):
        for event in batch.events:
            assert isinstance(event, OutputEvent)
            seen.append((event.stream, event.data))
            if len(seen) < 3:
                client.put_stdin(started.view["id"], ORIGIN, b"go\n", None, False)
    feed.close()
    assert seen == [("stdout", b"one\n"), ("stderr", b"two\n"), ("stdout", b"three\n")]
    assert (batch.view["reason"], batch.view["exit_code"]) == ("exited", 7)


def test_replay_is_the_same_as_it_was(client: SupervisorClient) -> None:
    """From any place, while it runs and after, a replay gives what had come from there on."""
    command = "for i in 1 2 3 4 5 6 7 8 9; do echo out$i; echo err$i >&2; done; read x"
    started, feed = client.start(101, spec(command, stdin_open=True), ORIGIN, attended=False)
    total = 9 * 10
    feed.ask_events(0, seen=total - 1, limit=1 << 20, wait=10)
    batch = answer(feed)
    assert isinstance(batch, EventBatch)
    came = [(e.stream, byte) for e in batch.events if isinstance(e, OutputEvent) for byte in e.data]
    assert len(came) == total

    def replayed(cursor: int) -> list[tuple[str, int]]:
        with_feed = client.feed(started.view["id"], ORIGIN)
        with contextlib.closing(with_feed):
            with_feed.ask_events(cursor, seen=cursor, limit=1 << 20, wait=0)
            again = answer(with_feed)
        assert isinstance(again, EventBatch)
        return [(e.stream, byte) for e in again.events if isinstance(e, OutputEvent) for byte in e.data]

    assert replayed(0) == came
    assert replayed(37) == came[37:]
    client.put_stdin(started.view["id"], ORIGIN, b"", None, True)
    list(follow(feed, total))
    feed.close()
    assert replayed(0) == came
    assert replayed(37) == came[37:]
    assert replayed(total + 1) == []


def test_all_of_a_large_stream_arrives(client: SupervisorClient) -> None:
    """64 MiB, more than what may pile up, come whole and in order while somebody follows."""
    command = (
        "i=0; while [ $i -lt 64 ]; do dd if=/dev/urandom bs=1M count=1 2>/dev/null; i=$((i+1)); done | tee /dev/stderr"
    )
    limit = {"limit": 2 << 20}
    _, feed = client.start(101, spec(command, output=limit, timeout=120), ORIGIN, attended=True)
    digests = {"stdout": hashlib.sha256(), "stderr": hashlib.sha256()}
    for batch in follow(feed):
        for event in batch.events:
            assert isinstance(event, OutputEvent), event
            digests[event.stream].update(event.data)
    feed.close()
    output = batch.view["output"]
    assert output is not None
    assert output["stdout"]["bytes"] == output["stderr"]["bytes"] == 64 << 20
    assert digests["stdout"].hexdigest() == output["stdout"]["sha256"]
    assert digests["stderr"].hexdigest() == output["stderr"]["sha256"]


def test_command_waits_for_its_follower_over_a_reload(client: SupervisorClient, gateway: Gateway) -> None:
    """A follower that takes nothing while the supervisor becomes its new image finds no gap: it was waited for."""
    size = 64 << 20
    command = f"head -c {size} /dev/zero"
    started, feed = client.start(101, spec(command, output={"limit": 2 << 20}, timeout=60), ORIGIN, attended=True)
    feed.ask_events(0, seen=0, limit=1 << 20, wait=5)
    first = answer(feed)
    assert isinstance(first, EventBatch)

    def come() -> int:
        return client.output(started.view["id"], "stdout", ORIGIN, 0, 1).total

    until(lambda: come() > 16 << 20, why="the spool is full")
    gateway.services.reload("supervisor")
    assert client.run(102, spec(["sleep", "0.5"]), ORIGIN, None).view["exit_code"] == 0
    assert come() < size
    position = first.cursor
    for batch in follow(feed, position):
        for event in batch.events:
            assert isinstance(event, OutputEvent), event
            assert event.offset == position
            position += len(event.data)
    feed.close()
    assert position == size


def test_without_a_follower_the_middle_is_dropped(client: SupervisorClient) -> None:
    """Nobody follows: the command is not kept waiting, and a later replay shows the gap with its size."""
    command = "yes 123456789 | head -c 80000000"
    started, feed = client.start(101, spec(command, output={"limit": 32 << 20}), ORIGIN, attended=False)
    view = client.get(started.view["id"], ORIGIN, wait=20)
    assert view["state"] == "ended"
    assert view["output"] is not None
    count = view["output"]["stdout"]
    assert (count["bytes"], count["dropped"], count["dropped_at"]) == (80_000_000, 80_000_000 - (32 << 20), 16 << 20)
    position, gaps = 0, []
    for batch in follow(feed):
        for event in batch.events:
            assert event.offset == position
            if isinstance(event, GapEvent):
                gaps.append((event.offset, event.size))
                position += event.size
            else:
                assert event.data == (b"123456789\n" * 210_000)[position % 10 :][: len(event.data)]
                position += len(event.data)
    feed.close()
    assert position == 80_000_000
    assert gaps == [(16 << 20, count["dropped"])]


def test_input_by_offset(client: SupervisorClient) -> None:
    """Input arrives once, however often it is sent, and a hole in it is refused."""
    started, feed = client.start(101, spec("cat", stdin="012", stdin_open=True), ORIGIN, attended=False)
    exec_id = started.view["id"]
    assert client.put_stdin(exec_id, ORIGIN, b"234", 2, False) == StdinReply(5, False)
    assert client.put_stdin(exec_id, ORIGIN, b"234", 2, False) == StdinReply(5, False)
    with pytest.raises(StdinOffset):
        client.put_stdin(exec_id, ORIGIN, b"x", 6, True)
    assert client.put_stdin(exec_id, ORIGIN, b"5", 5, True) == StdinReply(6, True)
    assert read_all(feed) == b"012345"
    assert client.put_stdin(exec_id, ORIGIN, b"5", 5, True) == StdinReply(6, True)  # as it was taken
    with pytest.raises(ExecEnded):
        client.put_stdin(exec_id, ORIGIN, b"6", 6, True)
    feed.close()


def test_input_that_was_not_asked_for_is_refused(client: SupervisorClient) -> None:
    """Without stdin_open there is no input to write to."""
    started, feed = client.start(101, spec("sleep 30"), ORIGIN, attended=True)
    with pytest.raises(StdinClosed):
        client.put_stdin(started.view["id"], ORIGIN, b"x", 0, False)
    feed.leave()
    feed.close()
    assert client.get(started.view["id"], ORIGIN, wait=10)["reason"] == "client_gone"


def test_one_writer(client: SupervisorClient) -> None:
    """Whoever has claimed the input is its only writer until it goes."""
    started, feed = client.start(101, spec("cat", stdin_open=True), ORIGIN, attended=False)
    exec_id = started.view["id"]
    writer = client.feed(exec_id, ORIGIN)
    writer.ask_claim()
    assert answer(writer) == StdinReply(0, False)
    with pytest.raises(WriterTaken):
        client.put_stdin(exec_id, ORIGIN, b"x", None, False)
    writer.ask_stdin(b"mine", offset=None, eof=False)
    assert answer(writer) == StdinReply(4, False)
    writer.close()
    deadline = time.monotonic() + 20
    while True:
        try:
            assert client.put_stdin(exec_id, ORIGIN, b"yours", None, True) == StdinReply(9, True)
            break
        except WriterTaken:
            assert time.monotonic() < deadline
    assert read_all(feed) == b"mineyours"
    feed.close()


def test_web_that_dies_ends_nothing(client: SupervisorClient) -> None:
    """A connection that closes without a word is no client that left: the exec goes on."""
    started, feed = client.start(101, spec("read x; echo still here", stdin_open=True), ORIGIN, attended=True)
    feed.close()
    client.put_stdin(started.view["id"], ORIGIN, b"\n", None, False)
    view = client.get(started.view["id"], ORIGIN, wait=10)
    assert (view["reason"], view["exit_code"]) == ("exited", 0)


@pytest.mark.parametrize("policy", ["kill", "continue"])
def test_client_that_leaves(client: SupervisorClient, policy: str) -> None:
    """The last one to attend an exec takes it along if that was asked for, and nobody else does."""
    command = spec("trap 'exit 3' USR1; echo ready; while :; do sleep 0.05; done", on_disconnect=policy)
    started, feed = client.start(101, command, ORIGIN, attended=True)
    feed.ask_events(0, seen=0, limit=100, wait=10)
    answer(feed)
    other = client.feed(started.view["id"], ORIGIN)
    other.leave()
    other.close()
    assert client.get(started.view["id"], ORIGIN, wait=0.2)["state"] == "running"
    feed.leave()
    feed.close()
    if policy == "continue":
        assert client.get(started.view["id"], ORIGIN, wait=0.2)["state"] == "running"
        client.signal(started.view["id"], ORIGIN, 10, False)
    view = client.get(started.view["id"], ORIGIN, wait=10)
    assert view["reason"] == ("client_gone" if policy == "kill" else "exited")


def test_client_that_leaves_in_the_middle_of_an_answer(client: SupervisorClient) -> None:
    """That it left is heard, though the supervisor finds the connection closed while it writes."""
    started, feed = client.start(101, spec(["yes"], kill_grace=0), ORIGIN, attended=True)
    exec_id = started.view["id"]
    until(lambda: client.output(exec_id, "stdout", ORIGIN, 0, 0).total > 4 << 20, why="more than a socket takes")
    feed.ask_events(0, seen=0, limit=4 << 20, wait=5)
    assert select.select([feed.fd], [], [], 10)[0]
    feed.leave()
    feed.close()
    assert client.get(exec_id, ORIGIN, wait=10)["reason"] == "client_gone"


def test_client_that_came_by_its_key_ends_nothing(client: SupervisorClient) -> None:
    """Who follows a detached exec because it sent the same again is not the one it was started for, and may leave."""
    body, key = spec(["sleep", "60"]), f"key-{time.monotonic_ns()}"
    began, first = client.start(101, body, ORIGIN, attended=False, key=key)
    first.close()
    again, feed = client.start(101, body, ORIGIN, attended=True, key=key)
    assert (again.view["id"], again.replayed) == (began.view["id"], True)
    feed.leave()
    feed.close()
    client.signal(began.view["id"], ORIGIN, 10, tree=False)
    ended = client.get(began.view["id"], ORIGIN, wait=10)
    assert (ended["reason"], ended["signal"]) == ("signaled", "SIGUSR1")


def test_signal_to_the_command_or_its_tree(client: SupervisorClient) -> None:
    """A signal reaches the command alone, or everything that descends from it."""
    child = "trap 'echo child; exit' USR1; echo ready; while :; do sleep 0.05; done"
    command = f"trap 'echo parent' USR1; ({child}) & wait; wait; wait; exit 5"
    started, feed = client.start(101, spec(command), ORIGIN, attended=False)
    exec_id = started.view["id"]
    feed.ask_events(0, seen=0, limit=100, wait=10)
    answer(feed)
    client.signal(exec_id, ORIGIN, 10, False)
    feed.ask_events(6, seen=6, limit=100, wait=10)
    batch = answer(feed)
    assert isinstance(batch, EventBatch)
    assert [e.data for e in batch.events if isinstance(e, OutputEvent)] == [b"parent\n"]
    client.signal(exec_id, ORIGIN, 10, True)
    view = client.get(exec_id, ORIGIN, wait=10)
    assert view["exit_code"] == 5
    assert b"child\n" in read_all(feed)
    with pytest.raises(ExecEnded):
        client.signal(exec_id, ORIGIN, 10, True)
    with pytest.raises(ExecEnded):
        client.resize(exec_id, ORIGIN, 10, 10)
    feed.close()


def test_terminal(client: SupervisorClient) -> None:
    """With tty it is a terminal of the size asked for, another after a resize, and Ctrl-C, Ctrl-D do what they do."""
    command = "stty size; trap 'stty size' WINCH; echo ready; while ! read x; do :; done; echo got $x; exec cat"
    tty = {"rows": 33, "cols": 99}
    started, feed = client.start(101, spec(command, tty=tty), ORIGIN, attended=False)
    exec_id, seen, cursor = started.view["id"], b"", 0

    def until(text: bytes) -> None:
        nonlocal seen, cursor
        while text not in seen:
            feed.ask_events(cursor, seen=cursor, limit=1 << 16, wait=15)
            batch = answer(feed)
            assert isinstance(batch, EventBatch)
            assert batch.events, seen
            seen += b"".join(event.data for event in batch.events if isinstance(event, OutputEvent))
            cursor = batch.cursor

    until(b"33 99\r\nready\r\n")
    client.resize(exec_id, ORIGIN, 20, 120)
    client.put_stdin(exec_id, ORIGIN, b"word\r", None, False)
    until(b"got word\r\n")
    client.put_stdin(exec_id, ORIGIN, b"line\r", None, False)
    until(b"line\r\nline\r\n")
    client.put_stdin(exec_id, ORIGIN, b"\x04", None, False)
    view = client.get(exec_id, ORIGIN, wait=10)
    assert (view["reason"], view["exit_code"]) == ("exited", 0)
    feed.close()


def test_no_terminal_has_no_size(client: SupervisorClient) -> None:
    """A resize of an exec without a terminal is refused, and the exec goes on."""
    started, feed = client.start(101, spec("sleep 30"), ORIGIN, attended=True)
    with pytest.raises(NotATerminal):
        client.resize(started.view["id"], ORIGIN, 10, 10)
    assert client.get(started.view["id"], ORIGIN)["state"] == "running"
    feed.leave()
    feed.close()
