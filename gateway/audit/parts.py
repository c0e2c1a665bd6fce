"""Verifies a log that is being written part by part, each in a bounded time, however large the log is.

A part ends with a cursor, which names the last record that was verified by its mac. The next part begins with that very
record, so together they are one walk over the chain; who forges a cursor deceives nobody but himself.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

from gateway.audit.anchor import Anchor
from gateway.audit.chain import GENESIS, Chain, Head
from gateway.audit.files import LOG_NAME, Line, open_files, read_begin, read_lines
from gateway.audit.keys import AuditKeys
from gateway.audit.record import Fields, now
from gateway.audit.walk import Fault, Walk, Wrong, check_end, choose, missing_begin, settle_suspect, step

SECONDS = 3.0
"""How long one part may take."""

CURSOR = r"^\d{1,15}-[0-9a-f]{64}(-\d{1,15}-[0-9a-f]{64})?$"


@dataclass(frozen=True, slots=True)
class Cursor:
    """`at`: the last record that was verified. `before`: what the log's first record follows, as long as no record was
    met that says it was pruned."""

    at: Head
    before: Head | None = None

    def __str__(self) -> str:
        return "-".join(f"{head.seq}-{head.mac}" for head in (self.at, self.before) if head is not None)

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Raises ValueError."""
        if not re.fullmatch(CURSOR, text):
            raise ValueError("not a cursor")
        words = text.split("-")
        heads = [Head(int(words[at]), words[at + 1]) for at in range(0, len(words), 2)]
        return cls(*heads)


@dataclass(frozen=True, slots=True)
class Part:
    """What one part of the log is like: `records` of them, numbers `first` to `last`; 0 where there are none.

    `head_checked`: the record that the writer calls its last one stood in its place. `next`: the cursor of the part
    behind this one; None behind the last, and behind a fault.
    """

    fault: Fault | None
    records: int
    first: int
    last: int
    head_checked: bool
    next: str | None

    def to_wire(self) -> Fields:
        return asdict(self)

    @classmethod
    def from_wire(cls, data: dict[str, Any]) -> Part:
        """The part that `to_wire` made."""
        found = {field.name: data[field.name] for field in fields(cls)}
        fault = data["fault"]
        return cls(**{**found, "fault": Fault(**{**fault, "wrong": Wrong(fault["wrong"])}) if fault else None})


def verify_part(
    directory: Path, keys: AuditKeys, cursor: Cursor | None, head: Head | None, seconds: float = SECONDS
) -> Part:
    """Walk on from `cursor`, or from the log's begin, for about `seconds`, and name the first thing that is wrong.

    `head`: the chain's last record as its writer knows it, which no change to the files can take back. Raises OSError.
    """
    deadline = time.monotonic() + seconds
    chain = Chain(keys.chain)
    walk = Walk({head.seq: [Anchor(head, LOG_NAME, now())]} if head else {})
    with open_files(directory, chain) as files:
        lines = read_lines(files, chain) if cursor is None else _lines_from(files, chain, cursor.at)
        finished = _walk(walk, lines, deadline)
        oldest = Path(files[0].name).name if files else LOG_NAME
    if cursor is not None and walk.first is None:
        return Part(_cursor_is_gone(oldest, cursor), 0, 0, 0, False, None)
    if cursor is None:
        before = Head(walk.first.head.seq - 1, walk.first.prev) if walk.first else GENESIS
    else:
        before = cursor.before or GENESIS
    left = before if before != GENESIS and before not in walk.pruned else None
    fault = walk.fault
    if finished:
        fault = choose(walk, missing_begin(oldest, left) if left else None, fault or check_end(walk))
    repeated = int(cursor is not None)
    records = walk.records - repeated
    first = walk.first.head.seq + repeated if walk.first and records else 0
    following = None if finished or fault else str(Cursor(walk.at, left))
    return Part(fault, records, first, walk.at.seq if records else 0, walk.checked > 0, following)


def _walk(walk: Walk, lines: Iterable[Line], deadline: float) -> bool:
    """Whether it came to the end: else it stands behind a record, or has met a fault."""
    for line in lines:
        walk.begin, walk.end = walk.begin or line, line
        step(walk, line)
        late = time.monotonic() > deadline
        if late and (walk.fault or (walk.records > 1 and walk.suspect is None)):
            return False
    if walk.suspect and not walk.fault:
        settle_suspect(walk, walk.suspect, None)
    return True


def _lines_from(files: list[BinaryIO], chain: Chain, at: Head) -> Iterator[Line]:
    """The line of the record `at`, and all behind it; nothing where that is not found."""
    begins = [next((sealed.head.seq for sealed in read_begin(file, chain)), at.seq + 1) for file in files]
    likely = sorted((index for index in range(len(files)) if begins[index] <= at.seq), key=lambda index: -begins[index])
    for index in likely:
        lines = read_lines(files[index:], chain, mark=b'"seq":%d,' % at.seq)
        for line in lines:
            if line.sealed and line.sealed.head == at:
                yield line
                yield from lines
                return
            if line.file != Path(files[index].name).name:
                break


def _cursor_is_gone(file: str, cursor: Cursor) -> Fault:
    detail = "this record stood in the log when the part before it was verified; verify anew, from the begin"
    return Fault(file, 1, cursor.at.seq, Wrong.REMOVED, detail)
