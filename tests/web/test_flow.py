"""What a test of the whole server would take minutes for: clients that stall, a worker that stops; and framing."""

import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

import pytest

from gateway.api.streams import PIECE, OutputStream
from gateway.errors import ClientGone
from gateway.exec.origin import Origin
from gateway.exec.permit import Permit
from gateway.supervisor.link.feed import Feed
from gateway.supervisor.link.protocol import FrameReader, ProtocolError, encode
from gateway.web import pump as pump_module
from gateway.web import remainder, tcp
from gateway.web.connection import MAX_READ_SECONDS, Connection, Next
from gateway.web.flow import STALL_SECONDS, Flow, Turn
from gateway.web.framing import Bare, Chunked, Counted, Framing
from gateway.web.live import Live
from gateway.web.pump import Pump
from gateway.web.remainder import TAKE_SECONDS, Remainder
from gateway.web.settings import WebSettings
from tests.web.served_lives import Echo, Endless, Fed, Pieces, Spoken


@dataclass
class Wire:
    """The two ends of a loopback TCP connection, and what Lives on it tell."""

    ours: socket.socket
    theirs: socket.socket
    told: list[str]

    def tell(self, **facts: str) -> None:
        self.told.append(facts["event"])

    def carry(self, live: Live, framing: Framing | None = None) -> Flow:
        connection = Connection(self.ours, ("192.0.2.1", 1), ("192.0.2.2", 2), WebSettings(), 0)
        return Flow(connection, live, framing or Bare(), b"head", keep=False)

    def send_rest(self, body: bytes) -> Flow:
        connection = Connection(self.ours, ("192.0.2.1", 1), ("192.0.2.2", 2), WebSettings(), 0)
        return Flow(connection, Remainder(), Bare(), b"", keep=True, unsent=[memoryview(body)[1:]])


@pytest.fixture
def wire() -> Iterator[Wire]:
    """A connection without any option set."""
    with connect() as wire:
        yield wire


@contextmanager
def connect() -> Iterator[Wire]:
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        theirs = stack.enter_context(socket.create_connection(listener.getsockname()))
        ours = stack.enter_context(listener.accept()[0])
        ours.setblocking(False)
        theirs.settimeout(10)
        yield Wire(ours, theirs, [])


def write_until_blocked(flow: Flow) -> None:
    """As far as the kernel takes it; the client's acknowledgements may still make room."""
    poll = select.poll()
    poll.register(flow.sock, select.POLLOUT)
    while poll.poll(300):
        while flow.advance() is Turn.AGAIN:
            continue


class Laborious(Echo):
    """Works on each piece for as long as a turn may read."""

    heard = 0

    def receive(self, data: bytes) -> None:
        self.heard += 1
        end = time.monotonic() + MAX_READ_SECONDS
        while time.monotonic() < end:
            continue


def test_input_that_takes_long_has_its_turns(wire: Wire) -> None:
    """Pieces that are all here are taken until so much time is over, and the rest after others' turns."""
    wire.ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    wire.theirs.sendall(bytes(100_000))
    live = Laborious(wire.tell)
    flow = wire.carry(live)
    assert flow.advance() is Turn.AGAIN
    assert live.heard == 1
    assert flow.advance() is Turn.AGAIN
    assert live.heard == 2


def test_client_that_takes_nothing_for_five_minutes_is_gone(wire: Wire) -> None:
    """The time counts from the last byte that it took, and only while there are bytes for it."""
    tcp.begin_stream(wire.ours)
    flow = wire.carry(Endless(wire.tell))
    flow.check(0)
    write_until_blocked(flow)
    assert flow.advance() is Turn.BLOCKED
    flow.check(1000)  # something went since the last look
    flow.check(1000 + STALL_SECONDS - 1)
    wire.theirs.recv(1 << 20)
    write_until_blocked(flow)
    flow.check(1000 + STALL_SECONDS + 1)
    flow.check(1000 + 2 * STALL_SECONDS)
    with pytest.raises(ClientGone):
        flow.check(1000 + 2 * STALL_SECONDS + 2)


def test_client_of_a_silent_live_is_never_gone(wire: Wire) -> None:
    """Where nothing is to be taken, nobody is late."""
    flow = wire.carry(Spoken(wire.tell, "x"))
    while flow.advance() is Turn.AGAIN:
        continue
    flow.check(0)
    flow.check(10 * STALL_SECONDS)
    flow.live.close()


