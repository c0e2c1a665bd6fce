"""A terminal's session (pvex.v1): output, input, flow, signals, and every way in which it ends."""

from __future__ import annotations

import json
import select
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto.events import BytesMessage, Ping, TextMessage

from gateway.errors import (
    AuditUnavailable,
    ExecEnded,
    ExecNotFound,
    NotATerminal,
    OutputDropped,
    StdinBlocked,
    StdinClosed,
    WriterTaken,
)

from .terminals import HEADER, Supervised, TimedClient

MIB = 1 << 20


@pytest.fixture
def exec_() -> Iterator[Supervised]:
    made = Supervised()
    yield made
    made.close()


def attach(exec_: Supervised, *, write: bool = True, idle: float | None = None, **options: Any) -> TimedClient:
    """A client whose session stands, its input claimed."""
    client = TimedClient(exec_.session(write=write, **options), idle=idle)
    (started,) = client.pump()
    assert started == {"type": "started", "exec": exec_.view, "cursor": options.get("cursor", 0), "replayed": False}
    if write:
        exec_.grant()
        assert client.wait() == [{"type": "ack", "offset": 0}]
    return client


def assert_closed(client: TimedClient, code: int, reason: str) -> None:
    """It was told so, and all is over."""
    assert client.closed == (code, reason)
    assert client.pump() == []
    assert client.over
    client.terminal.close()
    assert client.released == 1


# ---- output


def test_output_comes_as_it_is(exec_: Supervised) -> None:
    """Each stream's bytes on its own channel with their offset, gaps named, the end last, then a close of 1000."""
    client = attach(exec_, write=False)
    exec_.emit(("stdout", 0, b"a\xff\x00b"), ("stderr", 0, b"err"), ("stdout", 4, b""))
    assert client.wait() == [(1, 0, b"a\xff\x00b"), (2, 0, b"err"), (1, 4, b"")]
    exec_.emit(("stdout", 4, 1000), ("stdout", 1004, b"z"))
    gap = {"type": "gap", "stream": "stdout", "offset": 4, "bytes": 1000, "cursor": 1007}
    assert client.wait() == [gap, (1, 1004, b"z")]
    question = exec_.emit(ended=True)
    assert question["cursor"] == question["seen"] == 1008
    view = exec_.view
    end = {"type": "end", "reason": "exited", "exit_code": 0, "signal": None, "exec": view}
    assert client.wait() == [end]
    assert_closed(client, 1000, "exited")
    assert exec_.output.told() == b""


def test_output_begins_where_it_is_asked_to(exec_: Supervised) -> None:
    """`from` is the cursor of the first question, and `started` says it again."""
    attach(exec_, write=False, cursor=77)
    assert exec_.output.question()["cursor"] == 77


def test_next_piece_is_asked_for_while_one_is_sent(exec_: Supervised) -> None:
    """The supervisor works on the next piece before the client has the last."""
    client = attach(exec_, write=False)
    exec_.emit(("stdout", 0, b"x" * 1000))
    assert select.select(client.terminal.sources(), [], [], 5)[0]
    client.terminal.produce()
    assert exec_.output.question()["cursor"] == 1000


def test_window_bounds_what_is_unacknowledged(exec_: Supervised) -> None:
    """With a window of 10 bytes no more than 10 are asked for or sent until the client acknowledges some."""
    client = attach(exec_, write=False, window=10)
    assert exec_.emit(("stdout", 0, b"123456"))["limit"] == 10
    assert client.wait() == [(1, 0, b"123456")]
    assert exec_.emit(("stdout", 6, b"7890"))["limit"] == 4
    assert client.wait() == [(1, 6, b"7890")]
    assert not exec_.output.asked()
    assert client.terminal.sources() == ()
    client.say("ack", cursor=3)
    assert exec_.emit(("stdout", 10, b"abc"))["limit"] == 3
    assert client.wait() == [(1, 10, b"abc")]
    client.say("ack", cursor=1)  # an old one changes nothing
    assert not exec_.output.asked()
    client.say("ack", cursor=13)
    assert exec_.output.question()["limit"] == 10


def test_window_counts_a_gap_until_it_is_acknowledged(exec_: Supervised) -> None:
    """A gap wider than the window stops the output until the client has dealt with it."""
    client = attach(exec_, write=False, window=10)
    exec_.emit(("stdout", 0, 5000), ("stdout", 5000, b"x"))
    client.wait()
    assert not exec_.output.asked()
    client.say("ack", cursor=5001)
    assert exec_.output.question()["limit"] == 10


