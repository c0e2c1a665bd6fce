"""The supervisor process: its signals, its start, its change into a new image of itself, and its end."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import logging
import os
import resource
import signal
import socket
from collections.abc import Callable
from pathlib import Path

from gateway.config import Config
from gateway.errors import ConfigError
from gateway.memory import return_large_blocks
from gateway.notify import ALIVE, READY, alive_every, notify, reloading
from gateway.supervisor import handover, readiness
from gateway.supervisor.assembly import MakeAgent, Supervisor
from gateway.supervisor.kernel import reexec
from gateway.supervisor.kernel.signals import Signals
from gateway.supervisor.launching.launch import require_programs, reserve_low_descriptors
from gateway.supervisor.limits.stopping import stopping
from gateway.supervisor.operations.server import bind

log = logging.getLogger(__name__)

_STOP_SECONDS = 10.0
_HANDOVER_SECONDS = 15.0
_FLUSH_SECONDS = 2.0
_STOPS = (signal.SIGTERM, signal.SIGINT)


def run(config: Config, make_agent: MakeAgent) -> int:
    """Runs the supervisor until SIGTERM; its exit code. Raises ConfigError when it cannot start.

    `make_agent` is called when the first command is to be run in a virtual machine.
    """
    return asyncio.run(_main(config, make_agent))


async def _main(config: Config, make_agent: MakeAgent) -> int:
    io = asyncio.get_running_loop()
    return_large_blocks()
    readiness.require_pure_v2(config.lxc)
    state = reexec.inherited_state()
    if state is None:  # else it has been seen to (`--check`), and what has gone since stops new commands alone
        require_programs(config)
    reserve_low_descriptors()
    _raise_descriptor_limit()
    lock = reexec.take(state["lock"]) if state else _lock(config.spool.directory)
    supervisor = Supervisor(config, io, make_agent)
    if state:
        handover.take_over(supervisor, state)
    supervisor.recover()
    listener = socket.socket(fileno=reexec.take(state["listener"])) if state else bind(config.supervisor.socket)
    supervisor.server.listen(listener)
    signals = Signals(io, (*_STOPS, signal.SIGHUP))
    supervisor.loop.children.reap()
    supervisor.sweep()
    supervisor.look_after()
    gc.collect()
    gc.freeze()  # what is here now stays: no collection needs to look at it again
    notify(READY)
    _say_alive(io, alive_every())
    while await signals.next() not in _STOPS and not signals.waits(_STOPS):
        await _hand_over(supervisor, lock, signals)
    notify("STOPPING=1")
    await _shut_down(supervisor)
    os.close(lock)
    return 0


def _say_alive(io: asyncio.AbstractEventLoop, every: float | None) -> None:
    """From now on, as long as the loop turns."""
    if every is not None:
        notify(ALIVE)
        io.call_later(every, _say_alive, io, every)


async def _hand_over(supervisor: Supervisor, lock: int, signals: Signals) -> None:
    """Becomes a new image of this program. Comes back only if that cannot be; then all goes on as before.

    Signals that come meanwhile wait, for the new image or for the return.
    """
    notify(reloading())
    if await reexec.new_image_starts(supervisor.loop, _HANDOVER_SECONDS):
        await _become_new_image(supervisor, lock, signals)
    else:
        log.error("not reloaded: the new program or its configuration does not start; see its message above")
    notify(READY)


async def _nothing_is_half_done(supervisor: Supervisor, give_up: Callable[[], bool]) -> bool:
    """Whether nothing is on its way into a guest, nor to the audit log: an outcome that the writer has in hand would be
    written twice. For a writer that does not answer it waits two seconds."""
    io = supervisor.loop.io
    deadline, patience = io.time() + _HANDOVER_SECONDS, io.time() + _FLUSH_SECONDS
    while await supervisor.nothing_starts(deadline - io.time(), give_up):
        left = patience - io.time()
        if not supervisor.audit.unanswered or left <= 0:
            return True
        await supervisor.audit.flush(left)
    return False


async def _become_new_image(supervisor: Supervisor, lock: int, signals: Signals) -> None:
    """The same without the check. Nothing begins meanwhile, and nobody is listened to."""
    listener = supervisor.server.stop_listening()
    connections = list(supervisor.server.connections)
    for connection in connections:
        connection.pause()
    supervisor.places.hold()
    supervisor.questions.hold()
    supervisor.root_changes.turns.hold()
    try:
        await supervisor.audit.flush(_FLUSH_SECONDS)
        ready = await _nothing_is_half_done(supervisor, lambda: signals.waits(_STOPS))
        if signals.waits(_STOPS):
            log.error("not reloaded: it is being stopped")
        elif ready and listener is not None:
            # No turn of the loop since it was so, until the new image is: what the state says is what is.
            reexec.become_new_image({**handover.to_state(supervisor), "lock": lock, "listener": listener.fileno()})
        else:
            log.error("not reloaded: execs were being started all the time; try again")
    except Exception:
        log.exception("not reloaded; all goes on as before")
    supervisor.places.go_on()
    supervisor.questions.go_on()
    supervisor.root_changes.turns.go_on()
    if listener is not None:
        supervisor.server.listen(listener)
    for connection in connections:
        connection.go_on()


async def _shut_down(supervisor: Supervisor) -> None:
    supervisor.server.stop_listening()
    supervisor.acceptance.stop()
    supervisor.root_changes.stop()
    supervisor.server.ask_no_more(stopping("request"))
    await supervisor.execs.shut_down(_STOP_SECONDS)
    await supervisor.files.shut_down(_STOP_SECONDS)
    await supervisor.roots.shut_down(_STOP_SECONDS)
    supervisor.guests.remove_empty()
    await supervisor.server.finish_replies(_FLUSH_SECONDS)
    await supervisor.audit.flush(_FLUSH_SECONDS)
    await supervisor.audit.close()


def _raise_descriptor_limit() -> None:
    """An exec takes about nine descriptors; commands get limits of their own from the launcher."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _lock(directory: Path) -> int:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(fd)
        raise ConfigError(f"another supervisor uses {directory}; stop it first") from exc
    return fd
