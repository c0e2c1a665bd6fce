"""Tokens on real files: issued, verified, refused, revoked, and never trusted when others could touch them."""

from __future__ import annotations

import json
import os
import secrets
import string
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.auth import tokens
from gateway.auth.actor import Actor
from gateway.auth.grants import Grant, parse_actions, parse_guests
from gateway.auth.records import TokenRecord
from gateway.auth.terms import parse_duration, parse_expiry, parse_networks
from gateway.auth.tokens import Refusal, Refused, TokenStore
from gateway.errors import GrantInvalid, TokenStoreError
from tests.auth.changes import issue_token

from .changes import root

HOME = "127.0.0.1"
GRANT = Grant(parse_actions(["exec:run"]), parse_guests("101-199"))
QUICK = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> TokenStore:
    """A store with its directory and keys."""
    made = TokenStore(tmp_path / "tokens", tmp_path / "keys" / "token.keys", clock=clock)
    made.create()
    return made


def issue(store: TokenStore, **options: object) -> tuple[str, TokenRecord]:
    record = replace(store.prepare("ci", [GRANT], lifetime=timedelta(days=1)), **options)  # type: ignore[arg-type]
    return issue_token(store, record), record


def refusal(store: TokenStore, token: str, remote: str = HOME) -> Refusal:
    found = store.verify(token, remote)
    assert isinstance(found, Refused)
    return found.reason


