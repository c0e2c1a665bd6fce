"""What of a call's parameters PVE's words may not repeat: they become problems, lines of logs and records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

SECRET_OPTIONS = frozenset(("cipassword", "password", "env", "sshkeys", "ssh-public-keys"))
"""Options of guests whose values nothing tells, by PVE's names."""

_SHORTEST = 4


def withhold(words: str, parameters: Mapping[str, Any]) -> str:
    """PVE's words without what was secret in the call that they answer: whole values, their lines, and in `env` what
    stands behind a name. What is shorter than four characters is no secret, and would be found in any word."""
    for secret in sorted(set(_secrets(parameters)), key=len, reverse=True):
        words = words.replace(secret, "(not repeated)")
    return words


def _secrets(parameters: Mapping[str, Any]) -> Iterator[str]:
    for name in SECRET_OPTIONS & parameters.keys():
        value = str(parameters[name])
        for text in (value, unquote(value)):
            parts = [part for line in text.splitlines() for part in line.split("\0")]
            behind = [part.partition("=")[2] for part in parts] if name == "env" else []
            yield from (part for part in (text, *parts, *behind) if len(part) >= _SHORTEST)
