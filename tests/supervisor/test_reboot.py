"""After a power cut: what the spool has lost, the audit log still tells, and no key runs anything twice."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway import ulid
from gateway.audit.keys import AuditKeys
from gateway.audit.log import AuditLog
from gateway.audit.record import Event, bound_record, build_aborted, build_record, canonical, new_audit_id
from gateway.config import SpoolConfig
from gateway.exec import trail
from gateway.exec.ending import Ending
from gateway.exec.limits import Limits
from gateway.exec.order import Order
from gateway.exec.spec import Background, ExecSpec, Keep, OnDisconnect, OnLimit, Placement
from gateway.exec.view import Reason, StreamCount
from gateway.supervisor.execs.audit_trail import AuditTrail
from gateway.supervisor.execs.reboot import find_lost, note_boot, rebooted
from gateway.supervisor.spool.spool import Spool
from tests.audit.live import limits

KEYS = AuditKeys(b"k" * 32)
SPEC = ExecSpec.model_validate({"command": ["touch", "/ran"], "labels": {"job": "deploy"}})


def make_order(key: str | None = "hmac-sha256:key", **changed: Any) -> Order:
    order = Order(
        id=ulid.new("ex_"),
        audit_id=new_audit_id(),
        request_id="rq_1",
        vmid=101,
        node="pve1",
        incarnation="7.8",
        config_id="12.34",
        token_id="tk_1",
        token_name="ci",
        remote="10.0.0.9",
        command=SPEC.argv(),
        labels=SPEC.labels,
        created_at="2026-01-01T00:00:00.000Z",
        queued_ms=0,
        limits=Limits(60.0, 5.0, 10.0, 1 << 20),
        background=Background.DETACH,
        on_disconnect=OnDisconnect.KILL,
        on_limit=OnLimit.DROP,
        placement=Placement.OWN,
        keep=Keep.HEAD_TAIL,
        spooled=True,
        exclusive=False,
        idempotency=key,
        fingerprint="hmac-sha256:request" if key else None,
    )
    return replace(order, **changed)


def make_ending() -> Ending:
    count: StreamCount = {"bytes": 3, "dropped": 0, "dropped_at": None, "sha256": "00"}
    empty: StreamCount = {**count, "bytes": 0}
    return Ending(
        reason=Reason.EXITED,
        exit_code=3,
        signal=None,
        ended_at="2026-01-01T00:00:01.000Z",
        output={"stdout": count, "stderr": empty},
        timing={"queued_ms": 0, "spawn_ms": 9, "run_ms": 3},
    )


def intent(order: Order, spec: ExecSpec = SPEC) -> dict[str, Any]:
    """The record that the supervisor has written of `order`."""
    return AuditTrail(None, KEYS.redactor).intent(spec, order)  # type: ignore[arg-type]


def outcome(order: Order, ending: Ending | None) -> dict[str, Any]:
    data = trail.outcome(ending) if ending is not None else {"reason": "unknown"}
    return build_record(Event.EXEC_OUTCOME, audit_id=order.audit_id, exec_id=order.id, vmid=order.vmid, data=data)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[AuditLog]:
    """An audit log, rotated often."""
    opened = AuditLog(tmp_path / "audit", KEYS, limits=limits(rotate_bytes=4096))
    yield opened
    opened.close()


@pytest.fixture
def find(tmp_path: Path) -> Callable[..., list[Any]]:
    """What has been lost of the last day, of a spool that knows nothing, or some."""

    def look(known: tuple[str, ...] = (), *, since: float | None = None, at_most: int = 1000) -> list[Any]:
        begun = time.time() - 86400 if since is None else since
        return find_lost(tmp_path / "audit", KEYS, since=begun, knows=known.__contains__, at_most=at_most)

    return look


Find = Callable[..., list[Any]]


def test_intent_alone_is_unknown(log: AuditLog, find: Find) -> None:
    """An intent without an outcome: nobody knows whether it ran; its order is as it was in all that is shown."""
    order = make_order()
    log.append([intent(order)])
    ((found, ending),) = find()
    assert ending is None
    same = ["id", "audit_id", "vmid", "node", "incarnation", "config_id", "token_id", "token_name", "remote"]
    same += ["command", "labels", "idempotency", "fingerprint", "request_id"]
    assert {name: getattr(found, name) for name in same} == {name: getattr(order, name) for name in same}
    assert Order.from_wire(json.loads(json.dumps(found.to_wire()))) == found


def test_outcome_in_the_log_is_the_ending(log: AuditLog, find: Find) -> None:
    """Where the log knows the end it is told, with output that is counted and not kept."""
    order, other = make_order(), make_order(key="hmac-sha256:other")
    log.append([intent(order), intent(other), outcome(order, make_ending()), outcome(other, None)])
    first, second = find()
    assert (first.ending.reason, first.ending.exit_code) == (Reason.EXITED, 3)
    assert first.ending.output["stdout"] == {"bytes": 3, "dropped": 3, "dropped_at": 0, "sha256": "00"}
    assert first.ending.output["stderr"]["dropped_at"] is None
    assert second.ending is None


def test_what_was_taken_back_never_ran(log: AuditLog, find: Find) -> None:
    """An aborted intent leaves its key free."""
    order = make_order()
    log.append([intent(order), build_aborted(intent(order), "its client left")])
    assert find() == []


def test_only_lost_ones_with_a_key_are_looked_for(log: AuditLog, find: Find) -> None:
    """What the spool knows, what had no key, and what is older than the retention is left alone."""
    known, keyless, lost = make_order(), make_order(key=None), make_order()
    log.append([intent(known), intent(keyless), intent(lost)])
    assert [entry.order.id for entry in find((known.id,))] == [lost.id]
    assert find(since=time.time() + 1) == []


def test_lost_ones_are_found_across_rotations(log: AuditLog, find: Find, tmp_path: Path) -> None:
    """All files are looked through in their order, those last written before the retention unread."""
    orders = [make_order(key=f"hmac-sha256:{number}") for number in range(40)]
    for order in orders:
        log.append([intent(order)])
    log.append([outcome(order, make_ending()) for order in orders])
    files = sorted((tmp_path / "audit").glob("audit.log.*"))
    assert len(files) > 5
    found = find()
    assert [entry.order.id for entry in found] == [order.id for order in orders]
    assert all(entry.ending for entry in found)
    os.utime(files[0], (0, 0))
    assert 0 < len(find()) < 40


def test_of_too_many_the_newest_are_found(log: AuditLog, find: Find) -> None:
    """The search is bounded: what was begun last is what a power cut takes."""
    orders = [make_order(key=f"hmac-sha256:{number}") for number in range(9)]
    for order in orders:
        log.append([intent(order), outcome(order, make_ending())])
    assert [entry.order.id for entry in find(at_most=4)] == [order.id for order in orders[5:]]


def test_names_in_a_request_deceive_nobody(log: AuditLog, find: Find) -> None:
    """Labels and variables that look like the record's own members, and lines that nobody sealed, find nothing."""
    fields = {"idempotency_key": "x", "event": "exec:aborted", "exec_id": "ex_0"}
    spec = ExecSpec.model_validate({"command": ["true"], "env": fields, "labels": fields})
    order, keyless = make_order(labels=fields), make_order(key=None, labels=fields)
    log.append([intent(order, spec), intent(keyless, spec)])
    with log.path.open("ab") as file:
        file.write(canonical(intent(make_order())) + b"\n" + b'{"idempotency_key":\n')
    assert [entry.order.id for entry in find()] == [order.id]


