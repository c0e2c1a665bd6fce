"""What a reboot can have taken from the spool, and the audit log still knows: execs whose keys must run nothing again.

The spool is written to the page cache: a supervisor that is killed loses nothing of it, a node that loses power can
lose its last half minute. An intent is on the disk before its command begins.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from gateway.audit.chain import Chain
from gateway.audit.files import open_files
from gateway.audit.keys import AuditKeys
from gateway.audit.record import Event
from gateway.exec import trail
from gateway.exec.ending import Ending
from gateway.exec.order import Order

_BOOT_ID = "sys/kernel/random/boot_id"
_MARK = "boot_id"


class Lost(NamedTuple):
    """An exec as the audit log remembers it: with its ending, or, if nobody knows whether it ran, without."""

    order: Order
    ending: Ending | None


def rebooted(spool: Path, proc: Path) -> bool:
    """Whether the node has been started since `note_boot`, or the spool's directory is new."""
    try:
        return (spool / _MARK).read_bytes() != (proc / _BOOT_ID).read_bytes()
    except FileNotFoundError:
        return True


def note_boot(spool: Path, proc: Path) -> None:
    """What was lost has been found: until the next boot there is nothing to look for."""
    part = spool / f"{_MARK}.part"
    part.touch(0o600)
    part.write_bytes((proc / _BOOT_ID).read_bytes())
    part.replace(spool / _MARK)


def find_lost(audit: Path, keys: AuditKeys, *, since: float, knows: Callable[[str], bool], at_most: int) -> list[Lost]:
    """The execs with an Idempotency-Key that the audit log has begun since `since` and `knows` does not know by id.

    Oldest first; of more than `at_most` the newest. `since`: seconds since 1970. Those that were taken back are left
    out, for nothing of them ran. Files that were last written before `since` are not read; of the others a second
    suffices for some 100 MB. Raises OSError.
    """
    chain = Chain(keys.chain)
    begun = datetime.fromtimestamp(since, UTC).isoformat(timespec="microseconds")
    intents: OrderedDict[str, dict[str, Any]] = OrderedDict()
    outcomes: dict[str, dict[str, Any]] = {}
    with open_files(audit, chain) as files:
        for file in files:
            if os.fstat(file.fileno()).st_mtime < since:
                continue
            file.seek(0)
            for line in file:
                record = _read(chain, line, bool(intents))
                if record is None or record["ts"] < begun:
                    continue
                audit_id = record["audit_id"]
                if "idempotency_key" in record and not knows(record["exec_id"]):
                    intents[audit_id] = record
                    if len(intents) > at_most:
                        outcomes.pop(intents.popitem(last=False)[0], None)
                elif record["event"] == Event.EXEC_OUTCOME and audit_id in intents:
                    outcomes[audit_id] = record
                elif record["event"] == Event.EXEC_ABORTED:
                    intents.pop(audit_id, None)
    return [_lost(record, outcomes.get(audit_id)) for audit_id, record in intents.items()]


def _read(chain: Chain, line: bytes, wanted: bool) -> dict[str, Any] | None:
    """The record in a line, if it can matter: an intent with a key or, once there is one, what became of it."""
    followed = wanted and (b'"event":"exec:outcome"' in line or b'"event":"exec:aborted"' in line)
    if not followed and b'"idempotency_key":' not in line:
        return None
    sealed = chain.open(line[:-1])
    return sealed.record if sealed is not None else None


def _lost(intent: dict[str, Any], outcome: dict[str, Any] | None) -> Lost:
    ending = trail.read_outcome(outcome) if outcome is not None else None
    return Lost(trail.read_intent(intent), ending)
