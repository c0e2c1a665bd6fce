"""`pvex snapshot|templates`: what is kept of guests, and for them."""

from __future__ import annotations

import click

from pvex.commands.guests import WAIT, confirm, tell_work
from pvex.completion import complete_guests, complete_snapshots
from pvex.context import Context
from pvex.guests import find_vmid
from pvex.paths import segment
from pvex.show import age, show_list, size

_GUEST = click.argument("guest", shell_complete=complete_guests)
_NAME = click.argument("name", shell_complete=complete_snapshots)


@click.group()
def snapshot() -> None:
    """Snapshots of guests."""


@snapshot.command("ls")
@_GUEST
@click.pass_obj
def list_snapshots(context: Context, /, guest: str) -> None:
    """List a guest's snapshots, the oldest first."""
    found = list(context.api.pages(f"/guests/{find_vmid(context.api, guest)}/snapshots", "snapshots"))
    columns = {
        "NAME": lambda one: one["name"],
        "AGE": lambda one: age(one["made_at"]),
        "PARENT": lambda one: one["parent"],
        "DESCRIPTION": lambda one: one["description"],
    }
    show_list(context.output, found, columns)


@snapshot.command()
@_GUEST
@click.argument("name")
@click.option("--description", default="", help="Some words about it.")
@click.option("--with-memory", is_flag=True, help="Machines only: the memory of a running one, too.")
@WAIT
@click.pass_obj
def create(context: Context, /, guest: str, wait: float, **body: object) -> None:
    """Take a snapshot."""
    path = f"/guests/{find_vmid(context.api, guest)}/snapshots"
    tell_work(context, context.api.post(path, body, {"wait": wait}, wait=wait), str(body["name"]))


@snapshot.command()
@_GUEST
@_NAME
@click.option("--start", is_flag=True, help="Start the guest afterwards.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@WAIT
@click.pass_obj
def rollback(context: Context, /, guest: str, name: str, start: bool, yes: bool, wait: float) -> None:
    """Take a guest back to a snapshot; what has changed since is lost, and a container is stopped."""
    vmid = find_vmid(context.api, guest)
    confirm(yes, f"Take {vmid} back to {name}, and lose what has changed since?")
    path = f"/guests/{vmid}/snapshots/{segment(name)}/rollback"
    tell_work(context, context.api.post(path, query={"start": start, "wait": wait}, wait=wait), name)


@snapshot.command("rm")
@_GUEST
@_NAME
@WAIT
@click.pass_obj
def remove(context: Context, /, guest: str, name: str, wait: float) -> None:
    """Remove a snapshot; the guest stays as it is."""
    path = f"/guests/{find_vmid(context.api, guest)}/snapshots/{segment(name)}"
    tell_work(context, context.api.call("DELETE", path, query={"wait": wait}, wait=wait), name)


@click.command()
@click.option("--available", is_flag=True, help="What PVE's catalogue offers.")
@click.pass_obj
def templates(context: Context, /, available: bool) -> None:
    """List what containers can be made of."""
    columns = {
        "NAME": lambda one: one["name"],
        "VOLUME": lambda one: one["volume"],
        "SIZE": lambda one: size(one["size"]),
        "OS": lambda one: one["os"],
    }
    show_list(context.output, list(context.api.pages("/templates", "templates", {"available": available})), columns)
