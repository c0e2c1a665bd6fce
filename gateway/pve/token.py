"""The file of an API token of PVE's, which `setup` writes: `USER@REALM!NAME=SECRET`, for root alone."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from gateway.auth.private import read_private
from gateway.errors import TokenStoreError
from gateway.pve.failure import PveUnreachable

_TOKEN = re.compile(
    r"(?P<user>[^\s:/!=]+@[A-Za-z][A-Za-z0-9._-]+)!(?P<name>[A-Za-z][A-Za-z0-9._-]+)=(?P<secret>[!-~]+)"
)


@dataclass(frozen=True)
class PveToken:
    """`user` is USER@REALM."""

    user: str
    name: str
    secret: str = field(repr=False)


def read_token(file: Path, key: str) -> PveToken:
    """The token that stands in the file; `key` is the configuration's name for it. Raises PveUnreachable."""
    try:
        text = read_private(file)[1].decode("ascii", "replace").strip()
    except FileNotFoundError as exc:
        raise PveUnreachable(f"there is no PVE API token: {file} ({key}) is absent") from exc
    except TokenStoreError as exc:
        raise PveUnreachable(exc.detail) from exc
    found = _TOKEN.fullmatch(text)
    if found is None:
        raise PveUnreachable(f"{file} ({key}) does not hold USER@REALM!NAME=SECRET")
    return PveToken(**found.groupdict())
