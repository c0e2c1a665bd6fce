"""A1, A4, DELETE, signals: what ends an exec ends all that it began, and what it leaves behind is as it asked."""

from __future__ import annotations

import time

from tests.conformance.cases import Case, for_every_driver, over_every_way
from tests.conformance.drivers import Ability
from tests.exec.inside import kill_all, living, new_mark
from tests.exec.streams import detach
from tests.exec.waiting import BUSY, until


@over_every_way(Ability.KILL)
def test_timeout_ends_the_whole_tree(case: Case) -> None:
    """A1: within timeout + grace + 0.5 s it has ended as `timeout` with what it had printed, and nothing is left."""
    mark, began = new_mark(), time.monotonic()
    outcome = case.run(f"echo up; setsid sleep {mark} & sleep {mark}; true", timeout=1, kill_grace=0.5)
    assert time.monotonic() - began < 1 + 0.5 + 0.5 + BUSY
    assert (outcome.ending[:2], outcome.stdout) == (("timeout", 124), b"up\n")
    assert outcome.view["killed"] >= 1
    assert not living(mark)


@over_every_way(Ability.BACKGROUND)
def test_background_is_left_alone(case: Case) -> None:
    """A4: `detach` answers at once, names the survivor, and lets it live and write."""
    mark, began = new_mark(), time.monotonic()
    outcome = case.run(f"(sleep 0.2; echo more; echo more >&2; exec sleep {mark}) & echo ok", background="detach")
    assert time.monotonic() - began < 10, "it waited for what goes on for ever"
    assert (outcome.ending, outcome.stdout) == (("exited", 0, None), b"ok\n")
    assert outcome.view["survivors"] >= 1
    until(lambda: living(mark, alone=True), why="it could write, and lives")
    kill_all(mark)


@over_every_way(Ability.BACKGROUND)
def test_background_is_waited_for(case: Case) -> None:
    """A4: `wait` ends when the last process has, with the command's own exit code and all output."""
    outcome = case.run("(sleep 0.3; echo late) & echo ok; exit 3", background="wait")
    assert (outcome.ending, outcome.stdout) == (("exited", 3, None), b"ok\nlate\n")
    assert outcome.view["survivors"] == 0


@over_every_way(Ability.BACKGROUND)
def test_background_is_killed(case: Case) -> None:
    """A4: `kill` ends at once, with the command's own end, and nothing is left."""
    mark = new_mark()
    outcome = case.run(f"setsid sleep {mark} & (sleep {mark} &); echo ok; exit 5", background="kill")
    assert (outcome.ending, outcome.stdout) == (("exited", 5, None), b"ok\n")
    assert outcome.view["survivors"] == 0
    assert not living(mark)


@for_every_driver(Ability.KILL)
def test_delete_ends_the_whole_tree(case: Case) -> None:
    """DELETE ends it as `cancelled` with all that it began; a second one is a 409 by name."""
    mark, api = new_mark(), case.guest.api
    exec_id = detach(api, case.guest.vmid, f"trap '' TERM; setsid sleep {mark} & sleep {mark}", kill_grace=0.2)
    until(lambda: len(living(mark)) >= 2, why="the tree is up")
    view = api.request("DELETE", f"/execs/{exec_id}?wait=10").json()
    assert (view["state"], view["reason"]) == ("ended", "cancelled")
    assert not living(mark)
    again = api.request("DELETE", f"/execs/{exec_id}")
    assert (again.status, again.code) == (409, "exec_ended")


@for_every_driver(Ability.SIGNAL)
def test_signal_reaches_the_command_or_its_tree(case: Case) -> None:
    """A signal by name goes to the command alone, or by number to all that descends from it."""
    api, child = case.guest.api, "trap 'echo child' USR1; echo ready; while :; do sleep 0.05; done"
    command = f"trap 'echo parent' USR1; ({child}) & while :; do sleep 0.05; done"
    exec_id = detach(api, case.guest.vmid, command)

    def printed() -> bytes:
        return api.get(f"/execs/{exec_id}/stdout").body

    until(lambda: printed() == b"ready\n")
    assert api.request("POST", f"/execs/{exec_id}/signal", {"signal": "USR1"}).status == 200
    until(lambda: printed() == b"ready\nparent\n")
    assert api.request("POST", f"/execs/{exec_id}/signal", {"signal": 10, "to": "tree"}).status == 200
    until(lambda: sorted(printed().split()) == [b"child", b"parent", b"parent", b"ready"])
    assert api.request("POST", f"/execs/{exec_id}/signal", {"signal": "SIGKILL", "to": "tree"}).status == 200
    view = api.get(f"/execs/{exec_id}?wait=10").json()
    assert (view["reason"], view["signal"]) == ("signaled", "SIGKILL")
    late = api.request("POST", f"/execs/{exec_id}/signal", {"signal": "TERM"})
    assert (late.status, late.code) == (409, "exec_ended")
