"""Queries and replies of files in guests."""

from __future__ import annotations

from typing import Annotated, NotRequired, TypedDict

from pydantic import AfterValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError

from gateway.api.models.execs import PAGE_MAX, Query
from gateway.files.wire import MAX_PATH, FileType


def _check_path(path: bytes) -> bytes:
    if not path.startswith(b"/") or b"\x00" in path:
        raise PydanticCustomError("invalid_path", "a path is absolute, like /etc/hosts, and holds no NUL")
    return path


Path = Annotated[
    bytes,
    Field(
        min_length=1,
        max_length=MAX_PATH,
        description="The absolute path in the guest. Percent-encode it byte for byte: `%0A`, `%FF` and the like name "
        "files of which no text does.",
    ),
    AfterValidator(_check_path),
]
Owner = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.@$-]{1,256}$")]


class FileQuery(Query):
    """Which file; of a directory which page of its entries."""

    path: Path
    limit: int = Field(default=PAGE_MAX, ge=1, le=PAGE_MAX, description="Of a directory: how many entries at most.")
    after: bytes = Field(
        default=b"",
        max_length=MAX_PATH,  # of names in file systems that count characters, 255 of which are more bytes
        description="Of a directory: entries behind this name in the order of their bytes, the last one of the page "
        "before, percent-encoded like `path`.",
    )


class WriteQuery(Query):
    """Which file, and what it shall be like; what is not given stays as it was, or is root's and 0644 if it is new."""

    path: Path
    mode: str | None = Field(
        default=None, pattern=r"^[0-7]{1,4}$", description="Its permissions, in octal: `0644`, or `4755`."
    )
    user: Owner | None = Field(default=None, description="Its owner: a name or number of the guest's own.")
    group: Owner | None = Field(default=None, description="Its group: a name or number of the guest's own.")
    keep: list[Annotated[str, StringConstraints(min_length=1, max_length=1024)]] = Field(
        default=[],
        max_length=64,
        description="With an archive, repeatable: a path in it, like `.env` or `data`. What is there at this path, or "
        "below it, stays as it is; what is not is made.",
    )


class DeleteQuery(Query):
    """What is to be removed; a link itself, not what it leads to."""

    path: Path
    recursive: bool = Field(
        default=False, description="A directory, too, with all that is in it. What is mounted in it stays, and it."
    )


class FileMetadata(TypedDict):
    """Of whatever stands at a path. `mode` is octal; `user` and `group` are null where the guest has no name for the
    number."""

    mode: str
    uid: int
    gid: int
    user: str | None
    group: str | None
    modified: str


class FileInfo(FileMetadata):
    """What stands at a path. A `name` that is no UTF-8 is base64, and so does `encoding` say; of a link's `target`,
    `target_encoding`. `mode` is octal; `user` and `group` are null where the guest has no name for the number."""

    name: str
    encoding: str
    type: FileType
    size: int
    target: NotRequired[str]
    target_encoding: NotRequired[str]


class DirectoryList(TypedDict):
    """A page of a directory, in the order of its names' bytes. `next` is the `after` of the page behind it,
    percent-encoded; null on the last."""

    entries: list[FileInfo]
    next: str | None


class FileWritten(TypedDict):
    """What was sent: its bytes and their hash. Of a file: how it stands there now. Of an archive: how many entries were
    made of it, and how many `keep` left alone."""

    size: int
    sha256: str
    audit_id: str
    created: NotRequired[bool]
    mode: NotRequired[str]
    uid: NotRequired[int]
    gid: NotRequired[int]
    user: NotRequired[str | None]
    group: NotRequired[str | None]
    modified: NotRequired[str]
    entries: NotRequired[int]
    kept: NotRequired[int]
