"""The documented schema: every record that is written fits its model, and nothing of it is undocumented."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from pydantic import ValidationError

from gateway.api.models.audit_records import KINDS, AuditRecord, Change, Cut, record_schema
from gateway.audit import clock
from gateway.audit.log import AuditLog
from gateway.audit.record import Event, Fields, bound_record, build_aborted, build_record, note
from gateway.audit.settings import AuditSettings
from gateway.exec import trail
from gateway.exec.spec import ExecSpec
from tests.supervisor.test_reboot import make_order

from .live import keys_of, limits, read_log


def model_of(event: str) -> type[AuditRecord]:
    """The model of an event's records."""
    return next((kind for kind in KINDS if event in get_args(kind.model_fields["event"].annotation)), Change)


def check_documented(record: Fields) -> None:
    """`record` fits the model of its event, and comes out of it with every member that it had."""
    shown = model_of(record["event"]).model_validate(record).model_dump(mode="json")
    assert not undocumented(record, shown), record["event"]


def undocumented(value: Any, shown: Any) -> list[str]:
    if isinstance(value, dict):
        missing = [name for name in value if name not in shown]
        return missing + [name for key in value if key in shown for name in undocumented(value[key], shown[key])]
    return []


def test_what_is_written_fits(settings: AuditSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records of execs, whole and cut, denials, and all of the log's own."""
    keys = keys_of(settings)
    spec = ExecSpec.model_validate(
        {"command": ["a", "b" * 9000], "env": {"A": "x"}, "stdin": "y", "labels": {"l": "m"}, "redact": [0]}
    )
    intent = build_record(
        Event.EXEC_INTENT,
        request_id="req_1",
        token_id="tk_1",
        token_name="ci",
        remote="::1",
        action="exec:run",
        vmid=101,
        node="pve1",
        exec_id="ex_1",
        data=trail.intent(spec, make_order(), keys.redactor.hash),
    )
    log = AuditLog(settings.directory, keys, limits=limits(4000, 40_000, keep_days=1), sync=lambda _: None)
    log.append([intent, {**intent, "idempotency_key": "k", "fingerprint": "f"}, build_aborted(intent, "no")])
    log.append([bound_record(intent, keys.redactor, 3000)])
    log.append([build_record(Event.REQUEST_DENIED, data={"reason": "no_token", "operation": "runExec", "omitted": 3})])
    log.append([build_record(Event.EXEC_SIGNAL, data={"signal": 9, "to": "tree"}), build_record(Event.EXEC_CANCEL)])
    log.append([build_record(Event.TOKEN_CREATE, data={"token": {"id": "tk_1"}})])
    for data in ({"reason": "unknown"}, {"reason": "exited", "exit_code": 0, "timing": {"queued_ms": 1}}):
        log.append([build_record(Event.EXEC_OUTCOME, data=data)])
    log.close()
    with log.path.open("ab") as file:
        file.write(b"torn")
    monkeypatch.setattr(clock, "_offset", lambda: 1e9)
    while not log.full:
        log.append([intent])
    log.close()
    log = AuditLog(settings.directory, keys, limits=limits(4000, 40_000, keep_days=0), sync=lambda _: None)
    log.append([note(Event.AUDIT_LOST, sink="s", records=1, why="w")])
    log.append([note(Event.AUDIT_RECOVERED, why="w", seconds=0.5, refused=2)])
    seen = set()
    for sealed in read_log(settings):
        check_documented({**sealed.record, "mac": sealed.head.mac})
        seen.add(sealed.record["event"])
    assert {str(event) for event in Event if event.startswith("audit:")} <= seen


def test_a_wrong_record_does_not_fit() -> None:
    """The models refuse what is not as they say."""
    record = {"v": 1, "seq": 1, "ts": "2026-01-01T00:00:00.000000Z", "audit_id": "a", "prev": "0", "mac": "0"}
    data: dict[str, Any] = {"signal": 9, "to": "tree"}
    model_of("exec:signal").model_validate({**record, "event": "exec:signal", "data": data})
    for change in ({"seq": 0}, {"ts": "now"}, {"v": 2}, {"data": {"signal": 9, "to": "all"}}, {"event": "exec:cancel"}):
        with pytest.raises(ValidationError):
            model_of("exec:signal").model_validate({**record, "event": "exec:signal", "data": data, **change})


def test_the_schema_names_every_event() -> None:
    """No event is without a model; those of tokens share one."""
    schema = record_schema()
    told = {
        word
        for name, model in schema["$defs"].items()
        if "event" in model.get("properties", {})
        for word in model["properties"]["event"].get("enum", [model["properties"]["event"].get("const")])
    }
    assert {str(event) for event in Event} == told
    assert model_of("token:create") is Change
    assert set(schema["$defs"]["Cut"]["required"]) == set(Cut.model_fields)
