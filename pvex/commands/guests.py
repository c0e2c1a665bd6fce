"""`pvex ls|show|start|stop|...`: guests and their lives."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from shlex import quote
from typing import Any

import click

from pvex.completion import complete_guests, complete_nodes, complete_pools, complete_storages
from pvex.context import Context, each, note
from pvex.show import duration, show_list, show_one, size

WAIT = click.option(
    "--wait",
    type=click.FloatRange(0, 300),
    default=300.0,
    show_default=True,
    help="Seconds to wait for PVE's task; 0: print its upid.",
)
_GUESTS = click.argument("guests", metavar="GUEST...", nargs=-1, required=True, shell_complete=complete_guests)


@click.command()
@click.option("--node", shell_complete=complete_nodes, help="Only guests on this node.")
@click.option("--pool", shell_complete=complete_pools, help="Only guests of this pool.")
@click.option("--tag", help="Only guests that carry this tag.")
@click.option("--status", help="Only guests in this state: running, stopped, ...")
@click.option("--type", type=click.Choice(["lxc", "qemu"]), help="Only containers, or only machines.")
@click.option("-q", "--quiet", is_flag=True, help="Only vmids.")
@click.pass_obj
def ls(context: Context, /, quiet: bool, **query: str | None) -> None:
    """List the guests of the cluster that the token may see."""
    guests = list(context.api.pages("/guests", "guests", query))
    columns = {
        "VMID": lambda guest: guest["vmid"],
        "NAME": lambda guest: guest["name"],
        "STATUS": lambda guest: "template" if guest["template"] else guest["status"],
        "TYPE": lambda guest: guest["type"],
        "NODE": lambda guest: guest["node"],
        "MEMORY": lambda guest: size(guest["memory_used"]),
        "UPTIME": lambda guest: duration(guest["uptime"]) if guest["uptime"] else None,
        "TAGS": lambda guest: guest["tags"],
        "LOCK": lambda guest: guest["lock"],
    }
    show_list(context.output, guests, columns, only="vmid" if quiet else None)


@click.command()
@click.argument("guest", shell_complete=complete_guests)
@click.pass_obj
def show(context: Context, /, guest: str) -> None:
    """Show a guest as it is now: state, configuration, what its next start changes."""
    show_one(context.output, context.api.get(f"/guests/{_vmid(context, guest)}"))


@click.command()
@click.argument("guest", shell_complete=complete_guests)
@click.option("--wait", type=click.FloatRange(0, 300), default=0.0, help="Seconds to wait until it has one.")
@click.pass_obj
def ip(context: Context, /, guest: str, wait: float) -> None:
    """Print a guest's addresses, a line each."""
    answer = context.api.get(f"/guests/{_vmid(context, guest)}/addresses", {"wait": wait}, wait=wait)
    columns = {name.upper(): (lambda one, name=name: one[name]) for name in ("address", "prefix", "interface", "mac")}
    show_list(context.output, answer["addresses"], columns)


def _power(word: str, text: str, *options: Any) -> click.Command:
    def act(context: Context, /, guests: tuple[str, ...], wait: float, **query: Any) -> None:
        def ask(guest: str) -> dict[str, Any]:
            vmid = _vmid(context, guest)
            answer = context.api.post(f"/guests/{vmid}/{word}", query={**query, "wait": wait}, wait=wait)
            return _tell(context, answer, str(vmid))

        each(context, guests, ask)

    command: Any = click.pass_obj(act)
    for option in (*options, WAIT, _GUESTS):
        command = option(command)
    return click.command(word, help=text)(command)


_TIMEOUT = click.option(
    "--timeout", type=click.IntRange(1, 7200), default=60, show_default=True, help="Seconds that it has to shut down."
)
POWER = (
    _power("start", "Start guests."),
    _power(
        "stop",
        "Stop guests at once, as pulling the plug does; `shutdown` lets them end.",
        click.option("--overrule-shutdown", is_flag=True, help="End a shutdown that is under way first."),
    ),
    _power(
        "shutdown",
        "Shut guests down.",
        _TIMEOUT,
        click.option("--force", is_flag=True, help="Stop one that has not shut down in time."),
    ),
    _power("reboot", "Shut guests down and start them anew, with their pending changes.", _TIMEOUT),
    _power(
        "suspend",
        "Pause guests: machines in memory or on disk, containers by freezing them.",
        click.option("--to-disk", is_flag=True, help="Machines: keep the memory on disk, and free it."),
    ),
    _power("resume", "Let suspended guests go on."),
)


