"""The log's files: their names, their order, and their lines."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import re
import stat
import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, cast

from gateway.audit.chain import Chain, Sealed
from gateway.audit.record import MAX_BYTES

LOG_NAME = "audit.log"
CLOSED_NAME = re.compile(r"audit\.log\.(\d{12})(\.[0-9A-Z]{26})?")
"""A closed file is named after its last record, so names sort and are never given twice."""

TORN_PREFIX = "audit.torn."
_LOG_NAMES = re.compile(r"audit\.log([.-].*)?")
_PACKED = (".xz", ".zst", ".bz2", ".lz4", ".part")
_LONGEST = MAX_BYTES + 1
_LOOKED_AT = 1000
"""Lines of a file among which its place is looked for."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the log: the record it holds if it is genuine, and its bytes without the newline."""

    file: str
    number: int
    sealed: Sealed | None
    whole: bool
    raw: bytes


def list_log_files(directory: Path) -> list[Path]:
    """The log's files by name: `audit.log` and those closed by us or by logrotate, fragments excepted.

    What logrotate packed by gzip is read; other archives are not, and their records count as missing. Neither are
    directories, links, FIFOs and devices: nobody can make a reader wait, or read another file, by such a name.
    """
    return sorted(
        path
        for path in directory.glob(f"{LOG_NAME}*")
        if _LOG_NAMES.fullmatch(path.name) and not path.name.endswith(_PACKED) and _is_file(path)
    )


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def open_files(directory: Path, chain: Chain) -> Iterator[list[BinaryIO]]:
    """The log's files from the oldest to the one being written, by what they hold, not by their names.

    All are opened before any is read, so that a writer at work may rotate and prune meanwhile.
    """
    while True:
        paths = list_log_files(directory)
        with contextlib.ExitStack() as stack:
            try:
                files = [stack.enter_context(open_file(path)) for path in paths]
            except FileNotFoundError:
                continue
            if list_log_files(directory) != paths:
                continue
            yield sorted(files, key=lambda file: _position(file, chain))
            return


def read_lines(files: Iterable[BinaryIO], chain: Chain, mark: bytes = b"") -> Iterator[Line]:
    """Every line of `files`. What is not genuine has no `sealed`; what lacks its newline is not `whole`.

    Nor has `sealed` what stands before the first line with `mark` in it: passing over it takes a tenth of the time.
    """
    met = not mark
    for file in files:
        file.seek(0)
        number = 0
        while raw := _read_line(file):
            number += 1
            whole = raw.endswith(b"\n")
            raw = raw.removesuffix(b"\n")
            met = met or mark in raw
            yield Line(Path(file.name).name, number, chain.open(raw) if met and whole else None, whole, raw)


def read_begin(file: BinaryIO, chain: Chain) -> list[Sealed]:
    """The genuine ones of a file's first lines: those in which it is told how it was begun."""
    file.seek(0)
    lines = (read_piece(file).removesuffix(b"\n") for _ in range(16))
    return [sealed for line in lines if line and (sealed := chain.open(line))]


def read_piece(file: BinaryIO) -> bytes:
    """A line, or a part of one that is longer than any record."""
    return file.readline(_LONGEST)


def is_packed(file: BinaryIO) -> bool:
    """It can be read on, and from its begin; not from anywhere."""
    return isinstance(file, io.BufferedReader) and isinstance(file.raw, _Unpacked)


class _Unpacked(io.RawIOBase):
    """What a gzip file holds, as far as it can be unpacked: the chain tells what is missing behind that."""

    def __init__(self, packed: BinaryIO) -> None:
        self.name = packed.name
        self._packed = packed
        self._gzip = gzip.GzipFile(fileobj=packed)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if offset or whence != os.SEEK_SET:
            raise io.UnsupportedOperation("only its begin can be found")
        return self._gzip.seek(0)

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        try:
            data = self._gzip.read(len(buffer))
        except (EOFError, zlib.error, gzip.BadGzipFile):
            return 0
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._packed.close()
        super().close()


def open_file(path: Path) -> BinaryIO:
    """For reading, unpacked. Raises FileNotFoundError also for what is no file any more."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    file = open(path, "rb", opener=lambda name, _: os.open(name, flags))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise FileNotFoundError(path)
    return cast(BinaryIO, io.BufferedReader(_Unpacked(file))) if path.suffix == ".gz" else file


def _read_line(file: BinaryIO) -> bytes:
    """One line; at the end of the file one that is just being written gets a moment to be finished.

    Of one that is longer than any record only its begin and its end are told.
    """
    raw = read_piece(file)
    for _ in range(3):
        if not raw or raw.endswith(b"\n") or len(raw) >= _LONGEST:
            break
        time.sleep(0.02)
        raw += file.readline(_LONGEST - len(raw))
    if len(raw) == _LONGEST and not raw.endswith(b"\n"):
        while (more := read_piece(file)) and not more.endswith(b"\n"):
            pass
        return raw + more[-1:]
    return raw


def _position(file: BinaryIO, chain: Chain) -> float:
    """Where a file belongs: by its first two records that follow each other, so that no single moved record
    moves its file; else by its name; else by the only record it has."""
    before: Sealed | None = None
    single = float("inf")
    for line in islice(read_lines([file], chain), _LOOKED_AT):
        if before and line.sealed and line.sealed.prev == before.head.mac:
            return before.head.seq
        before = line.sealed
        single = min(single, before.head.seq) if before else single
    name = Path(file.name).name
    closed = CLOSED_NAME.fullmatch(name)
    if closed:
        return float(closed[1])
    return float("inf") if name == LOG_NAME else single
