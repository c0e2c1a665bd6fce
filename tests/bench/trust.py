"""What trust costs: authentication, grants and both records of an exec, in a store of 10,000 tokens while the audit log
has 1 GiB; and, named apart, what the disk adds, what outcomes cost it, and how soon a revocation is seen.

`python -m tests.bench.trust` runs anywhere with 3 GiB of disk, takes about three minutes, and leaves nothing behind.
`--log MIB` and `--tokens N` make it smaller.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from gateway.audit.aio import AsyncAuditClient
from gateway.audit.client import AuditClient
from gateway.audit.log import AuditLog
from gateway.audit.protocol import encode_frame
from gateway.audit.search import Query
from gateway.audit.settings import AuditSettings
from gateway.audit.unfinished import Unfinished
from gateway.auth.actions import Action
from gateway.auth.actor import Actor
from gateway.auth.administration import Administration
from gateway.auth.grants import Grant
from gateway.auth.last_used import LastUsed
from gateway.auth.tokens import TokenStore
from gateway.auth.trail import Trail
from gateway.exec.spec import ExecSpec
from gateway.supervisor.execs.audit_trail import AuditTrail
from tests.audit.live import Writer, keys_of, limits, make_settings
from tests.bench.figures import percentile
from tests.bench.machine import show_load
from tests.pvesim.services import REPOSITORY
from tests.supervisor.test_reboot import make_ending, make_order

TURNS = 20_000
WRITES = 500
OUTCOMES = 1000
REVOKED = 50
SPEC = ExecSpec.model_validate(
    {"command": ["/usr/bin/systemctl", "restart", "nginx"], "env": {"STAGE": "prod"}, "labels": {"job": "deploy-41"}}
)
GRANTS: tuple[dict[str, Any], ...] = (
    {
        "actions": ["exec:run"],
        "guests": "100-199,300-399",
        "commands": [["/usr/bin/systemctl", "restart", "*"]],
        "env": ["STAGE"],
    },
    {"actions": ["guest:read", "audit:read"], "guests": "all"},
)
REMOTE = "192.0.2.1"


class Taken(AsyncAuditClient):
    """Stands where the supervisor's audit client stands; what it is given is written as it would be sent."""

    def __init__(self) -> None:
        """Without a loop and a socket."""

    def post(self, record: Mapping[str, Any], change: Unfinished | None = None) -> None:
        encode_frame({"id": 1, "record": record, "wait": False, "sent": None})


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.trust")
    parser.add_argument("--log", type=int, default=1024, metavar="MIB")
    parser.add_argument("--tokens", type=int, default=10_000, metavar="N")
    asked = parser.parse_args()
    show_load()
    (REPOSITORY / ".demo").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="trust-", dir=REPOSITORY / ".demo") as root:
        store, tokens = make_tokens(Path(root), asked.tokens)
        settings = make_log(Path(root), asked.log << 20)
        began = time.perf_counter()
        with Writer(settings), contextlib.closing(AuditClient(settings.socket)) as client:
            client.commit(make_records(settings)[0])
            print(f"the writer took up the log and wrote its first record in {time.perf_counter() - began:.2f} s")
            measure(settings, store, tokens, client)
    return 0


def make_tokens(root: Path, count: int) -> tuple[TokenStore, list[str]]:
    """A store of `count` tokens, each written past the audit trail, for it is not what is measured."""
    store = TokenStore(root / "tokens", root / "keys" / "ring", last_used=LastUsed(root / "used"))
    store.create()
    grants = tuple(map(Grant.from_json, GRANTS))
    tokens = []
    for number in range(count):
        record, token = store.sign(store.prepare(f"t{number}", grants, lifetime=timedelta(days=1)))
        store._path(record.id).write_bytes(record.dump())
        store._path(record.id).chmod(0o600)
        tokens.append(token)
    return store, tokens


def make_log(root: Path, size: int) -> AuditSettings:
    """A log of `size` bytes: intents and outcomes as execs leave them, in files of the default length."""
    settings = make_settings(root)
    log = AuditLog(
        settings.directory,
        keys_of(settings),
        limits=limits(settings.rotate_bytes, settings.max_bytes),
        sync=lambda _: None,
    )
    records = make_records(settings) * 500
    while log.filled * settings.max_bytes < size:
        log.append(records)
    log.close()
    os.sync()
    number = log.head.seq if log.head else 0
    print(f"{number} records in {sum(1 for _ in settings.directory.iterdir())} files, {size >> 20} MiB", flush=True)
    return settings


