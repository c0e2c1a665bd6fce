"""No repr tells what was sent: it would stand in a traceback's message, an assertion, or a log line of tomorrow."""

from __future__ import annotations

import contextlib
import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pydantic import ValidationError

from gateway.api.call import Call, Reply
from gateway.api.models.terminals import AttachQuery
from gateway.api.route import Route
from gateway.api.routes import ROUTES
from gateway.auth.actions import Action
from gateway.exec.order import GuestKind
from gateway.exec.spec import ExecSpec
from gateway.guests.edit import Edit
from gateway.pve.token import PveToken
from tests.canaries.strays import Strays
from tests.canaries.words import Canaries, Sink

TAKING = [route for route in ROUTES if route.body is not None]
NAMES = {"vmid": "101", "id": "ex_" + "0" * 26, "token_id": "tk_" + "0" * 26, "snapshot": "kept", "upid": "none"}


@pytest.mark.parametrize("route", TAKING, ids=lambda route: route.operation_id)
def test_a_request_shows_no_value(route: Route) -> None:
    """The repr of a body that was taken names its members, that of one that was not says what is wrong; no value is in
    either."""
    canaries, taken = Canaries(), 0
    assert route.body is not None
    for stray in Strays(canaries, "none", NAMES, {}).of(route):
        with contextlib.suppress(UnicodeDecodeError, json.JSONDecodeError, RecursionError):
            data = json.loads(stray.body or b"null")
            if not isinstance(data, dict) or any("Cnry" in name for name in data):
                continue
            try:
                body = route.body.model_validate(data)
                taken += 1
                told = f"{body!r} {body}"
            except ValidationError as error:
                told = f"{error!r} {error}"
            assert "Cnry" not in told, told
    assert taken


def test_neither_does_what_is_made_of_it() -> None:
    """A call with its head, its query and its body; a reply; a change of options; a token of PVE's."""
    word = Canaries().put("", "", Sink.REPR)
    spec = ExecSpec(command=["true", word], env={word: word}, stdin=word, redact=[1])
    nobody = cast(Any, SimpleNamespace())
    call = Call(
        request_id="", remote="", actor=nobody, action=Action.EXEC_RUN, event=None,
        environ={"HTTP_AUTHORIZATION": f"Bearer {word}"}, vmid=101, exec_id="", token_id="", names={},
        query=AttachQuery(ticket=word), body=spec, raw=word.encode(), standing=nobody, refuse=nobody,
    )  # fmt: skip
    edit = Edit(kind=GuestKind.QEMU, options={"cipassword": word})
    made = (spec, call, call.query, Reply({"token": word}), edit, PveToken("a@pve", "web", word))
    assert [repr(one) for one in made if word in repr(one)] == []
