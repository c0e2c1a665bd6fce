"""Where canaries are looked for: what the gateway's processes show while they work, and what they leave on the disk."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.canaries.words import Canaries, Sink
from tests.exec.gateways import Gateway

_PAUSE_SECONDS = 0.02


class Onlooker:
    """Somebody on the node who looks at the arguments and environments of its processes again and again, for as long as
    the `with`. Processes in guests are not looked at: what was asked to run there has what it was given."""

    def __init__(self, canaries: Canaries) -> None:
        self._canaries = canaries
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._own = os.readlink("/proc/self/ns/pid")
        self.leaks: set[str] = set()
        self.seen: set[bytes] = set()
        """Names of the programs that were looked at."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ending.wait(_PAUSE_SECONDS):
            for entry in os.scandir("/proc"):
                if entry.name.isdecimal():
                    with contextlib.suppress(OSError):  # it has ended
                        self._look_at(Path(entry.path))

    def _look_at(self, process: Path) -> None:
        arguments, environment = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
        name = arguments.partition(b"\0")[0]
        self.seen.add(name)
        leaks = {
            *self._canaries.leaks(Sink.ARGV, arguments, ascii(name)),
            *self._canaries.leaks(Sink.ENVIRON, environment, ascii(name)),
        }
        if leaks and os.readlink(process / "ns/pid") == self._own:
            self.leaks |= leaks


def leaks_on_disk(gateway: Gateway, canaries: Canaries) -> Iterator[str]:
    """What stands in the services' logs, in the audit log, and in any other file of the gateway, which only its owner
    may read if it holds anything."""
    for directory, _, names in os.walk(gateway.directory):
        for path in (Path(directory, name) for name in names):
            with contextlib.suppress(FileNotFoundError):
                info = path.lstat()
                if stat.S_ISREG(info.st_mode):
                    yield from canaries.leaks(_kind(gateway, path, info), path.read_bytes(), str(path))


def _kind(gateway: Gateway, path: Path, info: os.stat_result) -> Sink:
    if path.parent == gateway.services.log("web").parent:
        return Sink.LOG
    if path.parent == gateway.audit_log.parent and path.name.startswith("audit.log"):
        return Sink.AUDIT
    return Sink.OPEN if info.st_mode & 0o077 else Sink.KEPT
