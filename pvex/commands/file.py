"""`pvex file ls|stat|rm`: what stands in a guest's file system; `pvex cp` moves it."""

from __future__ import annotations

import os
import sys
from base64 import b64decode
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import click

from pvex.commands.guests import confirm
from pvex.completion import complete_there
from pvex.context import Context, each, note
from pvex.errors import Problem, UsageError
from pvex.guests import find_vmid
from pvex.paths import split_place
from pvex.show import line, show_list, show_one, size

DELETE_SECONDS = 240.0
"""What removing a large directory may take beyond the usual."""
_PLACE = click.argument("place", metavar="GUEST:/PATH", shell_complete=complete_there)


@click.group()
def file() -> None:
    """Files and directories of guests; `pvex cp` copies them."""


@file.command("ls")
@_PLACE
@click.option("-n", "--limit", type=click.IntRange(1), default=10_000, show_default=True, help="How many at most.")
@click.option("-q", "--quiet", is_flag=True, help="Only names, a line each.")
@click.pass_obj
def list_files(context: Context, /, place: str, limit: int, quiet: bool) -> None:
    """List a directory in a guest, by name; of a file, the file itself.

    A link that is named is followed. Times are UTC.
    """
    from pvex.looking import look, read_directory

    vmid, path = _find(context, place)
    about = look(context.api, vmid, path)
    if about["X-File-Type"] == "directory":
        entries, more = read_directory(context.api, vmid, path, limit)
    else:
        entries, more = [{"name": path, "encoding": "utf-8", **_describe(about)}], False
    if quiet:
        for entry in entries:
            name = entry["name"], entry["encoding"]
            click.echo(_show(*name) if sys.stdout.isatty() else _bytes(*name))
    else:
        show_list(context.output, entries, _COLUMNS)
    if more:
        sys.stdout.flush()
        note(f"there are more than {limit}: --limit shows more")


@file.command("stat")
@_PLACE
@click.pass_obj
def stat_(context: Context, /, place: str) -> None:
    """Show what stands at a path in a guest, without reading it.

    A link is followed. Of FIFOs, sockets and devices `pvex file ls` of their directory tells.
    """
    from pvex.looking import look

    vmid, path = _find(context, place)
    show_one(context.output, {"path": path, **_describe(look(context.api, vmid, path))})


@file.command("rm")
@click.argument("places", metavar="GUEST:/PATH...", nargs=-1, required=True, shell_complete=complete_there)
@click.option("-r", "--recursive", is_flag=True, help="Directories, too, with all that is in them.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask, which --recursive does.")
@click.pass_obj
def remove(context: Context, /, places: tuple[str, ...], recursive: bool, yes: bool) -> None:
    """Remove files in guests; of a link the link, not what it leads to."""
    from pvex.copying import files_url

    for place in places:
        _split(place)
    if recursive:
        confirm(yes, f"Remove {', '.join(map(line, places))} with all that is in there? It cannot be undone.")

    def ask(place: str) -> dict[str, Any]:
        vmid, path = _find(context, place)
        try:
            context.api.call(
                "DELETE", f"{files_url(vmid, path)}&recursive={str(recursive).lower()}", wait=DELETE_SECONDS
            )
        except Problem as problem:
            if recursive or problem.document.get("file_type") != "directory":
                raise
            raise UsageError("it is a directory: --recursive removes it with all that is in it") from problem
        if context.output == "table":
            click.echo(line(place))
        return {"vmid": vmid, "path": path}

    each(context, places, ask)


def _bytes(text: str, encoding: str) -> bytes:
    """A name byte for byte."""
    return b64decode(text) if encoding == "base64" else os.fsencode(text)


def _show(text: str, encoding: str) -> str:
    return line(_bytes(text, encoding).decode(errors="replace"))


def _show_leading(entry: Mapping[str, Any]) -> str:
    """With what a link leads to."""
    name = _show(entry["name"], entry["encoding"])
    return f"{name} -> {_show(entry['target'], entry.get('target_encoding', 'utf-8'))}" if "target" in entry else name


_KINDS = {"directory": "d", "link": "l", "fifo": "p", "socket": "s", "character-device": "c", "block-device": "b"}
_COLUMNS = {
    "MODE": lambda one: _KINDS.get(one["type"], "-") + one["mode"],
    "USER": lambda one: one["user"] or one["uid"],
    "GROUP": lambda one: one["group"] or one["gid"],
    "SIZE": lambda one: size(one["size"]) if one["type"] == "file" else None,
    "MODIFIED": lambda one: one["modified"][:19].replace("T", " "),
    "NAME": _show_leading,
}


def _describe(headers: Mapping[str, str]) -> dict[str, Any]:
    """As a directory's list has it."""
    kind = headers["X-File-Type"]
    return {
        "type": kind,
        "size": int(headers["Content-Length"]) if kind == "file" else None,
        "mode": headers["X-File-Mode"],
        "uid": int(headers["X-File-Uid"]),
        "gid": int(headers["X-File-Gid"]),
        "user": headers.get("X-File-User"),
        "group": headers.get("X-File-Group"),
        "modified": parsedate_to_datetime(headers["Last-Modified"]).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def _find(context: Context, place: str) -> tuple[int, str]:
    guest, path = _split(place)
    return find_vmid(context.api, guest), path


def _split(place: str) -> tuple[str, str]:
    """The guest and the path. Raises UsageError."""
    parts = split_place(place)
    if parts is None:
        raise UsageError(f"{place!r}: give GUEST:/PATH, like web1:/etc/hosts")
    return parts
