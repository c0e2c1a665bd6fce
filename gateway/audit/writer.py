"""The audit writer process: takes records over a unix socket and answers with receipts.

Two threads. This one owns the sockets and never touches the disk, so it can always say no; the committing
thread owns the log and may hang with it. Run it with `python -m gateway.audit <settings as JSON>`.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

from gateway.audit.anchor import Anchors
from gateway.audit.committer import Committer
from gateway.audit.keys import load_keys
from gateway.audit.listener import listen
from gateway.audit.log import AuditLog
from gateway.audit.logfile import lock_directory
from gateway.audit.protocol import GOODBYE, MAX_FRAME, Code, FrameBuffer, FrameError, Receipt, encode_frame
from gateway.audit.queue import Entry, Refusal
from gateway.audit.reading import ReaderProcess
from gateway.audit.record import check_fields
from gateway.audit.retention import Limits, WhenFull
from gateway.audit.settings import AuditSettings
from gateway.audit.sinks import make_sinks
from gateway.notify import ALIVE, READY, alive_every, notify

MAX_PEERS = 128
_FOR_ROOT = 16
"""Of them, places that no service user takes: the supervisor always gets one."""
_MAX_UNSENT = 1 << 20
_TICK = 0.1


def run_writer(settings: AuditSettings, sync: Callable[[int], None] = os.fdatasync) -> None:
    """Serve until SIGTERM or SIGINT, then finish the queue, anchor and return.

    Raises ConfigError without a usable key, AuditUnavailable when another writer has the directory, OSError
    when the socket cannot be had. An unusable disk is not an error here: callers hear of it, and the
    writer goes on by itself once the disk is back.
    """
    keys = load_keys(settings.key_file)
    lock = lock_directory(settings.directory)
    wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    sinks = make_sinks(settings.journal_socket if settings.journal_copies else None, settings.syslog)
    limits = Limits(
        rotate_bytes=settings.rotate_bytes,
        max_bytes=settings.max_bytes,
        keep_days=settings.keep_days,
        when_full=WhenFull(settings.when_full),
    )
    log = AuditLog(settings.directory, keys, limits=limits, publish=sinks.offer, sync=sync)
    committer = Committer(
        log,
        Anchors(
            settings.journal_socket,
            keys.anchor,
            every_records=settings.anchor_records,
            every_seconds=settings.anchor_seconds,
        ),
        sinks,
        wake=lambda: os.eventfd_write(wake, 1),
    )
    listener, reader = listen(settings.socket), ReaderProcess(settings)
    server = _Server(listener, committer, reader, wake, {0, *settings.allowed_uids})
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    thread = threading.Thread(target=committer.run, name="committer", daemon=True)
    thread.start()
    notify(READY)
    server.serve()
    notify("STOPPING=1")
    server.read_the_last()
    committer.stop()
    thread.join()
    server.close()
    committer.close()
    reader.close()
    os.close(lock)


class _Peer:
    """One connection: what has come in of a frame, what has not gone out yet."""

    __slots__ = ("closed", "frames", "sock", "uid", "unsent")

    def __init__(self, sock: socket.socket, uid: int) -> None:
        self.sock = sock
        self.uid = uid
        self.frames = FrameBuffer()
        self.unsent = bytearray()
        self.closed = False


class _Server:
    def __init__(
        self,
        listener: socket.socket,
        committer: Committer,
        reader: ReaderProcess,
        wake: int,
        allowed_uids: set[int],
    ) -> None:
        self._listener = listener
        self._committer = committer
        self._reader = reader
        self._wake = wake
        self._allowed_uids = allowed_uids
        self._peers: set[_Peer] = set()
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        self._selector.register(wake, selectors.EVENT_READ, self._deliver)
        self._stopping = False
        self._said_alive = 0.0

    def stop(self) -> None:
        """From the signal handler: the eventfd ends the wait."""
        self._stopping = True
        os.eventfd_write(self._wake, 1)

    def serve(self) -> None:
        every = alive_every()
        while not self._stopping:
            timeout = _TICK if self._committer.has_waiting else every
            if every is not None and time.monotonic() - self._said_alive >= every / 2:
                self._said_alive = time.monotonic()
                notify(ALIVE)
            for key, events in self._selector.select(timeout):
                if isinstance(key.data, _Peer):
                    self._attend(key.data, events)
                else:
                    key.data()
            if self._committer.has_waiting:
                self._answer(self._committer.expire())

    def read_the_last(self) -> None:
        """Take what peers have sent by now, once: they get an answer before they are left."""
        for peer in list(self._peers):
            self._attend(peer, selectors.EVENT_READ)

    def close(self) -> None:
        """Hand out the last receipts, and say that what has none is not written. An answer that does not fit into its
        socket now is lost with it."""
        self._deliver()
        for peer in list(self._peers):
            self._send(peer, GOODBYE)
            self._drop(peer)
        self._selector.close()
        self._listener.close()

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        sock.setblocking(False)
        _pid, uid, _gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid not in self._allowed_uids or not self._has_place(uid):
            sock.close()
            return
        peer = _Peer(sock, uid)
        self._peers.add(peer)
        self._selector.register(sock, selectors.EVENT_READ, peer)

    def _has_place(self, uid: int) -> bool:
        others = sum(peer.uid != 0 for peer in self._peers)
        return len(self._peers) < MAX_PEERS and (uid == 0 or others < MAX_PEERS - _FOR_ROOT)

    def _attend(self, peer: _Peer, events: int) -> None:
        if events & selectors.EVENT_READ and not peer.closed:
            self._receive(peer)
        if events & selectors.EVENT_WRITE and not peer.closed:
            self._flush(peer)

    def _receive(self, peer: _Peer) -> None:
        try:
            data = peer.sock.recv(MAX_FRAME)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(peer)
            return
        try:
            for message in peer.frames.feed(data):
                self._take(peer, message)
        except FrameError:
            self._drop(peer)

    def _take(self, peer: _Peer, message: dict[str, Any]) -> None:
        """Act on one message. Raises FrameError when it is none of ours."""
        if peer.closed:
            return
        if not isinstance(message.get("id"), int):
            raise FrameError("no id")
        if "record" in message:
            self._take_record(peer, message)
        elif message.get("op") == "ping":
            self._send(peer, {"id": message["id"], "status": self._committer.status()})
        elif message.get("op") == "head":
            head = self._committer.head()
            found = {"seq": head.seq, "mac": head.mac} if head else None
            self._send(peer, {"id": message["id"], "head": found})
        elif message.get("op") == "search":
            self._hand_over(peer, {"id": message["id"], "query": message.get("query")})
        elif message.get("op") == "verify":
            head = self._committer.head()
            found = {"seq": head.seq, "mac": head.mac} if head else None
            self._hand_over(peer, {"id": message["id"], "verify": {"after": message.get("after"), "head": found}})
        else:
            raise FrameError("unknown message")

    def _hand_over(self, peer: _Peer, asked: dict[str, Any]) -> None:
        """The reader answers, on this connection, which is its own from now on."""
        question = json.dumps(asked).encode()
        if len(question) > MAX_FRAME:
            refusal = {"code": Code.INVALID_RECORD, "detail": "not a query: it is too long"}
            self._send(peer, {"id": asked["id"], "error": refusal})
            return
        if not peer.unsent and self._reader.hand_over(peer.sock, question):
            self._drop(peer)
            return
        error = {"code": Code.UNAVAILABLE, "detail": "the audit reader takes no more questions now"}
        self._send(peer, {"id": asked["id"], "error": error})

    def _take_record(self, peer: _Peer, message: dict[str, Any]) -> None:
        now, sent = time.monotonic(), message.get("sent")
        entry = Entry(
            fields={},
            size=0,
            wait=message.get("wait") is True,
            sent=sent if isinstance(sent, float) and sent < now else now,
            owner=peer,
            id=message["id"],
        )
        try:
            fields, entry.size = check_fields(message["record"])
        except ValueError as exc:
            self._answer([(entry, Refusal(Code.INVALID_RECORD, str(exc)))])
            return
        entry.fields = {**fields, "peer": peer.uid}
        refusal = self._committer.submit(entry)
        if refusal:
            self._answer([(entry, refusal)])

    def _deliver(self) -> None:
        """Send what the committing thread has finished."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        self._answer(self._committer.take_answers())

    def _answer(self, answers: list[tuple[Entry, Receipt | Refusal]]) -> None:
        for entry, answer in answers:
            peer: _Peer = entry.owner
            if isinstance(answer, Refusal):
                error = {"code": answer.code, "detail": answer.detail, "unsure": answer.unsure}
                self._send(peer, {"id": entry.id, "error": error})
                continue
            receipt = {"audit_id": answer.audit_id, "seq": answer.seq, "mac": answer.mac}
            if not self._send(peer, {"id": entry.id, "receipt": receipt}):
                self._committer.take_back(entry)

    def _send(self, peer: _Peer, message: dict[str, Any]) -> bool:
        """Whether the peer is still there to get it."""
        if not peer.closed:
            peer.unsent += encode_frame(message)
            self._flush(peer)
        return not peer.closed

    def _flush(self, peer: _Peer) -> None:
        try:
            sent = peer.sock.send(peer.unsent)
            del peer.unsent[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self._drop(peer)
            return
        if len(peer.unsent) > _MAX_UNSENT:
            self._drop(peer)
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.unsent else 0)
        if self._selector.get_key(peer.sock).events != events:
            self._selector.modify(peer.sock, events, peer)

    def _drop(self, peer: _Peer) -> None:
        if not peer.closed:
            peer.closed = True
            self._peers.discard(peer)
            self._selector.unregister(peer.sock)
            peer.sock.close()
            self._committer.withdraw(peer)
