"""What commands a caller may run where: any, or only those that a grant names. One check, for every way to a command.

A grant's `commands` are patterns of argument lists, one word for one argument. A word is literal, but for

    *     one or more characters, none of them a slash
    **    one or more characters, slashes too
    ...   as the last word: any further arguments, or none
    \\     takes the character behind it literally

A word holds one `*` or `**` at most. What these stand for has no control characters, makes no path component `.` or
`..`, and, where the word begins with it, does not begin with `-`: it names a thing below a directory, or a value,
never another directory or an option. The first word is the program: an absolute path, all of it literal.

Such a grant refuses string commands, `shell`, every `env` name that it does not list, and `user` and `cwd` unless it
lists them: a `user` or `cwd` that it lists must also be sent (no `user` is `root`). `tty` needs exec:terminal in the
same grant: programs that see a terminal start pagers and editors, which run commands. stdin is the command's data
and free, so a program that takes commands from it (a shell, an interpreter, an SQL client) grants all of them. What
a program does with its arguments is its own: `find`, `env`, `tar` and many more run others.
"""

from __future__ import annotations

import hashlib
import json
import math
import posixpath
import re
from bisect import bisect
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # pydantic is heavy, and not every process needs it
    from gateway.exec.spec import ExecSpec

Ranges = tuple[tuple[int, int], ...]
"""Inclusive, sorted, disjoint ranges of vmids."""

REST = "..."
MAX_WORDS = 64
MAX_WORD = 4096
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def within(vmid: int, ranges: Ranges) -> bool:
    """Whether one of `ranges` holds `vmid`. A pool may make thousands of them, and a listing asks for each exec."""
    position = bisect(ranges, (vmid, math.inf))
    return position > 0 and vmid <= ranges[position - 1][1]


