"""Announced changes whose outcome is not in the log yet: a file each, locked by the process that has it in hand.

A process that dies leaves its files behind unlocked; the next one takes them up, so that no announcement stays without
an outcome.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

_MAX_BYTES = 64 << 10


@dataclass
class Unfinished:
    """One change: its announcement as a record, and the task that makes it, once that is known. Of the record's data
    only `then` is kept (its further steps), and `whole` (nothing is to stay unless all of them are done)."""

    record: Mapping[str, Any]
    upid: str | None
    _path: Path
    _fd: int

    def note_task(self, upid: str) -> None:
        """The task has begun. Raises OSError."""
        self.upid = upid
        self._write()

    def note_whole(self) -> None:
        """All of its steps are done, and that is on disk: nobody who finds it later takes it for half-made. Raises
        OSError."""
        self.record = {name: value for name, value in self.record.items() if name != "data"}
        self._write()
        os.fsync(self._fd)

    def to_state(self) -> dict[str, Any]:
        """What `from_state` needs in the next image of a program; its lock goes with its descriptor, `fd`."""
        return {"record": dict(self.record), "upid": self.upid, "path": str(self._path), "fd": self._fd}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], fd: int) -> Unfinished:
        """The same change, in hand as before; `fd` is its descriptor, taken over."""
        return cls(state["record"], state["upid"], Path(state["path"]), fd)

    def close(self) -> None:
        """The outcome is in the log. Never fails: a file that cannot be removed is emptied, and stays in hand."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError as exc:
            log.error("cannot remove %s, which is finished: %s", self._path, exc.strerror)
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, 0)
            return
        os.close(self._fd)

    def _write(self) -> None:
        text = json.dumps({"record": dict(self.record), "upid": self.upid}).encode()
        os.pwrite(self._fd, text.ljust(os.fstat(self._fd).st_size), 0)  # at once: who dies now leaves no half of two


class UnfinishedChanges:
    """Those of one node. `directory` is made when it is needed, for nobody else."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def begin(self, record: Mapping[str, Any]) -> Unfinished:
        """Remembers a change before it is made. Raises OSError; then it must not be made."""
        kept = {name: value for name, value in record.items() if name != "data"}
        told = record.get("data", {})
        if "then" in told:
            kept["data"] = {name: told[name] for name in ("then", "whole") if name in told}
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._directory / f"{record['audit_id']}.json"
        new = path.with_suffix(".new")  # nobody may take up what is not written and locked yet
        fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        change = Unfinished(kept, None, new, fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            change._write()
            new.rename(path)
            change._path = path
        except OSError:
            change.close()
            raise
        return change

    def adopt(self) -> Iterator[Unfinished]:
        """Those that nobody has in hand any more: ours from now on."""
        for path in sorted(self._directory.glob("au_*.json")):
            try:
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            except OSError:  # just finished
                continue
            with contextlib.ExitStack() as undo:
                undo.callback(os.close, fd)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if not os.fstat(fd).st_nlink:  # finished before it was ours
                        continue
                    data = json.loads(os.pread(fd, _MAX_BYTES, 0))
                    change = Unfinished(dict(data["record"]), data["upid"], path, fd)
                except BlockingIOError:  # another process has it
                    continue
                except (ValueError, KeyError, TypeError):
                    log.error("%s is damaged: it names no change", path)
                    with contextlib.suppress(OSError):
                        path.unlink()
                    continue
                undo.pop_all()
            yield change