def test_slow_client_costs_the_kernel_half_a_mebibyte(wire: Wire) -> None:
    """What it has not been sent yet is no more than UNSENT_BYTES, and one write."""
    tcp.begin_stream(wire.ours)
    wire.theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    flow = wire.carry(Endless(wire.tell))
    write_until_blocked(flow)
    taken = 0
    flow.cut()
    with pytest.raises(ConnectionResetError):
        while True:
            taken += len(wire.theirs.recv(1 << 20))
    assert taken < 2 << 20


def test_stop_cuts_without_gone(wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    """A worker that stops closes the Lives under way, but their clients have not left; the client sees a cut."""
    returned: list[Next] = []
    pump = Pump(limit=1, log=logging.getLogger(), done=lambda _, step: returned.append(step))
    assert pump.has_room()
    pump.take(wire.carry(Spoken(wire.tell, "x")))
    assert not pump.has_room()
    assert wire.theirs.recv(10) == b"head"
    pump.stop()
    assert (wire.told, returned, len(pump), caplog.records) == (["closed"], [], 0, [])
    with pytest.raises(ConnectionResetError):
        wire.theirs.recv(1)


def test_input_goes_on_while_output_is_blocked(wire: Wire) -> None:
    """A client that takes nothing is still heard: its Live is woken when what it hands on has found room."""
    live = Fed(wire.tell)
    pump = Pump(limit=1, log=logging.getLogger(), done=lambda *_: None)
    pump.take(wire.carry(live))
    for turn in range(1, 5):
        wire.theirs.sendall(b"0123456789")
        until(lambda: live.taken == 10 * turn)  # noqa: B023 - called before the loop goes on
        os.write(live.more, b"x")
    pump.stop()
    assert not pump._thread or not pump._thread.is_alive()


def until(reached: Callable[[], bool]) -> None:
    """Waits for what another thread does, 10 s at most."""
    deadline = time.monotonic() + 10
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0)


def test_what_waits_for_slow_clients_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where too much waits the slowest client is cut, not told to have left; the others go on."""
    monkeypatch.setattr(pump_module, "MAX_HELD_BYTES", (1 << 20) + 64)  # one flow's piece
    pump = Pump(limit=99, log=logging.getLogger(), done=lambda *_: None)
    with ExitStack() as stack:
        wires: list[Wire] = []
        while not wires or not wires[0].told:
            wires.append(stack.enter_context(connect()))
            flow = wires[-1].carry(Endless(wires[-1].tell))
            pump.take(flow)
            until(lambda: flow.held > 0 or bool(wires[0].told))  # noqa: B023 - called before the loop goes on
        assert (wires[0].told, wires[-1].told) == (["closed"], [])
        assert len(wires[-1].theirs.recv(1 << 20)) > 0
        pump.stop()
    assert pump._held == 0


LARGE = bytes(16 << 20)


@pytest.mark.parametrize(("limit", "most"), [(3, 1 << 30), (99, 4 * len(LARGE) - 1)], ids=["many", "large"])
def test_replies_that_nobody_takes_make_room(monkeypatch: pytest.MonkeyPatch, limit: int, most: int) -> None:
    """One too many, or too large, costs the slowest reader its reply, and live replies neither room nor bytes."""
    monkeypatch.setattr(remainder, "YOUNG_SECONDS", 0.3)
    monkeypatch.setattr(remainder, "MAX_REMAINDER_BYTES", most)
    returned: list[Connection] = []
    pump = Pump(limit=1, log=logging.getLogger(), done=lambda taken, _: returned.append(taken), remainders=limit)
    with ExitStack() as stack:
        wires = [stack.enter_context(connect()) for _ in range(4)]
        flows = [wire.send_rest(bytes(len(LARGE))) for wire in wires[:3]]
        for flow in flows:
            pump.take(flow)
        for wire in (wires[0], wires[2]):  # all but the second read
            for _ in range(20):
                assert wire.theirs.recv(1 << 16)
        until(lambda: time.monotonic() >= flows[2].began + remainder.YOUNG_SECONDS)
        flows.append(wires[3].send_rest(bytes(len(LARGE))))
        pump.take(flows[3])
        until(lambda: flows[1].sock.fileno() < 0 and pump.has_room() and len(pump) == 3)
        left = len(LARGE) - 1
        while left:
            left -= len(wires[3].theirs.recv(left))
        until(lambda: len(pump) == 2)
        assert returned == [flows[3].connection]
        pump.stop()
    assert pump._held == 0 and len(pump._remainders) == 0


def test_what_is_the_same_for_all_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A document that many are slow to take is in memory only once."""
    monkeypatch.setattr(remainder, "MAX_REMAINDER_BYTES", len(LARGE) + 1)
    pump = Pump(limit=1, log=logging.getLogger(), done=lambda *_: None)
    with ExitStack() as stack:
        for wire in [stack.enter_context(connect()) for _ in range(5)]:
            pump.take(wire.send_rest(LARGE))
        until(lambda: len(pump._by_fd) == 5)
        pump.stop()
    assert len(pump._remainders) == 0


