"""Records: one line whatever is in them, bounded, without secrets; ids that sort; keys nobody else can read."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import ulid
from gateway.audit.chain import GENESIS, Chain, Head
from gateway.audit.keys import AuditKeys, create_key, load_keys
from gateway.audit.record import MAX_BYTES, Event, bound_record, build_aborted, canonical, check_fields
from gateway.errors import ConfigError

from .live import intent

KEYS = AuditKeys(b"k" * 32)
text = st.text(st.characters(codec=None))
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner) | st.dictionaries(text, inner),
    max_leaves=20,
)


@given(st.dictionaries(text, values))
def test_a_canonical_record_is_one_printable_line(record: dict[str, Any]) -> None:
    """No value can put a newline or a control byte into the log, and reading it back gives the same bytes."""
    line = canonical(record)
    assert all(0x20 <= byte < 0x7F for byte in line)
    assert canonical(json.loads(line)) == line


@given(st.dictionaries(text, values), st.integers(min_value=0), st.integers(min_value=0))
def test_a_sealed_record_opens_and_no_changed_byte_does(data: dict[str, Any], seq: int, where: int) -> None:
    """Every byte of a line is under its mac."""
    chain = Chain(KEYS.chain)
    head, line = chain.seal({"data": data}, Head(seq, GENESIS.mac))
    sealed = chain.open(line[:-1])
    assert sealed and sealed.head == head and sealed.record["data"] == json.loads(canonical({"d": data}))["d"]
    changed = bytearray(line[:-1])
    changed[where % len(changed)] ^= 1
    assert chain.open(bytes(changed)) is None


def test_values_that_json_cannot_say_are_refused() -> None:
    """NaN and infinities are errors, not words that other readers choke on."""
    for value in (float("nan"), float("inf"), object()):
        with pytest.raises(ValueError, match=r"JSON|float"):
            canonical({"data": value})


@given(st.dictionaries(text, values, max_size=5), st.integers(0, 200), st.integers(0, 50_000), text)
def test_a_record_is_cut_to_its_bound(data: dict[str, Any], items: int, times: int, part: str) -> None:
    """Whatever `data` holds, the sealed line fits."""
    long = part[:3] * times
    data = {**data, "list": [data] * items, "texts": [long] * (items // 40), "deep": {long: [long]}}
    record = bound_record({**intent(), "v": 1, "peer": 0, "data": data}, KEYS.redactor)
    _, line = Chain(KEYS.chain).seal({**record, "ts": "2026-01-01T00:00:00.000000Z"}, GENESIS)
    assert len(line) <= MAX_BYTES


def test_what_was_cut_can_still_be_looked_up() -> None:
    """A cut argument states its length and keyed hash; short ones beside it stay as they are."""
    long = "é" * 60_000
    command = bound_record(intent(command=["echo", long]), KEYS.redactor)["data"]["command"]
    assert command[0] == "echo"
    assert command[1]["bytes"] == 120_000
    assert command[1]["hash"] == KEYS.redactor.hash(long)
    assert long.startswith(command[1]["cut"])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"event": "audit:opened"}, "event"),
        ({"event": "exec:nonsense"}, "event"),
        ({"seq": 7}, "seq"),
        ({"mac": "0"}, "mac"),
        ({"vmid": "101"}, "vmid"),
        ({"vmid": True}, "vmid"),
        ({"audit_id": "au_1"}, "audit_id"),
        ({"actor": {"secret": "x"}}, "actor"),
        ({"remote": "x" * 257}, "remote"),
        ({"data": [1]}, "data"),
        ({"data": {"a": [[[[[[[[1]]]]]]]]}}, "data"),
    ],
)
def test_a_callers_record_is_checked(change: dict[str, Any], named: str) -> None:
    """Unknown fields, wrong types and the writer's own events are refused by name, without their value."""
    with pytest.raises(ValueError, match=named):
        check_fields({**intent(), **change})


def test_aborted_names_what_it_takes_back() -> None:
    """An aborted record carries its intent's operation, exec and guest."""
    record = intent(3)
    aborted = build_aborted(record, "why")
    assert aborted["event"] == Event.EXEC_ABORTED
    assert {name: aborted[name] for name in ("audit_id", "exec_id", "vmid")} == {
        name: record[name] for name in ("audit_id", "exec_id", "vmid")
    }


def test_ids_sort_by_their_making_in_every_thread_and_differ_after_fork() -> None:
    """10,000 ids of four threads are all different, each thread's ascend, and a child's are none of its parent's."""
    made: list[list[str]] = [[] for _ in range(4)]
    threads = [threading.Thread(target=lambda ids=ids: ids.extend(ulid.new("x_") for _ in range(2500))) for ids in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(ids == sorted(ids) for ids in made)
    assert len({one for ids in made for one in ids}) == 10_000
    assert all(ulid.is_ulid(one.removeprefix("x_")) for one in made[0])


def test_ids_of_a_forked_child_are_its_own() -> None:
    """Parent and child do not count up from the same number."""
    ulid.new("")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, ulid.new("").encode())
        os._exit(0)
    mine = ulid.new("")
    os.waitpid(child, 0)
    theirs = os.read(read, 26).decode()
    os.close(read)
    os.close(write)
    assert mine[10:] != theirs[10:] and abs(int(mine[-8:], 36) - int(theirs[-8:], 36)) > 2


def test_keys_are_made_once_and_kept_private(tmp_path: Path) -> None:
    """A key file is 0600 and 32 bytes, never replaced; one that others can read, or a cut one, is refused."""
    path = tmp_path / "key"
    assert create_key(path)
    secret = path.read_bytes()
    assert not create_key(path)
    assert path.read_bytes() == secret and len(secret) == 32 and path.stat().st_mode & 0o777 == 0o600
    assert secret.hex() not in repr(load_keys(path)) + repr(vars(type(load_keys(path))))
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="0600"):
        load_keys(path)
    path.chmod(0o600)
    path.write_bytes(secret[:31])
    with pytest.raises(ConfigError, match="32 bytes"):
        load_keys(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["key"]


def test_a_new_key_is_durable_before_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut must not take the key from a log that was begun with it: its file's name is on the disk, too."""
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    create_key(tmp_path / "audit.key")
    assert synced[-1] == str(tmp_path) and (tmp_path / "audit.key").exists()


def test_sub_keys_differ() -> None:
    """Who may hash values (the redactor) cannot make records or anchors."""
    assert len({KEYS.chain, KEYS.anchor, KEYS.redactor.hash(b"")}) == 3
    assert KEYS.redactor.hash("é") == KEYS.redactor.hash("é".encode())
