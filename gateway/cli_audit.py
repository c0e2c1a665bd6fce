"""`pve-exec-gateway audit` and the start of the audit writer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from gateway.cli_context import configured
from gateway.errors import ConfigError

if TYPE_CHECKING:
    from gateway.config import AuditConfig, Config


@click.group()
def audit() -> None:
    """The audit log."""


@audit.command()
@click.option(
    "--anchors",
    type=click.File("r"),
    help="Anchors from the journal: `journalctl -t pve-exec-gateway-audit -o cat`; - is stdin.",
)
@configured
@click.pass_context
def verify(context: click.Context, config: Config, anchors: TextIO | None) -> None:
    """Check the log's chain: exit 0 when it is whole, 1 naming the first wrong record."""
    from gateway.audit.verify import verify_command

    verdict, code = verify_command(config.audit.directory, config.audit.key_file, anchors or ())
    for note in verdict.notes:
        click.echo(f"note: {note}", err=True)
    if verdict.fault:
        click.echo(str(verdict.fault))
    else:
        spread = f"records {verdict.first} to {verdict.last} in {verdict.files} files"
        click.echo(f"good: {spread}, {verdict.anchors} anchors")
    context.exit(code)


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
        click.echo(f"{line.file}:{line.number}")


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