@click.command()
@click.argument("source", metavar="GUEST", shell_complete=complete_guests)
@click.option("--vmid", type=int, help="The new one's vmid. Default: the lowest that is free.")
@click.option("--name", help="Its host name.")
@click.option("--full", is_flag=True, help="A copy of its own, not linked; only a template can be linked.")
@click.option("--storage", shell_complete=complete_storages, help="Where a full copy goes.")
@click.option("--pool", shell_complete=complete_pools, help="The pool that it joins.")
@click.option("--start", is_flag=True, help="Start it.")
@click.option("--wait-for-address", type=float, metavar="SECONDS", help="Wait so long for its address; with --start.")
@WAIT
@click.pass_obj
def clone(context: Context, /, source: str, wait: float, **wish: Any) -> None:
    """Make a copy of a guest, and print its vmid."""
    body = {name: value for name, value in wish.items() if value}
    answer = context.api.post(f"/guests/{_vmid(context, source)}/clone", body, {"wait": wait}, wait=wait)
    tell_new(context, answer)


@click.command()
@click.option("--template", help="A volume like local:vztmpl/NAME, as `pvex template ls` lists them.")
@click.option("--backup", help="Restore this backup instead.")
@click.option("--vmid", type=int, help="Its vmid. Default: the lowest that is free.")
@click.option("--name", help="Its host name.")
@click.option("--storage", required=True, shell_complete=complete_storages, help="Where its disk goes.")
@click.option("--disk", help="The disk's size, like 8G.")
@click.option("--cores", type=int, help="Processors.")
@click.option("--memory", type=int, help="MiB.")
@click.option("--tag", "tags", multiple=True, help="Repeatable.")
@click.option("--ssh-key", "keys", type=click.File(), multiple=True, help="A public key's file. Repeatable.")
@click.option("--start", is_flag=True, help="Start it.")
@click.option("--wait-for-address", type=float, metavar="SECONDS", help="Wait so long for its address; with --start.")
@click.option("-f", "--file", type=click.File("rb"), help="Further members of POST /guests, as JSON; - is stdin.")
@WAIT
@click.pass_obj
def create(context: Context, /, wait: float, keys: tuple[Any, ...], file: Any, **wish: Any) -> None:
    """Make a container, and print its vmid. It is whole, or it is not there."""
    import json

    try:
        body = dict(json.load(file)) if file else {}
    except ValueError as exc:
        raise click.BadParameter("is no JSON object", param_hint="--file") from exc
    body |= {name: list(value) if name == "tags" else value for name, value in wish.items() if value}
    if keys:
        body["ssh_public_keys"] = [line.strip() for file in keys for line in file if line.strip()]
    tell_new(context, context.api.post("/guests", body, {"wait": wait}, wait=wait))


@click.command()
@_GUESTS
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("-f", "--force", is_flag=True, help="Containers only: also one that runs.")
@click.option("--purge", is_flag=True, help="Backup jobs, replication and HA forget it, too.")
@WAIT
@click.pass_obj
def rm(context: Context, /, guests: tuple[str, ...], yes: bool, force: bool, purge: bool, wait: float) -> None:
    """Destroy guests with their disks."""
    vmids = [str(_vmid(context, guest)) for guest in guests]
    confirm(yes, f"Destroy {', '.join(vmids)} with all disks? It cannot be undone.")

    def ask(vmid: str) -> dict[str, Any]:
        query = {"confirm": vmid, "force": force, "purge": purge, "wait": wait}
        return _tell(context, context.api.call("DELETE", f"/guests/{vmid}", query=query, wait=wait), vmid)

    each(context, vmids, ask)


def confirm(yes: bool, question: str) -> None:
    """Asks on a terminal; elsewhere --yes has to say it. Raises UsageError, click.Abort."""
    from pvex.errors import UsageError

    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("that cannot be undone, and nobody can be asked: say --yes")
    with redirect_stdout(sys.stderr):  # click 8.1, which Debian 13 has, puts the question's last space there
        click.confirm(question, abort=True, err=True)


def tell_work(context: Context, answer: dict[str, Any], done: str) -> None:
    """`done` when PVE's task has ended; its upid while it runs."""
    if context.output != "table":
        show_one(context.output, answer)
    else:
        _tell(context, answer, done)


def _tell(context: Context, answer: dict[str, Any], done: str) -> dict[str, Any]:
    """The same; -o is the caller's."""
    if context.output != "table":
        return answer
    if answer["state"] == "running":
        note(f"still at it; `pvex task wait {quote(answer['upid'])}` waits for its end")
        click.echo(answer["upid"])
    else:
        click.echo(done)
        if answer.get("requested"):
            note(f"the HA manager was asked for it, and does it in its time ({done})")
    return answer


def tell_new(context: Context, answer: dict[str, Any]) -> None:
    """The vmid of a guest that is made, or being made."""
    if context.output != "table":
        show_one(context.output, answer)
        return
    if answer["state"] == "making":
        note(f"it is being made; `pvex task wait {quote(answer['upid'])}` waits for its end")
    click.echo(answer["vmid"])
    for address in answer["addresses"]:
        note(f"{answer['vmid']} has {address['address']}")


def _vmid(context: Context, guest: str) -> int:
    from pvex.guests import find_vmid

    return find_vmid(context.api, guest)


GUEST_COMMANDS = (ls, show, ip, *POWER, clone, create, rm)
