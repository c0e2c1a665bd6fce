"""Clients that run commands without a pause, remember each answer, and are judged by what the guest and the log saw."""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench.figures import percentile
from tests.exec.gateways import Gateway
from tests.exec.inside import new_mark
from tests.exec.waiting import until
from tests.pvesim import guests

CLIENTS = 4
PATIENCE = 30.0
"""Seconds that a client waits for an answer; a connection that ends before it is no answer either."""

NOTHING_RAN = {
    "audit_unavailable",
    "spool_full",
    "too_many_execs",
    "guest_not_running",
    "guest_frozen",
    "node_not_ready",
    "token_store_unavailable",
    "unauthenticated",
    "overloaded",
}
"""Refusals after which no command has run, whoever asks."""
MAY_HAVE_RUN = {None, "supervisor_unavailable", "gateway_restarting", "internal_error"}
"""No answer, or one that says that nobody knows."""


@dataclass(frozen=True)
class Told:
    """What a client heard of one command: its key, the status (0: nothing), the code or the end, and the seconds."""

    key: str
    status: int
    code: str | None
    reason: str | None
    exit_code: int | None
    seconds: float


class Load:
    """CLIENTS clients, while the context lasts. Each command appends its key to a file in the guest, and exits by 7."""

    def __init__(self, gateway: Gateway, vmid: int) -> None:
        self._gateway, self._vmid, self._mark = gateway, vmid, new_mark()
        self._numbers, self._ending = itertools.count(), threading.Event()
        self._log = Path(guests.get(vmid).rootfs, "run", f"ran-{self._mark}")
        self._threads = [threading.Thread(target=self._ask, args=(number % 2 == 0,)) for number in range(CLIENTS)]
        self.told: list[Told] = []

    def __enter__(self) -> Load:
        self._log.touch()
        self._log.chmod(0o666)  # the root of an unprivileged guest is another user
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join(2 * PATIENCE)

    def good(self) -> int:
        """How many commands were answered by their end so far."""
        return sum(one.status == 200 for one in self.told)

    def _ask(self, keep: bool) -> None:
        """`keep`: on one connection; else each on its own."""
        api = self._gateway.api()
        while not self._ending.is_set():
            key = f"{self._mark}-{next(self._numbers)}-"
            began = time.monotonic()
            body = {"command": f"echo {key} >> /run/{self._log.name}; exit 7", "timeout": 10}
            try:
                answer = api.post(self._vmid, body, timeout=PATIENCE)
                found = answer.json()
                told = (answer.status, found.get("code"), found.get("reason"), found.get("exit_code"))
            except (OSError, http.client.HTTPException, ValueError):
                told = (0, None, None, None)
            self.told.append(Told(key, *told, time.monotonic() - began))
            if not keep:
                api.close()
            if told[0] != 200:
                self._ending.wait(0.05)
        api.close()

    def judge(self) -> dict[str, float]:
        """What was told is what was: the figures. Fails by an AssertionError."""
        ran = Counter(self._log.read_text().split())
        for one in self.told:
            times = ran[one.key]
            assert times <= 1, f"ran {times} times: {one}"
            if one.status == 200 and one.reason == "exited":
                assert (times, one.exit_code) == (1, 7), f"told an end that was not, ran {times} times: {one}"
            elif one.status == 200:
                assert one.reason in ("gateway_lost", "spawn_failed", "timeout", "cancelled"), one
            elif one.code in NOTHING_RAN:
                assert times == 0, f"ran, and was refused: {one}"
            else:
                assert one.code in MAY_HAVE_RUN, one
        intents = "".join(self._intents())
        unrecorded = [key for key in ran if key not in intents]
        assert not unrecorded, f"ran without an intent in the audit log: {unrecorded[:5]}"
        return {
            "asked": len(self.told),
            "ended": self.good(),
            "refused": sum(one.status >= 400 for one in self.told),
            "no answer": sum(one.status == 0 for one in self.told),
            "ran": len(ran),
            "p99 s": percentile([one.seconds for one in self.told], 99),
            "longest s": max(one.seconds for one in self.told),
        }

    def _intents(self) -> Iterator[str]:
        for file in self._gateway.audit_log.parent.glob("audit.log*"):
            for line in file.read_text(errors="replace").splitlines():
                if '"exec:intent"' in line:
                    yield line


def recover(gateway: Gateway, load: Load, within: float) -> float:
    """Seconds until commands are answered by their end again, by the same gateway."""
    began, before = time.monotonic(), load.good()
    until(lambda: load.good() >= before + CLIENTS, within=within, why="commands run again")
    gateway.services.wait_ready(within)
    return time.monotonic() - began
