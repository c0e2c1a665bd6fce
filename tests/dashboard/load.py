"""The load: commands of several kinds and questions, tripled for a while; later the supervisor is reloaded."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

from tests.exec.api import Api
from tests.pvesim.services import Services

GUESTS = (101, 102, 104)
TRIPLED = (0.42, 0.57)
RELOADED = 0.72
"""Parts of the whole time."""
_PAUSE = 0.5
_CLIENTS = 3


def put_under(services: Services, machine: int, seconds: float) -> None:
    """Returns after that time, with all of it at an end. `machine`: a virtual machine that takes commands, too."""
    api = Api(services.port, services.ca, services.create_token(name="load", actions="exec:run,guest:read"))
    began = time.monotonic()

    def part() -> float:
        return (time.monotonic() - began) / seconds

    def work(number: int, busy: Callable[[float], bool]) -> None:
        turn = number
        while (now := part()) < 1:
            if busy(now):
                with contextlib.suppress(OSError):
                    _take_turn(api, machine, turn)
            turn += 1
            time.sleep(_PAUSE)

    clients = [threading.Thread(target=work, args=(number, lambda _: True)) for number in range(_CLIENTS)]
    more = [
        threading.Thread(target=work, args=(number, lambda now: TRIPLED[0] < now < TRIPLED[1]))
        for number in range(2 * _CLIENTS)
    ]
    for thread in (*clients, *more):
        thread.start()
    while part() < RELOADED:
        time.sleep(_PAUSE)
    services.reload("supervisor")
    for thread in (*clients, *more):
        thread.join()
    api.close()


def _take_turn(api: Api, machine: int, turn: int) -> None:
    vmid = GUESTS[turn % len(GUESTS)]
    match turn % 12:
        case 3:
            api.post(vmid, {"command": ["sleep", "9"], "timeout": 0.5})
        case 5:
            api.post(vmid, {"command": ["/no/such/program"]})
        case 6:
            api.get("/guests")
        case 7:
            api.post(vmid, {"command": "head -c 200000 /dev/zero"})
        case 8:
            api.post(machine, {"command": ["uname"]})
        case 9:
            api.get("/execs?limit=20")
        case 10:
            api.get("/execs/ex_00000000000000000000000000")
        case _:
            api.post(vmid, {"command": "echo working; sleep 0.2"})