def test_ack_of_what_was_not_sent_is_refused(exec_: Supervised) -> None:
    """It is an error of the client's, and all goes on."""
    client = attach(exec_, write=False, window=10)
    client.say("ack", cursor=1)
    (error,) = client.pump()
    assert error["type"] == "error" and error["code"] == "invalid_request"
    assert error["errors"][0]["path"] == "cursor"
    exec_.emit(("stdout", 0, b"x"))
    assert client.wait() == [(1, 0, b"x")]


# ---- input


def test_input_is_handed_on_and_acknowledged(exec_: Supervised) -> None:
    """Bytes reach the command with their offset, pieces that wait go together, each answer is told."""
    client = attach(exec_)
    client.input(0, b"ls\n")
    question = exec_.stdin.question()
    assert (question["offset"], question["data"], question["eof"]) == (0, b"ls\n", False)
    client.input(3, b"ca")
    client.input(5, b"t\n")
    assert not exec_.stdin.asked()
    exec_.stdin.answer(offset=3, eof=False)
    assert client.wait() == [{"type": "ack", "offset": 3}]
    question = exec_.stdin.question()
    assert (question["offset"], question["data"]) == (3, b"cat\n")
    client.say("stdin_eof")
    exec_.stdin.answer(offset=7, eof=False)
    client.wait()
    question = exec_.stdin.question()
    assert (question["offset"], question["data"], question["eof"]) == (7, b"", True)
    exec_.stdin.answer(offset=7, eof=True)
    assert client.wait() == [{"type": "ack", "offset": 7}]
    assert not exec_.stdin.asked()


def test_input_sent_again_is_skipped(exec_: Supervised) -> None:
    """After a cut the client may send from its last ack; what was taken is not taken twice."""
    client = TimedClient(exec_.session())
    client.input(2, b"cdef")
    client.pump()
    exec_.grant(4)
    assert client.wait()[-1] == {"type": "ack", "offset": 4}
    question = exec_.stdin.question()
    assert (question["offset"], question["data"]) == (4, b"ef")
    client.input(3, b"defgh")
    exec_.stdin.answer(offset=6, eof=False)
    client.wait()
    assert exec_.stdin.question()["data"] == b"gh"


def test_gap_in_input_is_refused(exec_: Supervised) -> None:
    """Nothing of it is taken, `expected` says where to go on, and it goes on there."""
    client = attach(exec_)
    client.input(5, b"x")
    (error,) = client.pump()
    assert (error["code"], error["expected"]) == ("stdin_offset_mismatch", 0)
    client.input(0, b"y")
    assert exec_.stdin.question()["data"] == b"y"


def test_gap_before_the_claim_is_refused(exec_: Supervised) -> None:
    """A client that begins behind the input's end is told so, as soon as the end is known."""
    client = TimedClient(exec_.session())
    client.input(5, b"x")
    client.pump()
    exec_.grant(2)
    ack, error = client.wait()
    assert ack == {"type": "ack", "offset": 2}
    assert (error["code"], error["expected"]) == ("stdin_offset_mismatch", 2)
    assert not exec_.stdin.asked()
    client.input(2, b"y")
    assert exec_.stdin.question()["data"] == b"y"


def test_a_paste_of_a_mebibyte_arrives_in_pieces(exec_: Supervised) -> None:
    """The largest message is taken whole; the supervisor gets it in pieces, in order."""
    client = attach(exec_)
    paste = bytes(range(256)) * 4096
    client.input(0, paste)
    got = b""
    while len(got) < MIB:
        question = exec_.stdin.question()
        assert question["offset"] == len(got) and len(question["data"]) <= 64 << 10
        got += question["data"]
        exec_.stdin.answer(offset=len(got), eof=False)
        client.wait()
    assert got == paste


def test_client_is_not_read_while_a_mebibyte_waits(exec_: Supervised) -> None:
    """Within the window a client is always read; beyond it not until the command has taken some."""
    client = attach(exec_)
    client.input(0, b"x" * MIB)
    assert client.terminal.wants_input()
    client.input(MIB, b"y")
    assert not client.terminal.wants_input()
    client.say("resize", rows=1, cols=1)  # what is here already waits, too
    assert not exec_.requests.asked()
    assert len(exec_.stdin.question()["data"]) == 64 << 10
    exec_.stdin.answer(offset=64 << 10, eof=False)
    client.wait()
    assert client.terminal.wants_input()
    assert exec_.requests.question()["op"] == "resize"


