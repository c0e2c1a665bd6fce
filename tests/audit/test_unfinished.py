"""Announced changes: a file each for as long as their outcome is not in the log, and none where that cannot be."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from gateway.audit.unfinished import UnfinishedChanges

RECORD = {"audit_id": "au_01M7ZP0RFC0V6F6NJBJAFRRH1A", "event": "guest:start", "data": {"secret": "x"}}


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_one_that_cannot_be_remembered_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that refuses it makes it fail, with neither a file nor a descriptor left."""
    changes, before = UnfinishedChanges(tmp_path / "changes"), descriptors()

    def refuse(*_: object) -> int:
        raise OSError(28, "No space left on device")

    for name, module in (("pwrite", os), ("flock", fcntl)):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, refuse)
            with pytest.raises(OSError, match="No space"):
                changes.begin(RECORD)
    assert not list((tmp_path / "changes").iterdir())
    assert descriptors() <= before  # what tests before this one left may go meanwhile


def test_what_is_in_hand_is_nobody_elses(tmp_path: Path) -> None:
    """A change is taken up once its process is gone, without its data, and is forgotten with its outcome."""
    first, second = UnfinishedChanges(tmp_path), UnfinishedChanges(tmp_path)
    begun = first.begin(RECORD)
    begun.note_task("UPID:pve1:1")
    assert not list(second.adopt())
    fcntl.flock(begun._fd, fcntl.LOCK_UN)
    (found,) = second.adopt()
    assert (found.record["event"], found.upid, "data" in found.record) == ("guest:start", "UPID:pve1:1", False)
    found.close()
    os.close(begun._fd)
    assert not list(tmp_path.iterdir())
