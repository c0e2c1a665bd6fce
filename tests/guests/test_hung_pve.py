"""While PVE hangs: who waits for it takes half of the threads at most, and commands run as ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.exec.api import Api
from tests.exec.gateways import Gateway
from tests.exec.waiting import until
from tests.guests.conftest import SECRET, TOKEN_ID
from tests.pvesim import guests
from tests.pvesim.api import access
from tests.pvesim.api.process import Api as PveProcess
from tests.pvesim.guests import Guest

VMID, THREADS = 7192, 8


@pytest.fixture(scope="module")
def guest(node: None) -> Iterator[Guest]:
    """Guest 7192, running."""
    made = guests.create(VMID)
    yield made
    made.destroy()


@pytest.fixture(scope="module")
def small(make_gateway: Callable[..., Gateway], pve: PveProcess, tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    """A gateway of eight threads."""
    path = tmp_path_factory.mktemp("token") / "pve.token"
    access.store_token(path, TOKEN_ID, SECRET, privileges=("VM.Audit",))
    return make_gateway(web={"threads": THREADS}, pve={"api": pve.url, "token_file": str(path)})


def test_commands_run_while_pve_hangs(small: Gateway, pve: PveProcess, guest: Guest) -> None:
    """Three tokens ask for a guest of a PVE that does not answer, more often than there are threads; a fourth runs a
    command at once. Those beyond their share are told to come again."""
    pve.faults.add("slow", rf".*/lxc/{VMID}/status/current", seconds=10)
    askers = [
        small.api(small.token(f"asker{number}", actions="guest:read", guests=str(VMID)))
        for number in range(3)
        for _ in range(6)
    ]
    runner: Api = small.api(small.token("runner", actions="exec:run", guests=str(VMID)))
    codes: list[tuple[int, str | None]] = []

    def ask(api: Api) -> None:
        answer = api.get(f"/guests/{VMID}")
        codes.append((answer.status, answer.code if answer.status != 200 else None))

    threads = [threading.Thread(target=ask, args=(api,)) for api in askers]
    try:
        for thread in threads:
            thread.start()
        until(lambda: len(codes) >= len(askers) - THREADS // 2, why="the answers to those beyond their share")
        began = time.monotonic()
        assert runner.run(VMID, ["/bin/true"])["exit_code"] == 0
        took = time.monotonic() - began
    finally:
        for thread in threads:
            thread.join()
        for api in (*askers, runner):
            api.close()
    assert took < 6
    assert {status for status, _ in codes} <= {200, 429, 503}
    assert 2 <= sum(status == 200 for status, _ in codes) <= THREADS // 2
    assert (503, "overloaded") in codes