def test_blocked_input_is_offered_again(exec_: Supervised) -> None:
    """A command that does not read for half a minute loses nothing, and the client hears nothing of it."""
    client = attach(exec_)
    client.input(0, b"data")
    exec_.stdin.question()
    exec_.stdin.refuse(StdinBlocked("no room", offset=0))
    assert client.wait() == []
    assert exec_.stdin.question()["data"] == b"data"


def test_closed_input_is_told(exec_: Supervised) -> None:
    """What waits is dropped, the exec goes on."""
    client = attach(exec_)
    client.input(0, b"data")
    exec_.stdin.question()
    exec_.stdin.refuse(StdinClosed("closed", offset=0))
    (error,) = client.wait()
    assert error["code"] == "stdin_closed"
    assert not exec_.stdin.asked()
    exec_.emit(("stdout", 0, b"on"))
    assert client.wait() == [(1, 0, b"on")]


def test_input_to_an_exec_that_ends_is_dropped(exec_: Supervised) -> None:
    """Typing while a command ends is no error: `end` is on its way."""
    client = attach(exec_)
    client.input(0, b"data")
    exec_.stdin.question()
    exec_.stdin.refuse(ExecEnded("ended"))
    assert client.wait() == []
    exec_.emit(ended=True)
    assert client.wait()[-1]["type"] == "end"
    assert_closed(client, 1000, "exited")


# ---- signals and sizes


def test_signal_does_not_wait_for_input(exec_: Supervised) -> None:
    """While the command does not read, signals and sizes reach it, one after the other."""
    client = attach(exec_)
    client.input(0, b"x" * MIB)
    exec_.stdin.question()
    client.say("signal", signal="SIGINT")
    client.say("signal", signal=9, to="tree")
    client.say("resize", rows=50, cols=132)
    question = exec_.requests.question()
    assert (question["op"], question["number"], question["tree"]) == ("signal", 2, False)
    assert not exec_.requests.asked()
    exec_.requests.answer(exec=exec_.view)
    assert client.wait() == []
    question = exec_.requests.question()
    assert (question["number"], question["tree"]) == (9, True)
    exec_.requests.answer(exec=exec_.view)
    client.wait()
    question = exec_.requests.question()
    assert (question["op"], question["rows"], question["cols"]) == ("resize", 50, 132)


@pytest.mark.parametrize("error", [NotATerminal("no tty"), ExecEnded("over"), AuditUnavailable("away")])
def test_refused_request_ends_nothing(exec_: Supervised, error: Any) -> None:
    """The client is told the problem, the exec goes on untouched."""
    client = attach(exec_)
    client.say("resize", rows=2, cols=2)
    exec_.requests.question()
    exec_.requests.refuse(error)
    assert client.wait() == [
        {"type": "error", "code": error.code, "detail": error.detail, "retryable": error.retryable}
    ]
    assert client.closed is None
    exec_.emit(("stdout", 0, b"on"))
    assert client.wait() == [(1, 0, b"on")]


@pytest.mark.parametrize(
    ("message", "path"),
    [
        ({"type": "resize", "rows": 0, "cols": 1}, "rows"),
        ({"type": "resize", "rows": "1", "cols": 1}, "rows"),
        ({"type": "resize", "rows": 1}, "cols"),
        ({"type": "signal", "signal": "SIGNOPE"}, "signal"),
        ({"type": "signal", "signal": 65}, "signal"),
        ({"type": "signal", "signal": "INT", "to": "init"}, "to"),
        ({"type": "ack", "cursor": -1}, "cursor"),
        ({"type": "stdin_eof", "more": 1}, "more"),
    ],
)
def test_wrong_members_are_named(exec_: Supervised, message: dict[str, Any], path: str) -> None:
    """A message of a known type with wrong members is refused by its field; all goes on."""
    client = attach(exec_)
    client.text(json.dumps(message))
    (error,) = client.pump()
    assert error["code"] == "invalid_request"
    assert error["errors"][0]["path"] == path
    assert client.closed is None
    assert not exec_.requests.asked()


