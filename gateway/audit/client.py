"""The blocking client, for web's threads: one record, one receipt, or AuditUnavailable within the timeout."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from gateway.audit.debts import Debts
from gateway.audit.parts import Part
from gateway.audit.protocol import (
    DEFAULT_TIMEOUT,
    GOODBYE,
    FrameBuffer,
    FrameError,
    NotRead,
    Receipt,
    encode_frame,
    read_error,
    read_receipt,
)
from gateway.audit.record import ANNOUNCEMENTS, Event, build_aborted
from gateway.audit.search import Page, Query
from gateway.errors import AuditUnavailable, InternalError

_MAX_IDLE = 8
_TAKING_BACK = frozenset(event for event in Event if event.endswith(":aborted"))


class AuditClient:
    """Safe in many threads, and across fork. Keeps a few idle connections.

    A connection that failed in any way, or whose answer came too late, is closed and never used again, so no
    caller can get another's receipt.
    """

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._lock = threading.Lock()
        self._idle: list[_Connection] = []
        self._pid = os.getpid()
        self._closed = False
        self._debts = Debts(self._pay)

    def commit(self, record: Mapping[str, Any], timeout: float = DEFAULT_TIMEOUT) -> Receipt:
        """Wait until `record` (of `build_record`) is durable.

        Raises AuditUnavailable when that cannot be had within `timeout` seconds, and InternalError when the
        writer finds the record malformed. An `aborted` record follows an announcement whose answer never came, for it
        may be durable all the same; what is itself such a record is sent until it is durable.
        """

        def take_back() -> None:
            if record["event"] in ANNOUNCEMENTS:
                self._debts.add(build_aborted(record, "its caller had no answer in time"))

        try:
            message = {"record": record, "wait": True, "sent": time.monotonic()}
            reply = self._ask(message, timeout, on_lost=take_back)
            if reply.get("error", {}).get("unsure"):
                take_back()
            return read_receipt(reply)
        except AuditUnavailable:
            if record["event"] in _TAKING_BACK:
                self._debts.add(record)
            raise

    def ping(self, timeout: float = 1.0) -> dict[str, Any]:
        """The writer's status: `ok`, `why` not, `queued`, `last_sync_ms`, ... Raises AuditUnavailable."""
        return dict(self._ask({"op": "ping"}, timeout)["status"])

    def head(self, timeout: float = 1.0) -> dict[str, Any] | None:
        """The chain's head as `{seq, mac}`, or None before the first record. Raises AuditUnavailable."""
        head: dict[str, Any] | None = self._ask({"op": "head"}, timeout)["head"]
        return head

    def search(self, query: Query, timeout: float = 8.0) -> Page:
        """One page of the log. Raises AuditUnavailable when it cannot be had within `timeout` seconds."""
        page = Page()
        for reply in self._consult({"op": "search", "query": query.to_wire()}, timeout):
            if "page" in reply:
                page.next = reply["page"]["next"]
                break
            page.records.append(reply["found"])
        return page

    def verify(self, after: str | None = None, timeout: float = 8.0) -> Part:
        """What the log is like behind the cursor `after`. Raises AuditUnavailable as `search` does."""
        return Part.from_wire(next(self._consult({"op": "verify", "after": after}, timeout))["part"])

    def _consult(self, question: dict[str, Any], timeout: float) -> Iterator[dict[str, Any]]:
        """The reader's answers, as long as they are asked for. Raises AuditUnavailable; TooManyRequests."""
        deadline = time.monotonic() + timeout
        try:
            with contextlib.closing(_Connection(self._path, timeout)) as connection:
                for reply in connection.ask_many(question, deadline):
                    if "error" in reply:
                        raise read_error(reply)
                    yield reply
        except TimeoutError as exc:
            raise AuditUnavailable("the audit reader does not answer") from exc
        except (OSError, FrameError) as exc:
            raise AuditUnavailable(f"cannot reach the audit reader: {exc}") from exc

    def post(self, record: Mapping[str, Any]) -> None:
        """Have `record` written as soon as can be, without waiting: an outcome. At most 1,000 wait (audit.debts)."""
        self._debts.add(record)

    def settle(self, timeout: float) -> bool:
        """Whether all that had to be taken back was durable within `timeout` seconds."""
        return self._debts.settle(timeout)

    def close(self) -> None:
        """What had to be taken back and is not yet durable stays undone, so `settle` first."""
        self._debts.drop()
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _pay(self, record: Mapping[str, Any]) -> bool:
        try:
            reply = self._ask({"record": record, "wait": False}, DEFAULT_TIMEOUT)
        except AuditUnavailable:
            return False
        return "receipt" in reply or isinstance(read_error(reply), InternalError)

    def _ask(
        self, message: dict[str, Any], timeout: float, on_lost: Callable[[], None] | None = None
    ) -> dict[str, Any]:
        """`on_lost` is called when there is no answer to what may have been sent."""
        deadline = time.monotonic() + timeout
        connection: _Connection | None = None
        reply: dict[str, Any] | None = None
        try:
            while reply is None:
                connection = self._take_idle() or _Connection(self._path, timeout)
                try:
                    reply = connection.ask(message, deadline)
                except NotRead:
                    connection.close()
                    connection = None
        except TimeoutError as exc:
            _close(connection)
            raise AuditUnavailable("the audit writer does not answer") from exc
        except (OSError, FrameError) as exc:
            _close(connection)
            raise AuditUnavailable(f"cannot reach the audit writer: {exc}") from exc
        except BaseException:
            _close(connection)
            raise
        finally:
            if reply is None and connection is not None and on_lost is not None:
                on_lost()
        assert connection is not None
        self._put_back(connection)
        return reply

    def _take_idle(self) -> _Connection | None:
        with self._lock:
            if self._pid != os.getpid():
                self._pid, self._idle = os.getpid(), []
            while self._idle:
                connection = self._idle.pop()
                if connection.is_quiet():
                    return connection
                connection.close()
        return None

    def _put_back(self, connection: _Connection) -> None:
        with self._lock:
            if len(self._idle) < _MAX_IDLE and not self._closed:
                self._idle.append(connection)
                return
        connection.close()


class _Connection:
    def __init__(self, path: str, timeout: float) -> None:
        self._frames = FrameBuffer()
        self._last_id = 0
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._sock.settimeout(timeout)
            self._sock.connect(path)
        except BaseException:
            self._sock.close()
            raise

    def ask(self, message: dict[str, Any], deadline: float) -> dict[str, Any]:
        return next(self.ask_many(message, deadline))

    def ask_many(self, message: dict[str, Any], deadline: float) -> Iterator[dict[str, Any]]:
        """The answers to one question, as they come. Raises NotRead when the writer left without having written it."""
        self._last_id += 1
        self._limit(deadline)
        frame = encode_frame({"id": self._last_id, **message})
        try:
            self._sock.sendall(frame)
        except (BrokenPipeError, ConnectionResetError) as exc:  # the writer has left, and half a frame is none
            raise NotRead from exc
        while True:
            self._limit(deadline)
            data = self._sock.recv(65536)
            if not data:
                raise ConnectionResetError("the connection was closed")
            for reply in self._frames.feed(data):
                if reply == GOODBYE:
                    raise NotRead
                if reply.get("id") != self._last_id:
                    raise FrameError("an answer to another question")
                yield reply

    def is_quiet(self) -> bool:
        """Nothing to read: neither EOF nor an answer nobody waits for."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        self._sock.close()

    def _limit(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)


def _close(connection: _Connection | None) -> None:
    if connection is not None:
        connection.close()
