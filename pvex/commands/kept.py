"""`pvex snapshot|backup|template`: what is kept of guests, and for them."""

from __future__ import annotations

from typing import Any

import click

from pvex.commands.guests import WAIT, confirm, tell_new, tell_work
from pvex.completion import (
    complete_backups,
    complete_guests,
    complete_offers,
    complete_pools,
    complete_snapshots,
    complete_storages,
)
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


@click.group()
def backup() -> None:
    """Backups of guests."""


_VOLUME = click.argument("volume", shell_complete=complete_backups)


@backup.command("ls")
@_GUEST
@click.option("--storage", shell_complete=complete_storages, help="Only those on this storage.")
@click.pass_obj
def list_backups(context: Context, /, guest: str, storage: str | None) -> None:
    """List a guest's backups, the newest first; by vmid those of one that is no more, too."""
    path = f"/guests/{find_vmid(context.api, guest)}/backups"
    columns = {
        "VOLUME": lambda one: one["volume"],
        "AGE": lambda one: age(one["made_at"]),
        "SIZE": lambda one: size(one["size"]),
        "PROTECTED": lambda one: one["protected"],
        "NOTES": lambda one: one["notes"],
    }
    show_list(context.output, list(context.api.pages(path, "backups", {"storage": storage})), columns)


@backup.command("create")
@_GUEST
@click.option("--storage", required=True, shell_complete=complete_storages, help="Where it goes.")
@click.option(
    "--mode",
    type=click.Choice(["snapshot", "suspend", "stop"]),
    default="snapshot",
    show_default=True,
    help="suspend: where the storage has no snapshots; stop: the guest is shut down meanwhile.",
)
@click.option(
    "--compress", type=click.Choice(["zstd", "gzip", "lzo", "none"]), default="zstd", show_default=True, help="How."
)
@click.option("--notes", help="Some words about it; may hold PVE's {{guestname}} and others.")
@click.option("--protected", is_flag=True, help="PVE refuses to remove it.")
@WAIT
@click.pass_obj
def make_backup(context: Context, /, guest: str, wait: float, **wish: Any) -> None:
    """Make a backup, and print its volume."""
    body = {name: value for name, value in wish.items() if value is not None}
    answer = context.api.post(f"/guests/{find_vmid(context.api, guest)}/backups", body, {"wait": wait}, wait=wait)
    tell_work(context, answer, answer["volume"] or guest)


@backup.command()
@click.argument("volume")
@click.option("--storage", required=True, shell_complete=complete_storages, help="Where its disks go.")
@click.option("--vmid", type=int, help="The new one's vmid. Default: the lowest that is free.")
@click.option("--name", help="Its host name. Default: as it was.")
@click.option("--pool", shell_complete=complete_pools, help="The pool that it joins.")
@click.option("--start", is_flag=True, help="Start it.")
@WAIT
@click.pass_obj
def restore(context: Context, /, volume: str, wait: float, **wish: Any) -> None:
    """Make a new guest of a backup, by its volume, and print its vmid. It is whole, or it is not there."""
    body = {name: value for name, value in wish.items() if value}
    kind = {"type": "qemu"} if "vzdump-qemu-" in volume or ":backup/vm/" in volume else {}
    tell_new(context, context.api.post("/guests", {**kind, **body, "backup": volume}, {"wait": wait}, wait=wait))


@backup.command("rm")
@_GUEST
@_VOLUME
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@WAIT
@click.pass_obj
def remove_backup(context: Context, /, guest: str, volume: str, yes: bool, wait: float) -> None:
    """Remove a backup; the guest stays as it is."""
    path = f"/guests/{find_vmid(context.api, guest)}/backups"
    confirm(yes, f"Remove the backup {volume}? It cannot be undone.")
    tell_work(context, context.api.call("DELETE", path, query={"volume": volume, "wait": wait}, wait=wait), volume)


@click.group()
def template() -> None:
    """What guests are made of."""


@template.command("ls")
@click.option("--available", is_flag=True, help="What PVE's catalogue offers, instead of what is there.")
@click.option("--storage", shell_complete=complete_storages, help="Only those on this storage.")
@click.option(
    "--content",
    type=click.Choice(["vztmpl", "import", "iso"]),
    default="vztmpl",
    show_default=True,
    help="Of what is there: templates of containers, images for machines' disks, or CDs.",
)
@click.pass_obj
def list_templates(context: Context, /, **query: Any) -> None:
    """List what guests can be made of: on this node, or with --available in PVE's catalogue."""
    columns = {
        "NAME": lambda one: one["name"],
        "VOLUME": lambda one: one["volume"],
        "SIZE": lambda one: size(one["size"]),
        "OS": lambda one: one["os"],
    }
    show_list(context.output, list(context.api.pages("/templates", "templates", query)), columns)


@template.command()
@click.argument("template", metavar="NAME", shell_complete=complete_offers)
@click.option("--storage", required=True, shell_complete=complete_storages, help="Where it goes.")
@WAIT
@click.pass_obj
def download(context: Context, /, wait: float, **body: str) -> None:
    """Download a template of PVE's catalogue, by the NAME it has there, and print its volume."""
    answer = context.api.post("/templates", body, {"wait": wait}, wait=wait)
    tell_work(context, answer, answer["volume"])


@template.command()
@_GUEST
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@WAIT
@click.pass_obj
def make(context: Context, /, guest: str, yes: bool, wait: float) -> None:
    """Make a guest that is stopped a template, for good: it is cloned from then on, and never started."""
    vmid = find_vmid(context.api, guest)
    confirm(yes, f"Make {vmid} a template? It cannot be undone.")
    tell_work(context, context.api.post(f"/guests/{vmid}/template", query={"wait": wait}, wait=wait), str(vmid))
