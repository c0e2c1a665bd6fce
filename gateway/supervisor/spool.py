"""What is remembered of execs on disk, for the next supervisor and for late readers.

    journal/<n>.jsonl            accepted, go, ended: a line each, as it happens; with the output of small runs
    output/<exec-id>/stdout|stderr   the kept output of what is streamed, detached or large, as `layout` says
    output/<exec-id>/interleaving    the order of both, where it is too long for a line

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
from base64 import b64encode
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
from gateway.supervisor.journal import Journal, Line, Place
from gateway.supervisor.layout import Layout
from gateway.supervisor.life import Life, StoredStream, from_bytes, from_file, read_life
from gateway.supervisor.recording import Recording
from gateway.supervisor.streams import Streams

log = logging.getLogger(__name__)

_INTERLEAVING = "interleaving"
_LONG_INTERLEAVING = 4096
_SMALL_OUTPUT = 16 << 10
"""Bytes of both streams together that stand in the journal: most execs need no file of their own."""
_FREE_CHECK_SECONDS = 1.0
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
_NONE = Layout(0, 0)


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
        self._output = config.directory / "output"
        journal = config.directory / "journal"
        for directory in (config.directory, journal, self._output):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.chmod(0o700)
        self._journal = Journal(journal)
        self._lines: dict[str, list[Place]] = {}
        self._remembered: OrderedDict[str, Remembered] = OrderedDict()
        self._bytes = 0
        self._growing: dict[str, int] = {}
        self._left: set[str] = set()
        """Those that have ended, and whose survivors may live on."""
        self._unfinished: list[str] = []
        self._free_checked = 0.0
        self._load()

    def _load(self) -> None:
        """Reads what an earlier supervisor has left."""
        places: dict[str, dict[str, Place]] = {}
        lives: dict[str, dict[str, Line]] = {}
        for place, line in self._journal.lines():
            exec_id, kind = _subject(line)
            places.setdefault(exec_id, {})[kind] = place
            lives.setdefault(exec_id, {})[kind] = line | {"output": {}} if kind == "ended" else line
        settled: list[Life] = []
        for exec_id, lines in lives.items():
            life = read_life(lines.values())
            if life is None or not is_exec_id(exec_id):
                continue
            self._lines[exec_id] = [place for _, place in sorted(places[exec_id].items(), key=_accepted_first)]
            for place in self._lines[exec_id]:
                self._journal.keep(place)
            if life.left or not life.ended_at:
                self._unfinished.append(exec_id)
            else:
                settled.append(life)
        for life in sorted(settled, key=lambda life: life.ended_at):
            self._remember(life.order, life.size, life.ended_at)
        self._journal.tidy()
        for name in os.listdir(self._output):
            if name not in self._lines:
                shutil.rmtree(self._output / name, ignore_errors=True)

    def accept(self, order: Order) -> None:
        """Remembers that it was accepted, before anything of it is started. Raises SpoolFull."""
        self._check_room()
        self._lines[order.id] = []
        try:
            self._append(order.id, {"accepted": order.to_wire()})
        except OSError as exc:
            self.drop(order.id)
            if exc.errno not in _DISK_ERRORS:
                raise
            raise SpoolFull(f"cannot write to the spool: {exc.strerror}; free space on the node") from exc

    def mark_go(self, order: Order, pid: int, start: int) -> None:
        """Remembers that it is about to begin. Raises OSError; then it must not, for nobody could know that it did."""
        self._append(order.id, {"go": pid, "start": start})

    def room(self, order: Order, stream: str) -> Room:
        """Where a stream's bytes are to be kept. Raises SpoolFull."""
        if not order.spooled:
            return MemoryRoom()
        try:
            path = self._output_of(order.id) / stream
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise SpoolFull(f"cannot write to the spool: {exc.strerror}; free space on the node") from exc
        return FileRoom(fd, self.granter(order))

    def granter(self, order: Order) -> Callable[[int], bool]:
        """Whom its files ask before they grow by so many bytes: whether the node has room for that."""

        def grant(size: int) -> bool:
            if not self._makes_room(size):
                log.warning("%s: no more of its output is kept: the spool is full", order.id)
                return False
            self._growing[order.id] = self._growing.get(order.id, 0) + size
            return True

        return grant

    def adopt_growth(self, order: Order, state: dict[str, Any]) -> None:
        """Counts what the files of an exec were granted under an earlier image of this program."""
        self._growing[order.id] = sum(state[name]["room"].get("granted", 0) for name in STREAMS)

    def end(self, order: Order, ending: Ending, streams: Streams, *, left: bool) -> None:
        """Remembers how it ended, and its output. What the disk refuses is lost; the caller has it all the same.

        `left`: what it left behind lives on, and it is not swept before `survivors_gone`.
        """
        kept = {name: min(capture.bytes, capture.layout.size) for name, capture in streams.captures()}
        output: dict[str, str] = {}
        with contextlib.suppress(OSError):
            small = sum(kept.values()) <= _SMALL_OUTPUT
            for name, capture in streams.captures():
                if capture.fd is None and kept[name]:
                    if small:
                        output[name] = b64encode(capture.stored()).decode()
                    else:
                        self._write_output(order.id, name, capture.stored())
            layouts = {name: [c.layout.head, c.layout.ring] for name, c in streams.captures()}
            members = {"layout": layouts, "output": output, "bytes": sum(kept.values()), "left": left}
            self._append_ended(order, ending, members, streams.order)
        self._finish(order, sum(kept.values()), left=left)

    def end_lost(self, order: Order, ending: Ending) -> None:
        """Remembers how one ended whose supervisor was killed, with what its files hold of its output."""
        size = _measure(self._output / order.id)
        with contextlib.suppress(OSError):
            layouts, counts, order_of_output = self._salvage(order)
            members = {"layout": layouts, "output": {}, "bytes": size, "left": False}
            self._append_ended(order, replace(ending, output=counts), members, order_of_output)
        self._finish(order, size)

    def end_unknown(self, order: Order) -> None:
        """Remembers one of which nobody will ever know how it ended."""
        with contextlib.suppress(OSError):
            self._append(order.id, {"lost": time.time()})
        self._finish(order, 0)

    def _salvage(self, order: Order) -> tuple[dict[str, list[int]], OutputCounts | None, Interleaving]:
        """What is known of the output of an exec that nobody has watched to its end: the heads of its files."""
        order_of_output, layouts = Interleaving(), {}
        counts: dict[str, StreamCount] = {}
        for number, name in enumerate(STREAMS):
            layout = Layout.spooled(order.limits.output_limit, order.keep)
            path = self._output / order.id / name
            size = path.stat().st_size if path.exists() else 0
            total = size if size < layout.size else layout.head  # else it may have begun to overwrite its ring
            layouts[name] = [total, 0]
            counts[name] = {"bytes": total, "dropped": 0, "dropped_at": None, "sha256": None}
            if total:
                order_of_output.add(number, total)
        known = OutputCounts(stdout=counts["stdout"], stderr=counts["stderr"]) if order.spooled else None
        return layouts, known, order_of_output

    def _append_ended(self, order: Order, ending: Ending, members: dict[str, Any], interleaving: Interleaving) -> None:
        line = {"ended": ending.to_wire(), "at": time.time(), "interleaving": interleaving.to_state(), **members}
        if len(line["interleaving"]["ends"]) > _LONG_INTERLEAVING:
            self._write_output(order.id, _INTERLEAVING, json.dumps(line.pop("interleaving")).encode())
        self._append(order.id, line)

    def _write_output(self, exec_id: str, name: str, data: bytes) -> None:
        path = self._output_of(exec_id) / name
        path.touch(0o600)
        path.write_bytes(data)

    def _finish(self, order: Order, size: int, *, left: bool = False) -> None:
        self._growing.pop(order.id, None)
        if left:
            self._left.add(order.id)
        self._remember(order, size, time.time())

    def restore(self, order: Order, ending: Ending | None) -> None:
        """Remembers an exec of which no output is kept: the disk has lost it, or it never began. Raises SpoolFull."""
        self.accept(order)
        if ending is None:
            self.end_unknown(order)
            return
        with contextlib.suppress(OSError):
            members = {"layout": {}, "output": {}, "bytes": 0, "left": False}
            self._append_ended(order, ending, members, Interleaving())
        self._finish(order, 0)

    def remember(self, exec_id: str) -> None:
        """Keeps one that ended under an earlier supervisor, and whose survivors may live on."""
        life = self._life(exec_id)
        if life is not None:
            self._left.add(exec_id)
            self._remember(life.order, life.size, life.ended_at)

    def survivors_gone(self, exec_id: str) -> None:
        """Nothing of it runs any more."""
        self._left.discard(exec_id)
        with contextlib.suppress(OSError):
            self._append(exec_id, {"gone": True})

    def drop(self, exec_id: str) -> None:
        """Forgets one that never began."""
        self._growing.pop(exec_id, None)
        self._forget(exec_id)

    def unfinished(self) -> list[Life]:
        """What an earlier supervisor left running, or with survivors."""
        return [life for life in map(self._life, self._unfinished) if life is not None]

    def find(self, exec_id: str) -> Life | None:
        """An exec that has ended, as it is remembered; None when it is not or no longer."""
        return self._life(exec_id) if exec_id in self._remembered else None

    def remembered(self) -> dict[str, Remembered]:
        """The execs that are remembered as ended, by id, in the order of their ends."""
        return self._remembered

    def recording(self, life: Life) -> Recording:
        """The output of an exec that has ended, as far as it was kept."""
        directory = self._output / life.order.id
        output = life.ending.output if life.ending is not None else None
        totals = {name: output[name]["bytes"] if output is not None else 0 for name in STREAMS}  # type: ignore[literal-required]
        streams = []
        for name in STREAMS:
            pread = from_bytes(life.output[name]) if name in life.output else from_file(directory / name)
            streams.append(StoredStream(pread, totals[name], life.layouts.get(name, _NONE)))
        state = life.interleaving
        if state is None:
            with contextlib.suppress(OSError, ValueError):
                state = json.loads((directory / _INTERLEAVING).read_text())
        order = Interleaving.from_state(state) if state is not None else Interleaving()
        return Recording((streams[0], streams[1]), order)

    def sweep(self, now: float, wanted: int = 0, at_most: int | None = None) -> bool:
        """Forgets what is past retention, and the oldest while there is too much. `now`: seconds since 1970.

        `wanted`: bytes for which there shall be room then, in spool.total and above spool.min_free. Each can take the
        disk up to a millisecond: `at_most` so many go now. Returns whether there are more.
        """
        gone = 0
        room = min(self._config.total - wanted - sum(self._growing.values()), self._kept_above_min_free(wanted))
        for exec_id, entry in list(self._remembered.items()):
            over = len(self._remembered) > self._config.max_ended or self._bytes > room
            if not over and now - entry.ended_at < self._config.retention:
                break
            if exec_id in self._left:
                continue
            if gone == at_most:
                return True
            gone += 1
            del self._remembered[exec_id]
            self._bytes -= entry.bytes
            self._forget(exec_id)
            self.on_forgotten(exec_id)
        self._compact()
        return False

    def _check_room(self) -> None:
        now = time.monotonic()
        if now - self._free_checked < _FREE_CHECK_SECONDS:
            return
        try:
            fits = self._disk_makes_room(0)
        except OSError as exc:
            raise SpoolFull(f"cannot use the spool directory: {exc.strerror}") from exc
        if not fits:
            raise SpoolFull("the spool's file system has less free space than spool.min_free; free space on the node")
        self._free_checked = now

    def _makes_room(self, size: int) -> bool:
        """Whether there is room for so many bytes more, the oldest of those that have ended gone for it if need be."""
        if self._bytes + sum(self._growing.values()) + size > self._config.total:
            self.sweep(time.time(), wanted=size)
        return self._bytes + sum(self._growing.values()) + size <= self._config.total and self._disk_makes_room(size)

    def _disk_makes_room(self, size: int) -> bool:
        """The same for the disk alone. What has gone counts at once: ZFS frees it seconds later. Raises OSError."""
        missing = self._config.min_free + size - self._free()
        if missing > 0:
            kept = self._bytes
            self.sweep(time.time(), wanted=size)
            missing -= kept - self._bytes
        return missing <= 0

    def _kept_above_min_free(self, wanted: int) -> int:
        """How many bytes of ended execs the disk has room for; all that there are where forgetting them all would not
        be enough, for then they would go in vain."""
        with contextlib.suppress(OSError):
            room = self._bytes + self._free() - self._config.min_free - wanted
            if room >= 0:
                return room
        return self._bytes

    def _free(self) -> int:
        disk = os.statvfs(self._config.directory)
        return disk.f_bavail * disk.f_frsize

    def _remember(self, order: Order, size: int, ended_at: float) -> None:
        key = key_of(order)
        self._remembered[order.id] = Remembered(order.token_id, order.vmid, order.labels, size, ended_at, key)
        self._bytes += size

    def _life(self, exec_id: str) -> Life | None:
        return read_life(self._journal.read(self._lines.get(exec_id, ())))

    def _append(self, exec_id: str, line: Line) -> None:
        self._lines[exec_id].append(self._journal.append({"id": exec_id, **line}))

    def _output_of(self, exec_id: str) -> Path:
        """The directory for its output, made where there is none yet."""
        path = self._output / exec_id
        with contextlib.suppress(FileExistsError):
            path.mkdir(0o700)
        return path

    def _forget(self, exec_id: str) -> None:
        """Takes its lines and its output from the disk."""
        places = self._lines.pop(exec_id)
        if places:
            with contextlib.suppress(OSError):
                self._journal.strike(places[0])
        self._journal.release(places)
        shutil.rmtree(self._output / exec_id, ignore_errors=True)

    def _compact(self) -> None:
        """Writes the few lines anew that hold a mostly spent file of the journal."""
        sparse = self._journal.sparse()
        for places in self._lines.values() if sparse else ():
            for number, place in enumerate(places):
                if place.file in sparse:
                    with contextlib.suppress(OSError):
                        for line in self._journal.read([place]):
                            places[number] = self._journal.append(line)
                            self._journal.release([place])


def is_exec_id(text: str) -> bool:
    return text.startswith("ex_") and ulid.is_ulid(text[3:])


def _subject(line: Line) -> tuple[str, str]:
    """The id that a line is about, and its kind: the first two members."""
    _, kind, *_ = *line, "", ""
    return str(line.get("id")), kind


def _accepted_first(item: tuple[str, Place]) -> bool:
    return item[0] != "accepted"


def _measure(path: Path) -> int:
    """Bytes of all files in a directory; 0 without it."""
    with contextlib.suppress(OSError), os.scandir(path) as files:
        return sum(file.stat(follow_symlinks=False).st_size for file in files)
    return 0
