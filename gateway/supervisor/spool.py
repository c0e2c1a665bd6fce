"""What is remembered of execs on disk: one directory each, for the next supervisor and for late readers.

    active/<exec-id>/life.jsonl   accepted, go, ended: a line each, appended as it happens
    ended/<exec-id>/life.jsonl    the same once nothing of it runs any more
    .../stdout, .../stderr        the kept output, only where there is any

Directories are 0700, files 0600. No stdin, no environment value and no marked argument is ever written here.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway import ulid
from gateway.config import SpoolConfig
from gateway.errors import SpoolFull
from gateway.exec.ending import Ending
from gateway.exec.order import Order

_LIFE = "life.jsonl"
_FREE_CHECK_SECONDS = 1.0
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


@dataclass(frozen=True)
class Life:
    """What a spool directory tells of its exec. With a `pid` and no `ending`, it may or may not have run."""

    order: Order
    pid: int | None
    start: int
    ending: Ending | None


@dataclass(frozen=True)
class Remembered:
    """One ended exec as it is known without a look at the disk: whose it is, how large, since when (Unix time)."""

    token_id: str
    vmid: int
    labels: dict[str, str]
    bytes: int
    ended_at: float


class Spool:
    """The spool directory of one gateway; only its supervisor writes here."""

    def __init__(self, config: SpoolConfig) -> None:
        self._config = config
        self._active = config.directory / "active"
        self._ended = config.directory / "ended"
        for directory in (config.directory, self._active, self._ended):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.chmod(0o700)
        self._files: dict[str, int] = {}
        self._remembered: OrderedDict[str, Remembered] = OrderedDict()
        self._bytes = 0
        for name in sorted(filter(is_exec_id, os.listdir(self._ended))):
            life = _read_life(self._ended / name)
            if life is None:
                shutil.rmtree(self._ended / name, ignore_errors=True)
            else:
                self._remember(life.order, *_measure(self._ended / name))
        self._free_checked = 0.0

    def accept(self, order: Order) -> None:
        """Remembers that it was accepted, before anything of it is started. Raises SpoolFull."""
        self._check_room()
        path = f"{self._active}/{order.id}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        try:
            os.mkdir(path, 0o700)
            self._files[order.id] = os.open(f"{path}/{_LIFE}", flags, 0o600)
            self._append(order.id, {"accepted": order.to_wire()})
        except OSError as exc:
            self.drop(order.id)
            if exc.errno not in _DISK_ERRORS:
                raise
            raise SpoolFull(f"cannot write to the spool: {exc.strerror}; free space on the node") from exc

    def mark_go(self, order: Order, pid: int, start: int) -> None:
        """Remembers that it is about to begin. A failing disk does not stop it: its intent is in the audit log."""
        with contextlib.suppress(OSError):
            self._append(order.id, {"go": pid, "start": start})

    def end(self, order: Order, ending: Ending, stdout: bytes, stderr: bytes) -> None:
        """Remembers how it ended, and its output. What the disk refuses is lost; the caller has it all the same."""
        with contextlib.suppress(OSError):
            for name, data in (("stdout", stdout), ("stderr", stderr)):
                if data:
                    path = self._active / order.id / name
                    path.touch(0o600)
                    path.write_bytes(data)
            self._append(order.id, {"ended": ending.to_wire()})
        self._close(order.id)
        self._remember(order, len(stdout) + len(stderr), time.time())

    def remember(self, order: Order) -> None:
        """Keeps one that an earlier supervisor left active: with its ending, or without, if nobody knows it."""
        self._remember(order, *_measure(self._active / order.id))

    def retire(self, exec_id: str) -> None:
        """Moves it to the ended ones: nothing of it runs any more."""
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{self._active}/{exec_id}", f"{self._ended}/{exec_id}")

    def drop(self, exec_id: str) -> None:
        """Forgets one that never began."""
        self._close(exec_id)
        shutil.rmtree(self._active / exec_id, ignore_errors=True)

    def unfinished(self) -> list[Life]:
        """What an earlier supervisor left active, readable or not; the unreadable is dropped."""
        lives = []
        for name in sorted(os.listdir(self._active)):
            life = _read_life(self._active / name) if is_exec_id(name) else None
            if life is None:
                shutil.rmtree(self._active / name, ignore_errors=True)
            else:
                lives.append(life)
        return lives

    def reopen(self, order: Order) -> None:
        """Goes on writing the life of an exec that an earlier supervisor accepted."""
        path = self._active / order.id / _LIFE
        self._files[order.id] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def find(self, exec_id: str) -> Life | None:
        """An exec that has ended, as it is remembered; None when it is not or no longer."""
        return _read_life(self._path(exec_id)) if exec_id in self._remembered else None

    def remembered(self) -> dict[str, Remembered]:
        """The execs that are remembered as ended, by id."""
        return self._remembered

    def read(self, exec_id: str, stream: str, offset: int, length: int | None) -> bytes:
        """Kept bytes of a stream, from `offset` among the kept ones; all that follow when `length` is None."""
        try:
            with (self._path(exec_id) / stream).open("rb") as file:
                file.seek(offset)
                return file.read(length)
        except FileNotFoundError:
            return b""

    def sweep(self, now: float) -> None:
        """Forgets what is past retention, and the oldest while there is too much. `now`: seconds since 1970."""
        for exec_id, entry in list(self._remembered.items()):
            over = len(self._remembered) > self._config.max_ended or self._bytes > self._config.total
            if not over and now - entry.ended_at < self._config.retention:
                break
            if (self._active / exec_id).exists():
                continue  # its survivors live on
            del self._remembered[exec_id]
            self._bytes -= entry.bytes
            shutil.rmtree(self._ended / exec_id, ignore_errors=True)

    def _check_room(self) -> None:
        now = time.monotonic()
        if now - self._free_checked < _FREE_CHECK_SECONDS:
            return
        try:
            disk = os.statvfs(self._config.directory)
        except OSError as exc:
            raise SpoolFull(f"cannot use the spool directory: {exc.strerror}") from exc
        if disk.f_bavail * disk.f_frsize < self._config.min_free:
            raise SpoolFull("the spool's file system has less free space than spool.min_free; free space on the node")
        self._free_checked = now

    def _remember(self, order: Order, size: int, ended_at: float) -> None:
        self._remembered[order.id] = Remembered(order.token_id, order.vmid, order.labels, size, ended_at)
        self._bytes += size

    def _path(self, exec_id: str) -> Path:
        active = self._active / exec_id
        return active if active.exists() else self._ended / exec_id

    def _append(self, exec_id: str, line: dict[str, Any]) -> None:
        fd = self._files.get(exec_id)
        if fd is not None:
            os.write(fd, json.dumps(line, separators=(",", ":")).encode() + b"\n")

    def _close(self, exec_id: str) -> None:
        fd = self._files.pop(exec_id, None)
        if fd is not None:
            os.close(fd)


def is_exec_id(text: str) -> bool:
    return text.startswith("ex_") and ulid.is_ulid(text[3:])


def _measure(path: Path) -> tuple[int, float]:
    size, ended_at = 0, 0.0
    with contextlib.suppress(OSError), os.scandir(path) as files:
        for file in files:
            status = file.stat(follow_symlinks=False)
            if file.name == _LIFE:
                ended_at = status.st_mtime
            else:
                size += status.st_size
    return size, ended_at


def _read_life(path: Path) -> Life | None:
    order: Order | None = None
    pid, start, ending = None, 0, None
    try:
        for line in (path / _LIFE).read_text().splitlines():
            entry = json.loads(line)
            if "accepted" in entry:
                order = Order.from_wire(entry["accepted"])
            elif "go" in entry:
                pid, start = int(entry["go"]), int(entry["start"])
            elif "ended" in entry:
                ending = Ending.from_wire(entry["ended"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return Life(order, pid, start, ending) if order is not None else None