def test_a_reply_is_to_be_taken_in_time(wire: Wire) -> None:
    """Half a minute, and a second more for each 64 KiB taken: a byte now and then keeps nothing for ever."""
    flow = wire.send_rest(LARGE)
    tcp.begin_stream(wire.ours)
    write_until_blocked(flow)
    assert flow.taken > 1 << 18
    flow.check(flow.began + TAKE_SECONDS + 3)
    with pytest.raises(ClientGone):
        flow.check(flow.began + TAKE_SECONDS + flow.taken / (64 << 10))


class Giver:
    """The supervisor's end of a feed, in a thread: answers each question for output with as many bytes as it asks."""

    def __init__(self, sock: socket.socket) -> None:
        self.asked = self.given = 0
        self._sock = sock
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        reader = FrameReader()
        with suppress(OSError, ProtocolError):
            while True:
                while (frame := reader.read(self._sock)) is None:
                    continue
                self.asked += 1
                state = {"total": 1 << 30, "kept": [[0, 1 << 30]], "ended": False}
                self._sock.sendall(encode({"ok": state}, bytes(frame[0]["length"])))
                self.given += 1


def test_what_a_stalled_client_asked_for_waits_here(wire: Wire) -> None:
    """The supervisor is rid of every answer, whoever reads it; and what waits here is counted, and not lost."""
    pump = Pump(limit=9, log=logging.getLogger(), done=lambda *_: None)
    theirs, ours = socket.socketpair()
    with theirs, ours:
        giver, size = Giver(theirs), 16 << 20
        origin = Origin("tk_1", "one", (Permit(((101, 101),)),), (), "127.0.0.1", "req_1")
        stream = OutputStream(Feed(ours, "ex_1", origin), "stdout", ((0, size),), ExitStack())
        flow = wire.carry(stream, Counted(size))
        pump.take(flow)
        until(lambda: PIECE < pump._held == flow.held <= 2 * PIECE and giver.given == giver.asked)
        left = len(b"head") + size
        while left:
            left -= len(wire.theirs.recv(left))
        until(lambda: len(pump) == 0)
        pump.stop()
    assert pump._held == 0


def test_stop_without_any_flow() -> None:
    """A pump that never carried anything has no thread to stop."""
    Pump(limit=1, log=logging.getLogger(), done=lambda *_: None).stop()


def test_leaving_after_the_last_byte_is_no_leaving(wire: Wire) -> None:
    """A client that closes as soon as it has its Content-Length has got a complete reply."""
    live = Pieces(wire.tell, 10, 3)
    flow = wire.carry(live, Counted(10))
    assert flow.advance() is Turn.COMPLETE
    flow.notice(select.EPOLLRDHUP)
    assert flow.advance() is Turn.COMPLETE


@pytest.mark.parametrize("size", [1, 16384, 16385, 1 << 20])
def test_chunks(size: int) -> None:
    """Small chunks in one part, large ones without a copy; the end is an empty one."""
    piece = bytes(size)
    parts = Chunked().wrap(piece)
    assert b"".join(parts) == b"%x\r\n%b\r\n" % (size, piece)
    assert size <= 16384 or parts[1] is piece
    assert Chunked().finish() == [b"0\r\n\r\n"]


def test_counted() -> None:
    """A counted body is full at its length, may not go over it, nor end before."""
    framing = Counted(5)
    framing.wrap(b"abc")
    with pytest.raises(ValueError, match="lacks 2 bytes"):
        framing.finish()
    with pytest.raises(ValueError, match="more bytes"):
        framing.wrap(b"def")
    assert not framing.full
    framing.wrap(b"de")
    assert framing.full and framing.finish() == []
