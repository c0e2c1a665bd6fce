"""The web's side of the supervisor's socket: blocking calls, safe in many threads and across fork."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from pathlib import Path
from typing import Any, Protocol

from gateway.errors import ClientGone, ExecNotFound, GatewayError, InternalError, SupervisorUnavailable, from_wire
from gateway.exec.origin import Origin, within
from gateway.exec.reply import OutputSlice, RunReply
from gateway.exec.view import ExecView
from gateway.supervisor.protocol import PREFIX, ProtocolError, decode_header, encode, frame_size, split

_CONNECT_SECONDS = 2.0
_ANSWER_SECONDS = 10.0
_MAX_IDLE = 32
_READ = 1 << 20

Blobs = list[bytes]


class Readiness(Protocol):
    """What a watch saw: the supervisor's reply, or that the client has left."""

    @property
    def fd(self) -> bool: ...
    @property
    def gone(self) -> bool: ...


class Watch(Protocol):
    """Waits for a descriptor and for the client's leaving at once."""

    def wait(self, fd: int | None, timeout: float | None) -> Readiness: ...


class GuestFiles(Protocol):
    """Knows the identity of a guest's configuration."""

    def locate(self, vmid: int) -> str: ...
    def config_id(self, vmid: int) -> str | None: ...


class SupervisorClient:
    """Calls that the supervisor answers. Each raises the GatewayError that it answers with.

    An exec is not shown when its guest has been replaced by another under the same vmid since.
    """

    def __init__(self, path: Path, guests: GuestFiles) -> None:
        self._path = str(path)
        self._guests = guests
        self._lock = threading.Lock()
        self._idle: list[socket.socket] = []
        self._pid = os.getpid()

    def run(self, vmid: int, body: bytes, origin: Origin, watch: Watch | None) -> RunReply:
        """Runs the command that `body` (an ExecSpec as JSON) asks for, and waits for its end.

        Raises ClientGone when the watched client leaves first: what happens then is the request's `on_disconnect`.
        """
        config_id = self._guests.locate(vmid)
        header = {"op": "run", "origin": origin.to_wire(), "vmid": vmid, "config_id": config_id}
        reply, (stdout, stderr) = self._call(header, body, watch=watch, timeout=None)
        return RunReply(reply["exec"], stdout, stderr)

    def get(self, exec_id: str, origin: Origin, wait: float = 0) -> ExecView:
        """The exec as it stands, after at most `wait` seconds (60 at most) for its end."""
        header = {"op": "get", "origin": origin.to_wire(), "id": exec_id, "wait": float(wait)}
        reply, _ = self._call(header, timeout=wait + _ANSWER_SECONDS)
        return self._shown(reply, origin, exec_id)

    def list(
        self, origin: Origin, vmid: int | None, state: str | None, labels: dict[str, str], limit: int, after: str | None
    ) -> list[ExecView]:
        """Up to `limit` execs, newest first, all older than `after`; fewer means that there are no more."""
        header = {"op": "list", "origin": origin.to_wire(), "vmid": vmid, "state": state, "labels": labels}
        shown: list[ExecView] = []
        while True:
            reply, _ = self._call({**header, "limit": limit - len(shown), "after": after})
            for entry in reply["execs"]:
                with contextlib.suppress(ExecNotFound):
                    shown.append(self._shown(entry, origin, entry["exec"]["id"]))
            after = reply["after"]
            if after is None or len(shown) >= limit:
                return shown

    def output(self, exec_id: str, stream: str, origin: Origin, offset: int, length: int) -> OutputSlice:
        """Kept bytes of `stdout` or `stderr`, from the stream's `offset`; none inside a gap."""
        header = {"op": "output", "origin": origin.to_wire(), "id": exec_id, "stream": stream}
        reply, (data,) = self._call({**header, "offset": offset, "length": length})
        self._check_same_guest(reply["guest"], origin, exec_id)
        kept = tuple((start, end) for start, end in reply["kept"])
        return OutputSlice(data, reply["total"], kept, reply["ended"])

    def kill(self, exec_id: str, origin: Origin) -> ExecView:
        """Begins to end the exec's whole tree. Raises ExecEnded when it has ended already."""
        self.get(exec_id, origin)
        reply, _ = self._call({"op": "kill", "origin": origin.to_wire(), "id": exec_id})
        return self._shown(reply, origin, exec_id)

    def health(self) -> dict[str, Any]:
        """The supervisor's own checks."""
        reply, _ = self._call({"op": "health"}, timeout=_CONNECT_SECONDS)
        return reply

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for sock in idle:
            sock.close()

    # ---- one guest under a vmid is not the next

    def _shown(self, reply: dict[str, Any], origin: Origin, exec_id: str) -> ExecView:
        self._check_same_guest(reply["guest"], origin, exec_id)
        view: ExecView = reply["exec"]
        return view

    def _check_same_guest(self, guest: dict[str, Any], origin: Origin, exec_id: str) -> None:
        """The same run of the guest, or the same configuration file; the owner may read on after it was destroyed."""
        if guest["same_run"]:
            return
        now = self._guests.config_id(guest["vmid"])
        gone = now is None and guest["token_id"] == origin.token_id and within(guest["vmid"], origin.guests)
        if now != guest["config_id"] and not gone:
            raise ExecNotFound.for_id(exec_id)

    # ---- the wire

    def _call(
        self,
        header: dict[str, Any],
        *blobs: bytes,
        watch: Watch | None = None,
        timeout: float | None = _ANSWER_SECONDS,
    ) -> tuple[dict[str, Any], Blobs]:
        frame = encode(header, *blobs)
        sock = self._connection()
        try:
            sock.settimeout(timeout)
            sock.sendall(frame)
            if watch is not None and watch.wait(sock.fileno(), None).gone:
                raise ClientGone
            answer, parts = _read_frame(sock)
        except (OSError, ProtocolError) as exc:
            sock.close()
            raise _unavailable(header["op"]) from exc
        except BaseException:
            sock.close()
            raise
        self._put_back(sock)
        if "error" in answer:
            raise from_wire(answer["error"])
        reply = answer.get("ok")
        if not isinstance(reply, dict):
            raise InternalError("the supervisor's answer makes no sense")
        return reply, parts

    def _connection(self) -> socket.socket:
        with self._lock:
            if self._pid != os.getpid():
                self._pid, self._idle = os.getpid(), []
            while self._idle:
                sock = self._idle.pop()
                if _is_quiet(sock):
                    return sock
                sock.close()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        sock.settimeout(_CONNECT_SECONDS)
        try:
            sock.connect(self._path)
        except OSError as exc:
            sock.close()
            raise SupervisorUnavailable(
                "the supervisor does not answer, so nothing was run; "
                "see `systemctl status pve-exec-gateway-supervisor`",
                retry_after=1,
            ) from exc
        return sock

    def _put_back(self, sock: socket.socket) -> None:
        with self._lock:
            if len(self._idle) < _MAX_IDLE:
                self._idle.append(sock)
                return
        sock.close()


