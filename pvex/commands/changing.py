"""`pvex edit|resize|mount|migrate`: guests that are changed where they are, or moved."""

from __future__ import annotations

from typing import Any

import click

from pvex.commands.devices import RESTART_SECONDS, tell_given
from pvex.commands.guests import WAIT, tell_work
from pvex.completion import complete_guests, complete_nodes, complete_storages
from pvex.context import Context, note
from pvex.show import show_one

_GUEST = click.argument("guest", shell_complete=complete_guests)


@click.command()
@_GUEST
@click.option("--name", help="Its host name.")
@click.option("--notes", help="Its description; an empty one takes it away.")
@click.option("--tag", "tags", multiple=True, help="These tags alone; an empty one takes all away. Repeatable.")
@click.option("--cores", type=int, help="Processors.")
@click.option("--memory", type=int, metavar="MIB", help="MiB.")
@click.option("--swap", type=int, metavar="MIB", help="MiB; containers only.")
@click.option("--onboot/--no-onboot", default=None, help="Whether it starts with its node.")
@click.option(
    "--protection/--no-protection", default=None, help="Whether PVE keeps it and its disks from being removed."
)
@click.option(
    "--feature",
    "features",
    multiple=True,
    help="Containers: these features alone, like nesting; an empty one takes all away. Repeatable.",
)
@click.option("--set", "options", multiple=True, metavar="KEY=VALUE", help="An option, as PVE names it. Repeatable.")
@click.option("--unset", "delete", multiple=True, metavar="KEY", help="Take this option of PVE's back. Repeatable.")
@click.option("--digest", help="Only if this is the digest of its configuration still, as `pvex show` has it.")
@click.option("--restart", is_flag=True, help="Restart it, if it runs and any of that waits for it.")
@click.pass_obj
def edit(context: Context, /, guest: str, options: tuple[str, ...], restart: bool, **wish: Any) -> None:
    """Change a guest's configuration; what is not given stays."""
    from pvex.errors import UsageError
    from pvex.guests import find_vmid

    body = {name: list(value) if isinstance(value, tuple) else value for name, value in wish.items()}
    body = {name: value for name, value in body.items() if value is not None and value != []}
    for name in body.keys() & {"tags", "features"}:
        body[name] = [word for word in body[name] if word]
    if options:
        body["options"] = dict(_split(word) for word in options)
    if not body.keys() - {"digest"}:
        raise UsageError("nothing to change: give --name, --memory, --tag, --set, ...")
    vmid = find_vmid(context.api, guest)
    answer = context.api.call("PATCH", f"/guests/{vmid}", {**body, "restart": restart}, wait=RESTART_SECONDS)
    if context.output != "table":
        show_one(context.output, answer)
        return
    click.echo(vmid)
    if answer["restart_needed"]:
        note(f"{', '.join(answer['pending']) or 'some of it'}: from the next start on: `pvex reboot {vmid}`")


def _split(word: str) -> tuple[str, str]:
    from pvex.errors import UsageError

    key, equals, value = word.partition("=")
    if not key or not equals:
        raise UsageError(f"--set takes KEY=VALUE, not {word!r}")
    return key, value


@click.command()
@_GUEST
@click.argument("path")
@click.option("--size", help="Of a new volume, like 8G: a whole number with M, G or T (powers of 1024).")
@click.option("--storage", shell_complete=complete_storages, help="Of a new volume. Default: the root's.")
@click.option("--backup", is_flag=True, help="Backups hold the new volume, too.")
@click.option("--source", metavar="DIRECTORY", help="In place of a volume: this directory of the node.")
@click.option("--read-only", is_flag=True, help="Writing is denied.")
@click.option("--restart", is_flag=True, help="Restart the guest if it runs and needs that.")
@click.pass_obj
def mount(context: Context, /, guest: str, path: str, **wish: Any) -> None:
    """Give a container a mount point at PATH: a new volume, or a directory of the node."""
    from pvex.errors import UsageError
    from pvex.guests import find_vmid

    if (wish["size"] is None) is (wish["source"] is None):
        raise UsageError("give --size for a new volume, or --source for a directory of the node")
    body = {"path": path, **{name: value for name, value in wish.items() if value}}
    answer = context.api.post(f"/guests/{find_vmid(context.api, guest)}/mounts", body, wait=RESTART_SECONDS)
    tell_given(context, answer)


@click.command()
@_GUEST
@click.argument("disk")
@click.argument("size")
@WAIT
@click.pass_obj
def resize(context: Context, /, guest: str, disk: str, size: str, wait: float) -> None:
    """Make a guest's DISK (rootfs, mp0, scsi0, ...) larger: to SIZE like 32G, or by one like +8G."""
    _change(context, guest, "resize", {"disk": disk, "size": size}, wait)


@click.command()
@_GUEST
@click.argument("target", metavar="NODE", shell_complete=complete_nodes)
@click.option("--online", is_flag=True, help="Machines: one that runs goes on running.")
@click.option("--restart", is_flag=True, help="Containers: one that runs is shut down, and started there.")
@click.option("--storage", shell_complete=complete_storages, help="The storage there. Default: of the same name.")
@click.option("--local-disks", is_flag=True, help="Machines: disks on local storages are copied, too.")
@WAIT
@click.pass_obj
def migrate(context: Context, /, guest: str, wait: float, **wish: Any) -> None:
    """Move a guest to another NODE of the cluster."""
    _change(context, guest, "migrate", {name: value for name, value in wish.items() if value}, wait)


def _change(context: Context, guest: str, word: str, body: dict[str, Any], wait: float) -> None:
    from pvex.guests import find_vmid

    vmid = find_vmid(context.api, guest)
    tell_work(context, context.api.post(f"/guests/{vmid}/{word}", body, {"wait": wait}, wait=wait), str(vmid))
