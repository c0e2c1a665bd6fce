"""A small, seeded slice of the WebSockets of `make fuzz`: however frames are broken, the close says so and all ends."""

from __future__ import annotations

from collections.abc import Callable

from gateway.auth.actions import GRANTABLE
from tests.exec.gateways import Gateway
from tests.exec.waiting import until
from tests.fuzz.judging import footprints, judge_growth, judge_logs
from tests.fuzz.running import SETTINGS, Target
from tests.fuzz.sockets import fuzz_sockets


def test_every_websocket_ends_as_described(make_gateway: Callable[..., Gateway]) -> None:
    """Good and broken frames, messages and goodbyes: the right close code, in time; no exec and no descriptor stays."""
    gateway = make_gateway(**SETTINGS)
    token = gateway.token("fuzz", actions=",".join(sorted(GRANTABLE)))
    api = gateway.api(token)
    assert api.run(101, ["true"])["exit_code"] == 0
    before = footprints(gateway)
    tally = fuzz_sockets(Target.of(gateway, token), count=80, seed=7, threads=4)
    shown = "\n".join(f"{count} x {what}\n      {tally.example[what]}" for what, count in tally.wrong.items())
    assert not tally.wrong, shown
    until(lambda: not api.get("/execs?state=running").json()["execs"])
    assert list(judge_logs(gateway, tally.secrets)) == []
    assert [line for line in judge_growth(before, footprints(gateway)) if "descriptors" in line] == []
    assert api.run(101, ["true"])["exit_code"] == 0
    api.close()
