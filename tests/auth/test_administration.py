"""Changes to tokens: what each does, who may make it, that it is recorded first, and what happens to two at once."""

from __future__ import annotations

import os
import shutil
import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.actor import Actor
from gateway.auth.administration import Administration, Changes
from gateway.auth.covering import exceeding
from gateway.auth.grants import Grant, parse_actions, parse_guests
from gateway.auth.records import TokenRecord
from gateway.auth.terms import Limits, parse_networks
from gateway.auth.tokens import Refusal, Refused, TokenStore
from gateway.errors import (
    AuditUnavailable,
    GatewayError,
    GrantInvalid,
    PreconditionFailed,
    PrivilegeExceeded,
    RotationUnderWay,
    TokenDead,
    TokenLive,
    TokenNotFound,
    TokenStoreError,
    TooManyTokens,
    Unauthenticated,
)

from .changes import HOME, Log, by, ring, root
from .test_tokens import Clock, refusal

DAY = timedelta(days=1)


@pytest.fixture
def clock() -> Clock:
    """A clock that stands until it is moved."""
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> TokenStore:
    """An empty store with its keys."""
    made = TokenStore(tmp_path / "tokens", tmp_path / "keys" / "token.keys", clock=clock)
    made.create()
    return made


def grants(actions: str = "exec:run", guests: str = "101-199", **more: Any) -> tuple[Grant, ...]:
    return (Grant.from_json({"actions": actions.split(","), "guests": guests, **more}),)


def make(hands: Administration, given: tuple[Grant, ...] | None = None, **more: Any) -> tuple[TokenRecord, str]:
    """A token that ends in a day, unless `more` says otherwise."""
    fields: Any = {
        "name": "ci",
        "grants": given or grants(),
        "expires": hands.store.clock() + DAY,
        **more,
    }
    return hands.create(fields)


def valid(store: TokenStore, token: str) -> bool:
    return isinstance(store.verify(token, HOME), Actor)


def test_an_edit_holds_for_the_next_request(store: TokenStore) -> None:
    """Grants, networks, limits, name and end are changed under a live secret; what is not named stays."""
    record, token = make(root(store))
    edited = root(store).edit(record.id, {"grants": grants("exec:run", "105"), "rate": 2.0, "max_running": 3})
    actor = store.verify(token, HOME)
    assert isinstance(actor, Actor)
    assert actor.reach(next(iter(parse_actions(["exec:run"])))) == ((105, 105),)
    assert actor.limits == Limits(2.0, 3) and actor.origin(HOME, "req_1").max_running == 3
    assert (edited.name, edited.expires, edited.revision) == (record.name, record.expires, 2)
    root(store).edit(record.id, {"networks": parse_networks(["10.0.0.0/8"]), "rate": None})
    assert refusal(store, token) is Refusal.WRONG_NETWORK
    assert store.get(record.id).limits == Limits(None, 3)


def test_rotation_overlaps_for_as_long_as_asked(store: TokenStore, clock: Clock) -> None:
    """Old and new secret are one token until the overlap ends, to the second; then the old one is none."""
    record, old = make(root(store))
    _, new = root(store).rotate(record.id, overlap=timedelta(hours=1))
    assert new != old and valid(store, old) and valid(store, new)
    clock.now += timedelta(hours=1) - timedelta(seconds=1)
    assert valid(store, old)
    clock.now += timedelta(seconds=1)
    assert refusal(store, old) is Refusal.REPLACED
    assert valid(store, new)


def test_rotation_without_overlap_ends_every_earlier_secret(store: TokenStore) -> None:
    """What leaked is worth nothing at once, the secret before it too; with overlap two secrets are the most."""
    record, first = make(root(store))
    _, second = root(store).rotate(record.id, overlap=DAY / 2)
    with pytest.raises(RotationUnderWay):
        root(store).rotate(record.id, overlap=DAY / 2)
    _, third = root(store).rotate(record.id)
    assert [valid(store, token) for token in (first, second, third)] == [False, False, True]


def test_an_expired_token_comes_back_with_a_new_secret_only(store: TokenStore, clock: Clock) -> None:
    """No edit and no overlap gives an old secret life again; a rotation with a new end gives the token another."""
    record, old = make(root(store))
    clock.now += DAY
    with pytest.raises(TokenDead):
        root(store).edit(record.id, {"expires": None})
    with pytest.raises(TokenDead):
        root(store).rotate(record.id)
    _, new = root(store).rotate(record.id, overlap=timedelta(hours=1), changes={"expires": clock.now + DAY})
    assert refusal(store, old) is Refusal.REPLACED
    assert valid(store, new)


