"""Calls over the supervisor's socket: a question and its answer, on connections that are used again."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from gateway.clientwatch import Watch
from gateway.errors import ClientGone, GatewayError, GatewayRestarting, InternalError, SupervisorUnavailable
from gateway.errors_all import from_wire
from gateway.errors_pve import OutcomeUnknown
from gateway.exec.origin import Origin
from gateway.supervisor.link.protocol import CLIENT_LEFT, FrameReader, ProtocolError, encode

P = ParamSpec("P")
T = TypeVar("T")

ANSWER_SECONDS = 10.0
_CONNECT_SECONDS = 2.0
_MAX_IDLE = 32

Answer = tuple[dict[str, Any], list[bytes]]
Decide = Callable[[str], Origin]
"""Who asks for an exec, or a change as root, as the token is when its turn comes; called with the exec's id, or with
nothing in its place. Raises what it is refused for now."""


class Caller:
    """Asks from many threads at once, and across fork."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._lock = threading.Lock()
        self._idle: list[socket.socket] = []
        self._pid = os.getpid()

    def ask(
        self,
        header: dict[str, Any],
        *blobs: bytes,
        again: Decide | None = None,
        watch: Watch | None = None,
        timeout: float | None = ANSWER_SECONDS,
    ) -> Answer:
        """The reply, with its blobs. Raises the GatewayError that it is, or SupervisorUnavailable.

        A watch ends the waiting: raises ClientGone when the client leaves, GatewayRestarting when our process ends.
        `again` is what the supervisor asks back when a command that had to wait has its turn; it may refuse.
        """
        sock = self.connect()
        answer = self.ask_on(sock, header, *blobs, again=again, watch=watch, timeout=timeout)
        self._put_back(sock)
        return answer

    def ask_on(
        self,
        sock: socket.socket,
        header: dict[str, Any],
        *blobs: bytes,
        again: Decide | None = None,
        watch: Watch | None,
        timeout: float | None,
        rights: list[int] | None = None,
    ) -> Answer:
        """The same on a connection that stays with the asker; it is ours again if the supervisor refuses. Descriptors
        that come with the answer are added to `rights`.

        It is closed if that fails, and the supervisor told that the client has left where it has, or has lost its right
        to wait.
        """
        try:
            sock.settimeout(timeout)
            sock.sendall(encode(header, *blobs))
            answer, parts = self._await(sock, header["op"], watch, timeout, rights)
            while again is not None and (exec_id := answer.get("turn")) is not None:
                decision = encode({"origin": _or_leave(sock, again, exec_id).to_wire()})
                with contextlib.suppress(OSError):  # it has closed: what it said before is what it answers
                    sock.sendall(decision)
                answer, parts = self._await(sock, header["op"], watch, timeout)
        except (OSError, ProtocolError) as exc:
            sock.close()
            raise _unavailable(header["op"]) from exc
        except BaseException:
            sock.close()
            raise
        try:
            return reply_of(answer), parts
        except GatewayError:
            if "error" in answer:
                self._put_back(sock)
            else:
                sock.close()
            raise

    def _await(
        self,
        sock: socket.socket,
        operation: str,
        watch: Watch | None,
        timeout: float | None,
        rights: list[int] | None = None,
    ) -> Answer:
        if watch is not None:
            seen = _or_leave(sock, watch.wait, sock.fileno(), timeout)
            if seen.gone:
                sock.sendall(CLIENT_LEFT)
                raise ClientGone
            if not seen.fd:
                raise _restarting(operation)
        return _read_frame(sock, rights)

    def connect(self) -> socket.socket:
        """A connection on which nothing is under way. Raises SupervisorUnavailable: nothing has been asked then."""
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

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for sock in idle:
            sock.close()

    def _put_back(self, sock: socket.socket) -> None:
        with self._lock:
            if len(self._idle) < _MAX_IDLE:
                self._idle.append(sock)
                return
        sock.close()


def _or_leave(sock: socket.socket, ask: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """What is asked for; to the supervisor a client that is refused by that has left."""
    try:
        return ask(*arguments, **named)
    except GatewayError:
        with contextlib.suppress(OSError):
            sock.sendall(CLIENT_LEFT)
        raise


def reply_of(answer: dict[str, Any]) -> dict[str, Any]:
    """What an answer says. Raises the GatewayError that it is."""
    if "error" in answer:
        raise from_wire(answer["error"])
    reply = answer.get("ok")
    if not isinstance(reply, dict):
        raise InternalError("the supervisor's answer makes no sense")
    return reply


def _read_frame(sock: socket.socket, rights: list[int] | None) -> Answer:
    reader = FrameReader()
    while (frame := reader.read(sock, rights)) is None:
        pass
    return frame


def _is_quiet(sock: socket.socket) -> bool:
    """Whether an idle connection can still be used: it has nothing to read, not even an end."""
    try:
        sock.settimeout(0)
        return len(sock.recv(1, socket.MSG_PEEK)) > 1
    except BlockingIOError:
        return True
    except OSError:
        return False


def _restarting(operation: str) -> GatewayError:
    began = operation in ("run", "start")
    again = "; the command runs, if it had begun: the same Idempotency-Key gives its result" if began else ""
    return GatewayRestarting(f"the gateway's web service restarts{again}; send the request again", retry_after=1)


def _unavailable(operation: str) -> GatewayError:
    if operation in ("root_change", "pause"):
        return OutcomeUnknown("the supervisor went away before it answered; look at the guest before asking again")
    began = " whether the command began is unknown: look for it in GET /execs;" if operation in ("run", "start") else ""
    return SupervisorUnavailable(
        f"the supervisor went away before it answered;{began} see `systemctl status pve-exec-gateway-supervisor`",
        retry_after=1,
    )
