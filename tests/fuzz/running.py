"""One run: cases are made in one thread, sent from several, judged, and counted by what was wrong."""

from __future__ import annotations

import contextlib
import json
import random
import ssl
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from schemathesis import Case

from tests.exec.gateways import Gateway
from tests.fuzz.judging import judge
from tests.fuzz.known import Known
from tests.fuzz.requesting import generate, load_operations, variants
from tests.pvesim.services import make_client_context

SETTINGS: dict[str, dict[str, Any]] = {
    "web": {"rate_per_address": None, "rate_per_token": None},
    "spool": {"max_ended": 500},
    "policy": {"devices": ["/dev/null"], "features": ["nesting"]},
}
"""Of the gateway that is fuzzed: no limit on the rate, which is what a run is bound by; what it keeps is soon full."""
CANARY = "canary5ecret"
_PER_CASE = 2.4
"""Requests that a case becomes, on the average."""


@dataclass
class Tally:
    """What a run saw. `wrong`: how often each thing was; `example`: the first request of each.

    `worked`: how often each operation answered 2xx.
    """

    requests: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    example: dict[str, str] = field(default_factory=dict)
    slowest: float = 0.0
    worked: Counter[str] = field(default_factory=Counter)
    secrets: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Takes over what another run saw."""
        self.requests += other.requests
        self.statuses += other.statuses
        self.wrong += other.wrong
        self.example = other.example | self.example
        self.slowest = max(self.slowest, other.slowest)
        self.worked.update(other.worked)  # += would drop those that never worked
        self.secrets += other.secrets


@dataclass(frozen=True)
class Target:
    """The gateway that is fuzzed and the token that does it; may be handed to another process."""

    url: str
    ca: Path
    token: str

    @classmethod
    def of(cls, gateway: Gateway, token: str) -> Target:
        return cls(gateway.services.url, gateway.services.ca, token)


def fuzz(target: Target, *, count: int, seed: int, threads: int = 1) -> Tally:
    """Sends about `count` requests from `threads` threads, while another makes them.

    Equal ones for an equal seed, with one thread.
    """
    tally, known, chance = Tally(), Known(CANARY), random.Random(seed)
    lock, local, room = threading.Lock(), threading.local(), threading.BoundedSemaphore(2 * threads)

    def send_all(case: Case[Any]) -> None:
        if not hasattr(local, "session"):
            local.session = sessions.enter_context(_open_session(target))
        with lock:
            mine = random.Random(chance.random())
        for sent in variants(case, known, target.token, target.url, mine):
            began, reply, told = time.monotonic(), None, None
            try:
                reply = local.session.request(**sent.arguments, timeout=30, allow_redirects=False)
                wrong = list(judge(sent, reply, time.monotonic() - began))
                told = _read(reply)
            except (requests.RequestException, UnicodeError) as error:  # JSON that is none, too
                wrong = [f"{case.operation.label}: {type(error).__name__}"]
            seconds = time.monotonic() - began
            with lock:
                _count(tally, sent.arguments, reply, wrong, seconds)
                tally.worked[case.operation.label] += reply is not None and reply.ok
                known.learn(told)

    with contextlib.ExitStack() as sessions, ThreadPoolExecutor(threads) as pool:

        def hand_out(case: Case[Any]) -> None:
            room.acquire()
            sending.append(pool.submit(send_all, case))
            sending[-1].add_done_callback(lambda _: room.release())

        sending: list[Future[None]] = []
        generate(load_operations(), round(count / _PER_CASE), seed, hand_out)
    for done in sending:
        done.result()
    tally.secrets = [target.token, CANARY, *known.secrets]
    return tally


def _read(reply: requests.Response) -> Any:
    """What a reply says in JSON; a HEAD's and a 304's have no body."""
    if (
        reply.headers.get("Content-Type") != "application/json"
        or reply.request.method == "HEAD"
        or reply.status_code == 304
    ):
        return None
    return reply.json()


class _Trusting(HTTPAdapter):
    """Verifies the node's certificate the way all clients of the tests do."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options, ssl_context=self._context)


def _open_session(target: Target) -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # REQUESTS_CA_BUNDLE would win over the adapter
    session.mount("https://", _Trusting(make_client_context(target.ca)))
    return session


def _count(
    tally: Tally, arguments: dict[str, Any], reply: requests.Response | None, wrong: list[str], seconds: float
) -> None:
    tally.requests += 1
    tally.slowest = max(tally.slowest, seconds)
    tally.statuses[reply.status_code if reply is not None else 0] += 1
    for what in wrong:
        tally.wrong[what] += 1
        shown = {name: value for name, value in arguments.items() if name != "headers"}
        shown["headers"] = {k: v for k, v in dict(arguments.get("headers") or {}).items() if k != "Authorization"}
        said = reply.text[:600] if reply is not None else f"no reply; a body of {_size(arguments)} bytes"
        tally.example.setdefault(what, f"{shown!r:.1500}\n      {said}")


def _size(arguments: dict[str, Any]) -> int:
    """Bytes of the body."""
    data = arguments.get("data")
    return len(data) if isinstance(data, bytes) else len(json.dumps(arguments.get("json")))
