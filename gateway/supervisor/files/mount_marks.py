"""Which of PVE's locks `mounted` are ours: a file for each, in a directory that outlives a kill and a loss of power."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


class MountMarks:
    """Those of one node, by vmid. `directory` is made when it is needed, for nobody else."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def has(self, vmid: int) -> bool:
        return (self._directory / str(vmid)).exists()

    def all(self) -> list[int]:
        try:
            return [int(name) for name in os.listdir(self._directory) if name.isdecimal()]
        except FileNotFoundError:
            return []

    def add(self, vmid: int) -> None:
        """Before the lock, and on disk. Raises OSError."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        os.close(os.open(self._directory / str(vmid), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        directory = os.open(self._directory, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def remove(self, vmid: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self._directory / str(vmid)).unlink()
