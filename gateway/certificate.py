"""When an X.509 certificate is valid, read from its PEM file: Python's ssl tells it only of a peer that it trusts."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_SEQUENCE, _VERSION, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0xA0, 0x17, 0x18
_MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Validity:
    """From when to when, both included."""

    begins: datetime
    ends: datetime


def read_validity(path: Path) -> Validity:
    """Of the first certificate in the file, the server's own. Raises OSError; ValueError when there is none."""
    with path.open("rb") as file:
        found = _PEM.search(file.read(_MAX_BYTES).decode("ascii", "replace"))
    if found is None:
        raise ValueError(f"{path} holds no certificate")
    try:
        return _validity(ssl.PEM_cert_to_DER_cert(found[0]))
    except (ValueError, IndexError) as exc:
        raise ValueError(f"{path}: its certificate cannot be read") from exc


def _validity(der: bytes) -> Validity:
    """RFC 5280, 4.1: Certificate > TBSCertificate > version, serialNumber, signature, issuer, validity."""
    fields = _content(_content(der, _SEQUENCE)[0], _SEQUENCE)[0]
    if fields[0] == _VERSION:
        _, fields = _content(fields, _VERSION)
    for _ in range(3):
        _, fields = _content(fields, fields[0])
    times, _ = _content(fields, _SEQUENCE)
    begins, rest = _time(times)
    return Validity(begins, _time(rest)[0])


def _content(der: bytes, tag: int) -> tuple[bytes, bytes]:
    """What the first element holds, and what follows it (X.690, 8.1)."""
    if der[0] != tag:
        raise ValueError("another element than a certificate has here")
    size, start = der[1], 2
    if size & 0x80:
        start += size & 0x7F
        size = int.from_bytes(der[2:start])
    if len(der) < start + size:
        raise ValueError("cut off")
    return der[start : start + size], der[start + size :]


def _time(der: bytes) -> tuple[datetime, bytes]:
    tag = der[0]
    text, rest = _content(der, tag)
    digits = text.decode("ascii")
    if tag == _UTC_TIME:  # of two digits of a year, those from 50 on are of the last century
        digits = ("19" if digits >= "5" else "20") + digits
    elif tag != _GENERALIZED_TIME:
        raise ValueError("no time")
    return datetime.strptime(digits, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC), rest
