"""The lives of execs in the journal: which lines are whose, from the first of each to the end of its retention."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from gateway import ulid
from gateway.supervisor.spool.journal import Journal, Line, Place
from gateway.supervisor.spool.life import Life, read_life


class Lives:
    """The lines of each exec by its id, the first one first."""

    def __init__(self, directory: Path) -> None:
        self._journal = Journal(directory)
        self._lines: dict[str, list[Place]] = {}

    def load(self) -> Iterator[Life]:
        """Reads what an earlier supervisor has left: each life that can be read, without its output."""
        places: dict[str, dict[str, Place]] = {}
        lives: dict[str, dict[str, Line]] = {}
        for place, line in self._journal.lines():
            exec_id, kind = _subject(line)
            places.setdefault(exec_id, {})[kind] = place
            lives.setdefault(exec_id, {})[kind] = line | {"output": {}} if kind == "ended" else line
        for exec_id, lines in lives.items():
            life = read_life(lines.values())
            if life is None or not is_exec_id(exec_id):
                continue
            self._lines[exec_id] = [place for _, place in sorted(places[exec_id].items(), key=_accepted_first)]
            for place in self._lines[exec_id]:
                self._journal.keep(place)
            yield life
        self._journal.tidy()

    def begin(self, exec_id: str, line: Line) -> None:
        """Writes the first line of a life. Raises OSError; nothing is left then."""
        self._lines[exec_id] = [self._journal.append({"id": exec_id, **line})]

    def append(self, exec_id: str, line: Line) -> None:
        """Adds a line to a life that has begun. Raises OSError; nothing of the line is left then."""
        self._lines[exec_id].append(self._journal.append({"id": exec_id, **line}))

    def read(self, exec_id: str) -> Life | None:
        """Its life; None of one that is not known, or cannot be read. Raises OSError where that is so only now."""
        return read_life(self._journal.read(self._lines.get(exec_id, ())))

    def forget(self, exec_id: str) -> None:
        """Takes its lines back: no later supervisor finds it."""
        places = self._lines.pop(exec_id, [])
        if places:
            with contextlib.suppress(OSError):
                self._journal.strike(places[0])
        self._journal.release(places)

    def compact(self) -> None:
        """Writes the few lines anew that hold a mostly spent file of the journal."""
        sparse = self._journal.sparse()
        for places in self._lines.values() if sparse else ():
            for number, place in enumerate(places):
                if place.file in sparse:
                    with contextlib.suppress(OSError):
                        for line in self._journal.read([place]):
                            places[number] = self._journal.append(line)
                            self._journal.release([place])

    def __contains__(self, exec_id: object) -> bool:
        return exec_id in self._lines


def is_exec_id(text: str) -> bool:
    return text.startswith("ex_") and ulid.is_ulid(text[3:])


def _subject(line: Line) -> tuple[str, str]:
    """The id that a line is about, and its kind: the first two members."""
    _, kind, *_ = *line, "", ""
    return str(line.get("id")), kind


def _accepted_first(item: tuple[str, Place]) -> bool:
    return item[0] != "accepted"
