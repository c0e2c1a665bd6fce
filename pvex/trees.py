"""Directories into guests and out of them, as tar archives that neither side keeps whole."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvex.context import note
from pvex.copying import TAR, pieces, put, read
from pvex.errors import ClientError, Cut
from pvex.events import Retry
from pvex.packing import Packer, survey
from pvex.progress import Progress
from pvex.show import plain
from pvex.signals import Left
from pvex.unpacking import Unpacker, refuse

_HALFWAY = "every file that has come is whole, others are missing: copy it again"

if TYPE_CHECKING:
    from requests import Response

    from pvex.api import Api


def upload_tree(
    api: Api, root: str, vmid: int, into: str, prefix: str, options: dict[str, Any], *, quiet: bool
) -> None:
    """Copies the directory `root` to `prefix` in the guest's directory `into`; after a cut it begins anew.

    More than an archive may hold goes in several. Raises ClientError.
    """
    found = survey(root)
    retry = Retry(60.0)
    while True:
        with _left_halfway(), Progress(os.path.join(into, prefix), found.size, quiet=quiet) as progress:
            try:
                packer = Packer(root, prefix)
                while not packer.done:
                    _unpack_there(api, vmid, into, progress.watch(packer.archive()), options)
                break
            except ClientError as error:
                retry.after(error, None)
    if found.left_out:
        note(f"left out: {found.left_out} (FIFOs, sockets, devices)")


def upload_archive(api: Api, vmid: int, into: str, options: dict[str, Any], *, quiet: bool) -> None:
    """Has the archive on stdin unpacked into a directory of the guest. Raises ClientError."""
    with Progress(into, quiet=quiet) as progress, _left_halfway():
        _unpack_there(api, vmid, into, progress.watch(read(sys.stdin.buffer)), options)


def unpack_here(response: Response, path: str, target: Path, *, made: bool, follow: bool, quiet: bool) -> None:
    """The archive of a guest's directory into `target`: a new one, if it is to be `made`. Raises ClientError."""
    try:
        if made:
            target.mkdir()
        root = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    except OSError as exc:
        raise refuse(str(target), exc) from exc
    try:
        unpacker = Unpacker(root, str(target))
        with Progress(path, quiet=quiet) as progress, _left_halfway():
            unpacker.unpack(progress.watch(pieces(response)))
    finally:
        os.close(root)
    if unpacker.left_out:
        note(plain(unpacker.left_out))


def _unpack_there(api: Api, vmid: int, into: str, body: Iterator[bytes], options: dict[str, Any]) -> None:
    put(api, vmid, into, body, options, **{"Content-Type": TAR})


@contextmanager
def _left_halfway() -> Iterator[None]:
    """Whatever breaks it off, people are told what there is now. Raises Left and Cut."""
    try:
        yield
    except KeyboardInterrupt:
        raise Left(f"left; {_HALFWAY}", signal.SIGINT) from None
    except Left as left:
        raise Left(f"left; {_HALFWAY}", left.number) from None
    except Cut as cut:
        raise Cut(f"{cut}; {_HALFWAY}") from cut