def make_records(settings: AuditSettings) -> list[dict[str, Any]]:
    """The intent and the outcome of one exec."""
    taken: list[dict[str, Any]] = []

    class Keeping(Taken):
        def post(self, record: Mapping[str, Any], change: Unfinished | None = None) -> None:
            taken.append(dict(record))

    trail = AuditTrail(Keeping(), keys_of(settings).redactor)
    order = make_order()
    trail.outcome(order, make_ending())
    return [trail.intent(SPEC, order), *taken]


def measure(settings: AuditSettings, store: TokenStore, tokens: list[str], client: AuditClient) -> None:
    """Print each figure: one exec of a token drawn at random, step by step; then what waits for the disk."""
    trail = AuditTrail(Taken(), keys_of(settings).redactor)
    steps: dict[str, list[float]] = {name: [] for name in ("authentication", "grants", "both records", "all of it")}
    rng = random.Random(1)
    for token in tokens:  # each record has been read once
        assert isinstance(store.verify(token, REMOTE), Actor)
    for _ in range(TURNS):
        token = rng.choice(tokens)
        begun = time.perf_counter()
        actor = store.verify(token, REMOTE)
        known = time.perf_counter()
        assert isinstance(actor, Actor)
        assert actor.decide(Action.EXEC_RUN, 101) is None
        origin = actor.origin(REMOTE, "req_1")
        origin.require_permit(101, SPEC)
        granted = time.perf_counter()
        order = make_order(token_id=actor.token_id, token_name=actor.token_name)
        made = time.perf_counter()
        encode_frame({"id": 1, "record": trail.intent(SPEC, order), "wait": True, "sent": begun})
        trail.outcome(order, ENDING)
        ended = time.perf_counter()
        steps["authentication"].append(known - begun)
        steps["grants"].append(granted - known)
        steps["both records"].append(ended - made)
        steps["all of it"].append(ended - begun - (made - granted))
    for name, spent in steps.items():
        tell(name, spent)
    intents = make_records(settings)[:1]
    tell("a durable intent, one at a time", repeat(WRITES, lambda: client.commit(intents[0])))
    tell_outcomes(settings, client)
    tell("a revocation, until another process's store refuses", revoke_some(store, tokens[-REVOKED:], client))
    tell("GET /audit's newest 100", repeat(20, lambda: client.search(Query())))
    tell("GET /audit of one exec, through the whole log", repeat(3, lambda: search_all(client)))
    part = client.verify()
    print(
        f"GET /audit/verify: {part.records} records in its first part, {'good' if part.fault is None else part.fault}"
    )


ENDING = make_ending()


def tell_outcomes(settings: AuditSettings, client: AuditClient) -> None:
    """How many durable writes the outcomes of execs cost that end one after the other, 500 a second."""
    outcome = make_records(settings)[1]

    async def post() -> None:
        posting = AsyncAuditClient(settings.socket, keys_of(settings).redactor)
        for _ in range(OUTCOMES):
            posting.post(outcome)
            await asyncio.sleep(0.002)
        assert await posting.flush(30)
        await posting.close()

    before = client.ping()
    asyncio.run(post())
    after = client.ping()
    records, syncs = (after[name] - before[name] for name in ("records", "syncs"))
    print(f"{records} outcomes that nobody waited for: {syncs} durable writes", flush=True)


def revoke_some(store: TokenStore, tokens: list[str], client: AuditClient) -> list[float]:
    """Seconds from the end of each one's revocation, by a store of its own as another process has, until it is none."""
    other = TokenStore(store._directory, store.keys._path)
    trail = Trail(client, "pve1")
    spent = []
    for token in tokens:
        actor = store.verify(token, REMOTE)
        assert isinstance(actor, Actor)
        Administration(other, trail).revoke(actor.token_id)
        begun = time.perf_counter()
        while isinstance(store.verify(token, REMOTE), Actor):
            pass
        spent.append(time.perf_counter() - begun)
    return spent


def search_all(client: AuditClient) -> None:
    after: int | None = None
    while True:
        page = client.search(Query(exec_id="ex_" + "0" * 26, after=after))
        if page.next is None:
            return
        after = page.next


def repeat(times: int, act: Callable[[], object]) -> list[float]:
    """How many seconds each took."""
    spent = []
    for _ in range(times):
        begun = time.perf_counter()
        act()
        spent.append(time.perf_counter() - begun)
    return spent


def tell(name: str, spent: list[float]) -> None:
    p50, p99 = (percentile(spent, part) * 1000 for part in (50, 99))
    print(f"{name:48} p50 {p50:9.3f} ms   p99 {p99:9.3f} ms", flush=True)


if __name__ == "__main__":
    sys.exit(main())
