"""Upgrade in place: the supervisor becomes a new image of itself, with every command, pipe and connection kept.

`systemctl reload` sends SIGHUP. Same pid, so children stay children; the state travels in a memfd, descriptors are
inherited under their numbers. Only what has left the spawn handshake is handed over, so a reload first waits, for
a bounded time, until no exec is being started.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import signal
import sys
from typing import Any

from gateway.errors import ConfigError
from gateway.supervisor.kernel.loop import Loop

log = logging.getLogger(__name__)

STATE_ENV = "PVE_EXEC_GATEWAY_STATE_FD"
VERSION_ENV = "PVE_EXEC_GATEWAY_STATE_VERSION"
VERSION = 2


def become_new_image(state: dict[str, Any]) -> None:
    """Replaces this process by a new one that reads `state`. Returns only by raising OSError; then all is as before."""
    memfd = os.memfd_create("pveg-state", 0)
    fds = [memfd, *_descriptors(state)]
    try:
        with open(memfd, "wb", closefd=False) as file:
            file.write(json.dumps({"version": VERSION, **state}).encode())
        os.lseek(memfd, 0, os.SEEK_SET)
        for fd in fds:
            os.set_inheritable(fd, True)
        os.execve(sys.executable, command_line(), {**os.environ, STATE_ENV: str(memfd)})
    finally:
        for fd in fds:
            os.set_inheritable(fd, False)
        os.close(memfd)


def command_line() -> list[str]:
    """How this program was started."""
    return [sys.executable, *sys.orig_argv[1:]]


def inherited_state() -> dict[str, Any] | None:
    """What the image before us has left; None at a fresh start. Its descriptors are closed on the next exec again."""
    number = os.environ.pop(STATE_ENV, None)
    if number is None:
        return None
    with open(int(number), "rb") as file:
        state: dict[str, Any] = json.loads(file.read())
    if state.get("version") != VERSION:
        raise OSError(f"the state of another version ({state.get('version')}) cannot be taken over")
    return state


async def new_image_starts(loop: Loop, timeout: float) -> bool:
    """Whether the program on the disk starts with the configuration on the disk, and can go on with what this one
    leaves it: it says so itself, within `timeout` seconds."""
    done: asyncio.Future[int] = loop.io.create_future()

    def ended(status: int) -> None:
        if not done.done():
            done.set_result(status)

    environment = {**os.environ, VERSION_ENV: str(VERSION)}
    try:
        pid = os.posix_spawn(sys.executable, [*command_line(), "--check"], environment, setsigmask=[], setsid=True)
    except OSError as exc:  # the interpreter is being replaced, or the node is out of processes
        log.error("cannot run %s: %s", sys.executable, exc.strerror)
        return False
    loop.children.watch(pid, ended)
    await asyncio.wait([done], timeout=timeout)
    if not done.done():
        os.kill(pid, signal.SIGKILL)
        return False
    return done.result() == 0


def check_version() -> None:
    """For `--check`, run by the image before us: raises ConfigError unless we could take over what it leaves."""
    theirs = os.environ.get(VERSION_ENV, str(VERSION))
    if theirs != str(VERSION):
        raise ConfigError(
            f"this program cannot go on with what the running one (state version {theirs}) has in hand: restart the "
            "service instead of reloading it, which ends the running execs"
        )


def take_all(entry: dict[str, Any]) -> dict[str, Any]:
    """`entry` with its descriptors, `fds`, made our own."""
    return {**entry, "fds": {name: fd if fd is None else take(fd) for name, fd in entry["fds"].items()}}


def _descriptors(state: dict[str, Any]) -> list[int]:
    """Every descriptor that a state names."""
    entries = [entry for kind in ("guests", "machines", "execs", "survivors", "roots") for entry in state[kind]]
    found = [fd for entry in entries for fd in entry["fds"].values()]
    found += [connection["fd"] for connection in state["connections"]]
    found += [held["unfinished"]["fd"] for held in state["files"] if held["unfinished"] is not None]
    found += [change["fd"] for change in state["changes"].values()]
    found += [fd for held in state["files"] for fd in held.get("fds", {}).values()]
    return [fd for fd in (*found, state["lock"], state["listener"]) if fd is not None]


def take(fd: int) -> int:
    """Makes an inherited descriptor our own: above those with a meaning to a launch, and closed on exec."""
    mine = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(fd)
    return mine
