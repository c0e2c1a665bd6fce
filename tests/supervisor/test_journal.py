"""The journal: lines are found again or taken back, and its files go when nothing in them matters."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.supervisor.spool.journal import Journal, Place


def contents(directory: Path) -> list[object]:
    """What a reader of the files finds."""
    return [line["n"] for _, line in Journal(directory).lines()]


def test_files_go_with_their_last_line(tmp_path: Path) -> None:
    """A file is removed when all its lines are released and another one is being written."""
    journal = Journal(tmp_path, file_bytes=100)
    places = [journal.append({"n": number}) for number in range(40)]
    assert len(list(tmp_path.iterdir())) == 4
    journal.release(places[:30])
    assert [int(path.stem) for path in sorted(tmp_path.iterdir())] == [3, 4]
    assert [line["n"] for line in journal.read(places[30:])] == list(range(30, 40))
    journal.release(places[30:])
    assert [int(path.stem) for path in tmp_path.iterdir()] == [4]


def test_sparse_file_can_be_emptied(tmp_path: Path) -> None:
    """A file that one line holds is named, and goes when that line is written anew."""
    journal = Journal(tmp_path, file_bytes=100)
    places = [journal.append({"n": number}) for number in range(20)]
    journal.release(places[1:13])
    assert journal.sparse() == {1}
    moved = journal.append(*journal.read(places[:1]))
    journal.release(places[:1])
    assert [int(path.stem) for path in tmp_path.iterdir()] == [2]
    assert journal.read([moved]) == [{"n": 0}]


def test_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that is written short is taken back, and the next one follows the last whole one."""
    journal = Journal(tmp_path)
    journal.append({"n": 1})
    whole = os.pwrite
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda fd, data, offset: whole(fd, data[:5], offset))
        with pytest.raises(OSError, match="No space left"):
            journal.append({"n": 2})
    journal.append({"n": 3})
    assert contents(tmp_path) == [1, 3]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["append", "strike", "release", "reopen", "tear"]), st.integers(0, 50))))
def test_what_is_kept_is_found(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]) -> None:
    """Whatever is appended, struck, released, reopened and torn: a line that matters is found, a struck one never."""
    directory = tmp_path_factory.mktemp("journal")
    journal, kept, struck = Journal(directory, file_bytes=60), dict[int, Place](), set[int]()
    for number, (step, choice) in enumerate(steps):
        chosen = list(kept)[choice % len(kept)] if kept else None
        if step == "append":
            kept[number] = journal.append({"n": number})
        elif step == "strike" and chosen is not None:
            journal.strike(kept[chosen])
            journal.release([kept.pop(chosen)])
            struck.add(chosen)
        elif step == "release" and chosen is not None:
            journal.release([kept.pop(chosen)])
        elif step in ("reopen", "tear"):
            if step == "tear" and (files := sorted(directory.iterdir())):
                with files[-1].open("ab") as file:
                    file.write(b'{"n": 10')
            journal = Journal(directory, file_bytes=60)
            for place, line in journal.lines():
                if line["n"] in kept:
                    assert kept[line["n"]] == place
                    journal.keep(place)
            journal.tidy()
        assert [line["n"] for line in journal.read(list(kept.values()))] == list(kept)
        assert not struck & set(contents(directory))
