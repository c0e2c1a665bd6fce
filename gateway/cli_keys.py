"""`pve-exec-gateway keys`: the ring that signs tokens; a new key ends no token, the end of an old one may."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from gateway.cli_context import configured, print_json, settled_client

if TYPE_CHECKING:
    from gateway.auth.key_rotation import KeyRotation
    from gateway.config import Config

_AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def keys() -> None:
    """The keys that sign tokens: the newest signs, every other verifies until it is retired."""


@keys.command("list")
@_AS_JSON
@configured
def list_keys(config: Config, as_json: bool) -> None:
    """List the keys, the newest first: id, since when, whether it signs, and how many live tokens need it."""
    views = _ring(config).list()
    if as_json:
        print_json({"keys": views})
        return
    for view in views:
        signs = "signs" if view["signs"] else "verifies"
        click.echo("\t".join((view["id"], view["created"], signs, f"{view['live_tokens']} live tokens")))


@keys.command()
@_AS_JSON
@configured
def rotate(config: Config, as_json: bool) -> None:
    """Sign new tokens with a new key. All tokens go on; each moves to the new key when it is rotated."""
    key = _ring(config).rotate()
    if as_json:
        print_json({"id": key.id, "created": key.created})
    else:
        click.echo(f"key {key.id} signs from now on; every older one verifies until `keys retire`", err=True)


@keys.command()
@click.argument("key_id", metavar="ID")
@click.option("--force", is_flag=True, help="Also when live tokens are signed by it: they end with it.")
@configured
def retire(config: Config, key_id: str, force: bool) -> None:
    """Take an old key away for good: what it signed, or what a thief of it signs, is worth nothing from then on."""
    ended = _ring(config).retire(key_id, force=force)
    click.echo(f"key {key_id} is retired; {ended} live tokens ended with it", err=True)


def _ring(config: Config) -> KeyRotation:
    from gateway.app_tokens import build_tokens
    from gateway.auth.key_rotation import KeyRotation
    from gateway.auth.trail import Trail

    return KeyRotation(build_tokens(config), Trail(settled_client(config), config.node))
