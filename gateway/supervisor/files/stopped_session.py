"""One session of files in a container that does not run: a launcher in its mounted root file system, from its birth
until nothing of it is left. It has no cgroup: it is one process, which starts no other.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from gateway.errors import NodeNotReady
from gateway.exec.view import SpawnError
from gateway.supervisor.files.stopped_roots import Root
from gateway.supervisor.files.web_pipes import WebPipes
from gateway.supervisor.launching.handshake import Message, open_pipe, open_status, receive, send_go
from gateway.supervisor.launching.services import Services

_LEAVE_SECONDS = 1.0


class StoppedSession:
    """As FileSession: `started` is done when it serves, or raises why it does not; `gone` is called at its end."""

    def __init__(self, services: Services, name: str, root: Root, gone: Callable[[StoppedSession], object]) -> None:
        """It is killed after exec.timeout_max seconds in any case."""
        self.name = name
        self.root = root
        self.guest = None
        self.pipes = WebPipes()
        self.started: asyncio.Future[None] = services.loop.io.create_future()
        self._loop = services.loop
        self._nursery = services.launcher.nursery
        self._gone = gone
        self._status: socket.socket | None = None
        self._pid: int | None = None
        self._ready = False
        self._error: SpawnError | None = None
        self._ending = False
        self._over = False
        self._limit = self._loop.io.call_later(services.config.timeout_max, self.kill)

    def spawn(self, *, write: bool) -> None:
        """Has it born. Raises OSError when the node is out of something."""
        config = self.root.config
        with ExitStack() as undo, ExitStack() as child_side:
            ours, place = open_status(undo, child_side)
            requests_r, requests_w = open_pipe(child_side, undo)
            answers_r, answers_w = open_pipe(undo, child_side)
            for end in (answers_r, requests_w):
                os.set_blocking(end, False)
            self._nursery.serve_stopped(
                [str(self.root.path), config.uid_map, config.gid_map, "write" if write else "read"],
                [requests_r, answers_w, answers_w, place, place, place, self.root.mounts, place, place],
            )
            undo.pop_all()
        self._status = ours
        self.pipes.take(answers_r, requests_w)
        self._loop.children.before_unknown(self, self._read_all)
        self._loop.io.add_reader(ours.fileno(), self._read)

    def give_up(self) -> None:
        """It could not be spawned: there is nothing to wait for."""
        self._over = True
        self._limit.cancel()
        self.root.give_back()

    # ---- what it says

    def _read_all(self) -> None:
        while self._status is not None and self._read():
            pass

    def _read(self) -> bool:
        if self._status is None:
            return False
        message = receive(self._status, terminal=False)
        if message is not None:
            self._heard(message)
        return message is not None

    def _heard(self, message: Message) -> None:
        """H, then R, then the end when it serves; or X."""
        if message.kind == b"H" and self._pid is None:
            self._pid = message.pid
            self._loop.children.watch(message.pid, self._died)
            if self._ending:
                self.kill()
        elif message.kind == b"R" and message.pid == self._pid and not self._ending and self._status is not None:
            self._ready = send_go(self._status)
        elif message.error is not None:
            self._error = message.error
        else:
            self._close_status()
            if self._pid is None:
                self._end_of_it()
            elif self._ready and not self.started.done():
                self.started.set_result(None)

    def _died(self, status: int) -> None:
        self._pid = None
        self._read_all()
        self._end_of_it()

    def _end_of_it(self) -> None:
        if self._over:
            return
        self._over = True
        self._limit.cancel()
        self._close_status()
        self.pipes.close()
        if not self.started.done():
            words = self._error["message"] if self._error is not None else "the launcher ended before it began"
            vmid = self.root.vmid
            self.started.set_exception(
                NodeNotReady(f"the files of stopped guest {vmid} cannot be served: {words}", missing=["launcher"])
            )
        self.started.exception()  # retrieved, whoever still waits
        self.root.give_back()
        self._gone(self)

    # ---- handing over to the next image of this program

    @property
    def can_be_handed_over(self) -> bool:
        """Whether it serves, and has not begun to end."""
        return self._pid is not None and self.started.done() and not self._ending

    def to_state(self) -> dict[str, Any]:
        """What `resume` needs; its pipes are the web's."""
        return {"name": self.name, "stopped": self.root.vmid, "pid": self._pid, "limit": self._limit.when()}

    @classmethod
    def resume(
        cls, services: Services, state: dict[str, Any], root: Root, gone: Callable[[StoppedSession], object]
    ) -> StoppedSession:
        """Goes on with a session that an earlier image of this program began."""
        self = cls(services, state["name"], root, gone)
        self._limit.cancel()
        self._limit = self._loop.io.call_at(state["limit"], self.kill)
        self._pid = state["pid"]
        self.started.set_result(None)
        self._loop.children.watch(state["pid"], self._died)
        return self

    # ---- ending

    def end(self) -> None:
        """Its pipes are closed: it ends by itself, or is killed a second later."""
        if not self._ending:
            self._ending = True
            self.pipes.close()
            self._loop.io.call_later(_LEAVE_SECONDS, self.kill)

    def kill(self) -> None:
        """Ends it now; one that is still being born, when it has a number."""
        self._ending = True
        self.pipes.close()
        if not self._over and self._pid is not None and self._loop.children.owns(self._pid):
            os.kill(self._pid, signal.SIGKILL)

    def _close_status(self) -> None:
        self._loop.children.before_unknown(self, None)
        if self._status is not None:
            self._loop.io.remove_reader(self._status.fileno())
            self._status.close()
            self._status = None
