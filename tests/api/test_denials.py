"""Denials in the audit log: recorded, but never so many that they fill it."""

from __future__ import annotations

import pytest

from gateway.api.denials import STRANGERS, TOKEN, TOKENS, Attempt, DenialLog
from gateway.api.routes import ROUTES
from gateway.auth.actor import ANONYMOUS, Actor, Denial
from gateway.auth.tokens import Refusal, Refused

from .fakes import Api, FakeAudit

ATTEMPT = Attempt(ROUTES[0], 101, None, "192.0.2.1", "req_1")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def audit() -> FakeAudit:
    return FakeAudit()


@pytest.fixture
def denials(audit: FakeAudit, clock: Clock) -> DenialLog:
    return DenialLog(audit, "pve1", clock)


def actor(number: int) -> Actor:
    return Actor(**{**vars(ANONYMOUS), "token_id": f"tk_{number}", "token_name": "ci"})


def omitted(audit: FakeAudit) -> list[object]:
    return [record["data"].get("omitted") for record in audit.records]


def test_a_token_cannot_fill_the_log(denials: DenialLog, audit: FakeAudit, clock: Clock) -> None:
    """What it is denied past its ration leaves no record of its own; its next record says how many there were."""
    answers = [denials.record_actor(ATTEMPT, Denial.UNKNOWN_GUEST, actor(1)) for _ in range(1000)]
    assert len(audit.records) == TOKEN[0] and not any(omitted(audit))
    assert answers == [record["audit_id"] for record in audit.records] + [None] * (1000 - TOKEN[0])
    assert denials.record_actor(ATTEMPT, Denial.UNKNOWN_GUEST, actor(2))
    clock.now += 1 / TOKEN[1]
    assert denials.record_actor(ATTEMPT, Denial.UNKNOWN_GUEST, actor(1))
    assert omitted(audit)[-2:] == [None, 1000 - TOKEN[0]]
    clock.now += 1 / TOKEN[1]
    assert denials.record_actor(ATTEMPT, Denial.UNKNOWN_GUEST, actor(1))
    assert omitted(audit)[-1] is None


def test_many_tokens_cannot_fill_the_log(denials: DenialLog, audit: FakeAudit, clock: Clock) -> None:
    """An hour of denials by 500 tokens at once takes no more than all of them together may have."""
    for minute in range(60):
        clock.now += 60
        for number in range(500):
            denials.record_actor(ATTEMPT, Denial.UNKNOWN_GUEST, actor((number + minute * 60) % 500))
    assert TOKENS[1] * 3600 <= len(audit.records) <= TOKENS[0] + TOKENS[1] * 3600
    recorded = sum(1 + (record["data"].get("omitted") or 0) for record in audit.records)
    assert recorded > 0.8 * 60 * 500


def test_strangers_and_tokens_do_not_share(denials: DenialLog, audit: FakeAudit) -> None:
    """A crowd of strangers keeps no denial of a known token out of the log."""
    for _ in range(1000):
        denials.record_stranger(ATTEMPT, Refused(Refusal.NO_TOKEN))
    assert len(audit.records) == STRANGERS[0]
    assert denials.record_actor(ATTEMPT, Denial.UNKNOWN_GUEST, actor(1))
    assert omitted(audit)[-1] is None


def test_what_could_not_be_recorded_is_counted(denials: DenialLog, audit: FakeAudit) -> None:
    """Denials while there was no log are in the number of the next record, too."""
    audit.down = True
    for _ in range(3):
        assert denials.record_actor(ATTEMPT, Denial.UNKNOWN_GUEST, actor(1)) is None
        denials.record_stranger(ATTEMPT, Refused(Refusal.NO_TOKEN))
    audit.down = False
    denials.record_actor(ATTEMPT, Denial.UNKNOWN_GUEST, actor(1))
    denials.record_stranger(ATTEMPT, Refused(Refusal.NO_TOKEN))
    assert omitted(audit) == [3, 3]


def test_a_denial_without_a_record_is_the_same_denial(api: Api) -> None:
    """Past its ration a token is refused as before, for a guest out of reach as for one that does not exist."""
    token = api.token("exec:run", "101")
    bodies = []
    for number in range(TOKEN[0] + 5):
        response = api.request("POST", f"/exec/{(102, 999)[number % 2]}", token, json={"command": ["true"]})
        assert response.status_code == 404
        bodies.append({**response.json, "request_id": "", "vmid": 0, "instance": ""})
    assert len(api.audit.records) == TOKEN[0]
    assert bodies[-1] == bodies[-2] and not bodies[-1].get("audit_id")
