"""`pvex run`: one command in many guests."""

from __future__ import annotations

import fnmatch
import sys
from typing import TYPE_CHECKING, Any

import click

from pvex.commands.exec import ExecCommand, build_spec, new_key, take_command
from pvex.completion import complete_guests
from pvex.context import Context, note

if TYPE_CHECKING:
    from pvex.api import Api
    from pvex.fleet import Share

_SELECTORS = ("tag", "pool", "node", "status", "type", "name")


@click.command("run", cls=ExecCommand, context_settings={"allow_interspersed_args": False})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, callback=take_command)
@click.option(
    "-l",
    "--select",
    "selectors",
    multiple=True,
    metavar="KEY=VALUE",
    shell_complete=lambda _context, _parameter, typed: [f"{key}=" for key in _SELECTORS if key.startswith(typed)],
    help=f"Guests that fit all of these: {', '.join(_SELECTORS)} (with wildcards). Repeatable.",
)
@click.option(
    "-g",
    "--guest",
    "guests",
    multiple=True,
    shell_complete=complete_guests,
    help="This guest; repeatable, and with commas between.",
)
@click.option("-a", "--all", "everywhere", is_flag=True, help="Every guest that the token may see.")
@click.option("-P", "--parallel", type=click.IntRange(1, 256), default=16, show_default=True, help="So many at a time.")
@click.option("--max-errors", type=click.IntRange(0), help="Begin no more after so many failures and one.")
@click.option("-u", "--user", help="Run as this user.")
@click.option("-w", "--workdir", help="The working directory.")
@click.option("-e", "--env", multiple=True, help="NAME=VALUE; NAME alone takes our own value. Repeatable.")
@click.option("--timeout", type=float, metavar="SECONDS", help="End each after so long.")
@click.option("--queue-timeout", type=float, metavar="SECONDS", help="Wait so long for a place.")
@click.pass_obj
def run(
    context: Context,
    /,
    command: tuple[str, ...],
    selectors: tuple[str, ...],
    guests: tuple[str, ...],
    everywhere: bool,
    parallel: int,
    max_errors: int | None,
    **options: Any,
) -> None:
    """Run COMMAND in many guests, and tell how it went in each.

    Exit code 0: it was 0 in all of them; 1: it was not, or some could not be asked. Lines are shown behind the guest's
    name; on a terminal a table follows what runs. `-o json` prints everything when it is over.
    """
    from pvex.fleet import Fleet
    from pvex.live import Live
    from pvex.show import dump
    from pvex.signals import leaving

    if not (selectors or guests or everywhere):
        raise click.UsageError("say in which guests: -l tag=web, -g 101,102, or --all")
    spec = build_spec(command, on_disconnect="continue", **options)
    shares = select(context.api, selectors, guests)
    if not shares:
        note("no guest fits")
        return
    table = context.output == "table"
    live = Live(shares) if table and sys.stdout.isatty() else None
    tell = live.tell if live else _plain if table else _silent
    fleet = Fleet(context.api, shares, spec, new_key, tell, max_errors=max_errors)
    try:
        with leaving("left; the gateway was asked to end what ran"):
            fleet.run(parallel)
    finally:
        if live:
            live.finish()
    good = sum(share.good for share in shares)
    if table:
        note(f"{good} of {len(shares)} guests: exit code 0")
    else:
        dump(context.output, [share.to_json() for share in shares])
    sys.exit(0 if good == len(shares) else 1)


def select(api: Api, selectors: tuple[str, ...], guests: tuple[str, ...]) -> list[Share]:
    """The guests that are meant, by vmid; templates never are. Raises UsageError."""
    from pvex.errors import UsageError
    from pvex.fleet import Share
    from pvex.guests import find_vmid

    wanted = {find_vmid(api, word) for text in guests for word in text.split(",") if word}
    if guests and not selectors:
        return [Share(vmid, str(vmid)) for vmid in sorted(wanted)]
    query: dict[str, str] = {}
    for selector in selectors:
        key, equals, value = selector.partition("=")
        if not equals or key not in _SELECTORS or key in query:
            raise UsageError(f"--select takes KEY=VALUE, each key once: {', '.join(_SELECTORS)}")
        query[key] = value
    name = query.pop("name", "*")
    found = [guest for guest in api.pages("/guests", "guests", query) if not guest["template"]]
    return [
        Share(guest["vmid"], guest["name"] or str(guest["vmid"]))
        for guest in found
        if fnmatch.fnmatchcase(guest["name"] or "", name) and (not wanted or guest["vmid"] in wanted)
    ]


def _plain(share: Share, stream: str | None, line: bytes) -> None:
    """Lines behind the guest's name, and what became of it on stderr."""
    if stream is not None:
        out = (sys.stdout if stream == "stdout" else sys.stderr).buffer
        out.write(share.name.encode() + b" | " + line + b"\n")
        out.flush()
    elif share.state == "skipped":
        note(f"{share.name}: not begun")
    elif share.error or (share.state == "ended" and share.code):
        note(f"{share.name}: {share.error or f'exit code {share.code}'}")


def _silent(share: Share, stream: str | None, line: bytes) -> None:
    """All of it is shown at the end."""
