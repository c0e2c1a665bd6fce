"""A12: a reader at 1 KiB/s on a command that prints without end costs bounded memory, and slows nobody else down."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

from tests.bench.client import ExecClient
from tests.bench.figures import percentile
from tests.exec.gateways import Gateway
from tests.exec.streams import NDJSON, Reply
from tests.soak import processes

RATE = 1024
GROWTH = 64 << 20
_RECEIVE_BUFFER = 64 << 10


def read_slowly(
    gateway: Gateway, vmid: int, *, seconds: float, others: int, rounds: int, accept: str = NDJSON
) -> dict[str, float]:
    """`rounds` times: `others` execs of `true` are timed alone, then for `seconds`, and as often, beside a reader.

    Alone and beside take turns, since a machine is not the same all the time.
    """
    address = "127.0.0.1", gateway.services.port
    before = {pid: processes.resident(pid) for pid in processes.of_gateway(gateway)}
    alone: list[float] = []
    beside: list[float] = []
    grown, read = 0, 0
    with contextlib.closing(ExecClient(address, gateway.services.ca, gateway.token_for_all, vmid)) as client:
        for _ in range(rounds):
            alone += [_time(client) for _ in range(others)]
            with _reader(gateway, vmid, accept) as reader:
                end, enough = time.monotonic() + seconds, len(beside) + others
                while time.monotonic() < end or len(beside) < enough:
                    beside.append(_time(client))
                    grown = max(grown, sum(processes.resident(pid) - was for pid, was in before.items()))
                    time.sleep(0.01)
            read += reader.read
    assert grown < GROWTH, f"{grown >> 20} MiB more"
    return {
        "read KiB": read / 1024,
        "grown MiB": grown / (1 << 20),
        "p50 ms alone": percentile(alone, 50),
        "p50 ms beside": percentile(beside, 50),
        "p99 ms alone": percentile(alone, 99),
        "p99 ms beside": percentile(beside, 99),
    }


class Trickle:
    """Takes RATE bytes a second from a reply, on a thread of its own."""

    def __init__(self, reply: Reply) -> None:
        self.read = 0
        self._reply = reply
        self._over = threading.Event()
        reply.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        pieces = self._reply.pieces(RATE // 10)
        while not self._over.wait(0.1):
            self.read += len(next(pieces))


@contextlib.contextmanager
def _reader(gateway: Gateway, vmid: int, accept: str) -> Iterator[Trickle]:
    """Somebody who reads what never ends, slowly."""
    body = {"command": ["yes", "a line of many"], "timeout": 600, "kill_grace": 0}
    headers = {"Accept": accept}
    with (
        contextlib.closing(gateway.api()) as api,
        Reply(api, "POST", f"/exec/{vmid}", body, headers=headers) as reply,
    ):
        assert reply.status == 200, reply.read()
        reader = Trickle(reply)
        try:
            yield reader
        finally:
            reader.stop()


def _time(client: ExecClient) -> float:
    began = time.perf_counter()
    client()
    return (time.perf_counter() - began) * 1000
