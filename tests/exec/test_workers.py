"""Nothing depends on the number of web workers: what a caller may do is the same, whichever of them answers."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.exec.gateways import Gateway

RATE = 5.0
BURST = 10
ASKED = 60
BAD = "pveg_tk_0123456789ABCDEFGHJKMNPQRS.wrong"


def ask(gateway: Gateway, token: str) -> int:
    """The status of one request on a connection of its own."""
    with contextlib.closing(gateway.api(token)) as api:
        return api.request("GET", "/execs").status


def test_rates_and_bad_logins_hold_over_all_workers(make_gateway: Callable[..., Gateway]) -> None:
    """Of sixty requests, answered by three workers, a token gets its burst, and an address its ten refused logins."""
    gateway = make_gateway(web={"workers": 3, "rate_per_token": RATE})
    token = gateway.token("busy")
    with ThreadPoolExecutor(12) as pool:
        began = time.monotonic()
        statuses = Counter(pool.map(lambda _: ask(gateway, token), range(ASKED)))
        seconds = time.monotonic() - began
        assert statuses.keys() == {200, 429}
        assert BURST <= statuses[200] <= BURST + RATE * seconds + 1
        began = time.monotonic()
        statuses = Counter(pool.map(lambda _: ask(gateway, BAD), range(ASKED)))
        assert statuses.keys() == {401, 429}
        assert 10 <= statuses[401] <= 11 + (time.monotonic() - began) / 10