def test_revoked_is_for_good(store: TokenStore, clock: Clock) -> None:
    """Nothing brings a revoked token back, and no jump of the clock either; revoking it again is no error."""
    record, token = make(root(store))
    root(store).revoke(record.id)
    for change in (
        lambda: root(store).edit(record.id, {"name": "x"}),
        lambda: root(store).rotate(record.id, changes={"expires": None}),
    ):
        with pytest.raises(TokenDead):
            change()
    assert root(store).revoke(record.id).revision == 2
    for jump in (-400 * DAY, 800 * DAY):
        clock.now += jump
        assert refusal(store, token) is Refusal.REVOKED


def test_only_the_dead_are_deleted(store: TokenStore, clock: Clock) -> None:
    """An active token is revoked first; prune takes those that have been dead for long, and no others."""
    old, _ = make(root(store), name="old")
    with pytest.raises(TokenLive):
        root(store).delete(old.id)
    clock.now += 100 * DAY
    recent, _ = make(root(store), name="recent")
    root(store).revoke(recent.id)
    live, _ = make(root(store), name="live")
    assert [record.name for record in root(store).prune(90 * DAY)] == ["old"]
    assert store.ids() == [recent.id, live.id]
    root(store).delete(recent.id)
    with pytest.raises(TokenNotFound):
        root(store).find(recent.id)


def test_no_record_no_change(store: TokenStore) -> None:
    """With the audit log down nothing is made, changed or ended."""
    record, token = make(root(store))
    before = store._path(record.id).read_bytes()
    hands = root(store, Log(down=True))
    for change in (
        lambda: make(hands),
        lambda: hands.edit(record.id, {"name": "x"}),
        lambda: hands.rotate(record.id),
        lambda: hands.revoke(record.id),
    ):
        with pytest.raises(AuditUnavailable):
            change()
    assert store.ids() == [record.id] and store._path(record.id).read_bytes() == before and valid(store, token)


