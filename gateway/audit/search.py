"""Finds records: a page at a time, newest or oldest first, in a bounded time however large the log is.

A record is found by its `seq`: closed files by their first record, places in a file by halving it. Lines are sieved
as bytes before any is parsed, and only genuine ones (Chain.open) are shown.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO

from gateway.audit.chain import Chain, Sealed
from gateway.audit.clock import latest_before, moment_of
from gateway.audit.files import is_packed, open_files, read_begin, read_piece
from gateway.audit.keys import AuditKeys
from gateway.audit.record import MAX_BYTES, Event, Fields, canonical

PAGE_MAX = 1000
PAGE_BYTES = 4 << 20
SECONDS = 1.5
"""How long one search may take; a page may therefore be short, or empty, and yet have a `next`."""

_BLOCK = 1 << 20
_CLOSE = 256 << 10
_MAX_UNPACKED = 256 << 20
_EVENTS = frozenset(map(str, Event))

Ranges = tuple[tuple[int, int], ...]
IsWorth = Callable[[bytes], bool]
"""Whether a block can hold what is looked for, or has to be looked at for it is late."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """Every filter that is given must fit. `since` (inclusive) and `until` are moments as records carry them.

    `token_id`: who acted, or what was acted on. `outcome`: the reason of an end, a denial or an abort. `guests`: only
    records about these (None: about anything). `after`: only records behind that `seq`, in the order asked for.
    """

    events: tuple[str, ...] = ()
    token_id: str | None = None
    vmid: int | None = None
    exec_id: str | None = None
    request_id: str | None = None
    audit_id: str | None = None
    outcome: str | None = None
    since: str | None = None
    until: str | None = None
    guests: Ranges | None = None
    newest_first: bool = True
    after: int | None = None
    limit: int = 100

    def to_wire(self) -> Fields:
        return {name: value for name in _NAMES if (value := getattr(self, name)) is not None}

    @classmethod
    def from_wire(cls, data: object) -> Query:
        """The query that `to_wire` made. Raises ValueError for anything else."""
        if not isinstance(data, dict) or not data.keys() <= set(_NAMES):
            raise ValueError("not a query")
        for name in ("token_id", "exec_id", "request_id", "audit_id", "outcome", "since", "until"):
            if not isinstance(data.get(name, ""), str):
                raise ValueError(f"{name} is no text")
        for name in ("vmid", "after", "limit"):
            if type(data.get(name, 0)) is not int:
                raise ValueError(f"{name} is no number")
        guests, events = data.get("guests"), data.get("events", [])
        if not isinstance(events, list) or not _EVENTS.issuperset(str(event) for event in events):
            raise ValueError("no such events")
        if not 1 <= data.get("limit", 1) <= PAGE_MAX or type(data.get("newest_first", True)) is not bool:
            raise ValueError("limit or order out of range")
        ranges = tuple((int(low), int(high)) for low, high in guests) if isinstance(guests, list) else None
        if guests is not None and ranges is None:
            raise ValueError("guests are ranges")
        return cls(**{**data, "events": tuple(events), "guests": ranges})


_NAMES = tuple(field.name for field in fields(Query))


@dataclass(slots=True)
class Page:
    """`next` is the `after` of the page behind this one; None where nothing is left to look at."""

    records: list[Fields] = field(default_factory=list)
    next: int | None = None
    bytes: int = 0


def search(directory: Path, keys: AuditKeys, query: Query, seconds: float = SECONDS) -> Page:
    """One page of the log in `directory`. Raises OSError."""
    deadline = time.monotonic() + seconds
    chain = Chain(keys.chain)
    needles = _needles(query)
    may_match, matches = _sieve(query, needles), _matcher(query)
    page = Page()
    late = False

    def is_worth(block: bytes) -> bool:
        nonlocal late
        late = late or time.monotonic() > deadline
        return late or all(needle in block for needle in needles)

    with open_files(directory, chain) as opened:
        for block in _blocks(opened, chain, query, is_worth):
            for line in block:
                candidate = may_match(line)
                if not candidate and not late:
                    continue
                sealed = chain.open(line)
                if sealed is None or not _behind(sealed.head.seq, query):
                    continue
                if candidate and matches(sealed.record):
                    page.records.append({**sealed.record, "mac": sealed.head.mac})
                    page.bytes += len(line)
                if late or len(page.records) >= query.limit or page.bytes >= PAGE_BYTES:
                    page.next = sealed.head.seq
                    return page
    return page


def _behind(seq: int, query: Query) -> bool:
    if query.after is None:
        return True
    return seq < query.after if query.newest_first else seq > query.after


# -- which lines


def _blocks(files: list[BinaryIO], chain: Chain, query: Query, is_worth: IsWorth) -> Iterator[list[bytes]]:
    """The lines that can matter, in the order asked for, some at a time."""
    begins = [read_begin(file, chain) for file in files]
    order = range(len(files) - 1, -1, -1) if query.newest_first else range(len(files))
    for index in order:
        begin_behind = begins[index + 1] if index + 1 < len(files) else []
        first, behind = (next(iter(begin), None) for begin in (begins[index], begin_behind))
        latest = latest_before(sealed.record for sealed in begin_behind)
        if query.since and latest and latest < query.since:
            if query.newest_first:
                return
            continue
        after = query.after
        if after is not None and query.newest_first and first and first.head.seq >= after:
            continue
        if after is not None and not query.newest_first and behind and behind.head.seq <= after:
            continue
        file = _seekable(files[index])
        size = file.seek(0, io.SEEK_END)
        begin, end = 0, size
        if after is not None and query.newest_first:
            end = min(size, _find(file, chain, after, size) + _CLOSE + 2 * MAX_BYTES)
        elif after is not None:
            begin = _find(file, chain, after, size)
        yield from _read_back(file, end, is_worth) if query.newest_first else _read_on(file, begin, is_worth)


def _find(file: BinaryIO, chain: Chain, seq: int, size: int) -> int:
    """The begin of a line, less than `_CLOSE` bytes and one line before the first whose number is `seq` or more."""
    low, high = 0, size
    while high - low > _CLOSE:
        middle = (low + high) // 2
        at, sealed = _genuine_from(file, chain, middle, high)
        if sealed is None or sealed.head.seq >= seq:
            high = middle
        else:
            low = at
    return low


def _genuine_from(file: BinaryIO, chain: Chain, offset: int, end: int) -> tuple[int, Sealed | None]:
    """The first genuine line that begins behind `offset` and before `end`."""
    file.seek(offset)
    at = offset
    while (piece := read_piece(file)) and not piece.endswith(b"\n"):
        at += len(piece)
    at += len(piece)
    while at < end and (line := read_piece(file)):
        if sealed := chain.open(line.removesuffix(b"\n")):
            return at, sealed
        at += len(line)
    return at, None


def _read_back(file: BinaryIO, end: int, is_worth: IsWorth) -> Iterator[list[bytes]]:
    """Whole lines before `end`, the last first. What stands between the last newline and `end` is left out."""
    rest = b""
    begun = False
    while end > 0:
        begin = max(0, end - _BLOCK)
        file.seek(begin)
        block, end = file.read(end - begin) + rest, begin
        if not begun:
            block = block[: block.rfind(b"\n") + 1]
            begun = bool(block)
        cut = block.find(b"\n") + 1 if begin else 0
        rest = block[:cut]
        if is_worth(block):
            yield block[cut:].split(b"\n")[-2::-1]


def _read_on(file: BinaryIO, begin: int, is_worth: IsWorth) -> Iterator[list[bytes]]:
    file.seek(begin)
    rest = b""
    while block := file.read(_BLOCK):
        block = rest + block
        cut = block.rfind(b"\n") + 1
        rest = block[cut:] if len(block) - cut <= MAX_BYTES else b""
        if is_worth(block):
            yield block[:cut].split(b"\n")[:-1]


def _seekable(file: BinaryIO) -> BinaryIO:
    """One that can be read from anywhere. Raises OSError for an archive too large to be unpacked in memory."""
    if not is_packed(file):
        return file
    file.seek(0)
    data = file.read(_MAX_UNPACKED + 1)
    if len(data) > _MAX_UNPACKED:
        raise OSError(0, f"{file.name} holds more than {_MAX_UNPACKED >> 20} MiB; unpack it")
    return io.BytesIO(data)


# -- which records


def _needles(query: Query) -> list[bytes]:
    """What stands in every line that matches."""
    texts = (query.token_id, query.exec_id, query.request_id, query.audit_id, query.outcome)
    needles = [_quote(text) for text in texts if text is not None]
    if query.vmid is not None:
        needles.append(b'"vmid":%d,' % query.vmid)
    if query.guests is not None:
        needles.append(b'"vmid":')
    return needles


def _sieve(query: Query, needles: list[bytes]) -> Callable[[bytes], bool]:
    """Quick, on bytes: False for most lines that do not match, never for one that does."""
    events = [b'"event":' + _quote(event) for event in query.events]
    since, until = query.since, query.until

    def may_match(line: bytes) -> bool:
        if not all(needle in line for needle in needles):
            return False
        if events and not any(event in line for event in events):
            return False
        if since is None and until is None:
            return True
        moment = moment_of(line)
        return (since is None or moment >= since) and (until is None or moment < until)

    return may_match


def _quote(text: str) -> bytes:
    return canonical({"": text})[len(b'{"":') : -1]


def _matcher(query: Query) -> Callable[[Fields], bool]:
    def matches(record: Fields) -> bool:
        data: Any = record.get("data")
        data = data if isinstance(data, dict) else {}
        if query.guests is not None and not any(low <= record.get("vmid", -1) <= high for low, high in query.guests):
            return False
        changed = data.get("token")
        target = changed.get("id") if isinstance(changed, dict) else None
        tokens = (record.get("actor", {}).get("token_id"), data.get("token_id"), target)
        return (
            (not query.events or record["event"] in query.events)
            and (query.token_id is None or query.token_id in tokens)
            and (query.outcome is None or data.get("reason") == query.outcome)
            and all(
                wanted is None or record.get(name) == wanted
                for name, wanted in (
                    ("vmid", query.vmid),
                    ("exec_id", query.exec_id),
                    ("request_id", query.request_id),
                    ("audit_id", query.audit_id),
                )
            )
            and (query.since is None or record["ts"] >= query.since)
            and (query.until is None or record["ts"] < query.until)
        )

    return matches
