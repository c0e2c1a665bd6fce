"""`pve-exec-gateway token`: make, list and revoke tokens on the node; no audit record, no token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from gateway.cli_context import configured
from gateway.errors import AuditUnavailable, GatewayError

if TYPE_CHECKING:
    from gateway.auth.records import TokenRecord
    from gateway.auth.tokens import TokenStore
    from gateway.config import Config


@click.group()
def token() -> None:
    """Tokens: who may use the API, and for what."""


@token.command()
@click.option("--name", required=True, help="Who or what will use it; stands in listings and the audit log.")
@click.option(
    "--allow",
    "actions",
    multiple=True,
    required=True,
    help="Actions, comma-separated, repeatable: exec:run, ... or all.",
)
@click.option("--guests", required=True, help="Their guests: all, 101, or 100-199,205.")
@click.option("--expires", required=True, help="Lifetime: 30d, 12h, 2w, ... or never.")
@click.option("--network", "networks", multiple=True, help="Only from this source network (CIDR); repeatable.")
@configured
def create(
    config: Config,
    name: str,
    actions: tuple[str, ...],
    guests: str,
    expires: str,
    networks: tuple[str, ...],
) -> None:
    """Make a token and print it, alone, on stdout. It is shown this once and stored nowhere."""
    from gateway.audit.record import Event
    from gateway.auth.grants import Grant, parse_actions, parse_guests
    from gateway.auth.records import format_time, parse_lifetime, parse_networks

    words = [word.strip() for item in actions for word in item.split(",")]
    grant = Grant(parse_actions(words), parse_guests(guests))
    store = _open_store(config)
    record = store.prepare(name, [grant], lifetime=parse_lifetime(expires), networks=parse_networks(networks))
    announced = _announce(config, Event.TOKEN_CREATE, record, "no token was made")
    try:
        store.create()
        secret = store.issue(record)
    except GatewayError:
        _take_back(config, announced)
        raise
    click.echo(f"token {record.id} ({name}), expires {format_time(record.expires) or 'never'}", err=True)
    click.echo(secret)


@token.command("list")
@configured
def list_tokens(config: Config) -> None:
    """List the tokens, the oldest first: id, name, state, expiry, actions and guests."""
    from gateway.auth.grants import format_guests
    from gateway.auth.records import format_time
    from gateway.auth.tokens import utc_now

    for record in _open_store(config).list():
        state = "active"
        if record.revoked:
            state = "revoked"
        elif record.expires and record.expires <= utc_now():
            state = "expired"
        grants = "; ".join(
            f"{','.join(sorted(grant.actions))} on {format_guests(grant.guests)}" for grant in record.grants
        )
        sources = f" from {','.join(map(str, record.networks))}" if record.networks else ""
        expires = format_time(record.expires) or "never"
        click.echo("\t".join((record.id, record.name, state, expires, grants + sources)))


@token.command()
@click.argument("token_id", metavar="ID")
@configured
def revoke(config: Config, token_id: str) -> None:
    """Revoke a token for good; the next request with it is refused."""
    from gateway.audit.record import Event

    store = _open_store(config)
    record = store.get(token_id)
    file = config.tokens.directory / f"{record.id}.json"
    announced = _announce(
        config,
        Event.TOKEN_REVOKE,
        record,
        f"the token was not revoked; deleting {file} takes it away at once",
    )
    try:
        store.revoke(record)
    except GatewayError:
        _take_back(config, announced)
        raise
    click.echo(f"token {record.id} ({record.name}) is revoked", err=True)


def _open_store(config: Config) -> TokenStore:
    from gateway.auth.tokens import TokenStore

    return TokenStore(config.tokens.directory, config.tokens.key_file, protected=config.guests.protected)


def _announce(config: Config, event: Any, record: TokenRecord, otherwise: str) -> dict[str, Any]:
    from gateway.audit.client import AuditClient
    from gateway.audit.record import build_record

    announced = build_record(
        event, remote="local", action="token:admin", node=config.node, data={"token": record.to_json()}
    )
    try:
        AuditClient(config.audit.socket).commit(announced)
    except AuditUnavailable as exc:
        raise AuditUnavailable(f"{otherwise}: {exc.detail}; is pve-exec-gateway-audit running?") from exc
    return announced


def _take_back(config: Config, announced: dict[str, Any]) -> None:
    from gateway.audit.client import AuditClient
    from gateway.audit.record import build_aborted

    AuditClient(config.audit.socket).commit(build_aborted(announced, "the token store cannot be written"))
