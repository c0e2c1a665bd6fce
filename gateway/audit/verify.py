"""Reads a log back: is it what the writer wrote, whole and in order, and where does a hashed value stand?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gateway.audit.anchor import Anchor, read_anchors
from gateway.audit.chain import Chain
from gateway.audit.files import Line, open_files, read_lines
from gateway.audit.keys import AuditKeys, load_keys
from gateway.audit.walk import Fault, Walk, check_begin, check_end, choose, settle_suspect, step


@dataclass(frozen=True, slots=True)
class Verdict:
    """`fault` is None for a good log. `notes`: what the writer itself recorded of losses and failures.

    `anchors`: those that were found in their places; `unchecked`: the others, of records that were pruned or, after a
    fault, not reached.
    """

    fault: Fault | None
    files: int
    records: int
    first: int
    last: int
    anchors: int
    unchecked: int
    notes: tuple[str, ...]


def verify(directory: Path, keys: AuditKeys, anchors: Iterable[Anchor] = ()) -> Verdict:
    """Walk every file of the log in `directory` and name the first thing that is wrong.

    Without `anchors` (`read_anchors`) records dropped from the very end cannot be seen to be missing. A log
    may begin after its first record if a later record says that what came before was pruned. Raises OSError.
    """
    chain = Chain(keys.chain)
    walk = Walk({})
    for anchor in anchors:
        walk.anchors.setdefault(anchor.head.seq, []).append(anchor)
    with open_files(directory, chain) as files:
        for line in read_lines(files, chain):
            walk.begin, walk.end = walk.begin or line, line
            step(walk, line)
    if walk.suspect and not walk.fault:
        settle_suspect(walk, walk.suspect, None)
    fault = choose(walk, check_begin(walk), walk.fault or check_end(walk))
    first = walk.first.head.seq if walk.first else 0
    unchecked = sum(map(len, walk.anchors.values())) - walk.checked
    return Verdict(fault, len(files), walk.records, first, walk.at.seq, walk.checked, unchecked, tuple(walk.notes))


def verify_command(directory: Path, key_file: Path, anchor_lines: Iterable[str] = ()) -> tuple[Verdict, int]:
    """The core of `audit verify`: the verdict, and the exit code: 0 good, 1 a fault.

    `anchor_lines` as of `journalctl -t pve-exec-gateway-audit -o cat`. Raises ConfigError, OSError.
    """
    keys = load_keys(key_file)
    verdict = verify(directory, keys, read_anchors(anchor_lines, keys.anchor))
    return verdict, 1 if verdict.fault else 0


def find_hash(directory: Path, keys: AuditKeys, value: bytes | str) -> Iterator[Line]:
    """The genuine records in which `value` stands as its keyed hash (`audit hash`)."""
    wanted = keys.redactor.hash(value)
    chain = Chain(keys.chain)
    with open_files(directory, chain) as files:
        for line in read_lines(files, chain):
            if line.sealed and _holds(line.sealed.record.get("data"), wanted):
                yield line


def _holds(value: object, wanted: str) -> bool:
    if isinstance(value, dict):
        return any(_holds(item, wanted) for item in value.values())
    if isinstance(value, list):
        return any(_holds(item, wanted) for item in value)
    return isinstance(value, str) and wanted in value
