"""How an exec ends, or does not begin: each kind of end is told apart, and told the same over every way in."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.conformance.cases import Case, over_every_way
from tests.conformance.drivers import Ability
from tests.conformance.ways import Refused
from tests.exec.inside import new_mark
from tests.exec.waiting import BUSY


@over_every_way()
def test_exit_code_is_the_commands_own(case: Case) -> None:
    """A command that exits has `exited`, whatever number it chose, 124, 126, 127 and 137 too."""
    for code in (0, 1, 2, 124, 126, 127, 137, 255):
        outcome = case.run(["/bin/sh", "-c", f"echo out; echo err >&2; exit {code}"])
        assert outcome.ending == ("exited", code, None)
        assert (outcome.stdout, outcome.stderr) == (b"out\n", b"err\n")


@over_every_way()
def test_death_by_a_signal_is_told_from_an_exit(case: Case) -> None:
    """A command that a signal ended is `signaled`, with the code that a shell gives."""
    for number, name in ((9, "SIGKILL"), (15, "SIGTERM")):
        outcome = case.run(["/bin/sh", "-c", f"echo last words; kill -{number} $$; sleep 9"])
        assert outcome.ending == ("signaled", 128 + number, name)
        assert outcome.stdout == b"last words\n"


@over_every_way()
@pytest.mark.parametrize(
    ("program", "errno", "exit_code"),
    [("/no/such/program", "ENOENT", 127), ("no-such-program", "ENOENT", 127), ("/etc/group", "EACCES", 126)],
)
def test_what_cannot_begin_says_why(case: Case, program: str, errno: str, exit_code: int) -> None:
    """A program that is not there or not executable is `spawn_failed` with its errno: never an exit, never words."""
    outcome = case.run([program, "argument"])
    assert outcome.ending == ("spawn_failed", exit_code, None)
    assert (outcome.view["spawn_error"]["stage"], outcome.view["spawn_error"]["errno"]) == ("exec", errno)
    assert (outcome.stdout, outcome.stderr) == (b"", b"")


@over_every_way(Ability.CWD, Ability.USER)
def test_where_and_as_whom_it_cannot_begin(case: Case) -> None:
    """A missing directory and a missing user are `spawn_failed` of their own stage."""
    for stage, spec in (("cwd", {"cwd": "/no/such/place"}), ("user", {"user": "nobody-here"})):
        outcome = case.run(["true"], **spec)
        assert outcome.ending == ("spawn_failed", 126, None)
        assert (outcome.view["spawn_error"]["stage"], outcome.view["spawn_error"]["errno"]) == (stage, "ENOENT")


@over_every_way()
def test_guest_that_does_not_run_is_refused_at_once(case: Case) -> None:
    """A stopped guest is a 409 and an unknown one a 404, within a second, each by its code."""
    for vmid, status, code in ((case.guest.stopped, 409, "guest_not_running"), (998, 404, "guest_not_found")):
        began = time.monotonic()
        with pytest.raises(Refused) as refusal:
            case.in_guest(vmid).run(["true"])
        assert (refusal.value.status, refusal.value.code) == (status, code)
        assert time.monotonic() - began < 1 + BUSY


@over_every_way()
@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"command": []}, id="no-command"),
        pytest.param({"command": ["touch", 1]}, id="no-text"),
        pytest.param({"timeout": -1}, id="no-time"),
        pytest.param({"timeout": 1e9}, id="over-the-maximum"),
        pytest.param({"no_such_field": 1}, id="unknown-field"),
    ],
)
def test_request_that_makes_no_sense_runs_nothing(case: Case, wrong: dict[str, Any]) -> None:
    """A field that is wrong, unknown or over its maximum is `invalid_request`, and nothing runs."""
    path = f"/run/ran-{new_mark()}"
    with pytest.raises(Refused) as refusal:
        case.run(**{"command": ["touch", path], **wrong})
    assert (refusal.value.status, refusal.value.code) == (422, "invalid_request")
    assert not case.guest.has(path)
