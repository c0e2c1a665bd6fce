"""Tokens on pmxcfs: replicated, revoked everywhere in time, whole without quorum and when it is full (C3, DESIGN 7)."""

from __future__ import annotations

import errno
import mmap
import os
import select
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.auth.actor import Actor
from gateway.auth.grants import Grant
from gateway.auth.records import TokenRecord
from gateway.auth.tokens import Refusal, Refused, TokenStore
from gateway.errors import GatewayError, KeyRingRefused, TokenStoreError
from tests.auth.changes import HOME, Log, ring, root
from tests.exec.waiting import BUSY
from tests.test_cli import run

from .conftest import Cluster

GRANTS = (Grant.from_json({"actions": ["exec:run"], "guests": "101-199"}),)
SECONDS = 2.0 + BUSY
"""In which a change holds on every quorate node: two are promised."""


def make(store: TokenStore, **more: Any) -> tuple[TokenRecord, str]:
    fields: Any = {"name": "ci", "grants": GRANTS, "expires": None, **more}
    return root(store).create(fields)


def reason(store: TokenStore, token: str) -> Refusal | None:
    found = store.verify(token, HOME)
    return found.reason if isinstance(found, Refused) else None


def seconds_until(store: TokenStore, token: str, expected: Refusal | None) -> float:
    """How long it takes until the node sees it; looking is what is measured, so it looks all the time."""
    begun = time.monotonic()
    while reason(store, token) is not expected:
        assert time.monotonic() - begun < SECONDS, f"{reason(store, token)}, not {expected}"
        select.select([], [], [], 0.005)
    return time.monotonic() - begun


def _map(path: Path) -> None:
    fd = os.open(path, os.O_RDWR)
    try:
        mmap.mmap(fd, 1).close()
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("act", "number"),
    [
        (lambda path: path.chmod(0o644), errno.EPERM),
        (lambda path: os.chown(path, 1, 1), errno.EPERM),
        (lambda path: path.with_name("link").symlink_to("x"), errno.ENOSYS),
        (lambda path: path.write_bytes(b"x" * ((1 << 20) + 1)), errno.EFBIG),
        (_map, errno.ENODEV),
    ],
    ids=["chmod", "chown", "symlink", "large", "mmap"],
)
def test_the_stand_in_refuses_what_pmxcfs_does(cluster: Cluster, act: Any, number: int) -> None:
    """What is tested here is tested on a file system that behaves so."""
    path = cluster.nodes[0] / "priv" / "file"
    path.write_text("x")
    with pytest.raises(OSError) as failed:
        act(path)
    assert failed.value.errno == number
    assert path.stat().st_mode & 0o777 == 0o600 and path.stat().st_mtime_ns % 10**9 == 0


def test_the_stand_in_keeps_the_inode_of_what_another_node_replaced(cluster: Cluster) -> None:
    """The trap that `records.pad` is for: on the other node neither inode nor mtime tells."""
    here, there = (node / "priv" / "file" for node in cluster.nodes)
    here.write_text("one")
    before = there.stat().st_ino
    here.with_name("new").write_text("two")
    here.with_name("new").rename(here)
    assert there.read_text() == "two" and there.stat().st_ino == before


def test_a_token_of_one_node_is_one_of_all(cluster: Cluster) -> None:
    """Made on one node it is valid on the other; revoked there, it ends on its own at once and on this in time."""
    here, there = cluster.store(0), cluster.store(1)
    record, token = make(here)
    assert reason(there, token) is None
    root(there).revoke(record.id)
    assert reason(there, token) is Refusal.REVOKED
    assert seconds_until(here, token, Refusal.REVOKED) < SECONDS


def test_two_changes_within_one_second_are_both_seen(cluster: Cluster) -> None:
    """Same length, same inode, same whole second: the other node sees the second change all the same."""
    here, there = cluster.store(0), cluster.store(1)
    there.create()
    for _ in range(20):
        record, _ = make(here, name="aa")
        assert there.get(record.id).name == "aa"  # it has looked at the first version
        first = here._path(record.id).stat().st_mtime
        root(here).edit(record.id, {"name": "bb"})
        if here._path(record.id).stat().st_mtime == first:
            break
    else:
        pytest.fail("no two changes within one second")
    begun = time.monotonic()
    while there.get(record.id).name != "bb":
        assert time.monotonic() - begun < SECONDS
        select.select([], [], [], 0.01)


def test_keys_rotate_on_all_nodes(cluster: Cluster) -> None:
    """A new key ends no token anywhere; a token of the new key is good on the other node in time; an old key that live
    tokens need is not retired, and when it is, its tokens end on every node."""
    here, there = cluster.store(0), cluster.store(1)
    record, old = make(here)
    (first,) = here.keys.list()
    assert reason(there, old) is None
    ring(here).rotate()
    _, new = make(here)
    seconds_until(there, new, None)
    assert reason(there, old) is None and reason(here, old) is None
    with pytest.raises(KeyRingRefused):
        ring(there).retire(first.id)
    _, moved = root(there).rotate(record.id)
    ring(there).retire(first.id)
    assert reason(there, old) is Refusal.BAD_SIGNATURE and reason(there, moved) is None
    seconds_until(here, old, Refusal.BAD_SIGNATURE)
    seconds_until(here, moved, None)


