"""Walks over the lines of a log and names the first place that is not as the writer wrote it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

from gateway.audit.anchor import Anchor
from gateway.audit.chain import GENESIS, Head, Sealed
from gateway.audit.files import LOG_NAME, Line
from gateway.audit.record import Event


class Wrong(StrEnum):
    """What can be wrong with a log."""

    CHANGED = "changed"
    REMOVED = "removed"
    REORDERED = "reordered"
    ADDED = "added"
    TORN = "torn"
    TAIL_DROPPED = "tail dropped"


@dataclass(frozen=True, slots=True)
class Fault:
    """The first place that is not as written. `line` counts from 1; `seq` belongs there."""

    file: str
    line: int
    seq: int
    wrong: Wrong
    detail: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: record {self.seq}: {self.wrong}: {self.detail}"


@dataclass(slots=True)
class Walk:
    """Where the walk over all lines is, and what it has met. After a fault it only collects."""

    anchors: dict[int, list[Anchor]]
    at: Head = GENESIS
    checked: int = 0
    first: Sealed | None = None
    records: int = 0
    begin: Line | None = None
    end: Line | None = None
    suspect: Line | None = None
    fault: Fault | None = None
    missing: int = 0
    pruned: set[Head] = field(default_factory=set)
    runs: list[list[int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


_LOSSES = ("deleted", "truncated", "foreign_bytes", "damaged")
"""Reasons of `audit:opened` that a reader should hear about."""


def step(walk: Walk, line: Line) -> None:
    """The next line."""
    sealed = line.sealed
    if sealed:
        walk.records += 1
        _note_seq(walk.runs, sealed.head.seq)
        _collect(walk, line, sealed)
    if walk.fault:
        _refine(walk, sealed)
        return
    if walk.suspect:
        settle_suspect(walk, walk.suspect, sealed)
    elif sealed is None:
        walk.suspect = line
    elif walk.first is None:
        walk.first, walk.at = sealed, sealed.head
        check_anchor(walk, line, sealed.head)
    elif sealed.head.seq == walk.at.seq + 1 and sealed.prev == walk.at.mac:
        walk.at = sealed.head
        check_anchor(walk, line, sealed.head)
    else:
        _misplaced(walk, line, sealed)


def _note_seq(runs: list[list[int]], seq: int) -> None:
    if runs and runs[-1][1] == seq - 1:
        runs[-1][1] = seq
    else:
        runs.append([seq, seq])


def _collect(walk: Walk, line: Line, sealed: Sealed) -> None:
    event, data = sealed.record.get("event"), sealed.record.get("data")
    if not isinstance(data, dict):
        return
    if event == Event.AUDIT_PRUNED:
        walk.pruned.add(Head(data["last_seq"], data["last_mac"]))
    elif event in (Event.AUDIT_TORN, Event.AUDIT_RECOVERED) or data.get("reason") in _LOSSES:
        walk.notes.append(f"{line.file}:{line.number}: {event}: {data}")


def check_anchor(walk: Walk, line: Line, head: Head) -> None:
    """All of a number: a log that was rolled back and written on gives it twice."""
    for anchor in walk.anchors.get(head.seq, ()):
        if anchor.head.mac == head.mac:
            walk.checked += 1
        else:
            detail = f"the journal anchored another record {head.seq} at {anchor.ts}"
            walk.fault = Fault(line.file, line.number, head.seq, Wrong.CHANGED, detail)


def _misplaced(walk: Walk, line: Line, sealed: Sealed) -> None:
    """A genuine record that does not follow the one before it."""
    expected = walk.at.seq + 1
    if sealed.head.seq > expected:
        walk.missing = expected
        detail = f"records {expected} to {sealed.head.seq - 1} are missing"
        walk.fault = Fault(line.file, line.number, expected, Wrong.REMOVED, detail)
    elif sealed.head.seq == expected:
        detail = "it follows another record than the one before it"
        walk.fault = Fault(line.file, line.number, expected, Wrong.CHANGED, detail)
    else:
        detail = f"record {sealed.head.seq} stands here again or too late"
        walk.fault = Fault(line.file, line.number, expected, Wrong.ADDED, detail)


def _refine(walk: Walk, sealed: Sealed | None) -> None:
    """What seemed removed, and turns up later, was moved."""
    fault = walk.fault
    if fault and fault.wrong is Wrong.REMOVED and sealed and sealed.head.seq == walk.missing:
        detail = f"record {walk.missing} stands further down"
        walk.fault = Fault(fault.file, fault.line, fault.seq, Wrong.REORDERED, detail)


def settle_suspect(walk: Walk, suspect: Line, after: Sealed | None) -> None:
    """A line that is not genuine was added if the chain goes on behind it as if it were not there."""
    expected = walk.at.seq + 1
    if not suspect.whole:
        wrong, detail = Wrong.TORN, "the line has no end"
    elif after and after.head.seq == expected and after.prev == walk.at.mac:
        wrong, detail = Wrong.ADDED, "the writer did not write this line"
    else:
        wrong, detail = Wrong.CHANGED, "the line is not as the writer wrote it"
    walk.fault = Fault(suspect.file, suspect.number, expected, wrong, detail)


def choose(walk: Walk, begin: Fault | None, later: Fault | None) -> Fault | None:
    """The first of two faults, unless the later one explains the other: it may have hit the very record that says what
    was pruned. It has not, if the record that belongs at the begin stands somewhere else."""
    if begin is None or later is None:
        return begin or later
    belongs = max((head.seq for head in walk.pruned), default=0) + 1
    if any(low <= belongs <= high for low, high in walk.runs):
        return begin
    return replace(later, detail=f"{later.detail}; besides, {begin.detail}")


def check_begin(walk: Walk) -> Fault | None:
    """The log's first record must be the chain's first, or follow one that was pruned."""
    first, begin = walk.first, walk.begin
    if first is None or begin is None:
        return None
    before = Head(first.head.seq - 1, first.prev)
    if before == GENESIS or before in walk.pruned:
        return None
    return missing_begin(begin.file, before)


def missing_begin(file: str, before: Head) -> Fault:
    """The log begins with `file`, whose first record follows `before`."""
    detail = f"records 1 to {before.seq} are missing, and no record says that they were pruned"
    return Fault(file, 1, 1, Wrong.REMOVED, detail)


def check_end(walk: Walk) -> Fault | None:
    """Every anchored head must have been passed, unless it was pruned."""
    ahead = [anchor for seq, anchors in walk.anchors.items() if seq > walk.at.seq for anchor in anchors]
    if not ahead:
        return None
    last = max(ahead, key=lambda anchor: anchor.head.seq)
    file, line = (walk.end.file, walk.end.number + 1) if walk.end else (LOG_NAME, 1)
    detail = f"records up to {last.head.seq} were in the log at {last.ts}"
    return Fault(file, line, walk.at.seq + 1, Wrong.TAIL_DROPPED, detail)
