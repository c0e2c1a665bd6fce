"""When a token was last used: cheap, coarse, on the node, and never in the way."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.auth.last_used import LastUsed
from gateway.auth.tokens import TokenStore
from tests.auth.changes import issue_token

from .changes import HOME, root

TOKEN = "tk_" + "0" * 26


class Watch:
    """A clock that stands until it is moved, in seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_what_is_noted_is_forgotten_after_its_minute(tmp_path: Path) -> None:
    """So that of tokens that others delete nothing stays in memory for ever."""
    watch = Watch()
    used = LastUsed(tmp_path / "used", monotonic=watch)
    for number in range(60):
        watch.now += 10
        used.note(f"tk_{number:026}")
    assert len(used._noted) <= 13


def test_one_write_a_minute(tmp_path: Path) -> None:
    """A thousand uses within a minute touch the disk once; the next minute does so again."""
    watch = Watch()
    used = LastUsed(tmp_path / "used", monotonic=watch)
    used.note(TOKEN)
    path = tmp_path / "used" / TOKEN
    os.utime(path, (0, 0))
    for _ in range(1000):
        watch.now += 0.05
        used.note(TOKEN)
    assert path.stat().st_mtime == 0
    watch.now += 60
    used.note(TOKEN)
    assert path.stat().st_mtime > 0
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700


def test_it_is_told_to_the_minute(tmp_path: Path) -> None:
    """What another process noted is seen; what never was, is not."""
    LastUsed(tmp_path / "used").note(TOKEN)
    found = LastUsed(tmp_path / "used").get(TOKEN)
    assert found is not None and found.second == 0
    assert abs((datetime.fromtimestamp(time.time(), UTC) - found).total_seconds()) < 61
    assert LastUsed(tmp_path / "used").get("tk_" + "1" * 26) is None


def test_a_use_that_cannot_be_noted_is_one_all_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With a link, a file or foreign rights in its place the token works on, and the log says so once."""
    (tmp_path / "used").mkdir(mode=0o755)
    store = TokenStore(tmp_path / "t", tmp_path / "k" / "keys", last_used=LastUsed(tmp_path / "used"))
    store.create()
    tokens = [issue_token(store, store.prepare("x", (), lifetime=None)) for _ in range(3)]
    for token in tokens:
        assert store.verify(token, HOME)
    assert len(caplog.records) == 1 and "open to others" in caplog.text


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    """Whatever lies under a token's name, only that itself is touched."""
    target = tmp_path / "target"
    target.touch()
    os.utime(target, (0, 0))
    (tmp_path / "used").mkdir(mode=0o700)
    (tmp_path / "used" / TOKEN).symlink_to(target)
    LastUsed(tmp_path / "used").note(TOKEN)
    assert target.stat().st_mtime == 0


def test_it_goes_with_the_token(tmp_path: Path) -> None:
    """A deleted token leaves nothing; what other nodes' deletions left here goes with the next prune."""
    used = LastUsed(tmp_path / "used")
    store = TokenStore(tmp_path / "t", tmp_path / "k" / "keys", last_used=used)
    store.create()
    token = issue_token(store, store.prepare("x", (), lifetime=None))
    store.verify(token, HOME)
    used.note(TOKEN)
    (token_id,) = store.ids()
    hands = root(store)
    hands.revoke(token_id)
    hands.delete(token_id)
    assert used.known() == [TOKEN]
    hands.prune(hands.store.clock() - hands.store.clock())
    assert used.known() == []
