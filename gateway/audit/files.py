"""The log's files: their names, their order, and their lines."""

from __future__ import annotations

import contextlib
import gzip
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from gateway.audit.chain import Chain, Sealed

LOG_NAME = "audit.log"
CLOSED_NAME = re.compile(r"audit\.log\.(\d{12})(\.[0-9A-Z]{26})?")
"""A closed file is named after its last record, so names sort and are never given twice."""

TORN_PREFIX = "audit.torn."
_LOG_NAMES = re.compile(r"audit\.log([.-].*)?")
_PACKED = (".xz", ".zst", ".bz2", ".lz4", ".part")


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

    What logrotate packed by gzip is read; other archives are not, and their records count as missing.
    """
    return sorted(
        path
        for path in directory.glob(f"{LOG_NAME}*")
        if _LOG_NAMES.fullmatch(path.name) and not path.name.endswith(_PACKED)
    )


@contextlib.contextmanager
def open_files(directory: Path, chain: Chain) -> Iterator[list[BinaryIO]]:
    """The log's files from the oldest to the one being written, by what they hold, not by their names.

    All are opened before any is read, so that a writer at work may rotate and prune meanwhile.
    """
    while True:
        paths = list_log_files(directory)
        with contextlib.ExitStack() as stack:
            try:
                files = [stack.enter_context(_open(path)) for path in paths]
            except FileNotFoundError:
                continue
            if list_log_files(directory) != paths:
                continue
            yield sorted(files, key=lambda file: _position(file, chain))
            return


def read_lines(files: Iterable[BinaryIO], chain: Chain) -> Iterator[Line]:
    """Every line of `files`. What is not genuine has no `sealed`; what lacks its newline is not `whole`."""
    for file in files:
        file.seek(0)
        number = 0
        while raw := _read_line(file):
            number += 1
            whole = raw.endswith(b"\n")
            raw = raw.removesuffix(b"\n")
            yield Line(Path(file.name).name, number, chain.open(raw) if whole else None, whole, raw)


def read_begin(file: BinaryIO, chain: Chain) -> list[Sealed]:
    """The genuine ones of a file's first lines: those in which it is told how it was begun."""
    file.seek(0)
    lines = (file.readline().removesuffix(b"\n") for _ in range(16))
    return [sealed for line in lines if line and (sealed := chain.open(line))]


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _read_line(file: BinaryIO) -> bytes:
    """One line; at the end of the file one that is just being written gets a moment to be finished."""
    raw = file.readline()
    for _ in range(3):
        if not raw or raw.endswith(b"\n"):
            break
        time.sleep(0.02)
        raw += file.readline()
    return raw


def _position(file: BinaryIO, chain: Chain) -> float:
    """Where a file belongs: by its first two records that follow each other, so that no single moved record
    moves its file; else by its name; else by the only record it has."""
    before: Sealed | None = None
    single = float("inf")
    for line in read_lines([file], chain):
        if before and line.sealed and line.sealed.prev == before.head.mac:
            return before.head.seq
        before = line.sealed
        single = min(single, before.head.seq) if before else single
    name = Path(file.name).name
    closed = CLOSED_NAME.fullmatch(name)
    if closed:
        return float(closed[1])
    return float("inf") if name == LOG_NAME else single