def test_requests_are_bounded(exec_: Supervised) -> None:
    """A client that sends sizes faster than they are taken is not read meanwhile."""
    client = attach(exec_)
    for _ in range(65):
        client.say("resize", rows=1, cols=1)
    assert not client.terminal.wants_input()
    exec_.requests.question()
    exec_.requests.answer(exec=exec_.view)
    client.wait()
    assert client.terminal.wants_input()


# ---- who only reads


def test_reader_may_not_write(exec_: Supervised) -> None:
    """Without `write` input, signals and sizes are refused, `ack` is taken, and output goes on."""
    client = attach(exec_, write=False)
    client.input(0, b"x")
    client.say("signal", signal="TERM")
    client.say("resize", rows=1, cols=1)
    client.say("stdin_eof")
    assert [message["code"] for message in client.pump()] == ["forbidden"] * 4
    client.say("ack", cursor=0)
    exec_.emit(("stdout", 0, b"on"))
    assert client.wait() == [(1, 0, b"on")]


def test_exec_without_input_takes_signals(exec_: Supervised) -> None:
    """A terminal without tty or open stdin: input is refused as closed, a signal is not."""
    session = exec_.session()
    exec_.stdin.feed.close()
    client = TimedClient(type(session)(session.view, session.output, None, session.requests, attended=True))
    client.input(0, b"x")
    started, error = client.pump()
    assert (started["type"], error["code"]) == ("started", "stdin_closed")
    client.input(0, b"x")
    client.say("stdin_eof")
    assert [message["code"] for message in client.pump()] == ["stdin_closed"] * 2
    client.say("signal", signal="HUP")
    assert exec_.requests.question()["number"] == 1


# ---- how it ends


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (WriterTaken("another"), 4409),
        (ExecEnded("over"), 4409),
        (StdinClosed("closed"), 4409),
        (AuditUnavailable("away"), 4503),
    ],
)
def test_refused_claim_closes(exec_: Supervised, error: Any, code: int) -> None:
    """Who asked to write and may not is told why, and that with a code: browsers see nothing else."""
    client = TimedClient(exec_.session())
    client.pump()
    exec_.stdin.question()
    exec_.stdin.refuse(error)
    assert client.wait()[-1]["code"] == error.code
    assert_closed(client, code, error.code)


def test_nothing_is_told_before_the_claim_is_granted(exec_: Supervised) -> None:
    """Of an exec that has ended a writer hears that it may not write, and neither replay nor `end`."""
    client = TimedClient(exec_.session())
    client.pump()
    assert not exec_.output.asked()
    exec_.grant()
    client.wait()
    assert exec_.output.question()["cursor"] == 0


@pytest.mark.parametrize(("error", "code"), [(ExecNotFound("gone"), 4404), (OutputDropped("gone"), 4416)])
def test_refused_output_closes(exec_: Supervised, error: Any, code: int) -> None:
    """What the supervisor answers instead of output is the close code."""
    client = attach(exec_, write=False)
    exec_.output.question()
    exec_.output.refuse(error)
    assert client.wait()[-1]["code"] == error.code
    assert_closed(client, code, error.code)


@pytest.mark.parametrize(("ended", "cursor", "code"), [(False, 6, 4416), (True, 7, 4416), (True, 6, 1000)])
def test_from_past_the_end(exec_: Supervised, ended: bool, cursor: int, code: int) -> None:
    """A place that nobody can have seen is refused; `seq` of the end is behind all output, and gives the end."""
    client = attach(exec_, write=False, cursor=cursor)
    exec_.output.question()
    exec_.output.answer(events=[], cursor=cursor, total=5, exec=exec_.view, ended=ended)
    client.wait()
    assert_closed(client, code, "exited" if code == 1000 else "range_not_satisfiable")


def test_own_exec_that_has_ended_already_is_no_refusal(exec_: Supervised) -> None:
    """A command that was faster than the claim: its client gets output and end."""
    client = TimedClient(exec_.session(attended=True))
    client.pump()
    exec_.stdin.question()
    exec_.stdin.refuse(ExecEnded("ended"))
    assert client.wait() == []
    exec_.emit(("stdout", 0, b"x"), ended=True)
    assert [message if isinstance(message, tuple) else message["type"] for message in client.wait()] == [
        (1, 0, b"x"),
        "end",
    ]
    assert_closed(client, 1000, "exited")


