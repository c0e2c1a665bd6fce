"""Terminal: an exec over a WebSocket, subprotocol `pvex.v1`; the protocol is written down here.

GET /exec/{vmid}/terminal starts an exec and holds it; GET /execs/{id}/attach follows one that exists, and with
`?write=1` is the one client that may feed it. `?from=` begins behind a cursor that was seen, `?window=` is below.

**Binary messages** carry bytes: `[channel: u8][offset: u64, big-endian][payload]`, at most 1 MiB of payload. Channels
are 0 stdin (client to server), 1 stdout, 2 stderr; with `tty` all output is stdout. `offset` counts the bytes of
that stream from the exec's beginning. Input that was sent before is skipped, so it may be sent again after a cut.

**Text messages** are JSON objects with a `type`. From the client, 4 KiB at most but for `start`, which has 1 MiB:

    {"type": "start", "command": ..., "tty": {"rows": 24, "cols": 80}, ..., "window": 262144}
        first on a terminal, within 10 s, and never on attach: the fields of POST /exec/{vmid}; without `tty` stdout
        and stderr are two streams, and input is closed unless `stdin_open`. With an `idempotency_key`, or the header
        Idempotency-Key, it may be sent again: it holds what the first one began, from its first byte on.
    {"type": "ack", "cursor": 8192}             all output before this place has been dealt with
    {"type": "resize", "rows": 50, "cols": 132}
    {"type": "signal", "signal": "INT", "to": "command"}     by name or number; `to` may be "tree"
    {"type": "stdin_eof"}                       no input follows; a terminal takes it for Ctrl-D

and from the server:

    {"type": "started", "exec": {...}, "cursor": 0, "replayed": false}     first; output begins behind `cursor`
    {"type": "ack", "offset": 4096}             input has been taken up to here and goes on here; one comes at once
    {"type": "gap", "stream": "stdout", "offset": 512, "bytes": 64, "cursor": 576}    bytes that were not kept
    {"type": "error", "code": ..., "detail": ...}     a refusal, as an HTTP problem; the exec goes on untouched
    {"type": "end", "reason": "exited", "exit_code": 0, "signal": null, "exec": {...}}      last, then close 1000

A **cursor** is a place in all output of the exec: bytes of both streams, in the order of their coming (`seq` of an
event is the same). A client counts it itself: what `started` says, and the size of every payload and gap since.

**Flow.** Output: with a `window` at most that many bytes are sent beyond the last `ack` (browsers cannot stop reading);
without one TCP alone says how fast. Input: a client keeps at most 1 MiB beyond the server's last `ack`. One that
sends more is not read until there is room again, its own `ack` messages neither.

**Keep-alive.** When nothing has moved for 20 s the server sends a ping, then another; 20 s after the second it takes
the client for gone. `web.terminal_idle` (default: never) closes a connection over which no input or output went.

**Leaving.** A client that closes, or is gone, has left: what becomes of the exec that it started is said by
`on_disconnect`. An attached client's leaving changes nothing. A client whose token is revoked has left; one whose
token has lost grants is cut, and may attach again as far as they reach. When the gateway's web process ends (1001), or
fails (4503, 1011), no client has left: attach again.

**Close codes.** The reason is a problem's code; an `error` message with its detail comes before it, where it is one.
A refusal has 4000 plus the HTTP status that the same problem has elsewhere.

    1000  the exec has ended: `end` was sent     1002, 1007  not WebSocket          1009  a message is over its limit
    1001  the gateway's web service restarts: attach again with `from`, the exec goes on
    4400  no JSON, no such message or channel    4404  no such exec or guest        4408  no `start` in time, or idle
    4401  the token has ended                4403  the command is not granted
    4409  idempotency_conflict; writer_taken; guest_not_running, guest_frozen;
          exec_queued, exec_ended, stdin_closed on attach with write
    4416  `from` is past the end of the output   4422  `start` has wrong fields     4429  too many execs or starts
    4503  the supervisor or the audit log is away     1011  a fault of the gateway: attach again with `from`

Before the upgrade a refusal is an HTTP problem: 401, 404, 426 for what asks for no WebSocket of version 13, 400
without the subprotocol, 403 for an Origin that is neither the request's own nor in `web.allowed_origins`, and for
`write` by a token that has been limited to other commands since. A browser
authenticates by a one-use ticket (POST /tickets): a second subprotocol `pvex.ticket.<ticket>`, or `?ticket=`.

Why not simple-websocket: it blocks a thread for each connection and another for reading, and both use one SSL object;
the pump drives all connections from one thread. wsproto, on which it is built, does the framing here too.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from contextlib import ExitStack

from gateway.api.terminal_frames import (
    Ack,
    Resize,
    Signal,
    parse_control,
    parse_input,
    show_end,
    show_error,
    show_gap,
    show_output,
    show_started,
)
from gateway.api.terminal_input import Input, Requests
from gateway.api.terminal_output import Output
from gateway.api.terminal_socket import Binary, Text, Violation, WebSocket
from gateway.api.terminal_start import Opening, Session
from gateway.errors import Forbidden, GatewayError, InternalError, MalformedRequest, StdinClosed
from gateway.exec.reply import GapEvent
from gateway.web.live import Live

START_SECONDS = 10.0
"""How long a client may take to say what to start."""
_TIMEOUT = 4408

log = logging.getLogger(__name__)


class Terminal(Live):
    """One client's WebSocket: it waits for `start`, then for the exec to begin, then for what happens.

    Made for an exec that is there already it has a `session`; else `start` begins what the first message asks for.
    `holds` gives back what is held for the client. `idle`: seconds without input or output until it is closed.
    """

    upgrades = True

    def __init__(
        self,
        head: bytes,
        holds: ExitStack,
        *,
        session: Session | None = None,
        start: Callable[[bytes], Opening] | None = None,
        idle: float | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._socket = WebSocket(head, monotonic)
        self._holds = holds
        self._session = session
        self._start = start
        self._opening: Opening | None = None
        self._output: Output | None = None
        self._input = Input()
        self._requests = Requests()
        self._idle = idle or math.inf
        self._sending = False
        """Whether the client may not have taken yet what was produced last."""
        self._monotonic = monotonic
        self._active_at = monotonic()
        """When input or output went last; before `start` came, when the connection began."""

    # ---- the pump's side

    def sources(self) -> tuple[int, ...]:
        if self._opening is not None:
            return (self._opening.fd,)
        if self._session is None:
            return ()
        output = None if self._sending else self._session.output
        feeds = (output, self._session.stdin, self._session.requests)
        return tuple(feed.fd for feed in feeds if feed is not None and feed.asked)

    def produce(self) -> bytes | None:
        self._guard(self._advance)
        self._guard(self._send_output)
        data = self._socket.take()
        self._sending = bool(data)
        if data:
            return data
        return None if self._socket.over else b""

    def receive(self, data: bytes) -> None:
        if data:
            self._socket.receive(data)
        self._guard(self._advance)

    def wants_input(self) -> bool:
        return self._reads and not self._socket.behind

    def wake_at(self) -> float:
        if self._reads and self._socket.behind:
            return 0.0
        return min(self._socket.wake_at, self._give_up_at)

    def refuse(self, error: GatewayError) -> None:
        self._fail(error)

    def gone(self) -> None:
        self._let_go(left=True)

    def stop(self) -> bool:
        self._end(1001, "going_away", left=False)
        return True

    def close(self) -> None:
        self._let_go(left=False)
        self._holds.close()

    # ---- what goes on

    def _guard(self, step: Callable[[], None]) -> None:
        """One step; what it raises becomes the client's close code."""
        try:
            step()
        except Violation as violation:
            self._end(violation.code, violation.reason, left=True)
        except GatewayError as error:
            self._fail(error)
        except Exception:
            log.exception("%s: its terminal failed", self.caller)
            self._fail(InternalError("a fault of the gateway; its log tells more"))

    def _advance(self) -> None:
        self._begin()
        self._hand_on()
        self._read()
        self._hand_on()
        if self._output is not None and not self._input.waiting:  # who may not write is told that, and no `end`
            self._output.ask()
        if not self._reads:
            self._socket.note_life()  # it may have answered: it is not read
        self._socket.keep_alive()
        if self._socket.left:
            self._let_go(left=True)
        elif self._monotonic() >= self._give_up_at:
            self._end(_TIMEOUT, "idle" if self._start is None else "request_timeout", left=True)

    @property
    def _reads(self) -> bool:
        """Whether there is room for what the client says."""
        full = self._input.full or self._requests.full or self._socket.crowded
        return self._socket.closing or not full

    @property
    def _give_up_at(self) -> float:
        if self._socket.closing or self._opening is not None:
            return math.inf
        return self._active_at + (self._idle if self._start is None else START_SECONDS)

    def _begin(self) -> None:
        """Makes of an opening a session, and of a session what works on it."""
        if self._opening is not None and (session := self._opening.take()) is not None:
            self._session = session
            self._opening.close()
            self._opening = None
        if self._session is None or self._output is not None:
            return
        session = self._session
        self._active_at = self._monotonic()
        self._socket.send_text(show_started(session.view, session.cursor, replayed=session.replayed))
        self._output = Output(session.output, session.cursor, session.window)
        if session.stdin is not None:
            self._input.open(session.stdin, own=session.attended)
        elif self._input.queue:
            self._input.queue.drop()
            self._socket.send_text(show_error(_closed_input()))
        if session.requests is not None:
            self._requests.open(session.requests)

    def _hand_on(self) -> None:
        for text in (*self._input.advance(), *self._requests.advance()):
            self._socket.send_text(text)

    def _read(self) -> None:
        while self._reads and (message := self._socket.next_message()) is not None:
            if self._start is not None:
                if isinstance(message, Binary):
                    raise MalformedRequest("the first message is `start`")
                self._opening = self._start(message.data)
                self._start = None
                continue
            try:
                self._obey(message)
            except MalformedRequest:
                raise
            except GatewayError as refusal:
                self._socket.send_text(show_error(refusal))

    def _obey(self, message: Text | Binary) -> None:
        """Does what the client says. Raises MalformedRequest, and refusals after which all goes on."""
        session = self._session
        control = None if isinstance(message, Binary) else parse_control(message.data)
        if isinstance(control, Ack):
            if self._output is not None:
                self._output.ack(control.cursor)
            return
        if session is not None and session.requests is None:
            raise Forbidden("this connection only reads: attach with `write=1`")
        if isinstance(control, Resize | Signal):
            self._requests.put(control)
        elif session is not None and session.stdin is None:
            raise _closed_input()
        elif isinstance(message, Binary):
            self._input.queue.put(*parse_input(message.data))
            self._active_at = self._monotonic()
        else:
            self._input.queue.end()

    def _send_output(self) -> None:
        if self._output is None or self._socket.crowded or (batch := self._output.take()) is None:
            return
        for event in batch.events:
            self._active_at = self._monotonic()
            if isinstance(event, GapEvent):
                self._socket.send_text(show_gap(event))
            else:
                self._socket.send_binary(show_output(event))
        if batch.ended:
            self._socket.send_text(show_end(batch))
            self._end(1000, batch.view["reason"] or "", left=False)

    # ---- how it ends

    def _fail(self, error: GatewayError) -> None:
        ours = error.status >= 500
        if ours:
            log.warning("%s: its terminal was closed: %s: %s", self.caller, error.code, error.detail)
        self._socket.send_text(show_error(error))
        self._end(1011 if error.status == 500 else 4000 + error.status, error.code, left=not ours)

    def _end(self, code: int, reason: str, *, left: bool) -> None:
        self._socket.close(code, reason)
        self._let_go(left=left)

    def _let_go(self, *, left: bool) -> None:
        """Gives back exec and start; `left`: the client has done with them, or is to be taken so. Not by our fault."""
        for held in (self._opening, self._session):
            if held is not None:
                if left:
                    held.leave()
                held.close()
        self._opening = self._session = self._output = None
        self._input, self._requests, self._start = Input(), Requests(), None


def _closed_input() -> GatewayError:
    return StdinClosed("this exec was started without an open stdin; run it with `stdin_open`", offset=0)