def test_longest_record_keeps_its_key(log: AuditLog, find: Find) -> None:
    """A record of which all data had to be cut still says which key ran something."""
    words, labels = ["\x01" * 400] * 64, {f"l{number}": "\x01" * 256 for number in range(32)}
    spec = ExecSpec.model_validate({"command": words, "labels": labels})
    order = make_order(command=words, labels=labels)
    assert "command" not in bound_record(intent(order, spec), KEYS.redactor)["data"]
    log.append([intent(order, spec)])
    ((found, ending),) = find()
    assert (found.id, found.idempotency, found.fingerprint, ending) == (
        order.id,
        order.idempotency,
        order.fingerprint,
        None,
    )


def test_restored_execs_are_remembered_with_their_keys(tmp_path: Path) -> None:
    """What was found stands in the spool like all others: the next supervisor knows it, too, and when it is swept."""
    spool = Spool(SpoolConfig(directory=tmp_path / "spool", min_free=0))
    unknown, ended = make_order(), make_order(key="hmac-sha256:other")
    spool.restore(unknown, None)
    spool.restore(ended, make_ending())
    again = Spool(SpoolConfig(directory=tmp_path / "spool", min_free=0))
    for one in (spool, again):
        assert [entry.key and entry.key.exec_id for entry in one.remembered().values()] == [unknown.id, ended.id]
        lives = [one.find(order.id) for order in (unknown, ended)]
        assert [life and life.ending and life.ending.reason for life in lives] == [None, Reason.EXITED]
    assert again.unfinished() == []
    forgotten: list[str] = []
    again.on_forgotten = forgotten.append
    again.sweep(time.time() + 86401)
    assert forgotten == [unknown.id, ended.id]


def test_boot_is_noted(tmp_path: Path) -> None:
    """A new spool and another boot are reasons to look; the same boot is none."""
    boot_id = tmp_path / "proc/sys/kernel/random/boot_id"
    boot_id.parent.mkdir(parents=True)
    boot_id.write_text("one\n")
    assert rebooted(tmp_path, tmp_path / "proc")
    note_boot(tmp_path, tmp_path / "proc")
    assert not rebooted(tmp_path, tmp_path / "proc")
    boot_id.write_text("two\n")
    assert rebooted(tmp_path, tmp_path / "proc")
    note_boot(tmp_path, tmp_path / "proc")
    assert not rebooted(tmp_path, tmp_path / "proc")
    assert {path.name for path in tmp_path.iterdir()} == {"proc", "boot_id"}
