"""Uploads into virtual machines that are not finished: a note of each outlives us, so that what a killed supervisor or
a lost agent has left in a machine is removed later, and nothing else.

A new file grows in a directory of ours with a random name (agent.upload). What is removed is that directory alone, in
that very place, if its inode is the one that was noted; in it is one file. The note is no record: that of the upload
is there.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from gateway.files.machine import Cause
from gateway.files.wire import Step
from gateway.supervisor.agent import scripts
from gateway.supervisor.agent.commands import AgentCommands, CommandFailed
from gateway.supervisor.agent.questions import Questions
from gateway.supervisor.agent.upload import Unfinished
from gateway.supervisor.guests.machines import Machines

log = logging.getLogger(__name__)

_AGAIN_SECONDS = 600.0
_KEPT_SECONDS = 7 * 86400.0
_LATER = frozenset({Cause.AWAY, Cause.STALLED, Cause.DENIED})
"""What may be otherwise when it is tried again."""


@dataclass(frozen=True)
class _Note:
    vmid: int
    left: Unfinished


class HalfUploads:
    """Those of this node's machines. `directory` is made when it is needed, for nobody else; one note is a file in it,
    by the name of its session. None is synced: with the node its machines have lost their power, too."""

    def __init__(
        self,
        io: asyncio.AbstractEventLoop,
        directory: Path,
        machines: Machines,
        questions: Questions,
        protected: Collection[int],
    ) -> None:
        """In `protected` guests nothing is removed."""
        self._io = io
        self._directory = directory
        self._machines = machines
        self._questions = questions
        self._protected = protected
        self._looking: asyncio.Task[None] | None = None

    def note(self, name: str, vmid: int, left: Unfinished) -> None:
        """Session `name` has begun one. Never fails: without the note it is its session's alone to remove it."""
        text = {"vmid": vmid, "inode": left.inode, "directory": base64.b64encode(left.directory).decode("ascii")}
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            new = self._directory / f"{name}.new"
            new.touch(0o600)
            new.write_text(json.dumps(text))
            new.rename(self._path(name))
        except OSError as exc:
            log.warning("%s: what it begins in guest %d is not remembered: %s", name, vmid, exc.strerror)

    def forget(self, name: str) -> None:
        """Nothing is left of it."""
        with contextlib.suppress(OSError):
            self._path(name).unlink()

    def look_after(self, in_hand: Callable[[], Collection[str]]) -> None:
        """Removes what is left, now, and every ten minutes what could not be: its machine did not run, or its agent was
        away. `in_hand`: the sessions that remove their own. After a week it stays, and the log has said so."""
        self._looking = self._io.create_task(self._look_after(in_hand))

    async def _look_after(self, in_hand: Callable[[], Collection[str]]) -> None:
        while True:
            try:
                await self._remove_all(in_hand)
            except Exception:
                log.exception("cannot look for what is left of uploads")
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _remove_all(self, in_hand: Callable[[], Collection[str]]) -> None:
        away: set[int] = set()
        for path in sorted(self._directory.glob("fs_*.json")):
            note = self._read(path)
            if note is None or path.stem in in_hand() or note.vmid in away:
                continue
            if await self._remove(path, note):
                self.forget(path.stem)
            else:
                away.add(note.vmid)

    async def _remove(self, path: Path, note: _Note) -> bool:
        """False: it is tried again later."""
        machine = self._machines.current(note.vmid)
        if machine is None or note.vmid in self._protected:
            return False
        directory = scripts.escape(note.left.directory)
        try:
            await AgentCommands(self._io, self._questions, machine).run(scripts.DROP_LATER, directory, note.left.inode)
        except CommandFailed as exc:
            cause = exc.failure.errno if exc.failure.step is Step.AGENT else None
            if cause in _LATER:
                return False
            if cause != Cause.CHANGED:  # then it is gone, or was never this machine's
                log.warning("%s: what it had begun stays in guest %d: %s", path.stem, note.vmid, exc)
            return True
        log.info("%s: what was left of it in guest %d is removed", path.stem, note.vmid)
        return True

    def _read(self, path: Path) -> _Note | None:
        """What it says, unless nobody can tell or it is too old: then it is gone."""
        try:
            told = json.loads(path.read_bytes())
            note = _Note(int(told["vmid"]), Unfinished(str(told["inode"]), base64.b64decode(told["directory"])))
            if time.time() - path.stat().st_mtime <= _KEPT_SECONDS:
                return note
            log.warning("%s: what it had begun stays in guest %d: it could not be removed", path.stem, note.vmid)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            log.error("%s is damaged: it names no upload", path)
        self.forget(path.stem)
        return None

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.json"