@dataclass(frozen=True)
class CommandPattern:
    """The argument lists that one entry of `commands` allows. Raises ValueError for what is no pattern."""

    words: tuple[str, ...]
    _parts: tuple[_Word, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 1 <= len(self.words) <= MAX_WORDS:
            raise ValueError(f"a command pattern has 1 to {MAX_WORDS} words")
        open_ended = len(self.words) > 1 and self.words[-1] == REST
        parts = tuple(_parse_word(word) for word in (self.words[:-1] if open_ended else self.words))
        program = parts[0]
        if program.star or not is_plain_path(program.before):
            raise ValueError("a command pattern begins with a program's absolute path, without wildcards, `.` or `..`")
        object.__setattr__(self, "_parts", parts)

    def matches(self, argv: list[str]) -> bool:
        """Whether `argv` is such a list. Takes time linear in its length."""
        if self.words[-1] == REST:
            argv = argv[: len(self._parts)]
        return len(argv) == len(self._parts) and all(
            part.matches(argument) for part, argument in zip(self._parts, argv, strict=True)
        )


@dataclass(frozen=True)
class _Word:
    before: str
    star: str = ""
    after: str = ""

    def matches(self, argument: str) -> bool:
        if not self.star:
            return argument == self.before
        end = len(argument) - len(self.after)
        if end <= len(self.before) or not argument.startswith(self.before) or not argument.endswith(self.after):
            return False
        found = argument[len(self.before) : end]
        if _CONTROL.search(found) or (self.star == "*" and "/" in found) or (not self.before and found[0] == "-"):
            return False
        around = self.before[self.before.rfind("/") + 1 :] + found + self.after.partition("/")[0]
        # By itself, too: behind `--file=` or `host:` it is a path of its own.
        return not {".", ".."} & {*around.split("/"), *found.split("/")}


def _parse_word(text: str) -> _Word:
    if len(text) > MAX_WORD:
        raise ValueError(f"a word of a command pattern has at most {MAX_WORD} characters")
    if text == REST:
        raise ValueError("`...` is the last word of a command pattern; write \\... for these three dots")
    texts, stars = [""], []
    position = 0
    while position < len(text):
        if text[position] == "\\":
            if position + 1 == len(text):
                raise ValueError("a word ends with a lone backslash; write two for one")
            texts[-1] += text[position + 1]
            position += 2
        elif text[position] == "*":
            stars.append("**" if text.startswith("**", position) else "*")
            texts.append("")
            position += len(stars[-1])
        else:
            texts[-1] += text[position]
            position += 1
    if len(stars) > 1:
        raise ValueError("a word of a command pattern holds one `*` or `**` at most")
    if any("\0" in part or not _is_unicode(part) for part in texts):
        raise ValueError("a word holds a character that no argument can have")
    return _Word(texts[0], *stars, *texts[1:])


def is_plain_path(text: str) -> bool:
    """Whether it is an absolute path, not `/`, without empty, `.` or `..` components and control characters."""
    return (
        text.startswith("/") and text != "/" and not text.startswith("//") and posixpath.normpath(text) == text
        and not _CONTROL.search(text) and _is_unicode(text)
    )  # fmt: skip


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


@dataclass(frozen=True)
class Terms:
    """What a grant limits commands to. No `commands`: any, and then `users` alone counts; no `users`: the default."""

    commands: tuple[CommandPattern, ...] = ()
    users: tuple[str, ...] = ()
    cwd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    terminal: bool = False

    def refused_field(self, spec: ExecSpec) -> str | None:
        """The first field of `spec` that is not granted; None when all are."""
        if self.users and (spec.user or "root") not in self.users:
            return "user"
        if not self.commands:
            return None
        if isinstance(spec.command, str) or not any(pattern.matches(spec.command) for pattern in self.commands):
            return "command"
        refused = {
            "shell": spec.shell is not None,
            "env": not spec.env.keys() <= set(self.env),
            "user": not self.users and spec.user is not None,
            "cwd": spec.cwd not in (self.cwd or (None,)),
            "tty": spec.tty is not None and not self.terminal,
        }
        return next((name for name, is_refused in refused.items() if is_refused), None)

    @property
    def mark(self) -> str:
        """Tells these terms from others: 32 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.to_wire()).encode()).hexdigest()[:32]

    def to_wire(self) -> dict[str, Any]:
        return {
            "commands": [list(pattern.words) for pattern in self.commands],
            "users": list(self.users),
            "cwd": list(self.cwd),
            "env": list(self.env),
            "terminal": self.terminal,
        }

    @classmethod
    def from_wire(cls, data: object) -> Terms:
        """The terms that `to_wire` described. Raises ValueError for anything else."""
        if not isinstance(data, dict) or data.keys() != cls.__dataclass_fields__.keys():
            raise ValueError("terms have exactly their five members")
        commands, terminal = data["commands"], data["terminal"]
        if not isinstance(commands, list) or type(terminal) is not bool:
            raise ValueError("terms have a list of commands and a word on terminals")
        return cls(
            commands=tuple(_known_pattern(_texts(words)) for words in commands),
            users=_texts(data["users"]),
            cwd=_texts(data["cwd"]),
            env=_texts(data["env"]),
            terminal=terminal,
        )


@dataclass(frozen=True)
class Permit:
    """Commands may be run in `guests` on these terms; None: any command."""

    guests: Ranges
    terms: Terms | None = None

    @property
    def mark(self) -> str:
        """That of its terms; empty where there are none."""
        return self.terms.mark if self.terms else ""

    def to_wire(self) -> dict[str, Any]:
        return {"guests": [list(pair) for pair in self.guests], "terms": self.terms.to_wire() if self.terms else None}

    @classmethod
    def from_wire(cls, data: object) -> Permit:
        """The permit that `to_wire` described. Raises ValueError for anything else."""
        if not isinstance(data, dict) or data.keys() != cls.__dataclass_fields__.keys():
            raise ValueError("a permit has exactly its two members")
        terms = data["terms"]
        return cls(ranges_from_wire(data["guests"]), None if terms is None else Terms.from_wire(terms))


def find_permit(permits: Iterable[Permit], vmid: int, spec: ExecSpec) -> Permit | str:
    """The permit that allows all of `spec` in guest `vmid`, or the field that is refused. Permits do not add up: one
    alone allows it. Of several that refuse, the one whose `commands` would do tells."""
    refused = ["command"]
    for permit in permits:
        if within(vmid, permit.guests):
            name = permit.terms.refused_field(spec) if permit.terms else None
            if name is None:
                return permit
            refused.append(name)
    return next((name for name in refused if name != "command"), "command")


def ranges_from_wire(data: object) -> Ranges:
    """Ranges of vmids as JSON has them. Raises ValueError for anything else."""
    if not isinstance(data, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(type(end) is int for end in pair) for pair in data
    ):
        raise ValueError("ranges are pairs of whole numbers")
    ends = [end for pair in data for end in pair]
    if any(low > high for low, high in data) or ends != sorted(ends):
        raise ValueError("ranges are sorted and disjoint")
    return tuple((low, high) for low, high in data)


@lru_cache(maxsize=4096)
def _known_pattern(words: tuple[str, ...]) -> CommandPattern:
    """Of the wire: the same few come with every request of a limited token."""
    return CommandPattern(words)


def _texts(data: object) -> tuple[str, ...]:
    if not isinstance(data, list) or not all(isinstance(item, str) for item in data):
        raise ValueError("a list of texts is missing")
    return tuple(data)
