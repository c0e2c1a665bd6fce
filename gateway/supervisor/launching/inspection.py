"""Inspections: what a running container's own files say of groups and device nodes, asked from inside its namespaces.

A process of the launcher's enters the guest and answers (launcher/inspect.h): no path of a guest is resolved on the
node, no program of it is run, and who looks is seen by nobody in it. `launcher/protocol.h` is the source of the wire.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
from collections import Counter
from itertools import count

from gateway.errors import GuestSilent
from gateway.exec.reply import Found
from gateway.supervisor.guests.containers import Guests, Incarnation
from gateway.supervisor.kernel.cgroup import ExecGroup
from gateway.supervisor.kernel.loop import Loop
from gateway.supervisor.launching.nursery import Nursery

MAX_QUESTIONS = 64
MAX_QUESTION = 1020
"""255 characters, of four bytes at most."""
_SECONDS = 5.0
_LOOK_AGAIN = 0.002
_AT_ONCE_PER_GUEST, _AT_ONCE = 4, 64
_ANSWER = struct.Struct("<8IQ")
_FAILED = struct.Struct("<BI")


class Inspections:
    """At most four at a time in one guest: its root can have each of them hang for as long as the guest runs."""

    def __init__(self, loop: Loop, guests: Guests, nursery: Nursery) -> None:
        self._loop = loop
        self._guests = guests
        self._nursery = nursery
        self._names = count(1)
        self._in_guest: Counter[str] = Counter()
        self._waiting = 0

    @property
    def under_way(self) -> bool:
        """Whether any answer is waited for: that cannot be handed to another image. It takes five seconds at most."""
        return bool(self._waiting)

    async def ask(self, vmid: int, questions: list[str]) -> list[Found]:
        """An answer to each question: the name of a group, or an absolute path, none of them with a NUL.

        Raises GuestNotRunning, GuestFrozen, GuestSilent when the guest lets it hang or has done so before, OSError.
        """
        guest = self._guests.find(vmid)
        if self._in_guest[guest.key] >= _AT_ONCE_PER_GUEST or self._in_guest.total() >= _AT_ONCE:
            raise GuestSilent(f"others wait for the file systems of guest {vmid} already; try again", vmid=vmid)
        group = guest.group.make(f"inspection-{next(self._names)}")
        self._in_guest[guest.key] += 1
        self._waiting += 1
        try:
            return await self._ask(guest, group, questions)
        finally:
            self._waiting -= 1
            self._clear(guest.key, group)

    async def _ask(self, guest: Incarnation, group: ExecGroup, questions: list[str]) -> list[Found]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            ours.setblocking(False)
            process = os.open(guest.proc / str(guest.pid), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                if not guest.alive():  # else another process could have its number
                    raise GuestSilent(f"guest {guest.vmid} has just stopped", vmid=guest.vmid)
                held = [theirs.fileno()] * 6 + [process, group.dir, theirs.fileno()]
                self._nursery.inspect(questions, held)
            finally:
                os.close(process)
            theirs.close()
            try:
                async with asyncio.timeout(_SECONDS):
                    said = await self._loop.io.sock_recv(ours, 4096)
            except TimeoutError as exc:
                raise GuestSilent(
                    f"the file systems of guest {guest.vmid} do not answer; look at what is mounted there",
                    vmid=guest.vmid,
                ) from exc
        return _read(said, len(questions), guest.vmid)

    def _clear(self, run: str, group: ExecGroup) -> None:
        """Ends it, and removes its cgroup as soon as it is gone: that may be as late as the guest's own end."""
        with contextlib.suppress(OSError):
            group.kill()
        try:
            events: int | None = group.events_fd()
        except OSError:  # the guest has stopped
            events = None

        def look() -> None:
            with contextlib.suppress(OSError):
                if group.populated():
                    return
                if not group.remove():  # its last process is on its way out
                    self._loop.io.call_later(_LOOK_AGAIN, look)
                    return
            if events is not None:
                self._loop.events.remove(events)
            group.close()
            self._in_guest[run] -= 1
            if not self._in_guest[run]:
                del self._in_guest[run]

        if events is not None:
            self._loop.events.add(events, look)
        look()


def is_question(text: object) -> bool:
    """Whether it can be asked: a path, or the name of a group, of MAX_QUESTION bytes at most."""
    return isinstance(text, str) and "\x00" not in text and 0 < len(text.encode()) <= MAX_QUESTION


def _read(said: bytes, expected: int, vmid: int) -> list[Found]:
    if said[:1] == b"I" and len(said) == 1 + expected * _ANSWER.size:
        return [Found(*numbers) for numbers in _ANSWER.iter_unpack(said[1:])]
    if said[:1] == b"X" and len(said) == 1 + _FAILED.size:
        stage, number = _FAILED.unpack(said[1:])
        reason = errno.errorcode.get(number, str(number))
        raise GuestSilent(f"the file systems of guest {vmid} cannot be entered: {reason} (stage {stage})", vmid=vmid)
    raise GuestSilent(f"guest {vmid} has stopped before it could be looked at", vmid=vmid)
