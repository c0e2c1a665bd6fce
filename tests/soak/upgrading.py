"""A16: the web and the supervisor are restarted, reloaded and upgraded while commands run and requests come in.

No exec is lost, no request refused, all results are read afterwards.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.exec.api import Api
from tests.exec.gateways import Gateway
from tests.exec.inside import living, new_mark
from tests.exec.streams import Follower, detach, stream
from tests.exec.waiting import until
from tests.pvesim import guests
from tests.soak.cutting import resume
from tests.soak.installing import NEWER, OLDER, Installation

Step = tuple[str, Callable[[], object]]


def upgrade_steps(gateway: Gateway, installation: Installation) -> list[Step]:
    """What apt and systemctl do: each of the two services is once newer than the other, and once older."""
    services = gateway.services
    return [
        ("install", lambda: installation.install(NEWER)),
        ("web restart", lambda: services.restart("web")),
        ("supervisor reload", lambda: services.reload("supervisor")),
        ("web reload", lambda: services.reload("web")),
        ("install", lambda: installation.install(OLDER)),
        ("supervisor reload", lambda: services.reload("supervisor")),
        ("web restart", lambda: services.restart("web")),
    ]


def upgrade_under_load(
    gateway: Gateway, installation: Installation, vmid: int, *, execs: int, rate: float, pause: float, rounds: int = 1
) -> dict[str, float]:
    """`execs` run all the time, detached and streamed in turn; `rate` requests a second come in.

    `gateway` runs from `installation`. `pause`: seconds of load between two steps.
    """
    api, mark = gateway.api(), new_mark()
    gate = Path(guests.get(vmid).rootfs, "run", f"gate-{mark}")
    steps = upgrade_steps(gateway, installation) * rounds
    took: dict[str, float] = {}
    with contextlib.ExitStack() as stack:
        stack.callback(api.close)
        runs = stack.enter_context(Runs(api, vmid, f"/run/{gate.name}", mark, execs))
        stack.callback(gate.touch)  # before the runs are waited for, whatever happened
        until(lambda: len(living(mark)) >= execs, within=30, why="all execs run")
        with Load(gateway, vmid, rate) as load:
            for name, step in steps:
                load.go_on(pause)
                began = time.monotonic()
                step()
                took[name] = max(took.get(name, 0.0), time.monotonic() - began)
            load.go_on(pause)
        gate.touch()
        runs.check()
    assert not load.failures, (len(load.failures), load.failures[:5])
    for service in ("web", "supervisor"):
        starts = gateway.log(service).count(f"gateway {NEWER}")
        assert starts >= rounds, f"{service} ran as the newer version {starts} times"
    took.pop("install")
    return {
        "execs": execs,
        "steps": len(steps),
        "requests": load.done,
        "requests/s": load.done / load.seconds,
        "longest wait s": load.longest,
        **{f"{name} s": seconds for name, seconds in took.items()},
        "refused": 0,
        "lost": 0,
    }


def restart_supervisor(gateway: Gateway, vmid: int, *, execs: int) -> dict[str, float]:
    """A restart is no reload: `execs` that run, detached and streamed, end as `gateway_lost`, and are told so."""
    api, mark = gateway.api(), new_mark()
    spec: dict[str, Any] = {"command": ["sleep", mark], "timeout": 600}
    with contextlib.ExitStack() as stack:
        stack.callback(api.close)
        ids = [detach(api, vmid, **spec) for _ in range(execs // 2)]
        streams = [stack.enter_context(stream(api, vmid, spec)) for _ in range(execs - len(ids))]
        until(lambda: len(living(mark)) >= execs, within=30, why="all execs run")
        began = time.monotonic()
        gateway.services.restart("supervisor")
        took = time.monotonic() - began
        assert not living(mark), "something runs on"
        ends = [one.next_event("end")["exec"] for one in streams]
        views = [api.get(f"/execs/{exec_id}").json() for exec_id in ids]
    reasons = {view["reason"] for view in (*ends, *views)}
    assert reasons == {"gateway_lost"}, reasons
    return {"execs": execs, "restart s": took, "gateway_lost": len(ends) + len(views)}


class Runs:
    """Commands that print, wait for the gate, print again and exit with a number of their own."""

    def __init__(self, api: Api, vmid: int, gate: str, mark: str, count: int) -> None:
        self._api = api
        self._vmid = vmid
        self._script = (
            f"i=0; while [ ! -e {gate} ]; do echo $NUMBER $i; i=$((i+1)); sleep 0.5; done; echo over $NUMBER {mark};"
            " exit $NUMBER"
        )
        self._count = count
        self._pool = ThreadPoolExecutor(count)
        self._checks: list[Any] = []

    def __enter__(self) -> Runs:
        for number in range(self._count):
            spec: dict[str, Any] = {"command": self._script, "env": {"NUMBER": str(number)}, "timeout": 600}
            check = self._streamed if number % 2 else self._detached
            if number % 2:
                self._checks.append(self._pool.submit(check, number, spec))
            else:
                exec_id = detach(self._api, self._vmid, **spec)
                self._checks.append(self._pool.submit(check, number, {"id": exec_id}))
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def check(self) -> None:
        """Fails unless every one of them ended as it should, with all its output."""
        for check in self._checks:
            check.result(60)

    def _detached(self, number: int, started: dict[str, Any]) -> None:
        """Nobody follows it; its result is read at the end."""
        place = f"/execs/{started['id']}"
        view = until(lambda: self._ended(place), within=300)
        assert view is not None
        lines = self._api.get(f"{place}/stdout").body.decode().splitlines()
        _check(number, view, lines)

    def _ended(self, place: str) -> dict[str, Any] | None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            view: dict[str, Any] = self._api.get(f"{place}?wait=20").json()
            return view if view["state"] == "ended" else None
        return None

    def _streamed(self, number: int, spec: dict[str, Any]) -> None:
        """Followed from the first event on; a stream that is cut is resumed."""
        follower, output, exec_id = Follower(), b"", ""
        reply = stream(self._api, self._vmid, spec, timeout=60)
        while follower.end is None:
            with reply:
                for event in reply.events():
                    exec_id = event["exec"]["id"] if event["type"] == "start" else exec_id
                    taken = follower.take(event)
                    output += taken[1] if taken else b""
            if follower.end is None:
                reply = resume(self._api, f"/execs/{exec_id}/events", follower.seq, timeout=60)
        _check(number, follower.end["exec"], output.decode().splitlines())


def _check(number: int, view: dict[str, Any], lines: list[str]) -> None:
    assert (view["reason"], view["exit_code"]) == ("exited", number), view
    assert lines[:-1] == [f"{number} {i}" for i in range(len(lines) - 1)], lines
    assert lines[-1].startswith(f"over {number} ")


class Load:
    """Requests at a steady rate, over connections that are kept and ones that are new: every one must be answered."""

    CLIENTS = 32

    def __init__(self, gateway: Gateway, vmid: int, rate: float) -> None:
        self.done = 0
        self.longest = 0.0
        self.seconds = 0.0
        self.failures: list[str] = []
        self._gateway = gateway
        self._vmid = vmid
        self._interval = self.CLIENTS / rate
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(self.CLIENTS)]

    def __enter__(self) -> Load:
        self._began = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        self.seconds = time.monotonic() - self._began

    def go_on(self, seconds: float) -> None:
        """Returns after so long, and when an answer has come meanwhile."""
        before = self.done
        self._over.wait(seconds)
        until(lambda: self.done > before, why="an answer to the load")

    def _run(self, number: int) -> None:
        api = self._gateway.api()
        for turn, due in enumerate(self._times()):
            self._over.wait(max(0.0, due - time.monotonic()))
            if self._over.is_set():
                break
            if number % 2:
                api.close()  # a new connection for each request
            began = time.monotonic()
            try:
                self._ask(api, turn)
            except (OSError, http.client.HTTPException, AssertionError) as error:
                self.failures.append(f"{error!r} after {time.monotonic() - began:.3f} s")
            with self._lock:
                self.done += 1
                self.longest = max(self.longest, time.monotonic() - began)
        api.close()

    def _times(self) -> Iterator[float]:
        began = time.monotonic()
        return (began + turn * self._interval for turn in itertools.count())

    def _ask(self, api: Api, turn: int) -> None:
        if turn % 4:
            answer = api.get("/execs?limit=1")
            assert answer.status == 200, (answer.status, answer.body)
        else:
            assert api.run(self._vmid, ["true"])["exit_code"] == 0
