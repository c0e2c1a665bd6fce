"""The types of a new guest's fields: sizes, names, keys, as the wire has them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal
from functools import partial
from typing import Annotated, Any

from pydantic import AfterValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError

from gateway.errors import GatewayError
from gateway.policy.paths import is_plain
from gateway.pve.ids import MAX_VMID, MIN_VMID, NODE, parse_pool, parse_tag, parse_volume

_SIZE = re.compile(r"([1-9][0-9]{0,6})([MGT])")
_MIB = {"M": 1, "G": 1024, "T": 1024 * 1024}
_KEY = re.compile(r"(?:ssh|ecdsa|sk)-[A-Za-z0-9@.-]{1,64} [A-Za-z0-9+/]{16,12000}={0,3}(?: [ -~]{0,256})?")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"


def mistake(code: str, message: str, field: str | None = None) -> PydanticCustomError:
    """`field`: which one it is about, where a whole model is looked at."""
    return PydanticCustomError(code, message, {"field": field} if field else None)


def _check(rule: Any, message: str) -> AfterValidator:
    """A validator by one of pve.ids, or any function that raises for what cannot be."""

    def judge(value: Any) -> Any:
        try:
            rule(value)
        except (ValueError, GatewayError) as exc:
            raise mistake("impossible", message) from exc
        return value

    return AfterValidator(judge)


def _require_content(content: str, text: str) -> None:
    """A file of a storage that holds such, itself, and no part of it."""
    if not re.fullmatch(rf"{content}/[^/,]+", parse_volume(text).name):
        raise ValueError


def _require_size(text: str) -> None:
    if not _SIZE.fullmatch(text):
        raise ValueError


def _require_path(text: str) -> None:
    if not is_plain(text) or text == "/":
        raise ValueError


def _require_key(text: str) -> None:
    if not _KEY.fullmatch(text):
        raise ValueError


Size = Annotated[
    str,
    StringConstraints(max_length=8),
    _check(_require_size, "a size is a whole number with M, G or T (powers of 1024), like `8G`"),
    Field(json_schema_extra={"pattern": f"^{_SIZE.pattern}$"}),
]
Vmid = Annotated[int, Field(ge=MIN_VMID, le=MAX_VMID)]
HostName = Annotated[str, StringConstraints(pattern=rf"^{_LABEL}(?:\.{_LABEL})*$", max_length=253)]
NodeField = Annotated[str, StringConstraints(pattern=f"^{NODE.pattern}$")]
StorageName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9._-]{0,98}[A-Za-z0-9]$")]
SnapshotName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]{1,39}$")]
TagName = Annotated[str, _check(parse_tag, "a tag is made of letters, digits, _ + . - and begins with none of + . -")]
PoolName = Annotated[str, _check(parse_pool, "a pool's name is made of letters, digits, . _ -; at most three deep")]
VolumeName = Annotated[
    str, _check(parse_volume, "a volume's name is STORAGE:NAME, as in local:vztmpl/debian-13.tar.zst")
]
CdName = Annotated[str, StringConstraints(max_length=255), _check(partial(_require_content, "iso"), "STORAGE:iso/NAME")]
ImageName = Annotated[
    str, StringConstraints(max_length=255), _check(partial(_require_content, "import"), "STORAGE:import/NAME")
]
Notes = Annotated[str, StringConstraints(max_length=8192)]
GuestPath = Annotated[
    str,
    StringConstraints(max_length=255),
    _check(_require_path, "an absolute path without `.`, `..`, commas, quotes or a slash at its end"),
]
PublicKey = Annotated[
    str,
    StringConstraints(max_length=16384),
    _check(_require_key, "one OpenSSH public key on one line: its type, its base64, and a comment if any"),
]
Feature = Annotated[
    str, StringConstraints(pattern=r"^(?:nesting|keyctl|fuse|mknod|force_rw_sys|mount=[a-z0-9_.-]{1,32})$")
]
Seconds = Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)]


def gibibytes(size: str) -> str:
    """A Size as PVE writes that of a new volume: in GiB, with as many digits as it takes."""
    return format(Decimal(int(size[:-1]) * _MIB[size[-1]]) / 1024, "f")


def features_text(features: Iterable[str]) -> str:
    """Features as PVE's option has them: `fuse=1,nesting=1,mount=cifs;nfs`."""
    given = sorted(set(features))
    mounts = [word.partition("=")[2] for word in given if word.startswith("mount=")]
    words = [f"{word}=1" for word in given if not word.startswith("mount=")]
    return ",".join([*words, *([f"mount={';'.join(mounts)}"] if mounts else [])])
