"""What is remembered of execs on disk: one directory each, for the next supervisor and for late readers.

    active/<exec-id>/life.jsonl   accepted, go, ended: a line each, appended as it happens
    ended/<exec-id>/life.jsonl    the same once nothing of it runs any more
    .../stdout, .../stderr        the kept output, only where there is any, as `layout` says
    .../interleaving              the order of both, where it is too long for a line in the life

Directories are 0700, files 0600. No stdin, no environment value and no marked argument is ever written here.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gateway import ulid
from gateway.config import SpoolConfig
from gateway.errors import SpoolFull
from gateway.exec.ending import Ending
from gateway.exec.order import Order
from gateway.exec.view import OutputCounts, StreamCount
from gateway.supervisor.capture import FileRoom, MemoryRoom, Room
from gateway.supervisor.idempotency import Used, key_of
from gateway.supervisor.interleaving import STREAMS, Interleaving
from gateway.supervisor.layout import Layout, readable
from gateway.supervisor.recording import Recording
from gateway.supervisor.streams import Streams

_INTERLEAVING = "interleaving"
_LONG_INTERLEAVING = 4096
_LIFE = "life.jsonl"
log = logging.getLogger(__name__)

_FREE_CHECK_SECONDS = 1.0
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


@dataclass(frozen=True)
class Life:
    """What a spool directory tells of its exec. With a `pid` and no `ending`, it may or may not have run."""

    order: Order
    pid: int | None
    start: int
    ending: Ending | None
    layouts: dict[str, Layout]
    interleaving: dict[str, Any] | None


@dataclass(frozen=True)
class Remembered:
    """One ended exec as it is known without a look at the disk: whose it is, how large, since when (Unix time)."""

    token_id: str
    vmid: int
    labels: dict[str, str]
    bytes: int
    ended_at: float
    key: Used | None


class Spool:
    """The spool directory of one gateway; only its supervisor writes here."""

    def __init__(self, config: SpoolConfig) -> None:
        self.on_forgotten: Callable[[str], None] = lambda exec_id: None
        """Called with the id of each exec that is remembered no more."""
        self._config = config
        self._active = config.directory / "active"
        self._ended = config.directory / "ended"
        for directory in (config.directory, self._active, self._ended):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.chmod(0o700)
        self._files: dict[str, int] = {}
        self._remembered: OrderedDict[str, Remembered] = OrderedDict()
        self._bytes = 0
        self._growing: dict[str, int] = {}
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

    def room(self, order: Order, stream: str) -> Room:
        """Where a stream's bytes are to be kept. Raises SpoolFull."""
        if not order.spooled:
            return MemoryRoom()
        try:
            fd = os.open(
                f"{self._active}/{order.id}/{stream}", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
            )
        except OSError as exc:
            raise SpoolFull(f"cannot write to the spool: {exc.strerror}; free space on the node") from exc
        return FileRoom(fd, self.granter(order))

    def granter(self, order: Order) -> Callable[[int], bool]:
        """Whom its files ask before they grow by so many bytes: whether the node has room for that."""

        def grant(size: int) -> bool:
            if self._bytes + sum(self._growing.values()) + size > self._config.total:
                self.sweep(time.time(), wanted=size)
            fits = self._bytes + sum(self._growing.values()) + size <= self._config.total
            if not fits or self._free() < self._config.min_free + size:
                log.warning("%s: no more of its output is kept: the spool is full", order.id)
                return False
            self._growing[order.id] = self._growing.get(order.id, 0) + size
            return True

        return grant

    def adopt_growth(self, order: Order, state: dict[str, Any]) -> None:
        """Counts what the files of an exec were granted under an earlier image of this program."""
        self._growing[order.id] = sum(state[name]["room"].get("granted", 0) for name in STREAMS)

    def end(self, order: Order, ending: Ending, streams: Streams) -> None:
        """Remembers how it ended, and its output. What the disk refuses is lost; the caller has it all the same."""
        size = 0
        with contextlib.suppress(OSError):
            for name, capture in (("stdout", streams.stdout), ("stderr", streams.stderr)):
                if capture.fd is not None:
                    size += min(capture.bytes, capture.layout.size)
                elif capture.bytes and (data := capture.stored()):
                    path = self._active / order.id / name
                    path.touch(0o600)
                    path.write_bytes(data)
                    size += len(data)
            layouts = {name: [c.layout.head, c.layout.ring] for name, c in streams.captures()}
            self._append_ended(order, ending, layouts, streams.order.to_state())
        self._finish(order, size)

    def end_lost(self, order: Order, ending: Ending) -> None:
        """Remembers how one ended whose supervisor was killed, with what its files hold of its output."""
        with contextlib.suppress(OSError):
            layouts, counts, order_of_output = self._salvage(order)
            self._append_ended(order, replace(ending, output=counts), layouts, order_of_output.to_state())
        self._finish(order, _measure(self._active / order.id)[0])

    def end_unknown(self, order: Order) -> None:
        """Remembers one of which nobody will ever know how it ended."""
        self._finish(order, 0)

    def _salvage(self, order: Order) -> tuple[dict[str, list[int]], OutputCounts | None, Interleaving]:
        """What is known of the output of an exec that nobody has watched to its end: the heads of its files."""
        order_of_output, layouts = Interleaving(), {}
        counts: dict[str, StreamCount] = {}
        for number, name in enumerate(STREAMS):
            layout = Layout.spooled(order.limits.output_limit, order.keep)
            path = self._active / order.id / name
            size = path.stat().st_size if path.exists() else 0
            total = size if size < layout.size else layout.head  # else it may have begun to overwrite its ring
            layouts[name] = [total, 0]
            counts[name] = {"bytes": total, "dropped": 0, "dropped_at": None, "sha256": None}
            if total:
                order_of_output.add(number, total)
        known = OutputCounts(stdout=counts["stdout"], stderr=counts["stderr"]) if order.spooled else None
        return layouts, known, order_of_output

    def _append_ended(
        self, order: Order, ending: Ending, layouts: dict[str, list[int]], interleaving: dict[str, Any]
    ) -> None:
        line = {"ended": ending.to_wire(), "layout": layouts, "interleaving": interleaving}
        if len(interleaving["ends"]) > _LONG_INTERLEAVING:
            path = self._active / order.id / _INTERLEAVING
            path.touch(0o600)
            path.write_text(json.dumps(interleaving))
            del line["interleaving"]
        self._append(order.id, line)

    def _finish(self, order: Order, size: int) -> None:
        self._close(order.id)
        self._growing.pop(order.id, None)
        self._remember(order, size, time.time())

    def restore(self, order: Order, ending: Ending | None) -> None:
        """Remembers an exec that the disk has lost, without its output. Raises SpoolFull."""
        self.accept(order)
        if ending is not None:
            with contextlib.suppress(OSError):
                self._append_ended(order, ending, {}, Interleaving().to_state())
        self._finish(order, 0)
        self.retire(order.id)

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
        self._growing.pop(exec_id, None)
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

    def recording(self, life: Life) -> Recording:
        """The output of an exec that has ended, as far as it was kept."""
        directory = self._path(life.order.id)
        output = life.ending.output if life.ending is not None else None
        totals = {name: output[name]["bytes"] if output is not None else 0 for name in STREAMS}  # type: ignore[literal-required]
        streams = [StoredStream(directory / name, totals[name], life.layouts.get(name, _NONE)) for name in STREAMS]
        state = life.interleaving
        if state is None:
            with contextlib.suppress(OSError, ValueError):
                state = json.loads((directory / _INTERLEAVING).read_text())
        order = Interleaving.from_state(state) if state is not None else Interleaving()
        return Recording((streams[0], streams[1]), order)

    def sweep(self, now: float, wanted: int = 0, at_most: int | None = None) -> bool:
        """Forgets what is past retention, and the oldest while there is too much. `now`: seconds since 1970.

        `wanted`: bytes for which there shall be room then. Each takes the disk up to a millisecond: `at_most` so many
        go now. Returns whether there are more.
        """
        gone = 0
        room = self._config.total - wanted - sum(self._growing.values())
        for exec_id, entry in list(self._remembered.items()):
            over = len(self._remembered) > self._config.max_ended or self._bytes > room
            if not over and now - entry.ended_at < self._config.retention:
                break
            if gone == at_most:
                return True
            if (self._active / exec_id).exists():
                continue  # its survivors live on
            gone += 1
            del self._remembered[exec_id]
            self._bytes -= entry.bytes
            shutil.rmtree(self._ended / exec_id, ignore_errors=True)
            self.on_forgotten(exec_id)
        return False

    def _check_room(self) -> None:
        now = time.monotonic()
        if now - self._free_checked < _FREE_CHECK_SECONDS:
            return
        try:
            free = self._free()
        except OSError as exc:
            raise SpoolFull(f"cannot use the spool directory: {exc.strerror}") from exc
        if free < self._config.min_free:
            raise SpoolFull("the spool's file system has less free space than spool.min_free; free space on the node")
        self._free_checked = now

    def _free(self) -> int:
        disk = os.statvfs(self._config.directory)
        return disk.f_bavail * disk.f_frsize

    def _remember(self, order: Order, size: int, ended_at: float) -> None:
        key = key_of(order)
        self._remembered[order.id] = Remembered(order.token_id, order.vmid, order.labels, size, ended_at, key)
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


_NONE = Layout(0, 0)


@dataclass(frozen=True)
class StoredStream:
    """One stream of an exec that has ended."""

    path: Path
    total: int
    layout: Layout

    def read(self, offset: int, length: int) -> bytes:
        """Kept bytes from the stream's `offset`, `length` at most and not past a gap."""
        length = readable(self.layout, self.total, offset, length)
        try:
            with self.path.open("rb", buffering=0) as file:
                pieces = self.layout.pieces(offset, length)
                return b"".join(os.pread(file.fileno(), size, position) for position, size in pieces)
        except FileNotFoundError:
            return b""


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
    pid, start, ending, layouts, interleaving = None, 0, None, {}, None
    try:
        for line in (path / _LIFE).read_text().splitlines():
            entry = json.loads(line)
            if "accepted" in entry:
                order = Order.from_wire(entry["accepted"])
            elif "go" in entry:
                pid, start = int(entry["go"]), int(entry["start"])
            elif "ended" in entry:
                ending = Ending.from_wire(entry["ended"])
                layouts = {name: Layout(*sizes) for name, sizes in entry["layout"].items()}
                interleaving = entry.get("interleaving")
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return Life(order, pid, start, ending, layouts, interleaving) if order is not None else None
