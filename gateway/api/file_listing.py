"""A directory in a guest, told in pages."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import islice
from urllib.parse import quote_from_bytes

from gateway.api.file_metadata import metadata
from gateway.api.file_session import show_name
from gateway.api.models.files import DirectoryList, FileInfo, FileQuery
from gateway.errors_files import DirectoryTooLarge, FileNotFound
from gateway.files.accounts import Accounts
from gateway.files.session import Session
from gateway.files.wire import FileType

MAX_ENTRIES = 1_000_000
"""Names of one directory that are looked at for a page."""


def list_directory(session: Session, query: FileQuery, *, bare: bool) -> DirectoryList:
    """One page: the names are all looked at, the entries are only those of the page. `bare`: it is not wanted."""
    if bare:
        return {"entries": [], "next": None}
    names = heapq.nsmallest(query.limit + 1, _behind(session.names(query.path), query.after))
    page = names[: query.limit]
    accounts = session.accounts()
    entries = [info for name in page if (info := _entry(session, query.path, name, accounts)) is not None]
    return {"entries": entries, "next": quote_from_bytes(page[-1], safe="") if len(names) > len(page) else None}


def _behind(names: Iterator[bytes], after: bytes) -> Iterator[bytes]:
    yield from (name for name in islice(names, MAX_ENTRIES) if name > after)
    if next(names, None) is not None:
        raise DirectoryTooLarge(f"it has more than {MAX_ENTRIES} entries; look at it with a command in the guest")


def _entry(session: Session, path: bytes, name: bytes, accounts: Accounts) -> FileInfo | None:
    """An entry of a directory; None if it has gone meanwhile."""
    try:
        status = session.look(path.rstrip(b"/") + b"/" + name, follow=False)
    except FileNotFound:
        return None
    text, encoding = show_name(name)
    info: FileInfo = {
        "name": text,
        "encoding": encoding,
        "type": status.type,
        "size": status.size,
        **metadata(status, accounts),  # type: ignore[typeddict-item]  # which has no `target` of its own
    }
    if status.type is FileType.LINK:
        info["target"], info["target_encoding"] = show_name(status.target)
    return info