def test_without_quorum_tokens_hold_and_nothing_changes(cluster: Cluster) -> None:
    """Reading goes on; every change is refused before anything happens, and says why; the service still starts."""
    store, log = cluster.store(0), Log()
    record, token = make(store)
    cluster.tell("quorum 0 0")
    changes: list[Any] = [
        lambda: make(store),
        lambda: root(store, log).edit(record.id, {"name": "x"}),
        lambda: root(store, log).rotate(record.id, overlap=timedelta(hours=1)),
        lambda: root(store, log).revoke(record.id),
        lambda: ring(store, log).rotate(),
    ]
    for change in changes:
        with pytest.raises(TokenStoreError, match="quorum") as refused:
            change()
        assert refused.value.status == 503 and refused.value.retryable
    assert log.events == []
    store.create()
    assert reason(store, token) is None
    cluster.tell("quorum 0 1")
    root(store, log).revoke(record.id)
    assert reason(store, token) is Refusal.REVOKED


def test_a_node_may_be_told_to_trust_nothing_without_quorum(cluster: Cluster) -> None:
    """With require_quorum such a node takes no token, since it may miss revocations, until it has quorum again."""
    store = cluster.store(0, require_quorum=True)
    _, token = make(store)
    assert reason(store, token) is None
    cluster.tell("quorum 0 0")
    seconds_until(store, token, Refusal.STORE_UNAVAILABLE)
    found = store.verify(token, HOME)
    assert isinstance(found, Refused) and found.detail is not None and "quorum" in found.detail
    assert reason(cluster.store(1, require_quorum=True), token) is None
    cluster.tell("quorum 0 1")
    seconds_until(store, token, None)


def test_a_full_file_system_loses_nothing(cluster: Cluster) -> None:
    """A change that finds no room says so, is taken back in the log, and leaves the token and no litter."""
    store, log = cluster.store(0), Log()
    record, token = make(store)
    cluster.tell(f"ballast {(128 << 20) - 2000}")
    with pytest.raises(TokenStoreError, match="no room"):
        root(store, log).edit(record.id, {"name": "x" * 60})
    assert log.events == ["token:edit", "token:aborted"]
    assert reason(store, token) is None and store.get(record.id).name == "ci"
    assert [path.name for path in store._directory.iterdir()] == [f"{record.id}.json"]
    cluster.tell("ballast 0")
    root(store).revoke(record.id)
    assert reason(store, token) is Refusal.REVOKED


def test_two_nodes_change_one_token_in_turn(cluster: Cluster) -> None:
    """Both nodes at once, over the cluster's lock: every version is made of the one before, none is lost."""
    record, _ = make(cluster.store(0))
    log = Log()
    failures: list[Exception] = []

    def change(node: int) -> None:
        try:
            for turn in range(4):
                root(cluster.store(node), log).edit(record.id, {"name": f"n{node}-{turn}"})
        except GatewayError as exc:
            failures.append(exc)

    threads = [threading.Thread(target=change, args=(node,)) for node in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert [entry["data"]["token"]["revision"] for entry in log.records] == list(range(2, 10))
    assert not list((cluster.nodes[0] / "priv" / "lock").iterdir())


def test_the_lock_of_a_dead_node_is_taken_over(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever died with the lock holds it for two minutes, no more; until then changes are refused, tokens hold."""
    monkeypatch.setattr("gateway.auth.lock.WAIT_SECONDS", 1.0)
    record, token = make(cluster.store(0))
    (cluster.nodes[1] / "priv" / "lock" / "pve-exec-gateway-tokens").mkdir()
    with pytest.raises(TokenStoreError, match="under way"):
        root(cluster.store(0)).revoke(record.id)
    assert isinstance(cluster.store(0).verify(token, HOME), Actor)
    cluster.tell("ahead 121")
    root(cluster.store(0)).revoke(record.id)
    assert reason(cluster.store(0), token) is Refusal.REVOKED


def test_the_command_says_what_is_wrong(cluster: Cluster, tmp_path: Path) -> None:
    """Without quorum the command ends with 2 and one line that names the cause; the store below pve.etc is known."""
    place = cluster.nodes[0] / "priv" / "pve-exec-gateway"
    config = tmp_path / "config.yaml"
    config.write_text(
        f"node: pve1\npve: {{etc: {cluster.nodes[0]}}}\naudit: {{socket: {tmp_path}/none}}\n"
        f"tokens: {{directory: {place}/tokens, key_file: {place}/keys/token.keys, last_used: {tmp_path}/used}}\n"
    )
    record, _ = make(cluster.store(0))
    cluster.tell("quorum 0 0")
    done = run(config, "token", "revoke", record.id)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1) and "quorum" in done.stderr
    assert str(cluster.nodes[0] / "priv" / "lock") in done.stderr
