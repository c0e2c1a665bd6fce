"""`pve-exec-gateway token`: tokens in the hands of root on the node; no audit record, no change."""

from __future__ import annotations

from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any

import click

from gateway.cli_context import configured, print_json, settled_client
from gateway.errors import GrantInvalid

if TYPE_CHECKING:
    from gateway.auth.administration import Administration, Changes
    from gateway.auth.grants import Grant
    from gateway.auth.records import TokenRecord
    from gateway.config import Config

_STATES = ("active", "expired", "revoked")
_AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_ID = click.argument("token_id", metavar="ID")


def _terms(*, needed: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options of what a token is; all but networks and limits `needed` where there is no token yet."""
    options = (
        click.option("--name", required=needed, help="Who or what uses it; stands in listings and the audit log."),
        click.option("--allow", "actions", multiple=True, help="Actions, comma-separated: exec:run, ... or all."),
        click.option("--guests", help="Their guests: all, 101, or 100-199,205."),
        click.option("--grants", "file", type=click.File(), help="In place of these two: a JSON list of grants."),
        click.option("--expires", required=needed, help="30d, 12h, 2w, ..., 2030-01-01T00:00:00Z, or never."),
        click.option("--network", "networks", multiple=True, help="Only from this network (CIDR), or any; repeatable."),
        click.option("--rate", help="Requests a second on each node, or none for no limit of its own."),
        click.option("--max-running", help="Execs at the same time on each node, or none."),
    )

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@click.group()
def token() -> None:
    """Tokens: who may use the API, and for what."""


@token.command()
@_terms(needed=True)
@_AS_JSON
@configured
def create(config: Config, as_json: bool, **terms: Any) -> None:
    """Make a token and print it, alone, on stdout. It is shown this once and stored nowhere."""
    if not terms["file"] and not (terms["actions"] and terms["guests"]):
        raise GrantInvalid("say what the token may do: --allow with --guests, or --grants")
    administration = _administration(config)
    record, secret = administration.create(_changes(administration, terms))
    _tell(administration, record, secret, as_json)


@token.command("list")
@click.option("--state", type=click.Choice(_STATES), help="Only tokens in this state.")
@click.option("--key", help="Only tokens that are valid by this key of the ring (`keys list`).")
@_AS_JSON
@configured
def list_tokens(config: Config, state: str | None, key: str | None, as_json: bool) -> None:
    """List the tokens, the oldest first: id, name, state, expiry, last use on this node, and grants."""
    administration = _administration(config)
    views = [_describe(administration, record) for record in administration.all()]
    views = [
        view
        for view in views
        if state in (None, view["state"]) and (key is None or key in {secret["key"] for secret in view["secrets"]})
    ]
    if as_json:
        print_json({"tokens": views})
        return
    for view in views:
        grants = "; ".join(_format_grant(grant) for grant in view["grants"])
        sources = f" from {','.join(view['networks'])}" if view["networks"] else ""
        used = view["last_used"] or "-"
        click.echo(
            "\t".join((view["id"], view["name"], view["state"], view["expires"] or "never", used, grants + sources))
        )


@token.command()
@_ID
@configured
def show(config: Config, token_id: str) -> None:
    """Print all that is known of a token, as JSON."""
    administration = _administration(config)
    print_json(_describe(administration, administration.find(token_id)))


@token.command()
@_ID
@_terms(needed=False)
@_AS_JSON
@configured
def edit(config: Config, token_id: str, as_json: bool, **terms: Any) -> None:
    """Change what a token is; what is not given stays. Its secret stays, too; --network any takes all networks."""
    administration = _administration(config)
    changes = _changes(administration, terms)
    if not changes:
        raise GrantInvalid("nothing to change: give --name, --allow with --guests, --grants, --expires, ...")
    _tell(administration, administration.edit(token_id, changes), None, as_json)


@token.command()
@_ID
@click.option("--overlap", default="0", show_default=True, help="How long the old secret stays valid: 1h, 7d, ...")
@click.option("--expires", help="A new end of the token. Default: as before.")
@_AS_JSON
@configured
def rotate(config: Config, token_id: str, overlap: str, expires: str | None, as_json: bool) -> None:
    """Give a token a new secret and print it, alone, on stdout. Overlap 0 ends every earlier one at once."""
    from gateway.auth.terms import parse_expiry, parse_overlap

    administration = _administration(config)
    changes: Changes = {}
    if expires is not None:
        changes["expires"] = parse_expiry(expires, administration.store.clock())
    record, secret = administration.rotate(token_id, overlap=parse_overlap(overlap), changes=changes)
    _tell(administration, record, secret, as_json)


@token.command()
@_ID
@configured
def revoke(config: Config, token_id: str) -> None:
    """Revoke a token for good; the next request with it is refused."""
    record = _administration(config).revoke(token_id)
    click.echo(f"token {record.id} ({record.name}) is revoked", err=True)


@token.command()
@_ID
@configured
def delete(config: Config, token_id: str) -> None:
    """Delete the record of a token that is revoked or has expired."""
    record = _administration(config).delete(token_id)
    click.echo(f"token {record.id} ({record.name}) is deleted", err=True)


@token.command()
@click.option("--dead-for", default="90d", show_default=True, help="How long they have been revoked or expired.")
@configured
def prune(config: Config, dead_for: str) -> None:
    """Delete the records of all tokens that have long been dead; print their ids."""
    from gateway.auth.terms import parse_duration

    for record in _administration(config).prune(parse_duration(dead_for)):
        click.echo(record.id)


def _administration(config: Config) -> Administration:
    from gateway.app_tokens import build_tokens
    from gateway.auth.administration import Administration
    from gateway.auth.trail import Trail

    return Administration(build_tokens(config), Trail(settled_client(config), config.node))


def _changes(administration: Administration, terms: dict[str, Any]) -> Changes:
    """The options that were given. Raises GrantInvalid."""
    from gateway.auth.terms import parse_expiry, parse_name, parse_networks

    changes: Changes = {}
    if terms["name"] is not None:
        changes["name"] = parse_name(terms["name"])
    if terms["actions"] or terms["guests"] or terms["file"]:
        changes["grants"] = _grants(terms["actions"], terms["guests"], terms["file"])
    if terms["expires"] is not None:
        changes["expires"] = parse_expiry(terms["expires"], administration.store.clock())
    if terms["networks"]:
        changes["networks"] = () if terms["networks"] == ("any",) else parse_networks(terms["networks"])
    if terms["rate"] is not None:
        changes["rate"] = _number(terms["rate"], float, "--rate")
    if terms["max_running"] is not None:
        changes["max_running"] = _number(terms["max_running"], int, "--max-running")
    return changes


def _grants(actions: tuple[str, ...], guests: str | None, file: IO[str] | None) -> tuple[Grant, ...]:
    import json

    from gateway.auth.grants import Grant, parse_actions, parse_guests

    if file is None:
        if not actions or not guests:
            raise GrantInvalid("--allow and --guests go together: they replace all grants")
        words = [word.strip() for item in actions for word in item.split(",")]
        return (Grant(parse_actions(words), parse_guests(guests)),)
    if actions or guests:
        raise GrantInvalid("--grants stands in place of --allow and --guests")
    try:
        data = json.load(file)
    except (ValueError, RecursionError) as exc:
        raise GrantInvalid(f"--grants: not JSON: {exc}") from exc
    if not isinstance(data, list):
        raise GrantInvalid("--grants: a JSON list of grants, as `token show` prints it")
    return tuple(Grant.from_json(item) for item in data)


def _number(text: str, kind: type[float] | type[int], option: str) -> Any:
    try:
        return None if text == "none" else kind(text)
    except ValueError as exc:
        raise GrantInvalid(f"{option}: a number, or none") from exc


def _describe(administration: Administration, record: TokenRecord) -> dict[str, Any]:
    from gateway.auth.view import describe

    store = administration.store
    return describe(record, store.clock(), store.last_used.get(record.id) if store.last_used else None)


def _format_grant(grant: dict[str, Any]) -> str:
    """On a line: actions and guests, and that there are limits to commands. All of it: `token show`."""
    places = [grant["guests"]] if grant.get("guests") else []
    places += [f"pool {pool}" for pool in grant.get("pools", ())]
    patterns = len(grant.get("commands", ()))
    limits = [f"{patterns} command pattern{'s' if patterns != 1 else ''}"] if patterns else []
    limits += [f"{len(grant[name])} {name}" for name in ("users", "cwd", "env") if grant.get(name)]
    where = f" on {', '.join(places)}" if places else ""
    return f"{','.join(grant['actions'])}{where}{' by ' if limits else ''}{', '.join(limits)}"


def _tell(administration: Administration, record: TokenRecord, secret: str | None, as_json: bool) -> None:
    view = _describe(administration, record)
    if as_json:
        print_json(view if secret is None else {**view, "token": secret})
        return
    click.echo(f"token {record.id} ({record.name}), expires {view['expires'] or 'never'}", err=True)
    if secret is not None:
        click.echo(secret)
