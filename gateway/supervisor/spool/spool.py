"""What is remembered of execs on disk, for the next supervisor and for late readers.

    journal/<n>.jsonl            accepted, go, ended: a line each, as it happens; with the output of small runs
    output/<exec-id>/stdout|stderr   the kept output of what is streamed, detached or large, as `layout` says
    output/<exec-id>/interleaving    the order of both, where it is too long for a line

Directories are 0700, files 0600. No stdin, no environment value and no marked argument is ever written here.
"""

from __future__ import annotations

import contextlib
import errno
import time
from base64 import b64encode
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from gateway.config import SpoolConfig
from gateway.errors import SpoolFull
from gateway.exec.ending import Ending
from gateway.exec.order import Order
from gateway.exec.view import OutputCounts, StreamCount
from gateway.supervisor.limits.allowance import Allowance
from gateway.supervisor.output.capture import FileRoom, MemoryRoom, Room
from gateway.supervisor.output.interleaving import STREAMS, Interleaving
from gateway.supervisor.output.kept_files import OutputFiles
from gateway.supervisor.output.layout import Layout
from gateway.supervisor.output.recording import Recording
from gateway.supervisor.output.streams import Streams
from gateway.supervisor.spool.idempotency import Used, key_of
from gateway.supervisor.spool.life import Life, StoredStream, from_bytes
from gateway.supervisor.spool.lives import Lives

_LONG_INTERLEAVING = 4096
_SMALL_OUTPUT = 16 << 10
"""Bytes of both streams together that stand in the journal: most execs need no file of their own."""
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
    terminal: bool


