"""Copying one file into a guest, or out of it, in pieces: whole, or what was there before stays."""

from __future__ import annotations

import hashlib
import http.client
import os
from collections.abc import Iterator
from typing import Any, BinaryIO
from urllib.parse import quote_from_bytes

from .client import PIECE, Client, Retry
from .wire import Cut, Failure

STREAM_SECONDS = 60.0
UPLOAD_SECONDS = 300.0
"""How long the gateway may be silent at an upload's end: the guest's disk takes it all then."""


class NotAFile(Failure):
    """What stands there is none."""


def upload(client: Client, vmid: int, source: BinaryIO, path: bytes, owner: str | None) -> None:
    """Writes the file at `path`; a new one is `owner`'s, or root's. Raises Failure."""

    def attempt() -> None:
        source.seek(0)
        digest = hashlib.sha256()
        answer = client.call(
            "PUT",
            _url(vmid, path),
            query={"user": owner} if owner else None,
            body=_read(source, digest),
            length=os.fstat(source.fileno()).st_size,
            read=UPLOAD_SECONDS,
        )
        if answer["sha256"] != digest.hexdigest():
            raise Cut("what arrived is not what was sent")

    client.again(attempt)


def download(client: Client, vmid: int, path: bytes, target: BinaryIO) -> None:
    """Reads the file at `path`; after a cut it goes on, or begins anew where the file has changed. Raises Failure."""
    retry = Retry(client)
    done, etag = 0, ""
    while True:
        headers = {"Range": f"bytes={done}-", "If-Range": etag} if done else {}
        try:
            response = client.send("GET", _url(vmid, path), headers=headers, read=STREAM_SECONDS)
            if response.headers.get("X-File-Type") != "file":
                response.read()
                raise NotAFile("it is a directory")
            if response.status != 206:
                done = 0
                target.seek(0)
                target.truncate()
            etag = response.headers.get("ETag", "")
            for piece in _receive(client, response):
                target.write(piece)
                done += len(piece)
                retry.succeeded()
            return
        except Failure as failure:
            retry.after(failure)


def _receive(client: Client, response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The body as it comes. Raises Cut."""
    try:
        while piece := response.read(PIECE):
            yield piece
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)
    except (OSError, http.client.HTTPException) as exc:
        raise client.cut(exc) from exc


def _read(source: BinaryIO, digest: Any) -> Iterator[bytes]:
    while piece := source.read(PIECE):
        digest.update(piece)
        yield piece


def _url(vmid: int, path: bytes) -> str:
    return f"/guests/{vmid}/files?path={quote_from_bytes(path, safe='/')}"
