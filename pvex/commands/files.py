"""`pvex cp`: files into guests, and out of them."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import click

from pvex.context import Context


@click.command()
@click.argument("source")
@click.argument("target")
@click.option("--mode", help="Into a guest: its permissions, like 0644. Default: those of the file here.")
@click.option("--user", help="Into a guest: its owner, a name or number there.")
@click.option("--group", help="Into a guest: its group, a name or number there.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
@click.pass_obj
def cp(
    context: Context, /, source: str, target: str, mode: str | None, user: str | None, group: str | None, quiet: bool
) -> None:
    """Copy a file: one of SOURCE and TARGET is GUEST:/PATH, the other is here; - is stdin, or stdout.

    It is whole, or what was there before stays. A directory: pvex exec 101 -- tar -C /etc -c . | tar -x
    """
    from pvex.copying import download, is_directory, upload
    from pvex.errors import ClientError, UsageError
    from pvex.guests import find_vmid

    there = [_split(word) for word in (source, target)]
    if (there[0] is None) is (there[1] is None):
        raise UsageError("one of the two is GUEST:/PATH, the other is a file here")
    api = context.api
    try:
        if there[1] is not None:
            vmid, path = find_vmid(api, there[1][0]), there[1][1]
            with open(0, "rb", closefd=False) if source == "-" else open(source, "rb") as file:
                about = os.fstat(file.fileno())
                if path.endswith("/") or (source != "-" and is_directory(api, vmid, path)):
                    if source == "-":
                        raise UsageError(f"stdin has no name: say what it is to be called in {path}")
                    path = f"{path.rstrip('/')}/{Path(source).name}"
                if mode is None and source != "-" and stat.S_ISREG(about.st_mode):
                    mode = f"{stat.S_IMODE(about.st_mode) & 0o777:04o}"
                upload(api, file, vmid, path, {"mode": mode, "user": user, "group": group}, quiet=quiet)
        elif there[0] is not None:
            if mode or user or group:
                raise UsageError("--mode, --user and --group are for files that go into a guest")
            vmid, path = find_vmid(api, there[0][0]), there[0][1]
            goal = None if target == "-" else Path(target)
            if goal is not None and goal.is_dir():
                goal = goal / Path(path).name
            download(api, vmid, path, goal, sys.stdout.buffer, quiet=quiet or goal is None)
    except OSError as exc:
        raise ClientError(f"{exc.filename or target}: {exc.strerror}") from exc


def _split(word: str) -> tuple[str, str] | None:
    """The guest and the path of `GUEST:/PATH`; None for a file here."""
    guest, colon, path = word.partition(":")
    return (guest, path) if colon and guest and "/" not in guest and path.startswith("/") else None
