"""`pve-exec-gateway audit` and the start of the audit writer."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from gateway.audit.record import Event
from gateway.cli_context import configured
from gateway.errors import ConfigError, GatewayError

if TYPE_CHECKING:
    from gateway.config import AuditConfig, Config


def moment(text: str) -> str:
    """A time as records carry it, from RFC 3339 or from how long ago it was."""
    from gateway.auth.terms import parse_duration

    try:
        if text.endswith(("s", "m", "h", "d", "w")):
            found = datetime.now(UTC) - parse_duration(text)
        else:
            found = datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError, GatewayError):
        raise click.BadParameter(f"{text!r} is neither like 2026-11-21T15:00:00Z nor like 2h") from None
    return found.isoformat(timespec="microseconds").replace("+00:00", "Z")


@click.group()
def audit() -> None:
    """The audit log."""


@audit.command()
@click.argument("export", required=False, type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "--anchors",
    type=click.File("r"),
    help="Anchors from the journal: `journalctl -t pve-exec-gateway-audit -o cat`; - is stdin.",
)
@configured
@click.pass_context
def verify(context: click.Context, config: Config, export: str | None, anchors: TextIO | None) -> None:
    """Check the log's chain, or that of an EXPORT: exit 0 when it is whole, 1 naming the first wrong record."""
    from gateway.audit.verify import verify_command

    if export is not None:
        context.exit(_verify_export(config, export))
    verdict, code = verify_command(config.audit.directory, config.audit.key_file, anchors or ())
    for note in verdict.notes:
        click.echo(f"note: {note}", err=True)
    if verdict.fault:
        click.echo(str(verdict.fault))
    else:
        spread = f"records {verdict.first} to {verdict.last} in {verdict.files} files"
        pruned = f" ({verdict.unchecked} more of pruned records)" if verdict.unchecked else ""
        click.echo(f"good: {spread}, {verdict.anchors} anchors{pruned}")
    context.exit(code)


def _verify_export(config: Config, export: str) -> int:
    from gateway.audit.export import check_export
    from gateway.audit.keys import load_keys

    keys = load_keys(config.audit.key_file)
    with contextlib.ExitStack() as stack:
        raw = sys.stdin.buffer if export == "-" else stack.enter_context(open(export, "rb"))
        text = io.TextIOWrapper(raw, encoding="utf-8", errors="surrogateescape", newline="")
        records, fault = check_export(text, keys)
    click.echo(f"{export}:{fault.line}: {fault.detail}" if fault else f"good: {records} records")
    return 1 if fault else 0


@audit.command()
@click.option("-n", "--lines", default=20, show_default=True, type=click.IntRange(0, 1_000_000), help="How many.")
@click.option("-f", "--follow", is_flag=True, help="Go on as records come, over rotations.")
@click.option("--json", "as_json", is_flag=True, help="Whole records, one a line.")
@click.option("--event", "events", multiple=True, type=click.Choice([str(event) for event in Event]), metavar="EVENT")
@click.option("--token", help="The id of the token that acted, or that was acted on.")
@click.option("--vmid", type=click.IntRange(100, 999_999_999))
@click.option("--exec", "exec_id")
@click.option("--request", "request_id")
@click.option("--outcome", help="exited, timeout, action_not_granted, ...")
@click.option("--since", type=moment, help="A time (RFC 3339), or so long ago: 2h, 3d.")
@configured
def tail(
    config: Config,
    lines: int,
    follow: bool,
    as_json: bool,
    events: tuple[str, ...],
    token: str | None,
    vmid: int | None,
    exec_id: str | None,
    request_id: str | None,
    outcome: str | None,
    since: str | None,
) -> None:
    """Print the newest records that fit every option, the last one last."""
    from gateway.audit import show
    from gateway.audit.keys import load_keys
    from gateway.audit.record import canonical
    from gateway.audit.search import Query

    directory, keys = config.audit.directory, load_keys(config.audit.key_file)
    query = Query(
        events=events,
        token_id=token,
        vmid=vmid,
        exec_id=exec_id,
        request_id=request_id,
        outcome=outcome,
        since=since,
    )

    def tell(record: dict[str, Any]) -> None:
        click.echo(canonical(record) if as_json else show.describe(record))

    newest = show.newest_seq(directory, keys)
    for record in show.last_records(directory, keys, replace(query, after=newest + 1), lines):
        tell(record)
    if follow:
        for record in show.follow(directory, keys, replace(query, after=newest)):
            tell(record)


