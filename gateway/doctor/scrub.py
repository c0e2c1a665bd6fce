"""Scrubber: takes secrets out of text that leaves the node, by their shape, and by what they are on this node."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from gateway.config import Config

GONE = "[removed]"

_SHAPES = (
    re.compile(r"(pveg_tk_[0-9A-Z]{26})\.[^\s\"',]+"),
    re.compile(r"(PVEAPIToken=[^\s=]+)=[^\s\"',]+"),
    re.compile(r"(?i)(Authorization: *[A-Za-z]+) +[^\r\n\"']+"),
    re.compile(r"([a-z]+://[^\s/:@]+):[^\s/@]+@"),
    re.compile(r"(-----BEGIN [A-Z ]*PRIVATE KEY-----).+?(?=-----END|\Z)", re.DOTALL),
)
_SHORTEST = 8
_MAX_BYTES = 1 << 20


class Scrubber:
    """`known`: secrets word for word; those too short to be any are passed over."""

    def __init__(self, known: Iterable[str]) -> None:
        self._known = sorted({word for word in known if len(word) >= _SHORTEST}, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for word in self._known:
            text = text.replace(word, GONE)
        for shape in _SHAPES:
            text = shape.sub(rf"\1{GONE}", text)
        return text


def secrets_of(config: Config) -> Iterator[str]:
    """Every secret that the gateway's own files hold: PVE's tokens, the ring's keys, the audit log's key."""
    for file in (config.pve.token_file, config.pve.agent_token_file):
        yield _read(file).decode("utf-8", "replace").partition("=")[2].strip()
    for file in (config.tokens.key_file, config.audit.key_file):
        data = _read(file)
        yield data.hex()
        yield from re.findall(r"[0-9A-Za-z+/_-]{32,}", data.decode("utf-8", "replace"))


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(_MAX_BYTES)
    except OSError:
        return b""


def as_json(data: object) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"
