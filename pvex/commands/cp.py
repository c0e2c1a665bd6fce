"""`pvex cp`: files and directories into guests, and out of them, as `docker cp` does."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pvex.completion import complete_places
from pvex.context import Context
from pvex.errors import ClientError, Problem, UsageError
from pvex.paths import split_place

if TYPE_CHECKING:
    from requests import Response

    from pvex.api import Api


@click.command()
@click.argument("source", shell_complete=complete_places)
@click.argument("target", shell_complete=complete_places)
@click.option("--mode", help="A file into a guest: its permissions, like 0644. Default: those that it has here.")
@click.option("--user", help="Into a guest: the owner, a name or number there. Default: that of the old file, or root.")
@click.option("--group", help="Into a guest: the group, a name or number there.")
@click.option(
    "--keep",
    multiple=True,
    metavar="PATH",
    help="A directory into a guest: what is there at or below this path of it stays, like .env. Repeatable.",
)
@click.option("-r", "--recursive", is_flag=True, help="Nothing changes: directories are copied with all in them.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
@click.pass_obj
def cp(context: Context, /, source: str, target: str, recursive: bool, quiet: bool, **options: Any) -> None:
    """Copy a file or a directory into a guest, or out of one.

    One of SOURCE and TARGET is GUEST:/PATH, the other is here. A directory goes into TARGET under its own name where
    TARGET is a directory, and else becomes TARGET; of SOURCE/. the content is copied. A file is whole, or what was
    there before stays. - is stdin or stdout: a file, or a tar archive where a directory stands on the other side.

    Into a guest all is root's unless --user and --group say otherwise. Links that are named are followed; those in a
    directory stay links, and nothing is written through one. FIFOs, sockets and devices are left out.
    """
    from pvex.guests import find_vmid
    from pvex.signals import leaving

    there = [split_place(word) for word in (source, target)]
    given = {name: value for name, value in options.items() if value}
    with leaving("left; what was there before stays"), _placed(source if there[0] else target):
        if there[0] is not None and there[1] is not None:
            raise UsageError(f"one of the two has to be here: pvex cp {source} - | pvex cp - {target}")
        if there[1] is not None:
            _copy_in(context.api, source, find_vmid(context.api, there[1][0]), there[1][1], given, quiet=quiet)
        elif there[0] is None:
            raise UsageError("one of the two is GUEST:/PATH, the other is a file or directory here")
        elif given:
            raise UsageError("--mode, --user, --group and --keep are for what goes into a guest")
        else:
            _copy_out(context.api, find_vmid(context.api, there[0][0]), there[0][1], target, quiet=quiet)


@contextmanager
def _placed(place: str) -> Iterator[None]:
    """What the gateway refuses is told with the place in the guest."""
    try:
        yield
    except Problem as problem:
        raise problem.at(place) from problem


def _copy_in(api: Api, source: str, vmid: int, path: str, options: dict[str, Any], *, quiet: bool) -> None:
    from pvex.copying import is_directory, upload
    from pvex.trees import upload_archive, upload_tree

    into_directory = path.endswith("/") or is_directory(api, vmid, path)
    if os.path.isdir(source) or (source == "-" and into_directory):
        if "mode" in options:
            raise UsageError("--mode is for a file: those of a directory have their own")
        if source == "-":
            upload_archive(api, vmid, path, options, quiet=quiet)
            return
        into, prefix = (path, _name(source)) if into_directory else os.path.split(path)
        keep = [os.path.join(prefix, word) for word in options.pop("keep", ())]
        upload_tree(api, source, vmid, into, prefix, {**options, "keep": keep}, quiet=quiet)
        return
    if "keep" in options:
        raise UsageError("--keep is for a directory")
    try:
        file = open(0, "rb", closefd=False) if source == "-" else open(source, "rb")  # noqa: SIM115  # closed below
    except OSError as exc:
        raise ClientError(f"{source}: {exc.strerror}") from exc
    with file:
        about = os.fstat(file.fileno())
        if source != "-" and stat.S_ISREG(about.st_mode):
            options.setdefault("mode", f"{stat.S_IMODE(about.st_mode) & 0o777:04o}")
        upload(api, file, vmid, os.path.join(path, _name(source)) if into_directory else path, options, quiet=quiet)


def _copy_out(api: Api, vmid: int, path: str, target: str, *, quiet: bool) -> None:
    from pvex.copying import download, fetch, open_source

    with open_source(api, vmid, path) as response:
        if target == "-" and response.headers.get("X-File-Type") == "file":
            fetch(api, vmid, path, response, sys.stdout.buffer, quiet=True)
            sys.stdout.buffer.flush()
        elif target == "-":
            _pass_on(response)
        elif response.headers.get("X-File-Type") == "directory":
            _copy_tree_out(response, path, Path(target), quiet=quiet)
        else:
            goal = Path(target)
            if goal.is_dir():
                goal = goal / _name(path)
            elif target.endswith("/"):
                raise ClientError(f"{target}: there is no such directory")
            try:
                download(api, vmid, path, response, goal, quiet=quiet)
            except OSError as exc:
                raise ClientError(f"{goal}: {exc.strerror}") from exc


def _copy_tree_out(response: Response, path: str, target: Path, *, quiet: bool) -> None:
    from pvex.trees import unpack_here

    goal = target
    if target.is_dir():
        goal = target / _name(path)
    elif os.path.lexists(target):
        raise ClientError(f"{target} is no directory, and {path} is one")
    # Only what was named is followed, should it be a link: one below it may be from an earlier copy of that guest.
    unpack_here(response, path, goal, made=not os.path.lexists(goal), follow=goal == target, quiet=quiet)


def _pass_on(archive: Response) -> None:
    from pvex.copying import pieces

    if sys.stdout.isatty():
        raise UsageError("that is a directory, and - a tar archive of it: send it to a file or a program")
    for piece in pieces(archive):
        sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


def _name(path: str) -> str:
    """What a copy is called where it goes into a directory; nothing where only its content goes there."""
    name = os.path.basename(path.rstrip("/"))
    return "" if name in (".", "..") else name
