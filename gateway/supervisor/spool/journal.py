"""An append-only journal of JSON lines in numbered files, each removed when nothing in it matters any more.

It costs no inode for an entry: looking for a free one is the dearest part of a small file on ext4. A line is taken
back by overwriting its first byte, which works on a full disk, too. Lines are in the page cache when `append` returns,
so they outlive this process; a loss of power can take the last half minute of them.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from gateway import jsonbytes

Line = dict[str, Any]
_STRUCK = b"#"
_NOT_NOW = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class Place(NamedTuple):
    """Where a line stands: the number of its file, its offset and length in bytes."""

    file: int
    offset: int
    length: int


class Journal:
    """The journal in one directory; one process writes it."""

    def __init__(self, directory: Path, file_bytes: int = 4 << 20) -> None:
        """`file_bytes`: a line behind that begins a new file."""
        self._directory = directory
        self._file_bytes = file_bytes
        self._sizes = {int(path.stem): path.stat().st_size for path in directory.glob("*.jsonl") if path.stem.isdigit()}
        self._sizes = dict(sorted(self._sizes.items()))
        self._kept = dict.fromkeys(self._sizes, 0)
        self._number = max(self._sizes, default=0)
        self._fd: int | None = None

    def lines(self) -> Iterator[tuple[Place, Line]]:
        """Every line that can be read, oldest first; each is dropped with its file unless it is kept by `keep`."""
        for number in self._sizes:
            offset = 0
            for text in self._path(number).read_bytes().splitlines(keepends=True):
                line = _parse(text) if text.endswith(b"\n") else None
                if line is not None:
                    yield Place(number, offset, len(text)), line
                offset += len(text)

    def keep(self, place: Place) -> None:
        """A line of an earlier journal matters still."""
        self._kept[place.file] += place.length

    def append(self, line: Line) -> Place:
        """Adds a line that matters until it is released. Raises OSError; nothing of it is left then."""
        data = jsonbytes.encode(line) + b"\n"
        fd = self._open()
        offset = self._sizes[self._number]
        try:
            if os.pwrite(fd, data, offset) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(fd, offset)
            raise
        self._sizes[self._number] += len(data)
        self._kept[self._number] += len(data)
        return Place(self._number, offset, len(data))

    def read(self, places: Sequence[Place]) -> list[Line]:
        """The lines there, those that cannot be read left out. Raises OSError where they can be, but not now."""
        found = []
        for number, there in groupby(places, key=lambda place: place.file):
            try:
                with self._path(number).open("rb", buffering=0) as file:
                    for place in there:
                        line = _parse(os.pread(file.fileno(), place.length, place.offset))
                        if line is not None:
                            found.append(line)
            except OSError as exc:
                if exc.errno in _NOT_NOW:
                    raise
        return found

    def release(self, places: Sequence[Place]) -> None:
        """These lines matter no more."""
        for place in places:
            self._kept[place.file] -= place.length
        self._remove_spent({place.file for place in places})

    def strike(self, place: Place) -> None:
        """Takes a line back: whoever reads the journal from its files does not find it. Raises OSError."""
        with self._path(place.file).open("r+b", buffering=0) as file:
            os.pwrite(file.fileno(), _STRUCK, place.offset)

    def sparse(self) -> set[int]:
        """The files that are mostly of no use: what matters in them is better written anew, and released here."""
        return {
            number for number, kept in self._kept.items() if number != self._number and kept * 4 < self._sizes[number]
        }

    def tidy(self) -> None:
        """Removes files in which nothing matters."""
        self._remove_spent(set(self._kept))

    def _open(self) -> int:
        if self._fd is not None and self._sizes[self._number] < self._file_bytes:
            return self._fd
        if self._fd is None and self._can_go_on():
            self._fd = os.open(self._path(self._number), os.O_WRONLY | os.O_CLOEXEC)
            return self._fd
        number = self._number + 1
        fd = os.open(self._path(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        if self._fd is not None:
            os.close(self._fd)
        before, self._number, self._fd = self._number, number, fd
        self._sizes[number] = self._kept[number] = 0
        self._remove_spent({before})
        return fd

    def _can_go_on(self) -> bool:
        """Whether the last file has room, and ends with a whole line."""
        size = self._sizes.get(self._number, self._file_bytes)
        if not 0 < size < self._file_bytes:
            return False
        with self._path(self._number).open("rb", buffering=0) as file:
            return os.pread(file.fileno(), 1, size - 1) == b"\n"

    def _remove_spent(self, numbers: set[int]) -> None:
        for number in numbers:
            if number != self._number and self._kept.get(number) == 0:
                with contextlib.suppress(FileNotFoundError):
                    self._path(number).unlink()
                del self._kept[number], self._sizes[number]

    def _path(self, number: int) -> Path:
        return self._directory / f"{number:08d}.jsonl"


def _parse(text: bytes) -> Line | None:
    try:
        line = jsonbytes.decode(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) else None
