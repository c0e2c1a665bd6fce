"""What the guest routes cost beside PVE's own API: lifecycle calls, listing 1,000 guests, waiting for tasks.

`python -m tests.bench.guests` makes a node of its own, takes about a minute, and leaves nothing behind. The figures are
differences: the same call to the simulated API, and by the gateway to it, in turns.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from gateway.pve.client import PveApi
from gateway.pve.ids import Upid, parse_upid
from gateway.pve.models import GuestRef
from gateway.pve.service import Pve
from tests.bench.figures import median, percentile
from tests.bench.machine import run_alone
from tests.exec.api import Api
from tests.exec.gateways import Gateway
from tests.guests.conftest import PRIVILEGES, SECRET, TOKEN_ID
from tests.pvesim import pmxcfs
from tests.pvesim.api import access, machines
from tests.pvesim.api.process import running_api
from tests.pvesim.api.upid import decode
from tests.pvesim.services import REPOSITORY

MACHINE = 301
FIRST, GUESTS, CREATED = 10_000, 1_000, 20_000
TURNS, LISTINGS, WAITS, WAITERS = 60, 15, 12, 100
_STATE = REPOSITORY / ".demo/bench-guests"


class Counting(PveApi):
    """Counts what PVE is asked."""

    asked = 0

    def call(self, method: str, path: tuple[str | int, ...], parameters: Mapping[str, Any], **more: Any) -> Any:
        self.asked += 1
        return super().call(method, path, parameters, **more)


def main() -> int:
    return run_alone(_STATE, run)


def run() -> int:
    """Measures; runs in the node."""
    with contextlib.ExitStack() as stack:
        pve = stack.enter_context(running_api())
        token = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "pve.token"
        access.store_token(token, TOKEN_ID, SECRET, privileges=PRIVILEGES)
        gateway = Gateway(pve={"api": pve.url, "token_file": str(token)})
        stack.callback(gateway.close)
        machine = machines.create(MACHINE)
        stack.callback(machine.destroy)
        ours = gateway.api(gateway.token("bench", actions="all", guests="all"))
        stack.callback(ours.close)
        theirs = Counting(pve.url, token, pmxcfs.ROOT / "pve-root-ca.pem")
        measure_calls(ours, theirs)
        measure_creates(ours, theirs)
        measure_waits(ours)
        measure_parallel_waits(theirs)
        measure_listing(ours, theirs)
    return 0


def measure_calls(ours: Api, theirs: PveApi) -> None:
    """Suspends and resumes a machine, and sets its tags, by each in turn: what the gateway adds."""
    place = ("nodes", "pve1", "qemu", MACHINE)
    words = ("suspend", "resume")

    def power(by: Callable[[str], None]) -> list[float]:
        taken = []
        for number in range(TURNS):
            word = words[number % 2]
            taken.append(timed(partial(by, word)))
            settle(theirs)
        return taken

    def by_us(word: str) -> None:
        answer = ours.request("POST", f"/guests/{MACHINE}/{word}")
        assert answer.status == 202, answer.body

    direct, through = power(lambda word: theirs.call("POST", (*place, "status", word), {})), power(by_us)
    tell("a lifecycle call (POST, 202)", direct, through, "adds at p50", bound=15)

    def set_tags(number: int) -> None:
        answer = ours.request("PATCH", f"/guests/{MACHINE}", {"tags": [f"t{number}"]})
        assert answer.status == 200, answer.body

    def put_and_read(number: int) -> None:
        theirs.call("PUT", (*place, "config"), {"tags": f"t{number}"})
        theirs.call("GET", (*place, "config"), {"current": 1})
        theirs.call("GET", (*place, "pending"), {})

    direct, through = [], []
    for number in range(TURNS):
        direct.append(timed(partial(put_and_read, number)))
        through.append(timed(partial(set_tags, number)))
    tell("a change of tags (PATCH; PVE: PUT and two GETs)", direct, through, "adds at p50", bound=15)


def measure_creates(ours: Api, theirs: PveApi) -> None:
    """Makes machines without disks, by each in turn: under a vmid that is given, and under the next free one."""
    for number, chosen in enumerate((True, False)):
        direct, through = [], []
        for turn in range(TURNS // 2):
            vmid = CREATED + 100 * number + 2 * turn

            def by_pve(vmid: int = vmid, chosen: bool = chosen) -> None:
                if not chosen:
                    theirs.call("GET", ("cluster", "nextid"), {"vmid": vmid})
                theirs.call("POST", ("nodes", "pve1", "qemu"), {"vmid": vmid, "agent": "1", "memory": 64})

            def by_us(vmid: int = vmid, chosen: bool = chosen) -> None:
                answer = ours.request("POST", "/guests", {"type": "qemu", "vmid": vmid + 1 if chosen else None})
                assert answer.status == 202, answer.body

            direct.append(timed(by_pve))
            settle(theirs, vmid)
            through.append(timed(by_us))
            settle(theirs, None)
        words = "POST /guests" if chosen else "POST /guests under the next free vmid (PVE: nextid, too)"
        tell(words, direct, through, "adds at p50", bound=15)


def measure_waits(ours: Api) -> None:
    """How long after a task's end its `?wait=` is answered."""
    late = []
    for number in range(WAITS):
        word = ("suspend", "resume")[number % 2]
        answer = ours.request("POST", f"/guests/{MACHINE}/{word}?wait=30")
        now = time.time()
        assert answer.status == 200, answer.body
        task = decode(answer.json()["upid"])
        assert task is not None
        late.append((now - task.log.stat().st_mtime_ns / 1e9) * 1000)
    print(f"?wait= is answered after its task's end: p50 {median(late):.0f} ms, worst {max(late):.0f} ms (<= 300)")


