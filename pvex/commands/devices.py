"""`pvex devices`: the node's devices, and those of guests."""

from __future__ import annotations

from typing import Any

import click

from pvex.completion import complete_guests
from pvex.context import Context, note
from pvex.guests import find_vmid
from pvex.show import show_list, show_one

RESTART_SECONDS = 240.0
"""What a change may take beyond the usual that restarts a guest for it."""


@click.group()
def devices() -> None:
    """Devices of the node, and those that containers were given."""


@devices.command("ls")
@click.argument("guest", required=False, shell_complete=complete_guests)
@click.option("--kind", help="Only what is for this: gpu, ...; of the node alone.")
@click.pass_obj
def list_devices(context: Context, /, guest: str | None, kind: str | None) -> None:
    """List the node's devices, or those that GUEST was given."""
    if guest:
        answer = context.api.get(f"/guests/{find_vmid(context.api, guest)}/devices")
        columns: Any = {
            name.upper(): _member(name) for name in ("key", "path", "mode", "uid", "gid", "state", "differs")
        }
        show_list(context.output, answer["devices"], columns)
        return
    columns = {
        "PATH": _member("path"),
        "KIND": _member("kind"),
        "NUMBERS": lambda one: f"{one['major']}:{one['minor']}",
        "GROUP": _member("group"),
        "MODEL": _member("model"),
    }
    show_list(context.output, list(context.api.pages("/devices", "devices", {"kind": kind})), columns)


def _member(name: str) -> Any:
    return lambda one: one[name]


@devices.command()
@click.argument("path")
@click.option("--guest", shell_complete=complete_guests, help="Also how this container would be given it.")
@click.pass_obj
def lookup(context: Context, /, path: str, guest: str | None) -> None:
    """Show one device with its numbers."""
    vmid = find_vmid(context.api, guest) if guest else None
    answer = context.api.get("/devices/lookup", {"path": path, "vmid": vmid})
    if context.output != "table":
        show_one(context.output, answer)
        return
    show_one("table", answer["device"])
    if answer["guest"]:
        click.echo()
        show_one("table", answer["guest"])


@devices.command()
@click.argument("guest", shell_complete=complete_guests)
@click.argument("device")
@click.option("--mode", help="Octal, in the guest.")
@click.option("--uid", type=int, help="Of its owner, by the guest's numbers.")
@click.option("--gid", type=int, help="Of its group, by the guest's numbers.")
@click.option("--read-only", is_flag=True, help="Writing is denied.")
@click.option("--restart", is_flag=True, help="Restart the guest if it needs that.")
@click.pass_obj
def add(context: Context, /, guest: str, device: str, **wish: Any) -> None:
    """Give a container DEVICE: a path, or gpu, tun, fuse, usb:VENDOR:PRODUCT."""
    body = {name: value for name, value in wish.items() if value not in (None, False)}
    body["path" if device.startswith("/") else "preset"] = device
    tell_given(
        context, context.api.post(f"/guests/{find_vmid(context.api, guest)}/devices", body, wait=RESTART_SECONDS)
    )


@devices.command("rm")
@click.argument("guest", shell_complete=complete_guests)
@click.argument("device")
@click.option("--restart", is_flag=True, help="Restart the guest if it runs: until then it has it.")
@click.pass_obj
def remove(context: Context, /, guest: str, device: str, restart: bool) -> None:
    """Take DEVICE back from a container: a path, or a key like dev0."""
    query = {"path" if device.startswith("/") else "key": device, "restart": restart}
    path = f"/guests/{find_vmid(context.api, guest)}/devices"
    tell_given(context, context.api.call("DELETE", path, query=query, wait=RESTART_SECONDS))


def tell_given(context: Context, answer: dict[str, Any]) -> None:
    """The keys of what a container was given, or had; whether it waits for a restart."""
    if context.output != "table":
        show_one(context.output, answer)
        return
    for key in answer["keys"]:
        click.echo(key)
    if answer["restart_needed"]:
        note(f"it counts from the next start: `pvex reboot {answer['vmid']}`")
