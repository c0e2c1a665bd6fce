"""What stands at a path in a guest, looked at and not read: one place, or what is in a directory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pvex.copying import check_file, files_url
from pvex.errors import Problem

if TYPE_CHECKING:
    from pvex.api import Api

PAGE = 1000


def look(api: Api, vmid: int, path: str) -> Mapping[str, str]:
    """Its type, mode, owner, size and time, as header fields. Raises ClientError.

    A refusal of HEAD has no words, so that one is asked for again: by one byte, where it is a file meanwhile.
    """
    url = files_url(vmid, path)
    try:
        response = api.send("HEAD", url)
    except Problem:
        response = api.send("GET", url, headers={"Range": "bytes=0-0"}, query={"limit": 1}, stream=True)
    with response:
        check_file(api, response)
        return response.headers


def read_directory(api: Api, vmid: int, path: str, most: int) -> tuple[list[dict[str, Any]], bool]:
    """Up to `most` entries, in the order of their names' bytes, and whether there are more. Raises ClientError."""
    url = files_url(vmid, path)
    entries: list[dict[str, Any]] = []
    behind = ""
    while True:
        page = api.get(f"{url}&limit={min(PAGE, most - len(entries))}{behind}")
        entries += page["entries"]
        if page["next"] is None or len(entries) >= most or not page["entries"]:
            return entries, page["next"] is not None
        behind = f"&after={page['next']}"
