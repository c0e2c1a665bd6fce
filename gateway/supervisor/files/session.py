"""One session of files: a launcher in file mode in one guest, from its spawn until nothing of it is left."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from typing import Any

from gateway.errors import GatewayError, GuestNotRunning, NodeNotReady
from gateway.exec.view import SpawnError
from gateway.supervisor.files.web_pipes import WebPipes
from gateway.supervisor.guests.containers import Incarnation
from gateway.supervisor.kernel.cgroup import Tree
from gateway.supervisor.launching.launch import Launched, build_spec
from gateway.supervisor.launching.services import Services
from gateway.supervisor.launching.spawning import Spawn, attach_failed

_LEAVE_SECONDS = 1.0
"""How long it may take to remove what it has not finished, once its pipes are closed."""
_LOOK_SECONDS = 0.05


class FileSession:
    """`started` is done when it serves, or raises why it does not. `gone` is called once nothing runs any more."""

    def __init__(
        self, services: Services, name: str, guest: Incarnation, tree: Tree, gone: Callable[[FileSession], object]
    ) -> None:
        """It is killed after exec.timeout_max seconds in any case."""
        self.name = name
        self.guest = guest
        self.pipes = WebPipes()
        self.started: asyncio.Future[None] = services.loop.io.create_future()
        self._services = services
        self._io = services.loop.io
        self._tree = tree
        self._gone = gone
        self._spawn: Spawn | None = None
        self._ending = False
        self._over = False
        self._pid: int | None = None
        self._limit = self._io.call_later(services.config.timeout_max, self.kill)

    def spawn(self, *, write: bool) -> None:
        """Starts lxc-attach with the launcher. Raises OSError when the node is out of something."""
        images = self._services.launcher.programs.images(self.guest.key, privileged=self.guest.privileged)
        launched = self._services.launcher.launch(
            vmid=self.guest.vmid,
            images=images,
            spec=build_spec(argv=["files"], env={}, cwd="/", user="0", files="write" if write else "read"),
            stdin=True,
            cgroup=self._tree.join_fd(),
        )
        self._take_pipes(launched)
        self._spawn = Spawn(self._services.loop, launched, self, self.name)

    def give_up(self) -> None:
        """It could not be spawned: there is nothing to wait for."""
        self._over = True
        self._limit.cancel()
        self._tree.remove()
        self._tree.close()

    def _take_pipes(self, launched: Launched) -> None:
        assert launched.stdin is not None and launched.stdout is not None and launched.stderr is not None
        os.close(launched.stderr)
        self.pipes.take(launched.stdout, launched.stdin)

    # ---- told by its spawn

    def attach_known(self, pid: int) -> None:
        self._tree.take_root(pid)

    def terminal_opened(self, master: int) -> None:
        os.close(master)  # none was asked for

    def command_known(self, pid: int) -> bool:
        if not self._tree.holds(pid):
            return False
        self._tree.take_root(pid)
        self._pid = pid
        return True

    def may_go(self, pid: int) -> bool:
        if self._ending:
            self._tree.kill()
        return not self._ending

    def did_not_go(self) -> None:
        self._fail(None)

    def began(self) -> None:
        if not self.started.done():
            self.started.set_result(None)

    def command_died(self, status: int) -> None:
        self._pid = None
        self._tree.forget_root()
        self._fail(self._spawn.error if self._spawn is not None else None)
        self.kill()

    def came_to_nothing(self) -> None:
        self._fail(self._spawn.error if self._spawn is not None else None)
        self.kill()

    def _fail(self, error: SpawnError | None) -> None:
        if not self.started.done():
            self.started.set_exception(_not_started(self.guest, error))

    # ---- handing over to the next image of this program

    @property
    def can_be_handed_over(self) -> bool:
        """Whether it serves, and has not begun to end."""
        return self._pid is not None and self.started.done() and not self._ending and self.guest.alive()

    def to_state(self) -> dict[str, Any]:
        """What `resume` needs; its pipes are the web's."""
        run = {"vmid": self.guest.vmid, "run": self.guest.key}
        return {"name": self.name, **run, "pid": self._pid, "limit": self._limit.when()}

    @classmethod
    def resume(
        cls,
        services: Services,
        state: dict[str, Any],
        guest: Incarnation,
        tree: Tree,
        gone: Callable[[FileSession], object],
    ) -> FileSession:
        """Goes on with a session that an earlier image of this program began."""
        self = cls(services, state["name"], guest, tree, gone)
        self._limit.cancel()
        self._limit = self._io.call_at(state["limit"], self.kill)
        self._pid = state["pid"]
        self.began()
        self._tree.take_root(state["pid"])
        services.loop.children.watch(state["pid"], self.command_died)
        return self

    # ---- ending

    def end(self) -> None:
        """Its pipes are closed: it ends by itself, or is killed a second later."""
        if not self._ending:
            self._ending = True
            self.pipes.close()
            if self._tree.populated():
                self._io.call_later(_LEAVE_SECONDS, self.kill)
                self._io.call_later(_LOOK_SECONDS, self._look)
            else:
                self._look()

    def kill(self) -> None:
        """Ends all of it now."""
        self._ending = True
        if self._over:
            return
        self.pipes.close()
        self._tree.kill()
        if self._spawn is not None:
            self._spawn.kill_attach()
        self._look()

    def _look(self) -> None:
        """Gives back what it had of the node as soon as it is empty; that it has ended is seen so in any case."""
        if self._over:
            return
        on_its_way = self._spawn is not None and not self._spawn.over and not self._spawn.attached
        if on_its_way or self._tree.populated() or not self._tree.remove():
            self._io.call_later(_LOOK_SECONDS, self._look)
            return
        self._over = True
        self._limit.cancel()
        if self._spawn is not None:
            self._spawn.abandon()
            self._spawn.close()
        self._fail(attach_failed(errno.EPROTO))
        self.started.exception()  # retrieved, whoever still waits
        self._tree.close()
        self._gone(self)


def _not_started(guest: Incarnation, error: SpawnError | None) -> GatewayError:
    if guest.stopping():
        return GuestNotRunning(f"guest {guest.vmid} has just stopped; start it first", vmid=guest.vmid)
    words = error["message"] if error is not None else "the launcher ended before it began"
    return NodeNotReady(f"no process of ours could be started in guest {guest.vmid}: {words}", missing=["launcher"])