def test_every_change_is_recorded_before_it_is_made(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The intent stands when the file is written, tells old and new, and holds no secret; a failure takes it back."""
    log = Log()
    hands = root(store, log)
    record, first = make(hands)
    hands.edit(record.id, {"name": "other"})
    _, second = hands.rotate(record.id)
    hands.revoke(record.id)
    hands.delete(record.id)
    assert log.events == ["token:create", "token:edit", "token:rotate", "token:revoke", "token:delete"]
    assert log.records[1]["data"]["before"] == {"name": "ci", "revision": 1}
    assert log.records[1]["data"]["token"]["name"] == "other"
    assert not [secret for secret in (first, second) if secret.rpartition(".")[2] in str(log.records)]
    seen: list[list[str]] = []

    def fail(path: Path, data: bytes) -> None:
        seen.append(log.events[-1:])
        raise TokenStoreError("no room")

    monkeypatch.setattr("gateway.auth.tokens.write_private", fail)
    with pytest.raises(TokenStoreError):
        make(hands)
    assert seen == [["token:create"]] and log.events[-1] == "token:aborted"
    assert log.records[-1]["audit_id"] == log.records[-2]["audit_id"]


@pytest.mark.parametrize("kind", [KeyError, KeyboardInterrupt, SystemExit])
def test_what_breaks_a_change_off_is_recorded(
    store: TokenStore, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]
) -> None:
    """A defect, Ctrl-C or a SIGTERM between the intent and its end leaves no intent standing as if all was well."""
    log = Log()

    def fail(path: Path, data: bytes) -> None:
        raise kind("secret words")

    monkeypatch.setattr("gateway.auth.tokens.write_private", fail)
    with pytest.raises(kind):
        make(root(store, log))
    assert log.events == ["token:create", "token:aborted"]
    assert log.records[1]["data"]["reason"] == f"broken off by {kind.__name__}: whether it was done is not known"


# ---- two at once


def test_the_later_of_two_edits_is_told(store: TokenStore) -> None:
    """An edit that names the version it was meant for fails once there is another; without it members are merged."""
    record, _ = make(root(store))
    root(store).edit(record.id, {"name": "first"}, revision=1)
    with pytest.raises(PreconditionFailed) as failed:
        root(store).edit(record.id, {"name": "second"}, revision=1)
    assert failed.value.evidence["etag"] == '"2"'
    root(store).edit(record.id, {"rate": 1.0})
    assert (store.get(record.id).name, store.get(record.id).limits.rate) == ("first", 1.0)


def test_no_edit_undoes_a_revocation(store: TokenStore, tmp_path: Path) -> None:
    """Many writers in their own stores at once: the token stays revoked, and no version is lost or made twice."""
    record, token = make(root(store))
    log = Log()
    started = threading.Barrier(9)

    def change(number: int) -> None:
        own = TokenStore(store._directory, store.keys._path, clock=store.clock)
        started.wait()
        for turn in range(5):
            try:
                if number == 0 and turn == 2:
                    root(own, log).revoke(record.id)
                elif number % 2:
                    root(own, log).edit(record.id, {"name": f"n{number}-{turn}"})
                else:
                    root(own, log).rotate(record.id)
            except TokenDead:
                pass

    threads = [threading.Thread(target=change, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    started.wait()
    for thread in threads:
        thread.join(30)
    assert refusal(store, token) is Refusal.REVOKED
    revisions = [entry["data"]["token"]["revision"] for entry in log.records]
    assert revisions == list(range(2, len(revisions) + 2))
    assert log.events[-1] == "token:revoke"


# ---- no more than one has


ADMIN = (*grants("exec:run,guest:read", "101-199"), *grants("token:admin", "101-199"))


def admin(store: TokenStore, **more: Any) -> tuple[TokenRecord, str]:
    return make(root(store), ADMIN, name="admin", **more)


@pytest.mark.parametrize(
    ("wanted", "passes"),
    [
        (grants(), True),
        (grants("exec:run,guest:read,token:admin", "105"), True),
        (grants(commands=[["/bin/true"]]), True),
        (grants(guests="100-199"), False),
        (grants(guests="all"), False),
        (grants(guests="101-199,300"), False),
        (grants("exec:admin", "101"), False),
        (grants("exec:terminal", "101"), False),
        (grants("all", "101"), False),
        (grants("audit:read", "101"), False),
        (grants(pools=["web"]), False),
    ],
)
def test_nobody_gives_more_than_they_have(store: TokenStore, wanted: tuple[Grant, ...], passes: bool) -> None:
    """By creation and by edit alike: each action on each guest is the giver's own, pools and implications included."""
    _, token = admin(store)
    weak, _ = make(root(store), grants("exec:run", "101"))
    ways = (lambda: make(by(store, token), wanted), lambda: by(store, token).edit(weak.id, {"grants": wanted}))
    for way in ways:
        if passes:
            way()
        else:
            with pytest.raises(PrivilegeExceeded) as exceeded:
                way()
            assert exceeded.value.evidence["exceeds"] == ["grants"]


@pytest.mark.parametrize(
    "more",
    [
        {"expires": None},
        {"networks": ()},
        {"networks": parse_networks(["127.0.0.0/8", "10.0.0.0/8"])},
        {"rate": None},
        {"rate": 5.5},
        {"max_running": 3},
    ],
)
def test_nobody_gives_longer_wider_or_faster_than_they_have(store: TokenStore, more: Any) -> None:
    """A child lives no longer than its maker, comes from nowhere else and takes no more; nor does an edited one."""
    own: Any = {"networks": parse_networks(["127.0.0.0/8"]), "rate": 5.0, "max_running": 2}
    _, token = admin(store, **own)
    child, _ = make(by(store, token), **own)
    assert child.created_by == by(store, token).asker.token_id  # type: ignore[union-attr]
    with pytest.raises(PrivilegeExceeded):
        make(by(store, token), **{**own, **more})
    with pytest.raises(PrivilegeExceeded):
        by(store, token).edit(child.id, more)


def test_a_stronger_token_does_not_exist(store: TokenStore) -> None:
    """Who may do less cannot see, edit, rotate, revoke or delete it; the answer is that of no token at all."""
    strong, _ = make(root(store), grants("exec:run", "all"), name="strong")
    _, token = admin(store)
    hands = by(store, token)
    told = set()
    for token_id in (strong.id, "tk_" + "0" * 26):
        ways = (
            lambda token_id=token_id: hands.find(token_id),
            lambda token_id=token_id: hands.edit(token_id, {"name": "x"}),
            lambda token_id=token_id: hands.edit(token_id, {"grants": grants(guests="101")}),
            lambda token_id=token_id: hands.rotate(token_id),
            lambda token_id=token_id: hands.revoke(token_id),
            lambda token_id=token_id: hands.delete(token_id),
            lambda token_id=token_id: hands.edit(token_id, {"name": "x"}, revision=99),
        )
        for way in ways:
            with pytest.raises(TokenNotFound) as missing:
                way()
            told.add(missing.value.detail)
    assert len(told) == 1
    assert strong.id not in {record.id for record in hands.all()}


def test_rotating_gives_no_secret_that_outlives_its_maker(store: TokenStore) -> None:
    """A token that never expires gives its secret to nobody whose own token does; revoking it is allowed."""
    forever, _ = make(root(store), expires=None)
    _, token = admin(store)
    for way in (
        lambda: by(store, token).rotate(forever.id),
        lambda: by(store, token).edit(forever.id, {"name": "mine"}),
    ):
        with pytest.raises(PrivilegeExceeded):
            way()
    by(store, token).revoke(forever.id)


def test_nobody_raises_themselves(store: TokenStore) -> None:
    """One's own token can be rotated and cut, never extended; what was given away is gone."""
    record, token = admin(store)
    for changes in ({"expires": None}, {"grants": (*ADMIN, *grants("exec:admin", "101"))}):
        with pytest.raises(PrivilegeExceeded):
            by(store, token).edit(record.id, changes)  # type: ignore[arg-type]
    _, token = by(store, token).rotate(record.id)
    by(store, token).edit(record.id, {"grants": grants("token:admin", "101")})
    with pytest.raises(PrivilegeExceeded):
        by(store, token).edit(record.id, {"grants": ADMIN})


def test_an_admin_who_was_revoked_meanwhile_does_nothing(store: TokenStore) -> None:
    """Who was let in, and then revoked or cut, is asked again under the lock."""
    record, token = admin(store)
    hands = by(store, token)
    root(store).edit(record.id, {"grants": grants("token:admin", "101")})
    with pytest.raises(PrivilegeExceeded):
        make(hands)
    root(store).revoke(record.id)
    with pytest.raises(Unauthenticated):
        make(hands, grants("token:admin", "101"))
    assert len(store.ids()) == 1


_ACTIONS = st.sampled_from(["exec:run", "exec:admin", "guest:read", "guest:config", "token:admin"])
_RANGES = st.tuples(st.integers(100, 110), st.integers(0, 4)).map(lambda pair: f"{pair[0]}-{pair[0] + pair[1]}")
_GRANTS = st.lists(
    st.builds(
        lambda actions, guests: Grant(parse_actions(actions), parse_guests(guests)),
        st.sets(_ACTIONS, min_size=1),
        _RANGES,
    ),
    min_size=1,
    max_size=4,
).map(tuple)


@given(held=_GRANTS, wanted=_GRANTS)
def test_what_is_covered_reaches_nothing_new(held: tuple[Grant, ...], wanted: tuple[Grant, ...]) -> None:
    """For any two tokens: exactly if all that one reaches the other reaches, too, the other may give it."""
    now = Clock().now
    one, other = (TokenRecord(id="x", name="x", grants=given, created=now) for given in (held, wanted))
    cells = [
        {
            (action, vmid)
            for grant in given
            for action in _with_implied(grant)
            for low, high in grant.guests
            for vmid in range(low, high + 1)
        }
        for given in (held, wanted)
    ]
    assert (exceeding(other, one) == []) is (cells[1] <= cells[0])


def _with_implied(grant: Grant) -> frozenset[str]:
    from gateway.auth.actions import with_implied

    return with_implied(grant.actions)


@pytest.mark.parametrize(
    "changes",
    [
        {"grants": ()},
        {"name": "a\nb"},
        {"rate": 0.0},
        {"rate": float("nan")},
        {"rate": float("inf")},
        {"max_running": 0},
        {"max_running": True},
        {"grants": tuple(grants(commands=[["/bin/" + "x" * 200]])[0] for _ in range(60))},
    ],
)
def test_what_is_no_token(store: TokenStore, changes: Changes) -> None:
    """A token without grants, with an odd name or number, or too large for its record is refused, nothing changed."""
    record, _ = make(root(store))
    with pytest.raises(GrantInvalid):
        root(store).edit(record.id, changes)
    assert store.get(record.id) == replace(record, created=store.get(record.id).created)


def test_the_store_is_bounded(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who administers tokens cannot fill /etc/pve with them; revoked ones count until they are deleted."""
    monkeypatch.setattr("gateway.auth.administration.MAX_TOKENS", 2)
    first, _ = make(root(store))
    make(root(store))
    root(store).revoke(first.id)
    with pytest.raises(TooManyTokens):
        make(root(store))
    root(store).delete(first.id)
    make(root(store))


def _make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_text("{}"),
        lambda path: path.write_text("[" * 100_000),
        lambda path: path.write_bytes(b"x" * (65 << 10)),
        lambda path: path.chmod(0o644),
        lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
        _make_fifo,
        lambda path: (path.unlink(), path.mkdir(0o700)),
    ],
    ids=["empty", "nested", "large", "open", "link", "fifo", "directory"],
)
def test_one_spoilt_record_harms_no_other(store: TokenStore, spoil: Any, caplog: pytest.LogCaptureFixture) -> None:
    """It gives nothing and is named in the log; the others are listed, changed and valid as before."""
    bad, bad_token = make(root(store))
    good, good_token = make(root(store))
    spoil(store._path(bad.id))
    assert refusal(store, bad_token) is Refusal.BAD_RECORD and valid(store, good_token)
    assert [record.id for record in root(store).all()] == [good.id] and bad.id in caplog.text
    ring(store).rotate()
    root(store).revoke(good.id)
    assert [record.id for record in root(store).prune(timedelta())] == [good.id]


def test_a_spoilt_record_tells_an_admin_nothing(store: TokenStore, tmp_path: Path) -> None:
    """What cannot be compared with its own grants is no token for it: neither what is wrong nor where is told."""
    record, _ = make(root(store))
    _, token = admin(store)
    path = tmp_path / "tokens" / f"{record.id}.json"
    path.write_text(path.read_text().replace("exec:run", "secret:action"))
    hands = by(store, token)
    for ask in (hands.find, hands.revoke, hands.rotate, hands.delete):
        with pytest.raises(TokenNotFound) as raised:
            ask(record.id)
        assert raised.value.detail == TokenNotFound.for_id("x").detail
    with pytest.raises(TokenStoreError, match="secret:action"):
        root(store).find(record.id)


def test_an_admin_whose_secret_was_replaced_meanwhile_does_nothing(store: TokenStore) -> None:
    """One that was let in by a secret that is not valid any more, or by a key that was retired, changes nothing."""
    for end in ("rotated", "retired"):
        record, token = admin(store)
        hands = by(store, token)
        assert hands.find(record.id)
        if end == "rotated":
            root(store).rotate(record.id)
        else:
            key = ring(store).list()[0]["id"]
            ring(store).rotate()
            ring(store).retire(key, force=True)
        with pytest.raises(Unauthenticated):
            make(hands, grants("token:admin", "101"))


def test_a_record_under_another_name_gives_nothing(store: TokenStore) -> None:
    """A stronger token's record copied over a weak one's, or two swapped, make neither stronger."""
    weak, token = make(root(store))
    strong, _ = make(root(store), grants("all", "all"))
    store._path(weak.id).write_bytes(store._path(strong.id).read_bytes())
    assert refusal(store, token) is Refusal.BAD_RECORD


def test_a_retired_key_signs_nothing(store: TokenStore) -> None:
    """Whoever stole an old key forges tokens of that key's secrets alone, and none once it is retired."""
    old = TokenStore(store._directory, store.keys._path.with_name("stolen"), clock=store.clock)
    record, token = make(root(store))
    shutil.copy(store.keys._path, old.keys._path)
    ring(store).rotate()
    moved, _ = root(store).rotate(record.id)
    forged, _ = old.keys.sign(record.id, moved.secrets[0].generation)
    assert refusal(store, forged) is Refusal.REPLACED  # signed by a key of the ring, but not this secret's
    ring(store).retire(old.keys.list()[0].id)
    assert refusal(store, forged) is refusal(store, token) is Refusal.BAD_SIGNATURE


def test_a_store_that_is_locked_is_told(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change that cannot have the lock in time changes nothing and may be tried again; verification goes on."""
    monkeypatch.setattr("gateway.auth.lock.WAIT_SECONDS", 0.1)
    record, token = make(root(store))
    other = TokenStore(store._directory, store.keys._path, clock=store.clock)
    with store.lock.hold():
        for hands in (root(store), root(other)):
            with pytest.raises(GatewayError) as busy:
                hands.revoke(record.id)
            assert busy.value.retryable and "try again" in busy.value.detail
        assert not isinstance(store.verify(token, HOME), Refused)
