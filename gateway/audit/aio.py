"""The asyncio client, for the supervisor: one pipelined connection, intents taken back when nobody acted on
them, outcomes kept until they are durable."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.audit.keys import Redactor
from gateway.audit.protocol import (
    DEFAULT_TIMEOUT,
    GOODBYE,
    Code,
    FrameBuffer,
    FrameError,
    NotRead,
    Receipt,
    encode_frame,
    read_error,
)
from gateway.audit.record import ANNOUNCEMENTS, MAX_BYTES, Fields, bound_record, build_aborted, canonical
from gateway.audit.unfinished import Unfinished
from gateway.errors import AuditUnavailable, GatewayError

MAX_POSTED = 10_000
_MAX_UNSENT_BYTES = 4 << 20
_MAX_UNANSWERED = 4096
_RETRY_SECONDS = 0.2
_CONNECT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Owed:
    """A record that is still to be written, and the change that is finished with it."""

    record: Mapping[str, Any]
    change: Unfinished | None

    def settle(self) -> None:
        """Nothing is owed any more."""
        if self.change is not None:
            self.change.close()


@dataclass(slots=True)
class _Pending:
    """A record without an answer. `caller` is None for a posted one; a caller who gave up is `done`."""

    owed: Owed
    caller: asyncio.Future[Receipt] | None


class AsyncAuditClient:
    """Belongs to one event loop. Connects when needed, and again after the writer went away.

    `redactor` cuts records that are too large for the log as the writer would.
    """

    def __init__(self, path: Path, redactor: Redactor) -> None:
        self._path = str(path)
        self._redactor = redactor
        self._link: _Link | None = None
        self._connecting = asyncio.Lock()
        self._pending: dict[int, _Pending] = {}
        self._last_id = 0
        self._unsent: deque[Owed] = deque()
        self._posted = 0
        self._closed = False
        self._sender: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()
        self._settled.set()

    async def commit(
        self, record: Mapping[str, Any], timeout: float = DEFAULT_TIMEOUT, *, change: Unfinished | None = None
    ) -> Receipt:
        """Wait until `record` (of `build_record`) is durable; after that the announced act may be done.

        Raises AuditUnavailable when that cannot be had within `timeout` seconds, and InternalError when the
        record is malformed. Then, and when the caller is cancelled, an `aborted` record follows an intent
        that is durable all the same, and `change` is closed: with that record, should it be needed.
        """
        owed = Owed(record, change)
        began = time.monotonic()
        while True:
            with contextlib.suppress(NotRead):
                return await self._commit(owed, began, timeout)

    async def _commit(self, owed: Owed, began: float, timeout: float) -> Receipt:
        """By the writer of now. Raises NotRead when that left without having written it: another may take it."""
        caller: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        try:
            if self._link is None:
                await self._connect(max(0.0, timeout - (time.monotonic() - began)))
            self._send(owed, caller, sent=began)
        except BaseException:
            owed.settle()
            raise
        left = timeout - (time.monotonic() - began)
        timer = asyncio.get_running_loop().call_later(left, _refuse, caller, "the audit writer does not answer")
        try:
            return await caller
        except asyncio.CancelledError:
            if not caller.cancelled():  # else what is pending knows of it
                self._left_with(owed, caller.exception())
            raise
        finally:
            timer.cancel()

    def post(self, record: Mapping[str, Any], change: Unfinished | None = None) -> None:
        """Have `record` written as soon as can be, over failures and restarts of the writer, without waiting, and
        `change` closed when it is: who dies before leaves both undone.

        Written once, but for a writer that dies between its disk and its answer. Raises AuditUnavailable when
        10,000 records are waiting already, and ValueError for what is no JSON; then `change` stays in hand.
        """
        if self._posted >= MAX_POSTED:
            raise AuditUnavailable(f"{MAX_POSTED} records wait for the audit writer already")
        owed = Owed(record, change)
        if self._link is not None and not self._unsent and self._link.has_room(self._pending):
            self._send(owed, None)
            self._count_posted(1)
        else:
            canonical(record)
            self._post_later(owed)

    async def flush(self, timeout: float) -> bool:
        """Whether every posted record was durable within `timeout` seconds."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._settled.wait(), timeout)
        return self._settled.is_set()

    @property
    def unanswered(self) -> bool:
        """Whether the writer has a record in hand that was posted, and would be posted again without its answer, or one
        that nobody waits for any more, and is to be taken back at its answer."""
        return any(entry.caller is None or entry.caller.done() for entry in self._pending.values())

    def unsettled(self) -> list[Owed]:
        """What was posted and has no answer yet, for a successor of this process to post."""
        return [*(entry.owed for entry in self._pending.values() if entry.caller is None), *self._unsent]

    async def close(self) -> None:
        """Drop the connection; posted records without a receipt are lost, so `flush` first. Their changes stay open."""
        if self._sender:
            self._sender.cancel()
            await asyncio.gather(self._sender, return_exceptions=True)
        self._closed = True
        self._unsent.clear()
        self._pending.clear()
        if self._link:
            self._link.close()

    # -- sending

    async def _connect(self, timeout: float) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout), self._connecting:
                if self._link is None:
                    _, self._link = await loop.create_unix_connection(lambda: _Link(self), self._path)
        except OSError as exc:
            raise AuditUnavailable(f"cannot reach the audit writer: {exc.strerror or 'no answer'}") from exc

    def _send(self, owed: Owed, caller: asyncio.Future[Receipt] | None, sent: float | None = None) -> None:
        link = self._link
        if link is None or not link.has_room(self._pending):
            raise AuditUnavailable("the audit writer does not answer")
        self._last_id += 1
        message = {"id": self._last_id, "record": owed.record, "wait": caller is not None, "sent": sent}
        link.write(self._encode(message))
        self._pending[self._last_id] = _Pending(owed, caller)

    def _encode(self, message: Fields) -> bytes:
        with contextlib.suppress(FrameError):
            frame = encode_frame(message)
            if len(frame) <= MAX_BYTES:
                return frame
        return encode_frame({**message, "record": bound_record(message["record"], self._redactor)})

    def _post_later(self, owed: Owed) -> None:
        self._count_posted(1)
        self._resend(owed)

    def _count_posted(self, change: int) -> None:
        self._posted += change
        if self._posted:
            self._settled.clear()
        else:
            self._settled.set()

    def _resend(self, owed: Owed, pause: float = 0.0) -> None:
        self._unsent.append(owed)
        if not self._closed and (self._sender is None or self._sender.done()):
            self._sender = asyncio.get_running_loop().create_task(self._send_unsent(pause))

    async def _send_unsent(self, pause: float) -> None:
        """Until all is sent: connect, send, and pause after a failure."""
        await asyncio.sleep(pause)
        while self._unsent:
            try:
                await self._connect(_CONNECT_SECONDS)
                while self._unsent:
                    self._send(self._unsent[0], None)
                    self._unsent.popleft()
            except AuditUnavailable:
                await asyncio.sleep(_RETRY_SECONDS)

    # -- answers, called by the link

    def on_reply(self, reply: Fields) -> None:
        pending = self._pending.pop(reply.get("id", 0), None)
        if pending is None:
            return
        if "receipt" in reply:
            self._on_receipt(pending, Receipt(**reply["receipt"]))
        else:
            self._on_error(pending, read_error(reply), reply)

    def on_lost(self, *, said_goodbye: bool) -> None:
        """What was posted is sent again. Of the others nobody knows whether they are in the log, unless the writer has
        said goodbye: then those without an answer are not, and their callers send them to the next one."""
        self._link = None
        pending, self._pending = list(self._pending.values()), {}
        for entry in pending:
            if entry.caller is None:
                self._resend(entry.owed)
            elif not said_goodbye:
                _refuse(entry.caller, "the connection to the audit writer was lost")
                self._take_back(entry.owed)
            elif entry.caller.done():
                entry.owed.settle()
            else:
                entry.caller.set_exception(NotRead())

    def _on_receipt(self, pending: _Pending, receipt: Receipt) -> None:
        if pending.caller is None:
            self._count_posted(-1)
            pending.owed.settle()
        elif pending.caller.done():
            self._take_back(pending.owed)
        else:
            pending.caller.set_result(receipt)

    def _on_error(self, pending: _Pending, error: GatewayError, reply: Fields) -> None:
        if pending.caller is not None:
            if not pending.caller.done():
                pending.caller.set_exception(error)
            if reply["error"].get("unsure"):
                self._take_back(pending.owed)
            else:
                pending.owed.settle()
        elif reply["error"]["code"] == Code.INVALID_RECORD:
            self._count_posted(-1)
            pending.owed.settle()
            asyncio.get_running_loop().call_exception_handler({"message": error.detail, "exception": error})
        else:
            self._resend(pending.owed, pause=_RETRY_SECONDS)

    def _left_with(self, owed: Owed, error: BaseException | None) -> None:
        """Its caller has left at the moment of its answer."""
        if error is None:
            self._take_back(owed)
        elif isinstance(error, NotRead):
            owed.settle()

    def _take_back(self, owed: Owed) -> None:
        if owed.record["event"] in ANNOUNCEMENTS:
            self._post_later(Owed(build_aborted(owed.record, "its caller had no answer in time"), owed.change))
        else:
            owed.settle()


