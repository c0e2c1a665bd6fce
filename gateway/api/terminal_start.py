"""Starting a terminal's exec: on a thread of its own, for it may wait in a queue, and the pump's thread must not."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from gateway.api.services import Services
from gateway.api.terminal_frames import parse_start
from gateway.clientwatch import Watch
from gateway.errors import ClientGone, FieldError, GatewayError, InternalError, InvalidRequest, Overloaded
from gateway.exec.origin import Origin
from gateway.exec.view import ExecView
from gateway.supervisor.link.calling import Decide
from gateway.supervisor.link.feed import Feed
from gateway.web.disconnect import ClientConnection, Ready

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Session:
    """One client's connections to the supervisor for one exec. `stdin` and `requests` are a writer's alone.

    `requests` carries signals and sizes: a Feed takes one question at a time, and one with input waits for as long as
    the command does not read, while a signal must not.
    """

    view: ExecView
    output: Feed
    stdin: Feed | None
    requests: Feed | None
    cursor: int = 0
    window: int | None = None
    attended: bool = False
    """Whether the client has started it, so that its leaving is for `on_disconnect` to judge."""
    replayed: bool = False
    """Whether an earlier start with the same Idempotency-Key had begun it."""

    def leave(self) -> None:
        """The client has left."""
        if self.attended:
            self.output.leave()

    def close(self) -> None:
        for feed in (self.output, self.stdin, self.requests):
            if feed is not None:
                feed.close()


def join(services: Services, exec_id: str, origin: Origin, *, write: bool, cursor: int, window: int | None) -> Session:
    """A session of an exec that exists. Blocks. Raises ExecNotFound, CommandNotGranted, SupervisorUnavailable."""
    view = services.supervisor.get(exec_id, origin, to_feed=write)
    with ExitStack() as opened:
        feeds = [opened.enter_context(contextlib.closing(services.supervisor.feed(exec_id, origin)))]
        for _ in range(2 if write else 0):
            feeds.append(opened.enter_context(contextlib.closing(services.supervisor.feed(exec_id, origin))))
        opened.pop_all()
    output, stdin, requests = (*feeds, None, None)[:3]
    assert output is not None
    return Session(view, output, stdin, requests, cursor=cursor, window=window)


class Opening:
    """One start under way. `fd` is readable when `take` has its outcome. For the pump's thread, but for `_run`."""

    def __init__(
        self,
        services: Services,
        vmid: int,
        origin: Origin,
        again: Decide,
        watch: Callable[[Departure], Watch],
        message: bytes,
        refuse: Callable[[GatewayError], GatewayError],
        *,
        key: str | None,
    ) -> None:
        """Begins it: `message` is the client's `start`; `again`: Call.decide_again; `refuse`: Call.refuse; `watch`
        ends the waiting with the token, too (Standing.watch); `key`: the header Idempotency-Key.

        Raises TooManyRequests, Overloaded.
        """
        self._share = ExitStack()
        self._share.enter_context(services.starts.take(origin.token_id))
        self._services = services
        self._vmid = vmid
        self._origin = origin
        self._again = again
        self._refuse = refuse
        self._key = key
        self._lock = threading.Lock()
        self._outcome: Session | Exception | None = None
        self._over = False
        self._abandoned = False
        self._departure = Departure()
        self._watch = watch(self._departure)
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            threading.Thread(target=self._run, args=(message,), name="terminal-start", daemon=True).start()
        except RuntimeError as exc:
            self._share.close()
            self._departure.close()
            os.close(self.fd)
            raise Overloaded("this node has no room for another thread now; try again", retry_after=1) from exc

    def take(self) -> Session | None:
        """The session, once it stands. Raises what the start was refused for."""
        with self._lock:
            outcome, self._outcome = self._outcome, None
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def leave(self) -> None:
        """The client has left: a start that waits for its turn is given up. `close` follows."""
        self._departure.tell()

    def close(self) -> None:
        """Nobody takes the outcome any more."""
        with self._lock:
            self._abandoned = True
            os.close(self.fd)
            if self._over:
                self._discard(self._outcome)

    def _run(self, message: bytes) -> None:
        outcome: Session | Exception
        try:
            outcome = self._start(message)
        except GatewayError as error:
            outcome = self._refuse(error)
        except ClientGone as error:
            outcome = error
        except Exception as error:
            log.exception(
                "request %s of %s: its terminal's start failed", self._origin.request_id, self._origin.token_id
            )
            outcome = InternalError("a fault of the gateway; its log tells more")
            outcome.__cause__ = error
        self._share.close()
        with self._lock:
            self._over = True
            if self._abandoned:
                self._discard(outcome)
            else:
                self._outcome = outcome
                os.eventfd_write(self.fd, 1)

    def _start(self, message: bytes) -> Session:
        start = parse_start(message)
        supervisor, origin = self._services.supervisor, self._origin
        started, output = supervisor.start(
            self._vmid,
            start.body(),
            origin,
            attended=True,
            terminal=True,
            again=self._again,
            watch=self._watch,
            key=_one_key(start.idempotency_key, self._key),
        )
        with ExitStack() as undo:
            undo.callback(output.close)
            undo.callback(output.leave)
            exec_id = started.view["id"]
            stdin = None
            if start.tty is not None or start.stdin_open:
                stdin = supervisor.feed(exec_id, origin)
                undo.callback(stdin.close)
            requests = supervisor.feed(exec_id, origin)
            undo.pop_all()
        return Session(
            started.view, output, stdin, requests, window=start.window, attended=True, replayed=started.replayed
        )

    def _discard(self, outcome: Session | Exception | None) -> None:
        if isinstance(outcome, Session):
            if self._departure.told:
                outcome.leave()
            outcome.close()
        self._departure.close()


def _one_key(said: str | None, header: str | None) -> str | None:
    """The key that was sent, in `start` or in the header. Raises InvalidRequest for two."""
    if said is not None and header is not None and said != header:
        error = FieldError("idempotency_key", "other_than_header", "it is not that of the header Idempotency-Key")
        raise InvalidRequest("some fields cannot be taken; see `errors`", errors=[error.to_json()])
    return said if said is not None else header


class Departure:
    """A client's leaving, told by the pump's thread to the one that starts its exec; a Watch (supervisor.client)."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()

    @property
    def told(self) -> bool:
        return self.wait(None, 0).gone

    def tell(self) -> None:
        self._writer.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._reader.close()
        self._writer.close()

    def wait(self, fd: int | None, timeout: float | None) -> Ready:
        """Waits until `fd` has something to read, the client has left, or `timeout` seconds are over."""
        return ClientConnection(self._reader.fileno()).wait(fd, timeout)