def test_tokens_that_others_delete_leave_no_memory(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token for each job, deleted by the command or another worker when that is done: what is kept of them is
    bounded, and all that there are go on being known."""
    monkeypatch.setattr(tokens, "MAX_CACHED", 4)
    kept, _ = issue(store)
    for _ in range(20):
        token, record = issue(store)
        assert isinstance(store.verify(token, HOME), Actor) and isinstance(store.verify(kept, HOME), Actor)
        store._path(record.id).unlink()
        assert len(store._cache) <= 4


def test_a_token_gives_its_actor(store: TokenStore) -> None:
    """An issued token stands for its id, name and reach; the token itself is stored nowhere."""
    token, record = issue(store)
    assert token.startswith("pveg_")
    actor = store.verify(token, HOME)
    assert isinstance(actor, Actor)
    assert (actor.token_id, actor.token_name) == (record.id, "ci")
    for path in store._directory.iterdir():
        assert token.rpartition(".")[2] not in path.read_text()


def test_files_are_private(store: TokenStore, tmp_path: Path) -> None:
    """Directories are 0700, files 0600, whatever the umask; nothing half-written stays."""
    before = os.umask(0)
    try:
        issue(store)
    finally:
        os.umask(before)
    modes = {path.relative_to(tmp_path).parts[0]: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*.*")}
    assert modes == {"tokens": 0o600, "keys": 0o600}
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o700}
    assert not list(tmp_path.rglob("*.part"))


def test_expires_to_the_second(store: TokenStore, clock: Clock) -> None:
    """Valid before its end, refused at its end."""
    token, record = issue(store)
    assert record.expires is not None
    clock.now = record.expires - timedelta(seconds=1)
    assert isinstance(store.verify(token, HOME), Actor)
    clock.now = record.expires
    assert refusal(store, token) is Refusal.EXPIRED


def test_revocation_holds_for_the_next_request(store: TokenStore) -> None:
    """A token that was just used is refused right after its revocation, made by another process."""
    token, record = issue(store)
    assert isinstance(store.verify(token, HOME), Actor)
    root(TokenStore(store._directory, store.keys._path)).revoke(record.id)
    assert refusal(store, token) is Refusal.REVOKED
    assert store.list()[0].revoked is not None


def test_deleting_the_record_takes_the_token_away(store: TokenStore) -> None:
    """Without its record a well-signed token is unknown."""
    token, record = issue(store)
    assert isinstance(store.verify(token, HOME), Actor)
    store._path(record.id).unlink()
    assert refusal(store, token) is Refusal.UNKNOWN_TOKEN


@pytest.mark.parametrize(
    ("remote", "passes"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("2001:db8::1", True),
        ("11.0.0.1", False),
        ("2001:db9::1", False),
        ("", False),
        ("unix", False),
    ],
)
def test_networks(store: TokenStore, remote: str, passes: bool) -> None:
    """A token with source networks comes from one of them or is refused."""
    token, _ = issue(store, networks=parse_networks(["10.0.0.0/8", "2001:db8::/64"]))
    assert isinstance(store.verify(token, remote), Actor) is passes


def test_no_flipped_bit_passes(store: TokenStore) -> None:
    """One bit changed anywhere in a token, or its last character, two bits of which are spare in base64: refused."""
    token, _ = issue(store)
    raw = token.encode()
    forged = [raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :] for at in range(len(raw)) for bit in range(7)]
    last = (string.ascii_letters + string.digits + "-_").replace(token[-1], "")
    assert isinstance(store.verify(token, HOME), Actor)
    for text in (*(one.decode() for one in forged), *(token[:-1] + one for one in last)):
        assert refusal(store, text) is Refusal.BAD_SIGNATURE, text


@QUICK
@given(start=st.integers(0, 80), end=st.integers(0, 80), more=st.text(max_size=3))
def test_no_part_of_a_token_passes(store: TokenStore, start: int, end: int, more: str) -> None:
    """A token that was cut or has something added is refused."""
    token, _ = issue(store)
    forged = token[start:end] + more
    if forged != token:
        assert refusal(store, forged) is Refusal.BAD_SIGNATURE


@QUICK
@given(text=st.text())
def test_no_text_passes(store: TokenStore, text: str) -> None:
    """No text of any kind is a token, and none is an exception."""
    assert refusal(store, text) is Refusal.BAD_SIGNATURE
    assert refusal(store, "pveg_" + text) is Refusal.BAD_SIGNATURE


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("networks", ""),
        ("networks", {}),
        ("networks", [167772160]),
        ("networks", [True]),
        ("networks", None),
        ("grants", {}),
        ("grants", ""),
        ("secrets", {}),
        ("secrets", ""),
        ("expires", "0001-01-01T00:00:00+23:59"),
        ("created", "9999-12-31T23:59:59-23:59"),
        ("version", True),
    ],
)
def test_a_doubtful_record_gives_nothing(store: TokenStore, tmp_path: Path, member: str, value: object) -> None:
    """A member that is almost what it should be, above all networks that would come out as none, spoils the record."""
    token, record = issue(store, networks=parse_networks(["10.0.0.0/8"]))
    path = tmp_path / "tokens" / f"{record.id}.json"
    data = {**json.loads(path.read_text()), member: value}
    path.write_text(json.dumps(data))
    assert refusal(store, token, "10.0.0.1") is Refusal.BAD_RECORD
    assert store.list() == []


def test_who_comes_again_is_known_by_the_secret(store: TokenStore, tmp_path: Path, clock: Clock) -> None:
    """A caller who was let in before is so still for as long as the secret is current and its key in the ring."""
    token, record = issue(store)
    actor = store.verify(token, HOME)
    assert isinstance(actor, Actor) and store.recall(record.id, actor.secret, HOME) == actor
    assert refused(store.recall(record.id, (2, actor.secret[1]), HOME)) is Refusal.REPLACED
    assert refused(store.recall(record.id, (0, ""), HOME)) is Refusal.BAD_SIGNATURE
    with store.lock.hold():
        store.keys.prepare_rotation(clock())[1]()
        assert store.recall(record.id, actor.secret, HOME) == actor
        store.keys.prepare_retirement(actor.secret[1])()
    assert refused(store.recall(record.id, actor.secret, HOME)) is Refusal.BAD_SIGNATURE
    assert refused(store.look_again(actor, HOME)) is Refusal.BAD_SIGNATURE
    (tmp_path / "keys" / "token.keys").unlink()
    assert refused(store.recall(record.id, actor.secret, HOME)) is Refusal.STORE_UNAVAILABLE
    assert store.look_again(actor, HOME) is None


def refused(found: object) -> Refusal:
    assert isinstance(found, Refused)
    return found.reason


def test_another_ring_is_no_ring_of_ours(store: TokenStore, tmp_path: Path) -> None:
    """A token signed with another key ring for an id that exists here is refused."""
    _, record = issue(store)
    other = TokenStore(tmp_path / "other", tmp_path / "otherkeys" / "k")
    other.create()
    assert refusal(store, issue_token(other, record)) is Refusal.BAD_SIGNATURE


def test_a_key_put_under_another_id_is_no_ring(store: TokenStore) -> None:
    """A ring whose ids do not fit its keys is not trusted: records name keys by id."""
    ring = store.keys._path
    data = json.loads(ring.read_text())
    data["keys"][0]["key"] = secrets.token_hex(32)
    ring.write_text(json.dumps(data))
    assert refusal(store, "pveg_x") is Refusal.STORE_UNAVAILABLE


def _link(path: Path) -> None:
    path.rename(path.with_suffix(".real"))
    path.symlink_to(path.with_suffix(".real"))


@pytest.mark.parametrize("which", ["record", "directory", "keys"])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.chmod(path.stat().st_mode | 0o040),
        lambda path: path.chmod(path.stat().st_mode | 0o004),
        lambda path: path.chmod(path.stat().st_mode | 0o020),
        _link,
        pytest.param(
            lambda path: os.chown(path, 65534, 65534),
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="giving a file away needs root"),
        ),
    ],
    ids=["group-readable", "world-readable", "group-writable", "link", "owner"],
)
def test_fails_closed(store: TokenStore, which: str, spoil: Callable[[Path], None]) -> None:
    """Files that others could read or replace are not trusted, and the reason names the file."""
    token, record = issue(store)
    assert isinstance(store.verify(token, HOME), Actor)
    path = {"record": store._path(record.id), "directory": store._directory, "keys": store.keys._path}[which]
    spoil(path)
    found = store.verify(token, HOME)
    expected = Refusal.BAD_RECORD if which == "record" else Refusal.STORE_UNAVAILABLE
    assert isinstance(found, Refused) and found.reason is expected
    assert found.detail and str(path) in found.detail


def test_nothing_there_is_a_refusal(tmp_path: Path) -> None:
    """Without keys or directory every token is refused; nothing is made on the way."""
    store = TokenStore(tmp_path / "tokens", tmp_path / "keys" / "token.keys")
    assert refusal(store, "pveg_x") is Refusal.STORE_UNAVAILABLE
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(TokenStoreError):
        store.check()


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: fields.pop("expires"),
        lambda fields: fields.update(extra=1),
        lambda fields: fields.update(version=2),
        lambda fields: fields.update(expires="2026-01-01T00:00:00"),
        lambda fields: fields.update(expires=5),
        lambda fields: fields.update(networks="10.0.0.0/8"),
        lambda fields: fields.update(grants=[{"actions": ["exec:all"], "guests": "all"}]),
        lambda fields: fields.update(id="tk_" + "0" * 26),
        lambda fields: fields.update(name=None),
        lambda fields: fields.update(revision="1"),
        lambda fields: fields.update(secrets=[{}]),
        lambda fields: fields["secrets"][0].update(generation="1"),
        lambda fields: fields.update(limits={"rate": -1, "max_running": None}),
    ],
)
def test_a_damaged_record_gives_nothing(store: TokenStore, change: Callable[[dict[str, object]], object]) -> None:
    """A record that is not exactly one is refused: no member has a default when it is read."""
    token, record = issue(store)
    path = store._path(record.id)
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))
    assert refusal(store, token) is Refusal.BAD_RECORD


@pytest.mark.parametrize("text", ["", "0d", "30", "30D", "-1d", "1y", "9999w", "1.5h", "٣d", "3d\n"])
def test_durations(text: str) -> None:
    """A time is a number and a unit, ten years at most."""
    with pytest.raises(GrantInvalid):
        parse_duration(text)
    assert parse_duration("30d") == timedelta(days=30)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "2030-01-01",
        "2030-01-01T00:00:00",
        "2025-12-31T23:59:59Z",
        "2037-01-01T00:00:00Z",
        "30d ",
        "9999-12-31T23:59:59-23:59",
    ],
)
def test_ends(text: str) -> None:
    """A token's end is a lifetime, a time with its zone that lies ahead, or never."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    with pytest.raises(GrantInvalid):
        parse_expiry(text, now)
    assert parse_expiry("never", now) is None
    assert parse_expiry("1d", now) == datetime(2026, 1, 2, tzinfo=UTC)
    assert parse_expiry("2026-01-02T01:00:00+01:00", now) == datetime(2026, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    "text", ["", "10.0.0.1/8", "host", "10.0.0.0/33", "fe80::%eth0/64", "fe80::%\n\x1b[2Jtk_0\troot/64", "fe80::1%\n"]
)
def test_bad_networks(text: str) -> None:
    """A network with host bits, or none at all, is refused; so is one with a zone, in which Python lets any text stand,
    line ends and a terminal's commands in `token list` too."""
    with pytest.raises(GrantInvalid):
        parse_networks([text])