@audit.command()
@click.option("--since", type=moment, help="From this time on (RFC 3339), or from so long ago: 2h, 3d.")
@click.option("--until", type=moment, help="Before this time.")
@click.option("--first", type=click.IntRange(1), help="From this record on.")
@click.option("--last", type=click.IntRange(1), help="Up to this record.")
@click.option("--format", "form", type=click.Choice(["jsonl", "csv"]), default="jsonl", show_default=True)
@click.option("-o", "--output", type=click.Path(dir_okay=False, allow_dash=True), default="-", help="A new file, 0600.")
@configured
def export(
    config: Config,
    since: str | None,
    until: str | None,
    first: int | None,
    last: int | None,
    form: str,
    output: str,
) -> None:
    """Write a range of the log, without gaps, for `audit verify FILE` to check elsewhere with the key alone."""
    from gateway.audit.export import Span
    from gateway.audit.export import export as export_lines
    from gateway.audit.keys import load_keys

    keys = load_keys(config.audit.key_file)
    written = export_lines(config.audit.directory, keys, Span(since, until, first, last), as_csv=form == "csv")
    with contextlib.ExitStack() as stack:
        file = sys.stdout if output == "-" else stack.enter_context(open(output, "x", opener=_private, newline=""))
        file.writelines(written)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


@audit.command()
def schema() -> None:
    """Print the JSON Schema of a record."""
    import json

    from gateway.api.models.audit_records import record_schema

    click.echo(json.dumps(record_schema(), indent=2))


@audit.command("hash")
@configured
def hash_value(config: Config) -> None:
    """Print the keyed hash of the value on stdin (less one newline at its end), and where it stands."""
    from gateway.audit.keys import load_keys
    from gateway.audit.verify import find_hash

    value = sys.stdin.buffer.read().removesuffix(b"\n")
    keys = load_keys(config.audit.key_file)
    click.echo(keys.redactor.hash(value))
    for line in find_hash(config.audit.directory, keys, value):
        assert line.sealed is not None
        click.echo(f"{line.file}:{line.number}: {line.sealed.record['ts']} {line.sealed.record.get('exec_id', '')}")


def start_writer(config: AuditConfig) -> None:
    """Becomes the audit writer. Its key is made at the first start; a log whose key is gone is an error."""
    from gateway.audit.keys import create_key
    from gateway.audit.settings import AuditSettings, exec_writer

    if not config.key_file.exists():
        if config.directory.is_dir() and any(config.directory.iterdir()):
            raise ConfigError(
                f"{config.directory} holds a log, but its key {config.key_file} is gone: restore the key,"
                " or move the log away to begin a new one"
            )
        _make_private(config.key_file.parent)
        create_key(config.key_file)
    exec_writer(
        AuditSettings(
            directory=config.directory,
            socket=config.socket,
            key_file=config.key_file,
            journal_socket=config.journal_socket,
            anchor_records=config.anchor_records,
            anchor_seconds=config.anchor_interval,
            rotate_bytes=config.rotate_bytes,
            max_bytes=config.max_bytes,
            keep_days=config.keep_days,
            when_full=config.when_full,
            journal_copies=config.journal,
            syslog=config.syslog,
            allowed_uids=config.allowed_uids,
        )
    )


def _make_private(directory: Path) -> None:
    directory.parent.mkdir(parents=True, exist_ok=True)
    directory.mkdir(mode=0o700, exist_ok=True)