def _read_frame(sock: socket.socket) -> tuple[dict[str, Any], Blobs]:
    buffer = bytearray()
    _fill(sock, buffer, PREFIX.size)
    header_size, blob_size = frame_size(buffer)
    _fill(sock, buffer, PREFIX.size + header_size + blob_size)
    view = memoryview(buffer)[PREFIX.size :]
    header = decode_header(bytes(view[:header_size]))
    return header, split(header, bytes(view[header_size:]))


def _fill(sock: socket.socket, buffer: bytearray, size: int) -> None:
    while len(buffer) < size:
        data = sock.recv(min(_READ, max(65536, size - len(buffer))))
        if not data:
            raise ProtocolError("the supervisor closed the connection")
        buffer += data
    if len(buffer) > size and size > PREFIX.size:
        raise ProtocolError("bytes behind the reply")


def _is_quiet(sock: socket.socket) -> bool:
    """Whether an idle connection can still be used: it has nothing to read, not even an end."""
    try:
        sock.settimeout(0)
        return len(sock.recv(1, socket.MSG_PEEK)) > 1
    except BlockingIOError:
        return True
    except OSError:
        return False


def _unavailable(operation: str) -> GatewayError:
    began = " whether the command began is unknown: look for it in GET /execs;" if operation == "run" else ""
    return SupervisorUnavailable(
        f"the supervisor went away before it answered;{began} see `systemctl status pve-exec-gateway-supervisor`",
        retry_after=1,
    )
