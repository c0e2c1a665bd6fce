"""`pvex ps|logs|attach|kill|signal`: commands that run, or have run."""

from __future__ import annotations

import sys
from typing import Any

import click

from pvex.completion import complete_execs, complete_guests, complete_running
from pvex.context import Context, each, note
from pvex.paths import segment
from pvex.show import age, cut, show_list, show_one


@click.command()
@click.argument("guest", required=False, shell_complete=complete_guests)
@click.option("-a", "--all", "everything", is_flag=True, help="Also those that have ended and are remembered.")
@click.option(
    "-l", "--label", "labels", multiple=True, help="KEY=VALUE; only those that carry all of them. Repeatable."
)
@click.option("-n", "--last", type=click.IntRange(1), default=100, show_default=True, help="How many at most.")
@click.option("-q", "--quiet", is_flag=True, help="Only ids.")
@click.pass_obj
def ps(
    context: Context, /, guest: str | None, everything: bool, labels: tuple[str, ...], last: int, quiet: bool
) -> None:
    """List commands, the newest first: those that run, of all guests or of GUEST."""
    from pvex.guests import find_vmid

    api = context.api
    query = {
        "vmid": find_vmid(api, guest) if guest else None,
        "label": labels,
        "state": None if everything else "running",
    }
    execs = list(api.pages("/execs", "execs", query, most=last))
    columns = {
        "ID": lambda one: one["id"],
        "VMID": lambda one: one["vmid"],
        "STATE": lambda one: one["state"] if one["reason"] in (None, "exited") else one["reason"],
        "EXIT": lambda one: one["exit_code"],
        "AGE": lambda one: age(one["created_at"]),
        "COMMAND": lambda one: cut(" ".join(one["command"]), 60),
    }
    show_list(context.output, execs, columns, only="id" if quiet else None)


@click.command()
@click.argument("exec_id", metavar="EXEC", shell_complete=complete_execs)
@click.option("-f", "--follow", is_flag=True, help="Stay until it ends; its exit code is ours then.")
@click.option(
    "-n",
    "--tail",
    type=click.IntRange(0),
    metavar="LINES",
    help="Only the last so many lines of both streams.",
)
@click.pass_obj
def logs(context: Context, /, exec_id: str, follow: bool, tail: int | None) -> None:
    """Print what a command has written, stdout and stderr each as what it is."""
    from pvex.events import follow as read_events
    from pvex.running import tell_end, write
    from pvex.tail import find_tail

    start = find_tail(context.api, exec_id, tail) if tail is not None else 0
    for event in read_events(context.api, exec_id, start=start, stay=follow):
        if event["type"] == "end":
            if follow:
                sys.exit(tell_end(event["exec"]))
            return
        write(context.api, "", event)


@click.command()
@click.argument("exec_id", metavar="EXEC", shell_complete=complete_running)
@click.option("--detach-keys", default="ctrl-p,ctrl-q", show_default=True, help="Leave, and let it run.")
@click.pass_obj
def attach(context: Context, /, exec_id: str, detach_keys: str) -> None:
    """Come back to a command in a terminal; what it has shown is shown again."""
    from pvex.errors import UsageError
    from pvex.running import hold_terminal
    from pvex.terminal import Keys

    keys = Keys(detach_keys)
    if not sys.stdin.isatty():
        raise UsageError(f"stdin is no terminal: `pvex logs -f {exec_id}` follows without one")
    sys.exit(hold_terminal(context.api, exec_id, keys))


@click.command()
@click.argument("exec_ids", metavar="EXEC...", nargs=-1, required=True, shell_complete=complete_running)
@click.option("-s", "--signal", "name", help="Send this signal instead, to the whole tree: HUP, 15, ...")
@click.option(
    "--wait", type=click.FloatRange(0, 60), default=15.0, show_default=True, help="Seconds to wait for its end."
)
@click.pass_obj
def kill(context: Context, /, exec_ids: tuple[str, ...], name: str | None, wait: float) -> None:
    """End commands with all they have started: TERM, then KILL."""

    def ask(exec_id: str) -> dict[str, Any]:
        if name is not None:
            number = int(name) if name.isdigit() else name
            answer: dict[str, Any] = context.api.post(
                f"/execs/{segment(exec_id)}/signal", {"signal": number, "to": "tree"}
            )
            return answer
        view: dict[str, Any] = context.api.call("DELETE", f"/execs/{segment(exec_id)}", query={"wait": wait}, wait=wait)
        if context.output == "table" and view["state"] == "ended":
            click.echo(exec_id)
        elif view["state"] != "ended":
            note(f"{exec_id} is being ended; `pvex logs -f {exec_id}` waits for it")
        return view

    each(context, exec_ids, ask)


@click.command()
@click.argument("exec_id", metavar="EXEC", shell_complete=complete_execs)
@click.option("--wait", type=click.FloatRange(0, 60), default=0.0, help="Seconds to wait for its end.")
@click.pass_obj
def inspect(context: Context, /, exec_id: str, wait: float) -> None:
    """Show all that is known of a command."""
    show_one(context.output, context.api.get(f"/execs/{segment(exec_id)}", {"wait": wait}, wait=wait))
