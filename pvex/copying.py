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
from pvex.holes import HoleWriter
from pvex.progress import Progress

if TYPE_CHECKING:
    from requests import Response

    from pvex.api import Api

TAR = "application/x-tar"
PIECE = 256 << 10
UPLOAD_SECONDS = 300.0
"""How long the gateway may be silent at an upload's end: the guest's disk takes it all then."""


def is_directory(api: Api, vmid: int, path: str) -> bool:
    """Whether a directory stands there. What cannot be told is told by the request that follows: HEAD has no words."""
    try:
        return api.send("HEAD", files_url(vmid, path)).headers.get("X-File-Type") == "directory"
    except Problem:
        return False


def upload(api: Api, source: BinaryIO, vmid: int, path: str, options: dict[str, Any], *, quiet: bool) -> None:
    """Writes it; what can be read twice is sent again after a cut. Raises ClientError."""
    about = os.fstat(source.fileno())
    total = about.st_size if stat.S_ISREG(about.st_mode) else None
    retry = Retry(60.0)
    while True:
        with Progress(path, total, quiet=quiet) as progress:
            try:
                put(api, vmid, path, progress.watch(read(source)), options)
            except ClientError as error:
                if total is None:
                    raise
                retry.after(error, None)
                source.seek(0)
                continue
        return


def put(api: Api, vmid: int, path: str, body: Iterator[bytes], options: dict[str, Any], **headers: str) -> None:
    """Sends it, and compares what has arrived. Raises ClientError."""
    digest = hashlib.sha256()

    def hashed() -> Iterator[bytes]:
        for piece in body:
            digest.update(piece)
            yield piece

    url = files_url(vmid, path)
    answer = api.read(api.send("PUT", url, data=hashed(), query=options, headers=headers, read=UPLOAD_SECONDS))
    if answer["sha256"] != digest.hexdigest():
        raise ClientError(f"{path}: what arrived is not what was sent; copy it again")


def read(source: BinaryIO) -> Iterator[bytes]:
    """All of it. Raises ClientError, never OSError, which would be taken for the connection's."""
    try:
        while piece := source.read(PIECE):
            yield piece
    except OSError as exc:
        raise ClientError(f"{source.name}: {exc.strerror}") from exc


def open_source(api: Api, vmid: int, path: str, **headers: str) -> Response:
    """What stands there, on its way: a file, or a directory's archive; X-File-Type tells. Raises ClientError."""
    headers = {"Accept": f"{TAR}, */*;q=0.5", **headers}
    response = api.send("GET", files_url(vmid, path), headers=headers, stream=True, read=STREAM_SECONDS)
    check_file(api, response)
    return response


def check_file(api: Api, response: Response) -> None:
    """Raises ClientError for an answer that tells of no file, as no gateway's does."""
    if "X-File-Type" not in response.headers:
        response.close()
        raise ClientError(f"{api.profile.url} does not say what stands there: is that a gateway?")


def download(api: Api, vmid: int, path: str, first: Response, target: Path, *, quiet: bool) -> None:
    """A file, of which `first` is the beginning, by another one beside it to `target`. Raises ClientError."""
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            writer = HoleWriter(file)
            fetch(api, vmid, path, first, writer, quiet=quiet)
            writer.finish()
            os.fchmod(file.fileno(), int(first.headers.get("X-File-Mode", "644"), 8) & 0o777 & ~read_umask())
        beside.replace(target)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise


def fetch(api: Api, vmid: int, path: str, first: Response, out: BinaryIO | HoleWriter, *, quiet: bool) -> None:
    """All of a file to `out`; after a cut it goes on where it was. Raises ClientError."""
    retry = Retry(60.0)
    retry.succeeded()
    done, etag = 0, ""
    response: Response | None = first
    with Progress(path, quiet=quiet) as progress:
        while True:
            try:
                if response is None:
                    headers = {"Range": f"bytes={done}-", "If-Range": etag} if done else {}
                    response = open_source(api, vmid, path, **headers)
                with response:
                    if done and (response.status_code != 206 or response.headers.get("ETag") != etag):
                        raise ClientError(f"{path} was changed while it was copied; copy it again")
                    etag = response.headers.get("ETag", "")
                    length = response.headers.get("Content-Length")
                    progress.total = done + int(length) if length is not None else None
                    for piece in pieces(response):
                        out.write(piece)
                        done += len(piece)
                        retry.succeeded()
                        progress.show(done)
                    if progress.total is not None and done != progress.total:
                        raise Cut(f"{path} broke off after {done} bytes")
                    return
            except (Cut, Unreachable, Problem) as error:
                retry.after(error, None)
                response = None


def pieces(response: Response) -> Iterator[bytes]:
    """The body as it comes. Raises Cut."""
    try:
        yield from response.iter_content(PIECE)
    except RequestException as exc:
        raise Cut("the download broke off") from exc


def read_umask() -> int:
    """Which permissions new files of ours do not get."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def files_url(vmid: int, path: str) -> str:
    """The path of a request about a file; its name byte for byte."""
    return f"/guests/{vmid}/files?path={quote_from_bytes(os.fsencode(path), safe='/')}"
