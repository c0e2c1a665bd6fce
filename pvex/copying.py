"""Copying one file into a guest, or out of it: whole, or what was there before stays."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import quote_from_bytes

from requests.exceptions import RequestException

from pvex.api import STREAM_SECONDS
from pvex.errors import ClientError, Cut, Problem, Unreachable
from pvex.events import Retry
from pvex.progress import Progress

if TYPE_CHECKING:
    from requests import Response

    from pvex.api import Api

PIECE = 256 << 10
UPLOAD_SECONDS = 300.0
"""How long the gateway may be silent at an upload's end: the guest's disk takes it all then."""


def is_directory(api: Api, vmid: int, path: str) -> bool:
    """Whether a directory stands there; what does not exist is none."""
    try:
        response = api.send("HEAD", _url(vmid, path))
    except Problem as problem:
        if problem.status == 404:
            return False
        raise
    return response.headers.get("X-File-Type") == "directory"


def upload(api: Api, source: BinaryIO, vmid: int, path: str, options: dict[str, Any], *, quiet: bool) -> None:
    """Writes it; what can be read twice is sent again after a cut. Raises ClientError."""
    about = os.fstat(source.fileno())
    total = about.st_size if stat.S_ISREG(about.st_mode) else None
    retry = Retry(60.0)
    while True:
        digest = hashlib.sha256()
        with Progress(path, quiet=quiet) as progress:
            try:
                body = _read(source, digest, progress, total)
                answer = api.send("PUT", _url(vmid, path), data=body, query=options, read=UPLOAD_SECONDS).json()
            except ClientError as error:
                if total is None:
                    raise
                retry.after(error, None)
                source.seek(0)
                continue
        if answer["sha256"] != digest.hexdigest():
            raise ClientError(f"{path}: what arrived is not what was sent; copy it again")
        return


def download(api: Api, vmid: int, path: str, target: Path | None, out: BinaryIO, *, quiet: bool) -> None:
    """Reads it to `out`, or by a file beside it to `target`; after a cut it goes on. Raises ClientError."""
    if target is None:
        _fetch(api, vmid, path, out, quiet=quiet)
        return
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            mode = _fetch(api, vmid, path, file, quiet=quiet)
            os.fchmod(file.fileno(), mode & 0o777)
        beside.replace(target)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise


def _fetch(api: Api, vmid: int, path: str, out: BinaryIO, *, quiet: bool) -> int:
    """All of it to `out`; its mode."""
    retry = Retry(60.0)
    done, etag = 0, ""
    with Progress(path, quiet=quiet) as progress:
        while True:
            headers = {"Range": f"bytes={done}-", "If-Range": etag} if done else {}
            try:
                response = api.send("GET", _url(vmid, path), headers=headers, stream=True, read=STREAM_SECONDS)
                with response:
                    if response.headers.get("X-File-Type") != "file":
                        raise ClientError(f"{path} is a directory: `pvex exec {vmid} -- tar -C {path} -c . | tar -x`")
                    if done and (response.status_code != 206 or response.headers.get("ETag") != etag):
                        raise ClientError(f"{path} was changed while it was copied; copy it again")
                    etag = response.headers.get("ETag", "")
                    length = response.headers.get("Content-Length")
                    total = done + int(length) if length is not None else None
                    for piece in _pieces(response):
                        out.write(piece)
                        done += len(piece)
                        retry.succeeded()
                        progress.show(done, total)
                    if total is not None and done != total:
                        raise Cut(f"{path} broke off after {done} bytes")
                    out.flush()
                    return int(response.headers.get("X-File-Mode", "644"), 8)
            except (Cut, Unreachable, Problem) as error:
                retry.after(error, None)


def _pieces(response: Response) -> Iterator[bytes]:
    """The body as it comes. Raises Cut."""
    try:
        yield from response.iter_content(PIECE)
    except RequestException as exc:
        raise Cut("the download broke off") from exc


def _read(source: BinaryIO, digest: Any, progress: Progress, total: int | None) -> Iterator[bytes]:
    done = 0
    while piece := source.read(PIECE):
        digest.update(piece)
        done += len(piece)
        yield piece
        progress.show(done, total)


def _url(vmid: int, path: str) -> str:
    return f"/guests/{vmid}/files?path={quote_from_bytes(os.fsencode(path), safe='/')}"
