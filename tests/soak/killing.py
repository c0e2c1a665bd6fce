"""A15: SIGKILL at random moments while commands are begun, each with an Idempotency-Key, and sent again until told.

Each command appends its key to a file in the guest, so that it is seen how often it ran: once where its end is told,
at most once where nobody can know. Nothing of it runs on without an owner.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.exec.api import Api
from tests.exec.gateways import Gateway
from tests.exec.inside import exec_cgroups, living, new_mark
from tests.exec.streams import NDJSON
from tests.exec.waiting import until
from tests.pvesim import guests
from tests.soak import processes

SIDE_BY_SIDE = 6
LATEST_SECONDS = 0.06
SETTLE_SECONDS = 30.0
FINAL = ("ended", "unknown")

_ACCEPT: tuple[dict[str, str], ...] = ({}, {"Accept": NDJSON}, {"Prefer": "respond-async"})


@dataclass(frozen=True)
class Settled:
    """What became of one request in the end."""

    key: str
    view: dict[str, Any]
    sent: int


def kill_supervisor(gateway: Gateway) -> None:
    gateway.services.kill("supervisor")
    gateway.services.restart("supervisor")


def kill_worker(gateway: Gateway) -> None:
    """The web's worker, which its master replaces."""
    os.kill(processes.the_worker(gateway), signal.SIGKILL)


def kill_web(gateway: Gateway) -> None:
    """The web's master, which takes the worker along."""
    gateway.services.kill("web")
    gateway.services.restart("web")


VICTIMS: dict[str, Callable[[Gateway], None]] = {
    "supervisor": kill_supervisor,
    "web worker": kill_worker,
    "web master": kill_web,
}


def kill_at_random(gateway: Gateway, vmid: int, victim: str, *, moments: int, seed: int) -> dict[str, float]:
    """`moments` times: SIDE_BY_SIDE requests, one SIGKILL among them, all sent again until they are settled."""
    chance, mark = random.Random(seed), new_mark()
    log = Path(guests.get(vmid).rootfs, "run", f"ran-{mark}")
    log.touch()
    log.chmod(0o666)  # the root of an unprivileged guest is another user
    settled: list[Settled] = []
    api = gateway.api()
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        for moment in range(moments):
            keys = [f"{mark}-{moment}-{number}" for number in range(SIDE_BY_SIDE)]
            bodies = [_body(key, f"/run/{log.name}", mark, chance) for key in keys]
            running = [
                pool.submit(_settle, api, vmid, key, body, _ACCEPT[number % len(_ACCEPT)])
                for number, (key, body) in enumerate(zip(keys, bodies, strict=True))
            ]
            time.sleep(chance.uniform(0, LATEST_SECONDS))
            VICTIMS[victim](gateway)
            settled += [one.result(2 * SETTLE_SECONDS) for one in running]
    api.close()
    until(lambda: not living(mark), why="nothing runs on")
    instance = gateway.instance
    until(lambda: not [path for path in exec_cgroups(vmid) if instance in path.parent.name], why="no cgroup is left")
    return _judge(settled, Counter(log.read_text().split()))


def _judge(settled: list[Settled], ran: Counter[str]) -> dict[str, float]:
    for one in settled:
        times = ran[one.key]
        assert times <= 1, f"{one.key} ran {times} times: {one.view}"
        if one.view["reason"] == "exited":
            assert (times, one.view["exit_code"]) == (1, 7), (times, one.view)
    reasons = Counter(one.view["reason"] or one.view["state"] for one in settled)
    assert reasons.keys() <= {"exited", "gateway_lost", "unknown"}, reasons
    return {
        "requests": len(settled),
        "sent again": sum(one.sent - 1 for one in settled),
        **{reason: reasons[reason] for reason in ("exited", "gateway_lost", "unknown")},
        "ran twice": sum(times > 1 for times in ran.values()),
    }


def _body(key: str, log: str, mark: str, chance: random.Random) -> dict[str, Any]:
    script = f"echo {key} >> {log}; sleep {chance.choice((0, 0, 0.05, 0.2))}; exit 7"
    return {"command": script, "labels": {"test": mark}, "timeout": 20}


def _settle(api: Api, vmid: int, key: str, body: dict[str, Any], accept: dict[str, str]) -> Settled:
    """Sends a request, and again with the same key, until it is told what became of it."""
    headers = {"Idempotency-Key": key, **accept}
    sent = 0

    def send() -> dict[str, Any] | None:
        nonlocal sent
        sent += 1
        try:
            answer = api.post(vmid, body, headers=headers, timeout=SETTLE_SECONDS)
            if answer.status == 202:
                answer = api.get(f"{answer.headers['Location']}?wait=10")
        except (OSError, http.client.HTTPException):
            return None
        assert answer.status in (200, 503), (answer.status, answer.body)
        return None if answer.status == 503 else _final_view(answer.body, answer.headers.get_content_type())

    view = until(send, within=SETTLE_SECONDS, why=f"{key} is settled")
    assert view is not None
    return Settled(key, view, sent)


def _final_view(body: bytes, media_type: str) -> dict[str, Any] | None:
    """The exec in a reply; None when the reply was cut, or tells no end."""
    if media_type == NDJSON:
        event = json.loads(body.splitlines()[-1]) if body.endswith(b"\n") else {}
        view: dict[str, Any] | None = event["exec"] if event.get("type") == "end" else None
    else:
        view = json.loads(body)
    return view if view is not None and view["state"] in FINAL else None
