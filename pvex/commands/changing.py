"""`pvex resize|migrate`: guests that are changed where they are, or moved."""

from __future__ import annotations

from typing import Any

import click

from pvex.commands.guests import WAIT, tell_work
from pvex.completion import complete_guests, complete_nodes
from pvex.context import Context

_GUEST = click.argument("guest", shell_complete=complete_guests)


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
@click.option("--storage", help="The storage there. Default: of the same name.")
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
