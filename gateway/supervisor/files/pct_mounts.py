"""`pct mount` and `pct unmount`, run so that what they mount is seen by nobody else on the node.

pct knows PVE's storages, and takes PVE's lock `mounted`. It mounts in a mount namespace of its own, which lasts as long
as somebody holds it: that is the supervisor, so that a killed one leaves nothing behind but the lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from dataclasses import dataclass
from pathlib import Path

from gateway.config import LxcConfig
from gateway.supervisor.kernel.loop import Loop
from gateway.supervisor.launching.handshake import Message, open_status, receive
from gateway.supervisor.launching.nursery import Nursery
from gateway.supervisor.launching.tool_output import ToolOutput

SECONDS = 60.0
"""pct waits ten of them for the configuration's lock, and as long as the storage takes to be activated."""
_AT_ONCE = 2  # a second of a processor each
_MAX_WORDS = 8192


@dataclass(frozen=True)
class PctSaid:
    """What came of one call. `exit_code` None: its time was over, so that it was killed; what it did is unknown.

    `mounts`: the namespace in which it ran; the taker's to close.
    """

    exit_code: int | None
    words: str
    mounts: int | None


class PctMounts:
    """Calls from the supervisor's event loop."""

    def __init__(self, loop: Loop, config: LxcConfig, nursery: Nursery) -> None:
        self._loop = loop
        self._config = config
        self._nursery = nursery
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def mount(self, vmid: int) -> PctSaid:
        """Mounts all of a container's volumes in a new namespace. Raises OSError when pct cannot be started."""
        return await self._call("mount", vmid, None)

    async def unmount(self, vmid: int, mounts: int | None) -> PctSaid:
        """Unmounts them in theirs, and takes the lock off. `mounts` None: only the lock is left. Raises OSError."""
        if mounts is not None:
            return await self._call("unmount", vmid, mounts)
        own = os.open(self._config.proc / "self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return await self._call("unmount", vmid, own)
        finally:
            os.close(own)

    def is_mounted_on_node(self, vmid: int) -> bool:
        """Whether the node itself has something mounted at a container's root: then somebody else ran `pct mount`."""
        root = os.path.realpath(self.root_of(vmid))
        lines = os.fsdecode((self._config.proc / "self/mountinfo").read_bytes()).split("\n")
        return any(_unescape(line.split(" ")[4]) == root for line in lines if line.count(" ") > 5)

    def root_of(self, vmid: int) -> Path:
        """Where pct mounts it (PVE::LXC, mount_all)."""
        return self._config.path / str(vmid) / "rootfs"

    async def _call(self, verb: str, vmid: int, mounts: int | None) -> PctSaid:
        async with self._turns:
            return await self._run(verb, vmid, mounts)

    async def _run(self, verb: str, vmid: int, mounts: int | None) -> PctSaid:
        program = str(self._config.pct)
        with contextlib.ExitStack() as held:
            with contextlib.ExitStack() as child_side:
                ours, place = open_status(held, child_side)
                said_r, said_w = os.pipe2(os.O_CLOEXEC)
                child_side.callback(os.close, said_w)
                words = ToolOutput(self._loop.io, said_r, _MAX_WORDS)
                held.callback(words.close)
                nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
                child_side.callback(os.close, nothing)
                given = place if mounts is None else mounts
                self._nursery.bear_in_mounts(
                    [program, "pct", verb, str(vmid)],
                    [nothing, said_w, said_w, place, place, place, given, place, place],
                    given=mounts is not None,
                )
            return await _Run(self._loop, ours).attend(words)


class _Run:
    """One pct, from its birth to its end."""

    def __init__(self, loop: Loop, status: socket.socket) -> None:
        self._loop = loop
        self._status = status
        self._ended: asyncio.Future[int] = loop.io.create_future()
        self._heard: asyncio.Future[Message] = loop.io.create_future()
        loop.children.before_unknown(self, self._read)
        loop.io.add_reader(status.fileno(), self._read)

    async def attend(self, words: ToolOutput) -> PctSaid:
        message: Message | None = None
        try:
            async with asyncio.timeout(SECONDS):
                message = await asyncio.shield(self._heard)
                if message.kind != b"H":
                    reason = message.error["message"] if message.error is not None else "it ended at once"
                    raise OSError(0, reason)
                status = await asyncio.shield(self._ended)
            return PctSaid(os.waitstatus_to_exitcode(status), words.close().strip(), message.terminal)
        except TimeoutError:
            return PctSaid(None, words.close().strip(), message.terminal if message is not None else None)
        except BaseException:
            if message is not None and message.terminal is not None:
                os.close(message.terminal)
            raise
        finally:
            self._loop.children.before_unknown(self, None)
            self._loop.io.remove_reader(self._status.fileno())
            if message is not None and message.kind == b"H" and not self._ended.done():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(message.pid, signal.SIGKILL)  # not reaped yet, so nobody else's

    def _read(self) -> None:
        if self._heard.done():
            return
        message = receive(self._status, terminal=True)
        if message is not None:
            self._loop.io.remove_reader(self._status.fileno())
            self._heard.set_result(message)
            if message.kind == b"H":
                self._loop.children.watch(message.pid, self._died)

    def _died(self, status: int) -> None:
        if not self._ended.done():
            self._ended.set_result(status)


def _unescape(path: str) -> str:
    """A path of mountinfo, which has blanks in octal (proc_pid_mountinfo(5))."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(code, character)
    return path
