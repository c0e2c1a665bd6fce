"""GET /audit and GET /audit/verify: what is asked of the log, for whom, and how a refusal reads."""

from __future__ import annotations

import pytest

from gateway.audit.parts import Part
from gateway.audit.search import Page, Query
from gateway.audit.walk import Fault, Wrong

from .fakes import Api, assert_problem

EXEC_ID = "ex_" + "0" * 26


def test_a_page(api: Api) -> None:
    """Records and the cursor go out as they come; every filter reaches the search."""
    api.audit.page = Page([{"seq": 7, "event": "exec:intent"}], next=7)
    query = (
        f"event=exec:intent&event=exec:outcome&token=tk_1&vmid=101&exec_id={EXEC_ID}&request_id=req_1&audit_id=au_1"
        "&outcome=timeout&since=2026-11-21T15:00:00%2B01:00&until=2026-11-21T16:00:00.5Z&order=oldest&limit=5&after=9"
    )
    response = api.request("GET", f"/audit?{query}", api.token("audit:read", "all"))
    assert response.json == {"records": [{"seq": 7, "event": "exec:intent"}], "next": 7}
    assert api.audit.queries == [
        Query(
            events=("exec:intent", "exec:outcome"),
            token_id="tk_1",
            vmid=101,
            exec_id=EXEC_ID,
            request_id="req_1",
            audit_id="au_1",
            outcome="timeout",
            since="2026-11-21T14:00:00.000000Z",
            until="2026-11-21T16:00:00.500000Z",
            newest_first=False,
            limit=5,
            after=9,
        )
    ]


@pytest.mark.parametrize(
    ("guests", "seen"),
    [("all", None), ("101-105,110", ((101, 105), (110, 110))), ("150", ((150, 150),))],
)
def test_a_reader_sees_its_guests(api: Api, guests: str, seen: object) -> None:
    """Who may not read about all guests is searched for with those it may; a protected one can be read about."""
    assert api.request("GET", "/audit", api.token("audit:read", guests)).status_code == 200
    assert api.audit.queries[0].guests == seen


@pytest.mark.parametrize(
    "query",
    [
        "event=no:such",
        "vmid=7",
        "vmid=x",
        "since=yesterday",
        "since=2026-11-21T15:00:00",
        "since=0001-01-01T00:00:00%2B23:00",
        "until=9999-12-31T23:59:59-23:00",
        "until=1e400",
        "limit=0",
        "limit=1001",
        "after=-1",
        "order=up",
        "exec_id=../x",
        "token=",
        "more=1",
        "vmid=101&vmid=102",
    ],
)
def test_what_cannot_be_asked(api: Api, query: str) -> None:
    """Unknown and wrong parameters are named, and nothing is searched."""
    assert_problem(api.request("GET", f"/audit?{query}", api.token("audit:read")), 422, "invalid_request")
    assert api.audit.queries == []


def test_without_the_log(api: Api) -> None:
    """A log that cannot be read is 503, and may be asked again."""
    api.audit.down = True
    problem = assert_problem(api.request("GET", "/audit", api.token("audit:read")), 503, "audit_unavailable")
    assert problem["retryable"]


CURSOR = f"7-{'a' * 64}-3-{'b' * 64}"


def test_a_good_part(api: Api) -> None:
    """It says what was looked at, which anchors it was held against, and where to go on."""
    api.audit.part = Part(None, 5, 3, 7, False, CURSOR)
    response = api.request("GET", "/audit/verify", api.token("audit:read", "all"))
    assert response.json == {
        "good": True, "fault": None, "records": 5, "first": 3, "last": 7,
        "checked": [], "unchecked": ["writer", "journal"], "next": CURSOR,
    }  # fmt: skip
    api.audit.part = Part(None, 2, 8, 9, True, None)
    response = api.request("GET", f"/audit/verify?after={CURSOR}", api.token("audit:read", "all"))
    assert (response.json["checked"], response.json["unchecked"]) == (["writer"], ["journal"])
    assert api.audit.cursors == [None, CURSOR]


@pytest.mark.parametrize("fault", [None, Fault("audit.log", 4, 9, Wrong.CHANGED, "not as written")])
def test_a_part_for_one_who_may_not_read_all(api: Api, fault: Fault | None) -> None:
    """It is good or not; how many records there are, and where they stand, is not told."""
    api.audit.part = Part(fault, 5, 3, 7, True, None)
    response = api.request("GET", "/audit/verify", api.token("audit:read", "150"))
    assert response.json == {
        "good": fault is None, "fault": None, "records": None, "first": None, "last": None,
        "checked": ["writer"], "unchecked": ["journal"], "next": None,
    }  # fmt: skip


def test_a_fault(api: Api) -> None:
    """A log that is not as it was written is no error of the request; the answer names the place."""
    api.audit.part = Part(Fault("audit.log", 4, 9, Wrong.CHANGED, "not as written"), 8, 1, 8, False, None)
    response = api.request("GET", "/audit/verify", api.token("audit:read", "all"))
    assert response.status_code == 200 and response.json["good"] is False
    assert response.json["fault"] == {
        "file": "audit.log", "line": 4, "seq": 9, "wrong": "changed", "detail": "not as written",
    }  # fmt: skip


@pytest.mark.parametrize(
    "after", ["7", "7-", f"7-{'A' * 64}", f"{CURSOR}-", f"{CURSOR}%0a", f"-1-{'a' * 64}", "x" * 5000]
)
def test_what_is_no_cursor(api: Api, after: str) -> None:
    """A cursor that no part has given is refused before the log is asked."""
    assert_problem(api.request("GET", f"/audit/verify?after={after}", api.token("audit:read")), 422, "invalid_request")
    assert api.audit.cursors == []


def test_no_verdict_without_the_log(api: Api) -> None:
    """A log that cannot be read is 503, not a fault."""
    api.audit.down = True
    assert_problem(api.request("GET", "/audit/verify", api.token("audit:read")), 503, "audit_unavailable")