@pytest.mark.parametrize("which", ["output", "stdin", "requests"])
def test_lost_supervisor_is_4503(exec_: Supervised, which: str) -> None:
    """A supervisor that goes away mid-way cuts the client, who may attach again."""
    client = attach(exec_)
    client.input(0, b"x")
    client.say("resize", rows=1, cols=1)
    getattr(exec_, which).sock.close()
    assert client.wait()[-1]["code"] == "supervisor_unavailable"
    assert_closed(client, 4503, "supervisor_unavailable")


def test_fault_of_ours_ends_no_exec(exec_: Supervised) -> None:
    """A client that is cut because the audit log is away has not left its exec."""
    client = attach(exec_, attended=True)
    exec_.output.question()
    client.input(0, b"x")
    exec_.stdin.question()
    exec_.stdin.refuse(AuditUnavailable("away"))
    assert client.wait()[-1]["code"] == "audit_unavailable"
    assert_closed(client, 4503, "audit_unavailable")
    assert exec_.output.told() == b""


def test_fault_is_1011(exec_: Supervised, caplog: pytest.LogCaptureFixture) -> None:
    """A defect of ours is logged with its traceback, and the client is told no more than that."""
    client = attach(exec_, write=False)
    exec_.output.question()
    exec_.output.answer(nonsense=1)
    (error,) = client.wait()
    assert error["code"] == "internal_error"
    assert_closed(client, 1011, "internal_error")
    assert "KeyError" in caplog.text


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "1", '"ack"', "{}", '{"type": 1}', '{"type": "start", "command": ["sh"]}', '{"type": "nope"}',
     "[" * 4000, '{"type": "ack", "cursor": ' + "1" * 5000 + "}"],
)  # fmt: skip
def test_bad_text_is_4400(exec_: Supervised, text: str) -> None:
    """No JSON object, no type that we know here, or too long: the client does not speak this protocol."""
    client = attach(exec_)
    client.text(text)
    assert client.pump()[-1]["code"] == "malformed_request"
    assert_closed(client, 4400, "malformed_request")


@pytest.mark.parametrize("data", [b"", b"\x00" * 8, HEADER.pack(1, 0), HEADER.pack(9, 0) + b"x"])
def test_bad_binary_is_4400(exec_: Supervised, data: bytes) -> None:
    """Shorter than its header, or of a channel that is not the client's."""
    client = attach(exec_)
    client.binary(data)
    assert client.pump()[-1]["code"] == "malformed_request"
    assert_closed(client, 4400, "malformed_request")


def test_message_over_a_mebibyte_is_1009(exec_: Supervised) -> None:
    """A frame too long is refused before it has come, one too long in fragments with the one that is too much."""
    client = attach(exec_)
    client.raw(b"\x82\xff" + (MIB + 10).to_bytes(8, "big") + b"\x00" * 4 + b"\x00" * (MIB + 9))
    assert client.closed is None
    client.raw(b"\x00")
    client.pump()
    assert client.closed == (1009, "message_too_big")


def test_fragments_are_joined_and_bounded(exec_: Supervised) -> None:
    """A message may come in fragments, pings between them; without end it is 1009."""
    client = attach(exec_)
    client.fragment(HEADER.pack(0, 0) + b"a", last=False)
    client.raw(client.ws.send(Ping(b"p")))
    client.fragment(b"b", last=True)
    assert exec_.stdin.question()["data"] == b"ab"
    for _ in range(17):
        client.fragment(b"x" * 65536, last=False)
    client.pump()
    assert client.closed == (1009, "message_too_big")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x82\x01x", 1002),  # not masked
        (b"\xc2\x80\x00\x00\x00\x00", 1002),  # a reserved bit
        (b"\x83\x80\x00\x00\x00\x00", 1002),  # an opcode that is none
        (b"\x80\x80\x00\x00\x00\x00", 1002),  # a continuation of nothing
        (b"\x09\x80\x00\x00\x00\x00", 1002),  # a ping in fragments
        (b"\x89\xfe\x00\x80\x00\x00\x00\x00" + b"x" * 128, 1002),  # a ping too long
        (b"\x88\x82\x00\x00\x00\x00\x03\xed", 1002),  # a close with a code that may not be sent
        (b"\x81\x82\x00\x00\x00\x00\xff\xfe", 1007),  # text that is not UTF-8
    ],
)
def test_broken_websocket(exec_: Supervised, data: bytes, code: int) -> None:
    """What RFC 6455 forbids ends the connection with its own codes; whatever follows is not looked at."""
    client = attach(exec_)
    client.raw(data)
    client.pump()
    assert client.closed == (code, "protocol_error")
    client.raw(b"\x00" * 1000)
    client.clock.now += 2
    assert_closed(client, code, "protocol_error")