class _Link(asyncio.Protocol):
    """One connection to the writer."""

    def __init__(self, client: AsyncAuditClient) -> None:
        self._client = client
        self._frames = FrameBuffer()
        self._transport: asyncio.Transport | None = None
        self._said_goodbye = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            for reply in self._frames.feed(data):
                self._said_goodbye = self._said_goodbye or reply == GOODBYE
                self._client.on_reply(reply)
        except FrameError:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if isinstance(exc, OSError):  # found by writing: the last answers may wait to be read still
            self._read_the_last()
        self._transport = None
        self._client.on_lost(said_goodbye=self._said_goodbye)

    def _read_the_last(self) -> None:
        assert self._transport is not None
        with contextlib.suppress(OSError):
            fd = self._transport.get_extra_info("socket").fileno()
            while data := os.read(fd, 65536):
                self.data_received(data)

    def has_room(self, pending: Mapping[int, object]) -> bool:
        """False once the writer has left too much unread or unanswered."""
        return (
            self._transport is not None
            and len(pending) < _MAX_UNANSWERED
            and self._transport.get_write_buffer_size() < _MAX_UNSENT_BYTES
        )

    def write(self, frame: bytes) -> None:
        assert self._transport is not None
        self._transport.write(frame)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def _refuse(caller: asyncio.Future[Receipt], detail: str) -> None:
    if not caller.done():
        caller.set_exception(AuditUnavailable(detail))
