"""Whether one who was let in may go on: while a request waits, and before what took long is shown."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import pytest

from gateway.api import standing
from gateway.api.standing import Watch
from gateway.audit.search import Page, Query
from gateway.errors import Unauthenticated
from gateway.web.disconnect import ClientConnection, Ready
from tests.auth.changes import root

from .fakes import Api, assert_problem


def watch(check: Callable[[], object], ending: int | None = None) -> Watch:
    return Watch(ClientConnection(None, ending), check, time.monotonic)


def fail() -> None:
    raise AssertionError("asked without need")


def test_an_answer_is_taken_at_once() -> None:
    """Nobody is asked about a caller who waits for nothing."""
    reader, writer = os.pipe()
    os.write(writer, b"x")
    try:
        assert watch(fail).wait(reader, None) == Ready(fd=True, gone=False)
        assert watch(fail).wait(None, 0) == Ready(fd=False, gone=False)
        assert watch(fail).wait(None, 0.1) == Ready(fd=False, gone=False)
    finally:
        os.close(reader)
        os.close(writer)


def test_a_server_that_ends_is_waited_with_no_longer() -> None:
    """Its end is told by nothing else than an early return, whatever was asked before."""
    reader, writer = os.pipe()
    try:
        assert watch(lambda: os.write(writer, b"x"), reader).wait(None, None) == Ready(fd=False, gone=False)
    finally:
        os.close(reader)
        os.close(writer)


def test_the_waiting_ends_with_the_right_to_it() -> None:
    """What the check raises is raised, after as many good answers as there were."""
    answers = iter([None, Unauthenticated("no more")])

    def check() -> None:
        answer = next(answers)
        if answer is not None:
            raise answer

    with pytest.raises(Unauthenticated):
        watch(check).wait(None, 30)


@pytest.mark.parametrize("end", ["revoke", "rotate"])
def test_what_took_long_is_shown_to_who_may_still_see_it(api: Api, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    """A search of the log whose token ends meanwhile gives nothing, and that is recorded."""
    monkeypatch.setattr(standing, "CHECK_SECONDS", 0)
    token = api.token("audit:read", "all")
    token_id = token.removeprefix("pveg_").split(".")[0]
    search = api.audit.search

    def long_search(query: Query, timeout: float = 0) -> Page:
        getattr(root(api.tokens), end)(token_id)
        return search(query, timeout)

    assert api.request("GET", "/audit", token).status_code == 200
    monkeypatch.setattr(api.audit, "search", long_search)
    problem: dict[str, Any] = assert_problem(api.request("GET", "/audit", token), 401, "unauthenticated")
    (record,) = api.audit.records
    assert (record["audit_id"], record["actor"]["token_id"]) == (problem["audit_id"], token_id)
    assert record["data"]["reason"] == {"revoke": "revoked", "rotate": "replaced"}[end]
