"""The output of execs as far as it stands in files of its own: `output/<exec-id>/stdout|stderr|interleaving`."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Container
from pathlib import Path

from gateway.exec.order import Order
from gateway.supervisor.output.interleaving import STREAMS, Interleaving
from gateway.supervisor.output.layout import Layout

_INTERLEAVING = "interleaving"


class OutputFiles:
    """A directory for each exec that has any, 0700; its files are 0600."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def create(self, exec_id: str, stream: str) -> int:
        """A new file for one stream, open to read and write. Raises OSError."""
        path = self._of(exec_id) / stream
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def write(self, exec_id: str, stream: str, data: bytes) -> None:
        """Keeps a stream that had no file while it came. Raises OSError."""
        path = self._of(exec_id) / stream
        path.touch(0o600)
        path.write_bytes(data)

    def write_interleaving(self, exec_id: str, interleaving: Interleaving) -> None:
        """Keeps the order of both streams. Raises OSError."""
        self.write(exec_id, _INTERLEAVING, json.dumps(interleaving.to_state()).encode())

    def reader(self, exec_id: str, stream: str) -> Callable[[int, int], bytes]:
        """A `pread` of a stream's file; without it there are no bytes."""
        path = self._directory / exec_id / stream

        def pread(length: int, position: int) -> bytes:
            try:
                with path.open("rb", buffering=0) as file:
                    return os.pread(file.fileno(), length, position)
            except FileNotFoundError:
                return b""

        return pread

    def interleaving(self, exec_id: str) -> Interleaving:
        """The order of both streams; an empty one where none was kept."""
        with contextlib.suppress(OSError, ValueError):
            return Interleaving.from_state(json.loads((self._directory / exec_id / _INTERLEAVING).read_text()))
        return Interleaving()

    def size(self, exec_id: str) -> int:
        """Bytes of all of an exec's files."""
        with contextlib.suppress(OSError), os.scandir(self._directory / exec_id) as files:
            return sum(file.stat(follow_symlinks=False).st_size for file in files)
        return 0

    def salvage(self, order: Order) -> dict[str, int]:
        """How many bytes of each stream can be relied on where nobody has watched the exec to its end: of its files
        the heads. Raises OSError."""
        sizes = {}
        for name in STREAMS:
            layout = Layout.spooled(order.limits.output_limit, order.keep)
            path = self._directory / order.id / name
            size = path.stat().st_size if path.exists() else 0
            sizes[name] = size if size < layout.size else layout.head  # else it may have begun to overwrite its ring
        return sizes

    def remove(self, exec_id: str) -> None:
        """Takes an exec's files from the disk."""
        shutil.rmtree(self._directory / exec_id, ignore_errors=True)

    def remove_all_but(self, known: Container[str]) -> None:
        """Takes those from the disk that belong to no exec."""
        for name in os.listdir(self._directory):
            if name not in known:
                self.remove(name)

    def _of(self, exec_id: str) -> Path:
        """An exec's directory, made where there is none yet."""
        path = self._directory / exec_id
        with contextlib.suppress(FileExistsError):
            path.mkdir(0o700)
        return path
