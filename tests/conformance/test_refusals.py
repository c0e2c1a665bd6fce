"""What a driver cannot do it refuses by name, over every way in, and nothing runs."""

from __future__ import annotations

import pytest

from tests.conformance.cases import ASKED, Case, over_every_refusal, over_what_cannot_be_done
from tests.conformance.drivers import Ability
from tests.conformance.ways import Refused
from tests.exec.inside import living, new_mark
from tests.exec.streams import detach
from tests.exec.waiting import until


@over_every_refusal()
def test_request_is_refused_by_name(case: Case, ability: Ability) -> None:
    """`driver_unsupported` names what was asked for, and neither this nor the rest of the request is done."""
    path = f"/run/ran-{new_mark()}"
    asked = ASKED.get(ability, {})
    words = asked.get("command", [])
    with pytest.raises(Refused) as refusal:
        case.run(**{**asked, "command": ["touch", path, *words]})
    assert (refusal.value.status, refusal.value.code) == (422, "driver_unsupported")
    assert refusal.value.problem["unsupported"] == [ability]
    assert not case.guest.has(path)
    assert case.run_anyhow(["true"]).ending == ("exited", 0, None)


@over_what_cannot_be_done(Ability.KILL, Ability.SIGNAL)
def test_running_exec_is_left_alone(case: Case, ability: Ability) -> None:
    """What cannot be done to an exec while it runs is refused by name, and it goes on untouched."""
    api, mark = case.guest.api, new_mark()
    gate = f"/run/gate-{mark}"
    exec_id = detach(api, case.guest.vmid, ["sh", "-c", f"while [ ! -e {gate} ]; do sleep 0.05; done", mark])
    until(lambda: living(mark))
    place = f"/execs/{exec_id}"
    requests = {
        Ability.KILL: lambda: api.request("DELETE", place),
        Ability.SIGNAL: lambda: api.request("POST", f"{place}/signal", {"signal": "TERM"}),
    }
    answer = requests[ability]()
    assert (answer.status, answer.code) == (422, "driver_unsupported")
    assert answer.json()["unsupported"] == [ability]
    assert living(mark)
    (case.guest.root / gate.lstrip("/")).touch()
    view = api.get(f"{place}?wait=10").json()
    assert (view["reason"], view["exit_code"]) == ("exited", 0)
