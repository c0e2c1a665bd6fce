"""`pvex token`: who may do what."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import click

from pvex.commands.exec import build_spec, take_command
from pvex.commands.guests import confirm
from pvex.completion import complete_guests, complete_tokens
from pvex.context import Context, note
from pvex.guests import find_vmid
from pvex.paths import segment
from pvex.show import age, cut, dump, show_list, show_one

_ID = click.argument("token_id", metavar="ID", shell_complete=complete_tokens)


@click.group()
def token() -> None:
    """Tokens: who may use the gateway, and for what."""


@token.command("self")
@click.pass_obj
def show_self(context: Context, /) -> None:
    """Show what this token is, and what it may do."""
    answer = context.api.get("/tokens/self")
    if context.output != "table":
        dump(context.output, answer)
        return
    click.echo(f"{answer['name']} ({answer['id']}), expires {answer['expires'] or 'never'}")
    columns = {
        "ACTION": lambda one: one["action"],
        "GUESTS": lambda one: one["guests"],
        "COMMANDS": lambda one: (
            "; ".join(" ".join(words) for words in one.get("terms", {}).get("commands", ())) or "any"
        ),
    }
    show_list(context.output, answer["reach"], columns)


@token.command()
@click.argument("action")
@click.argument("guest", required=False, shell_complete=complete_guests)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, callback=take_command)
@click.option("-u", "--user", help="With a command: as this user.")
@click.option("-w", "--workdir", help="With a command: in this directory.")
@click.pass_obj
def can(
    context: Context, /, action: str, guest: str | None, command: tuple[str, ...], user: str | None, workdir: str | None
) -> None:
    """Say whether this token may do ACTION (like exec:run) to GUEST, or to any; with -- COMMAND: run just that.

    Exit code 0: yes; 1: no. Nothing is done, and whether there is such a guest is not asked.
    """
    from pvex.errors import ANSWERED_NO, UsageError

    body: dict[str, Any] = {"action": action}
    if guest:
        body["vmid"] = find_vmid(context.api, guest)
    if command:
        body["exec"] = build_spec(command, user=user, workdir=workdir)
    elif user or workdir:
        raise UsageError("--user and --workdir are of a command: give one behind the guest")
    answer = context.api.post("/tokens/self/can", body)
    if context.output != "table":
        dump(context.output, answer)
    else:
        click.echo("yes" if answer["allowed"] else "no")
        if not answer["allowed"]:
            where = f" ({answer['field']})" if answer["field"] else ""
            note(f"{answer['reason']}{where}")
    if not answer["allowed"]:
        sys.exit(ANSWERED_NO)


@token.command("ls")
@click.option("--state", type=click.Choice(["active", "expired", "revoked"]), help="Only tokens in this state.")
@click.pass_obj
def list_tokens(context: Context, /, state: str | None) -> None:
    """List the tokens that this one may administer."""
    columns = {
        "ID": lambda one: one["id"],
        "NAME": lambda one: one["name"],
        "STATE": lambda one: one["state"],
        "EXPIRES": lambda one: one["expires"] or "never",
        "USED": lambda one: age(one["last_used"]),
        "GRANTS": lambda one: cut("; ".join(_describe(grant) for grant in one["grants"]), 60),
    }
    show_list(context.output, list(context.api.pages("/tokens", "tokens", {"state": state})), columns)


@token.command()
@_ID
@click.pass_obj
def show(context: Context, /, token_id: str) -> None:
    """Show all that is known of a token."""
    show_one(context.output, context.api.get(f"/tokens/{segment(token_id)}"))


def _terms(*, needed: bool) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The options that say what a token is; `needed`: those that a new one cannot be without."""
    options = (
        click.option("--name", required=needed, help="Who or what uses it."),
        click.option("--allow", "actions", multiple=True, help="Actions, with commas between: exec:run,guest:read."),
        click.option("--guests", default="", help="Their guests: all, 101, or 100-199,205."),
        click.option("--grants", "file", type=click.File(), help="In place of these two: a JSON list of grants."),
        click.option("--expires", required=needed, help="30d, 12h, 2030-01-01T00:00:00Z, or never."),
        click.option(
            "--network", "networks", multiple=True, help="Only from this network (CIDR); any: from all. Repeatable."
        ),
        click.option("--rate", help="Requests a second on each node; none: what any token may."),
        click.option("--max-running", help="Execs at the same time on each node; none: what any token may."),
    )

    def add(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            command = option(command)
        return command

    return add


@token.command()
@_terms(needed=True)
@click.pass_obj
def create(context: Context, /, **terms: Any) -> None:
    """Make a token, and print it, alone, on stdout: this once."""
    from pvex.errors import UsageError

    body = _read_terms(**terms)
    if "grants" not in body:
        raise UsageError("say what the token may do: --allow with --guests, or --grants")
    _tell_secret(context, context.api.post("/tokens", body))


@token.command()
@_ID
@_terms(needed=False)
@click.pass_obj
def edit(context: Context, /, token_id: str, **terms: Any) -> None:
    """Change what a token is; what is not given stays, and so does its secret. New grants replace all of the old."""
    from pvex.errors import UsageError

    body = _read_terms(**terms)
    if not body:
        raise UsageError("nothing to change: give --name, --allow with --guests, --grants, --expires, ...")
    _tell(context, context.api.call("PATCH", f"/tokens/{segment(token_id)}", body))


def _read_terms(
    *,
    actions: tuple[str, ...],
    guests: str,
    file: Any,
    networks: tuple[str, ...],
    rate: str | None,
    max_running: str | None,
    **texts: str | None,
) -> dict[str, Any]:
    """The members of a request that were given. Raises UsageError."""
    body: dict[str, Any] = {name: text for name, text in texts.items() if text is not None}
    grants = _read_grants(actions, guests, file)
    if grants is not None:
        body["grants"] = grants
    if networks:
        body["networks"] = [] if networks == ("any",) else list(networks)
    given = (("rate", rate, float), ("max_running", max_running, int))
    limits = {name: _read_number(name, text, kind) for name, text, kind in given if text is not None}
    return {**body, "limits": limits} if limits else body


def _read_grants(actions: tuple[str, ...], guests: str, file: Any) -> Any:
    """None where none were given."""
    import json

    from pvex.errors import UsageError

    words = [word for text in actions for word in text.split(",") if word]
    if file is None:
        if guests and not words:
            raise UsageError("--guests says where: say what, too, with --allow")
        return [{"actions": words, "guests": guests}] if words else None
    if words or guests:
        raise UsageError("--grants stands in place of --allow and --guests")
    try:
        return json.load(file)
    except ValueError as exc:
        raise UsageError(f"--grants: {file.name} is no JSON") from exc


def _read_number(name: str, text: str, kind: type[float] | type[int]) -> float | None:
    from pvex.errors import UsageError

    try:
        number = None if text == "none" else kind(text)
    except ValueError:
        number = math.nan
    if number is not None and not math.isfinite(number):
        raise UsageError(f"--{name.replace('_', '-')} takes a number, or none")
    return number


@token.command()
@_ID
@click.option("--overlap", default="0", show_default=True, help="How long the old secret stays valid: 1h, 7d.")
@click.option("--expires", help="A new end of the token.")
@click.pass_obj
def rotate(context: Context, /, token_id: str, overlap: str, expires: str | None) -> None:
    """Give a token a new secret, and print it, alone, on stdout."""
    body = {"overlap": overlap, **({"expires": expires} if expires else {})}
    _tell_secret(context, context.api.post(f"/tokens/{segment(token_id)}/rotate", body))


@token.command()
@_ID
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def revoke(context: Context, /, token_id: str, yes: bool) -> None:
    """End a token for good."""
    confirm(yes, f"Revoke {token_id} for good?")
    _tell(context, context.api.post(f"/tokens/{segment(token_id)}/revoke"))


@token.command("rm")
@_ID
@click.pass_obj
def remove(context: Context, /, token_id: str) -> None:
    """Delete the record of a token that is revoked or has expired."""
    _tell(context, context.api.call("DELETE", f"/tokens/{segment(token_id)}"))


def _tell(context: Context, answer: dict[str, Any]) -> None:
    if context.output != "table":
        dump(context.output, answer)
    else:
        click.echo(answer["id"])


def _tell_secret(context: Context, answer: dict[str, Any]) -> None:
    if context.output != "table":
        dump(context.output, answer)
        return
    note(f"{answer['id']} ({answer['name']}), expires {answer['expires'] or 'never'}; it is shown this once")
    click.echo(answer["token"])


def _describe(grant: dict[str, Any]) -> str:
    where = [grant.get("guests", ""), *(f"pool {pool}" for pool in grant.get("pools", ()))]
    return f"{','.join(grant['actions'])} on {' '.join(word for word in where if word) or '-'}"