def test_ping_is_answered(exec_: Supervised) -> None:
    """A pong with the same payload, at once."""
    client = attach(exec_)
    client.raw(b"\x89\x82\x00\x00\x00\x00hi")
    assert client.terminal.wake_at() <= client.clock()
    assert client.terminal.produce() == b"\x8a\x02hi"


def test_flood_of_pings_is_bounded(exec_: Supervised) -> None:
    """Who asks faster than it listens is not read until it has listened, and gets a share of the thread's time."""
    client = attach(exec_)
    client.answers_pings = False
    client.raw(b"".join(client.ws.send(Ping(b"x" * 125)) for _ in range(2000)))
    answered = 0
    while not client.terminal.wants_input():
        assert client.terminal.wake_at() <= client.clock()
        sent = client.terminal.produce()
        assert sent is not None and 0 < len(sent) <= 256 * 127
        answered += len(sent)
    assert answered == 2000 * 127


def test_silent_client_is_gone(exec_: Supervised) -> None:
    """Two pings, 20 s apart; 20 s after the second there is nobody: no close, and the exec is told."""
    client = attach(exec_, attended=True)
    client.answers_pings = False
    exec_.output.question()
    begun = client.clock.now
    assert client.terminal.wake_at() == begun + 20
    for seconds, pings in ((19, 0), (20, 1), (39, 1), (40, 2), (59, 2)):
        client.clock.now = begun + seconds
        assert client.pump() == []
        assert client.pings == pings
        assert not client.over
    client.clock.now = begun + 60
    client.pump()
    assert client.over and client.closed is None
    client.terminal.close()
    assert exec_.output.told() == b"\x00"


def test_any_sign_of_life_counts(exec_: Supervised) -> None:
    """A pong, or anything else that comes or goes, begins the silence anew."""
    client = attach(exec_)
    for _ in range(10):
        client.clock.now += 19
        client.pong()
        client.pump()
    assert client.pings == 0
    client.clock.now += 20
    client.pump()
    assert client.pings == 1
    for number in range(10):
        client.clock.now += 19
        exec_.emit(("stdout", number, b"x"))
        client.wait()
    assert client.pings == 1


def test_client_that_is_not_read_is_not_taken_for_gone(exec_: Supervised) -> None:
    """While its input waits for the command nobody can hear its pongs."""
    client = attach(exec_)
    client.answers_pings = False
    client.input(0, b"x" * MIB)
    client.input(MIB, b"y")
    for _ in range(10):
        client.clock.now += 30
        client.pump()
    assert not client.over and client.pings == 0


def test_idle_close_is_4408(exec_: Supervised) -> None:
    """Where it is configured: no byte of input or output for that long; pings and sizes are none."""
    client = attach(exec_, idle=100, attended=True)
    exec_.output.question()
    client.clock.now += 60
    client.input(0, b"x")
    client.clock.now += 60
    client.say("resize", rows=1, cols=1)
    client.pong()
    client.pump()
    assert client.closed is None
    assert client.terminal.wake_at() <= client.clock.now + 40
    client.clock.now += 40
    client.pump()
    assert_closed(client, 4408, "idle")
    assert exec_.output.told() == b"\x00"


def test_output_keeps_it_from_being_idle(exec_: Supervised) -> None:
    """A command that talks is not idle, and without the setting nothing ever is."""
    client = attach(exec_, write=False, idle=100)
    for number in range(3):
        client.clock.now += 60
        exec_.emit(("stdout", number, b"x"))
        client.wait()
    assert client.closed is None


@pytest.mark.parametrize("attended", [True, False])
def test_client_that_closes_has_left(exec_: Supervised, attended: bool) -> None:
    """Its goodbye is answered; the exec that it started is told, one that it attached to is not."""
    client = attach(exec_, attended=attended)
    exec_.output.question()
    client.bye()
    client.pump()
    assert_closed(client, 1000, "")
    assert exec_.output.told() == (b"\x00" if attended else b"")
    assert exec_.stdin.told() == b""