def measure_parallel_waits(theirs: Counting) -> None:
    """A hundred who wait, each for another task that does not end: what that costs PVE."""
    pve = Pve(theirs)
    guest = GuestRef(MACHINE, "qemu", "pve1")  # type: ignore[arg-type]
    upid = pve.guests.resume(guest) if pve.guests.status(guest).paused else pve.guests.suspend(guest)
    parts = str(upid).split(":")
    names = [parse_upid(":".join([*parts[:2], f"{number:08X}", *parts[3:]])) for number in range(1, WAITERS + 1)]
    seconds = 6.0
    before = theirs.asked

    def wait(name: Upid) -> None:
        with contextlib.suppress(Exception):
            pve.watcher.wait(name, seconds)

    threads = [threading.Thread(target=wait, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"{WAITERS} parallel waits ask PVE {(theirs.asked - before) / seconds:.1f} times a second (<= 10)")


def measure_listing(ours: Api, theirs: PveApi) -> None:
    """The list of a cluster with 1,000 guests more."""
    directory = pmxcfs.ROOT / "nodes/pve1/lxc"
    for vmid in range(FIRST, FIRST + GUESTS):
        pmxcfs.write(directory / f"{vmid}.conf", f"arch: amd64\nhostname: g{vmid}\nmemory: 512\ntags: a;b\n")
        pmxcfs.register(vmid)
    direct, through = [], []
    for _ in range(LISTINGS):
        direct.append(timed(lambda: theirs.call("GET", ("cluster", "resources"), {"type": "vm"})))
        through.append(timed(lambda: ours.get("/guests")))
    assert len(ours.get("/guests?limit=1000").json()["guests"]) == GUESTS
    tell(f"listing {GUESTS} guests", direct, through, "adds at p50", bound=50)


def settle(theirs: PveApi, vmid: int | None = MACHINE) -> None:
    """Waits until no task of the machine runs any more."""
    running = True
    while running:
        tasks = theirs.call("GET", ("nodes", "pve1", "tasks"), {"source": "active"} | ({"vmid": vmid} if vmid else {}))
        running = any(task.get("status") == "RUNNING" for task in tasks)


def timed(act: Callable[[], object]) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    act()
    return (time.perf_counter() - began) * 1000


def tell(what: str, direct: list[float], through: list[float], words: str, *, bound: float) -> None:
    added = median(through) - median(direct)
    print(
        f"{what}: PVE {median(direct):.1f} ms, by the gateway {median(through):.1f} ms (p95 "
        f"{percentile(direct, 95):.1f} and {percentile(through, 95):.1f}); it {words} {added:.1f} ms (<= {bound:.0f})",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
