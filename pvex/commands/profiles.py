"""`pvex login|profile`: which gateways are known, and with which token."""

from __future__ import annotations

import os
import sys
from contextlib import closing
from pathlib import Path

import click

from pvex.completion import complete_profiles
from pvex.context import Context, note
from pvex.show import show_list


@click.command()
@click.argument("url")
@click.option("--name", default="default", show_default=True, help="What the profile is called.")
@click.option(
    "--ca", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The cluster's CA: it is kept."
)
@click.pass_obj
def login(context: Context, /, url: str, name: str, ca: Path | None) -> None:
    """Keep a gateway and a token as a profile, and make it the current one.

    The token is asked for, or read from stdin; it stands in no argument, where all users of this machine could read it.
    """
    from pvex.api import Api
    from pvex.profile import Profile, check_name, check_token, check_url, load_store, write_private

    check_name(name)
    where = check_url(url)
    given = click.prompt("Token", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline()
    token = check_token(given, "stdin")
    with closing(Api(Profile(name, where, token, ca))) as api:
        myself = api.get("/tokens/self")
    store = load_store()
    kept = None
    if ca is not None:
        store.make_directory()
        kept = store.path.with_name(f"{name}.pem")
        write_private(kept, ca.read_text(encoding="utf-8"))
    store.profiles[name] = Profile(name, where, token, kept)
    store.current = name
    store.save()
    note(
        f"profile {name}: {where} as {myself['name']} ({myself['id']}), "
        f"valid until {myself['expires'] or 'it is revoked'}"
    )
    _tell_precedence()


@click.group()
def profile() -> None:
    """The gateways that are known."""


@profile.command("ls")
@click.pass_obj
def list_profiles(context: Context, /) -> None:
    """List the profiles; the token stays out of it."""
    from pvex.profile import load_store

    store = load_store()
    known = [
        {"name": one.name, "url": one.url, "ca": str(one.ca) if one.ca else None, "current": one.name == store.current}
        for one in store.profiles.values()
    ]
    columns = {
        "NAME": lambda one: one["name"],
        "URL": lambda one: one["url"],
        "CA": lambda one: one["ca"],
        "CURRENT": lambda one: one["current"],
    }
    show_list(context.output, known, columns)


@profile.command()
@click.argument("name", shell_complete=complete_profiles)
def use(name: str) -> None:
    """Make a profile the current one."""
    from pvex.profile import load_store

    store = load_store()
    store.find(name)
    store.current = name
    store.save()
    _tell_precedence()


def _tell_precedence() -> None:
    if os.environ.get("GATEWAY_URL"):
        note("GATEWAY_URL is set, and goes first: unset it, or name a --profile")


@profile.command("rm")
@click.argument("name", shell_complete=complete_profiles)
def remove(name: str) -> None:
    """Forget a profile. Its token stays valid: `pvex token revoke` ends one."""
    from pvex.profile import load_store

    store = load_store()
    gone = store.find(name)
    del store.profiles[name]
    if store.current == name:
        store.current = None
    store.save()
    if gone.ca is not None and gone.ca.parent == store.path.parent:
        gone.ca.unlink(missing_ok=True)
