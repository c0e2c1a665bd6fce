"""The end of a log file: where its last genuine record is, and what stands behind that."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import BinaryIO

from gateway.audit.chain import Chain, Head
from gateway.audit.files import read_lines

_WINDOW = 256 << 10


@dataclass(frozen=True, slots=True)
class Tail:
    """`head`: the last record made with our key, written at `ts` and ending at byte `head_end`. `lines_end`: the
    byte after the last newline; from there to `size` stands a fragment. Whole lines between `head_end` and
    `lines_end` are not ours."""

    head: Head | None
    head_end: int
    lines_end: int
    size: int
    ts: str = ""


def read_tail(fd: int, chain: Chain) -> Tail:
    """Look at the file's end, and further back only as long as no genuine record is found."""
    size = os.fstat(fd).st_size
    window = _WINDOW
    while True:
        start = max(0, size - window)
        lines = os.pread(fd, size - start, start).split(b"\n")
        fragment = lines.pop()
        lines_end = end = size - len(fragment)
        for index in range(len(lines) - 1, -1, -1):
            sealed = chain.open(lines[index])
            if sealed:
                return Tail(sealed.head, end, lines_end, size, str(sealed.record["ts"]))
            end -= len(lines[index]) + 1
        if start == 0:
            return Tail(None, 0, lines_end, size)
        window *= 4


def read_packed_tail(file: BinaryIO, chain: Chain) -> Tail:
    """The same of an archive, which can only be read from its begin."""
    found = Tail(None, 0, 0, 0)
    end = 0
    for line in read_lines([file], chain):
        end += len(line.raw) + line.whole
        if line.sealed:
            found = Tail(line.sealed.head, end, end, end, str(line.sealed.record["ts"]))
    return Tail(found.head, found.head_end, end, end, found.ts)