@pytest.mark.parametrize("attended", [True, False])
def test_client_that_is_cut_has_left(exec_: Supervised, attended: bool) -> None:
    """The pump says `gone`."""
    client = attach(exec_, attended=attended)
    exec_.output.question()
    client.terminal.gone()
    client.terminal.close()
    assert exec_.output.told() == (b"\x00" if attended else b"")
    assert client.released == 1


def test_web_that_stops_leaves_the_exec_alone(exec_: Supervised) -> None:
    """Closed without `gone`: nobody has left."""
    client = attach(exec_, attended=True)
    exec_.output.question()
    client.terminal.close()
    assert exec_.output.told() == b""
    assert client.released == 1


def test_web_that_stops_says_going_away(exec_: Supervised) -> None:
    """1001: the exec is let go of, and nobody has left; the client's answer ends it."""
    client = attach(exec_, attended=True)
    exec_.output.question()
    assert client.terminal.stop()
    client.pump()
    assert exec_.output.told() == b""
    assert_closed(client, 1001, "going_away")


@pytest.mark.parametrize("answers", [True, False])
def test_after_our_goodbye(exec_: Supervised, answers: bool) -> None:
    """The client's answer ends it at once; without one it ends 2 s later. What else it says is dropped."""
    client = attach(exec_)
    say_goodbye = client.ws.send
    exec_.emit(ended=True)
    if not answers:
        client.ws.send = lambda event: b""  # type: ignore[method-assign]
    client.wait()
    client.ws.send = say_goodbye  # type: ignore[method-assign]
    assert client.closed == (1000, "exited")
    assert client.over is answers
    if not answers:
        client.raw(b"\x81\x82\x00\x00\x00\x00{}")
        assert client.terminal.wants_input()
        assert client.terminal.sources() == ()
        assert client.terminal.wake_at() == client.clock.now + 2
        client.clock.now += 2
        client.pump()
        assert client.over


# ---- anything at all


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=20))
def test_garbage_never_harms(pieces: list[bytes]) -> None:
    """Whatever bytes a client sends, cut however: no exception, no unbounded answer, and what is held is given back."""
    exec_ = Supervised()
    client = TimedClient(exec_.session())
    client.pump()
    exec_.grant()
    for piece in pieces:
        if client.terminal.wants_input():
            client.terminal.receive(piece)
            client.terminal.produce()
    client.terminal.gone()
    client.terminal.close()
    assert client.released == 1
    exec_.close()


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
_TYPES = st.sampled_from(["ack", "resize", "signal", "stdin_eof", "start", "error"])
_NAMES = st.sampled_from(["cursor", "rows", "cols", "signal", "to", "command", "window", "x"])
_MESSAGES = st.one_of(
    st.builds(lambda kind, rest: json.dumps(rest | {"type": kind}), _TYPES, st.dictionaries(_NAMES, _JSON, max_size=3)),
    st.text(max_size=50),
    st.builds(lambda channel, offset, data: HEADER.pack(channel, offset) + data,
              st.integers(0, 3), st.integers(0, 40), st.binary(max_size=20)),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(_MESSAGES, max_size=15), st.integers(1, 7))
def test_every_message_has_its_answer(messages: list[str | bytes], cut: int) -> None:
    """Well-framed messages of any content, in bytes cut anywhere: taken, refused with an error, or closed with 4400;
    and the input that the command gets is what was sent at its offset, in order, with nothing twice."""
    exec_ = Supervised()
    client = TimedClient(exec_.session())
    client.pump()
    exec_.grant()
    client.wait()
    written = bytearray()
    for message in messages:
        if client.closed is not None:
            break
        if isinstance(message, bytes) and message[0] == 0:
            _, offset = HEADER.unpack_from(message)
            if offset <= len(written):
                written += message[HEADER.size :][len(written) - offset :]
        frame = client.ws.send(TextMessage(message) if isinstance(message, str) else BytesMessage(message))
        for start in range(0, len(frame), cut):
            client.raw(frame[start : start + cut])
        for heard in client.pump():
            assert heard["type"] in ("error", "ack")
        while exec_.stdin.asked():
            question = exec_.stdin.question()
            end = question["offset"] + len(question["data"])
            assert question["data"] == written[question["offset"] : end]
            exec_.stdin.answer(offset=end, eof=False)
            client.wait()
    assert client.closed is None or client.closed[0] in (4400, 1000)
    client.terminal.close()
    exec_.close()
