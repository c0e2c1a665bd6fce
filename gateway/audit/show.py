"""A record as a line for people, and the log as it grows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from gateway.audit.files import LOG_NAME
from gateway.audit.keys import AuditKeys
from gateway.audit.record import Fields, canonical
from gateway.audit.search import Query, search

_POLL_SECONDS = 0.25
_WIDEST = 120


def last_records(directory: Path, keys: AuditKeys, query: Query, count: int) -> list[Fields]:
    """The last `count` records that fit, oldest first."""
    found: list[Fields] = []
    while len(found) < count:
        page = search(directory, keys, replace(query, newest_first=True, limit=min(1000, count - len(found))))
        found += page.records
        if page.next is None:
            break
        query = replace(query, after=page.next)
    return found[::-1]


def follow(
    directory: Path, keys: AuditKeys, query: Query, wait: Callable[[float], object] = time.sleep
) -> Iterator[Fields]:
    """Records behind `query.after`, and those that come, without end: by their numbers, so that no rotation matters."""
    query = replace(query, newest_first=False, limit=1000)
    seen: object = None
    while True:
        state = _state(directory)
        if state == seen:
            wait(_POLL_SECONDS)
            continue
        newest = newest_seq(directory, keys)
        page = search(directory, keys, query)
        yield from page.records
        if page.next is None:
            seen = state
        query = replace(query, after=page.next or max([newest, *(record["seq"] for record in page.records)]))


def newest_seq(directory: Path, keys: AuditKeys) -> int:
    """The number of the log's last record; 0 for none."""
    page = search(directory, keys, Query(limit=1))
    return int(page.records[0]["seq"]) if page.records else 0


def describe(record: Fields) -> str:
    """One line: when, number, event, who, from where, guest, exec, and what or how. No caller's text can break it."""
    actor, data = record.get("actor") or {}, record.get("data") or {}
    who = actor.get("name") or actor.get("token_id") or "-"
    told = data.get("command") or data.get("reason") or data or "-"
    words = [
        record["ts"],
        str(record["seq"]),
        record["event"],
        f"{who}@{record.get('remote', '-')}",
        str(record.get("vmid", "-")),
        record.get("exec_id", "-"),
        told if isinstance(told, str) else canonical({"": told})[4:-1].decode("ascii"),
    ]
    if data.get("exit_code") is not None:
        words.append(str(data["exit_code"]))
    line = " ".join(canonical({"": word})[5:-2].decode("ascii").replace('\\"', '"') for word in words)
    return line if len(line) <= _WIDEST * 2 else f"{line[: _WIDEST * 2]}..."


def _state(directory: Path) -> object:
    try:
        info = (directory / LOG_NAME).stat()
    except FileNotFoundError:
        return None
    return info.st_ino, info.st_size
