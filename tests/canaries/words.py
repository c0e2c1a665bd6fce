"""Canary words: of each is known where it was sent, and where it may be seen again; nowhere else is it to be."""

from __future__ import annotations

import base64
import itertools
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class Sink(StrEnum):
    """Where a secret could come out."""

    LOG = "a log"
    AUDIT = "the audit log"
    METRICS = "metrics"
    ARGV = "a process's arguments"
    ENVIRON = "a process's environment"
    PROBLEM = "a problem"
    REPLY = "a reply"
    HEADER = "a reply's head"
    KEPT = "a private file"
    OPEN = "a file that others may read"
    BUNDLE = "a support bundle"
    PRINTED = "what a command printed"
    REPR = "a repr"


@dataclass(frozen=True)
class Sent:
    """One canary: the operation it was sent to, where in the request, and where it may stand by design."""

    operation: str
    carrier: str
    allowed: frozenset[Sink]


class Canaries:
    """All that were sent by one test. Safe in many threads, as far as numbers and lists are."""

    def __init__(self) -> None:
        self._mark = secrets.token_hex(4)
        self._numbers = itertools.count()
        self._sent: dict[int, Sent] = {}
        self._secrets: dict[bytes, Sent] = {}
        self._word = re.compile(rb"[Cc]nry(\d{5})" + self._mark.encode())
        self._hidden = {*_in_base64(self._mark.encode()), self._mark.encode().hex().encode()}

    def put(self, operation: str, carrier: str, *allowed: Sink) -> str:
        """A new canary: seventeen letters and digits, the first a letter."""
        number = next(self._numbers)
        self._sent[number] = Sent(operation, carrier, frozenset(allowed))
        return f"Cnry{number:05d}{self._mark}"

    def watch(self, secret: str | bytes, name: str, *allowed: Sink) -> None:
        """A secret that others made: a token, a key."""
        self._secrets[secret.encode() if isinstance(secret, str) else secret] = Sent("", name, frozenset(allowed))

    def carriers(self, operation: str) -> set[str]:
        """Where canaries were sent to it."""
        return {sent.carrier for sent in list(self._sent.values()) if sent.operation == operation}

    def leaks(self, sink: Sink, text: bytes, where: str) -> Iterator[str]:
        """What stands in `text` and may not, by name."""
        if any(form in text for form in self._hidden):
            text += b"\n".join(_decoded(text))
        found = {self._sent[int(number)] for number in self._word.findall(text)}
        found |= {sent for secret, sent in list(self._secrets.items()) if secret in text}
        for sent in found:
            if sink not in sent.allowed:
                yield f"{sent.operation or 'secret'}: {sent.carrier}: in {sink} ({where})"


def _decoded(text: bytes) -> Iterator[bytes]:
    """What stands in it as base64, or in hexadecimal digits."""
    for found in re.findall(rb"[A-Za-z0-9+/_-]{16,}", text):
        whole = found.translate(bytes.maketrans(b"-_", b"+/"))
        yield base64.b64decode(whole[: len(whole) // 4 * 4])
    for found in re.findall(rb"(?:[0-9a-f]{2}){16,}", text):
        yield bytes.fromhex(found.decode())


def _in_base64(word: bytes) -> Iterator[bytes]:
    """What of `word` in base64 is the same whatever stands around it, for each of the three ways it may lie."""
    for before in range(3):
        whole = base64.b64encode(bytes(before) + word + bytes(-(before + len(word)) % 3))
        first, last = -(-before * 8 // 6), (before + len(word)) * 8 // 6
        yield whole[first:last]