class Spool:
    """The spool directory of one gateway; only its supervisor writes here."""

    def __init__(self, config: SpoolConfig) -> None:
        self.on_forgotten: Callable[[str], None] = lambda exec_id: None
        """Called with the id of each exec that is remembered no more."""
        self._config = config
        journal, output = config.directory / "journal", config.directory / "output"
        for directory in (config.directory, journal, output):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.chmod(0o700)
        self._lives = Lives(journal)
        self._files = OutputFiles(output)
        self._allowance = Allowance(config, lambda size: self.sweep(time.time(), wanted=size))
        self._remembered: OrderedDict[str, Remembered] = OrderedDict()
        self._left: set[str] = set()
        """Those that have ended, and whose survivors may live on."""
        self._unfinished: list[str] = []
        self._load()

    def _load(self) -> None:
        """Reads what an earlier supervisor has left."""
        settled: list[Life] = []
        for life in self._lives.load():
            if life.left or not life.ended_at:
                self._unfinished.append(life.order.id)
            else:
                settled.append(life)
        for life in sorted(settled, key=lambda life: life.ended_at):
            self._remember(life.order, life.size, life.ended_at)
        self._files.remove_all_but(self._lives)

    def accept(self, order: Order) -> None:
        """Remembers that it was accepted, before anything of it is started. Raises SpoolFull."""
        self._allowance.require_free()
        try:
            self._lives.begin(order.id, {"accepted": order.to_wire()})
        except OSError as exc:
            self.drop(order.id)
            if exc.errno not in _DISK_ERRORS:
                raise
            raise SpoolFull(f"cannot write to the spool: {exc.strerror}; free space on the node") from exc

    def mark_go(self, order: Order, pid: int, start: int) -> None:
        """Remembers that it is about to begin. Raises OSError; then it must not, for nobody could know that it did."""
        self._lives.append(order.id, {"go": pid, "start": start})

    def room(self, order: Order, stream: str) -> Room:
        """Where a stream's bytes are to be kept. Raises SpoolFull."""
        if not order.spooled:
            return MemoryRoom()
        try:
            fd = self._files.create(order.id, stream)
        except OSError as exc:
            raise SpoolFull(f"cannot write to the spool: {exc.strerror}; free space on the node") from exc
        return FileRoom(fd, self.granter(order))

    def granter(self, order: Order) -> Callable[[int], bool]:
        """Whom its files ask before they grow by so many bytes: whether the node has room for that."""
        return partial(self._allowance.grant, order.id)

    def adopt_growth(self, order: Order, state: dict[str, Any]) -> None:
        """Counts what the files of an exec were granted under an earlier image of this program."""
        self._allowance.count(order.id, sum(state[name]["room"].get("granted", 0) for name in STREAMS))

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
                        self._files.write(order.id, name, capture.stored())
            layouts = {name: [c.layout.head, c.layout.ring] for name, c in streams.captures()}
            members = {"layout": layouts, "output": output, "bytes": sum(kept.values()), "left": left}
            self._append_ended(order, ending, members, streams.order)
        self._finish(order, sum(kept.values()), left=left)

    def end_lost(self, order: Order, ending: Ending) -> None:
        """Remembers how one ended whose supervisor was killed, with what its files hold of its output."""
        size = self._files.size(order.id)
        with contextlib.suppress(OSError):
            totals, order_of_output = self._files.salvage(order), Interleaving()
            for number, name in enumerate(STREAMS):
                if totals[name]:
                    order_of_output.add(number, totals[name])
            layouts = {name: [total, 0] for name, total in totals.items()}
            members = {"layout": layouts, "output": {}, "bytes": size, "left": False}
            known = replace(ending, output=_unhashed(totals)) if order.spooled else ending
            self._append_ended(order, known, members, order_of_output)
        self._finish(order, size)

    def end_unknown(self, order: Order) -> None:
        """Remembers one of which nobody will ever know how it ended."""
        with contextlib.suppress(OSError):
            self._lives.append(order.id, {"lost": time.time()})
        self._finish(order, 0)

    def _append_ended(self, order: Order, ending: Ending, members: dict[str, Any], interleaving: Interleaving) -> None:
        line = {"ended": ending.to_wire(), "at": time.time(), "interleaving": interleaving.to_state(), **members}
        if len(line["interleaving"]["ends"]) > _LONG_INTERLEAVING:
            del line["interleaving"]
            self._files.write_interleaving(order.id, interleaving)
        self._lives.append(order.id, line)

    def _finish(self, order: Order, size: int, *, left: bool = False) -> None:
        self._allowance.settle(order.id)
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
        life = self._lives.read(exec_id)
        if life is not None:
            self._left.add(exec_id)
            self._remember(life.order, life.size, life.ended_at)

    def survivors_gone(self, exec_id: str) -> None:
        """Nothing of it runs any more."""
        self._left.discard(exec_id)
        with contextlib.suppress(OSError):
            self._lives.append(exec_id, {"gone": True})

    def drop(self, exec_id: str) -> None:
        """Forgets one that never began."""
        self._allowance.settle(exec_id)
        self._forget(exec_id)

    def unfinished(self) -> list[Life]:
        """What an earlier supervisor left running, or with survivors."""
        return [life for life in map(self._lives.read, self._unfinished) if life is not None]

    def find(self, exec_id: str) -> Life | None:
        """An exec that has ended, as it is remembered; None when it is not or no longer. Raises OSError where that
        cannot be read now."""
        return self._lives.read(exec_id) if exec_id in self._remembered else None

    def remembered(self) -> dict[str, Remembered]:
        """The execs that are remembered as ended, by id, in the order of their ends."""
        return self._remembered

    def recording(self, life: Life) -> Recording:
        """The output of an exec that has ended, as far as it was kept."""
        exec_id, output = life.order.id, life.ending.output if life.ending is not None else None
        totals = {name: output[name]["bytes"] if output is not None else 0 for name in STREAMS}  # type: ignore[literal-required]
        streams = []
        for name in STREAMS:
            pread = from_bytes(life.output[name]) if name in life.output else self._files.reader(exec_id, name)
            streams.append(StoredStream(pread, totals[name], life.layouts.get(name, _NONE)))
        if life.interleaving is not None:
            order = Interleaving.from_state(life.interleaving)
        else:
            order = self._files.interleaving(exec_id)
        return Recording((streams[0], streams[1]), order)

    @property
    def size(self) -> int:
        """Bytes of output that are kept of those that have ended."""
        return self._allowance.kept

    def sweep(self, now: float, wanted: int = 0, at_most: int | None = None) -> bool:
        """Forgets what is past retention, and the oldest while there is too much. `now`: seconds since 1970.

        `wanted`: bytes for which there shall be room then, in spool.total and above spool.min_free. Each can take the
        disk up to a millisecond: `at_most` so many go now. Returns whether there are more.
        """
        gone = 0
        room = self._allowance.for_ended(wanted)
        for exec_id, entry in list(self._remembered.items()):
            over = len(self._remembered) > self._config.max_ended or self._allowance.kept > room
            if not over and now - entry.ended_at < self._config.retention:
                break
            if exec_id in self._left:
                continue
            if gone == at_most:
                return True
            gone += 1
            del self._remembered[exec_id]
            self._allowance.kept -= entry.bytes
            self._forget(exec_id)
            self.on_forgotten(exec_id)
        self._lives.compact()
        return False

    def _remember(self, order: Order, size: int, ended_at: float) -> None:
        key = key_of(order)
        self._remembered[order.id] = Remembered(
            order.token_id, order.vmid, order.labels, size, ended_at, key, order.terminal
        )
        self._allowance.kept += size

    def _forget(self, exec_id: str) -> None:
        """Takes its lines and its output from the disk."""
        self._lives.forget(exec_id)
        self._files.remove(exec_id)


def _unhashed(totals: dict[str, int]) -> OutputCounts:
    """The counts of output that nobody has watched to its end."""
    stdout, stderr = (StreamCount(bytes=totals[name], dropped=0, dropped_at=None, sha256=None) for name in STREAMS)
    return OutputCounts(stdout=stdout, stderr=stderr)
