"""`pvex exec`: one command in one guest, as if it ran here."""

from __future__ import annotations

import json
import os
import secrets
import sys
from typing import TYPE_CHECKING, Any

import click

from pvex.completion import complete_guests
from pvex.context import Context
from pvex.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable


class ExecCommand(click.Command):
    """Options end at the guest, as docker's do, or at `--`, as kubectl's do."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            cut = args.index("--")
            head, command = args[:cut], args[cut + 1 :]
            given, _, _ = self.make_parser(ctx).parse_args(list(head))
            behind = given.get("command")
            if (
                "guest" in given and isinstance(behind, tuple) and behind and behind[0].startswith("-")
            ):  # exec 101 -it -- sh
                before = head[: len(head) - len(behind) - 1]
                args = [*before, *behind, given["guest"], "--", *command]
        return super().parse_args(ctx, args)


def take_command(_ctx: click.Context, _param: click.Parameter, words: tuple[str, ...]) -> tuple[str, ...]:
    """The words of a command, less the `--` before them."""
    return words[1:] if words[:1] == ("--",) else words


@click.command("exec", cls=ExecCommand, context_settings={"allow_interspersed_args": False})
@click.argument("guest", shell_complete=complete_guests)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, callback=take_command)
@click.option("-i", "--interactive", is_flag=True, help="Send our stdin to the command.")
@click.option("-t", "--tty", is_flag=True, help="Run it in a terminal; with -i in our own.")
@click.option("--detach-keys", default="ctrl-p,ctrl-q", show_default=True, help="Leave, and let it run.")
@click.option("-u", "--user", help="Run as this user: name, uid or uid:gid. Default: root.")
@click.option("-w", "--workdir", help="The working directory. Default: the user's home.")
@click.option("-e", "--env", multiple=True, help="NAME=VALUE; NAME alone takes our own value. Repeatable.")
@click.option("--env-file", type=click.File(), help="Lines of NAME=VALUE, or of NAME; # begins a comment.")
@click.option("-d", "--detach", is_flag=True, help="Do not wait for its end: print the exec's id as soon as it runs.")
@click.option("--timeout", type=float, metavar="SECONDS", help="End the command after so long (exit code 124).")
@click.option("--queue-timeout", type=float, metavar="SECONDS", help="Wait so long for a place.")
@click.option("-l", "--label", "labels", multiple=True, help="KEY=VALUE, to find it again. Repeatable.")
@click.option("--redact", type=int, multiple=True, help="Show this argument (0 is the program) nowhere. Repeatable.")
@click.option(
    "--background",
    type=click.Choice(["detach", "wait", "kill"]),
    help="What becomes of processes that outlive the command. Default: detach.",
)
@click.option("--placement", type=click.Choice(["own", "guest"]), help="guest: for systemd-run --scope, podman, snap.")
@click.option(
    "--on-disconnect",
    type=click.Choice(["continue", "kill"]),
    default="continue",
    show_default=True,
    help="What becomes of the command when the gateway loses us. With continue a cut stream is taken up again.",
)
@click.option("--idempotency-key", metavar="KEY", help="Runs at most once with this key; else one is made up.")
@click.pass_obj
def exec_(
    context: Context,
    /,
    guest: str,
    command: tuple[str, ...],
    interactive: bool,
    tty: bool,
    detach: bool,
    **options: Any,
) -> None:
    """Run COMMAND in GUEST (a vmid, or a name).

    It runs as it is, no shell in between. Its output, and with -i its input, are ours byte for byte; signals go on to
    it, and its exit code is ours. 124: its time was over; 125: pvex or the gateway failed; 126, 127: it could not be
    started; 128+n: signal n ended it.
    """
    from pvex.guests import find_vmid
    from pvex.running import describe_terminal, open_terminal, run, tell_end

    if not command:
        raise click.UsageError("give a command: pvex exec 101 -- COMMAND")
    if detach and interactive:
        raise click.UsageError("-d does not wait, so it takes no -i")
    spec = build_spec(command, **options)
    if tty:
        spec["tty"] = describe_terminal(ours=interactive)
    key = options["idempotency_key"] or new_key()
    vmid = find_vmid(context.api, guest)
    if detach:
        headers = {"Prefer": "respond-async", "Idempotency-Key": key}
        view = context.api.call("POST", f"/exec/{vmid}", spec, headers=headers)
        click.echo(view["id"])
        sys.exit(tell_end(view) if view["reason"] == "spawn_failed" else 0)
    if tty and interactive:
        sys.exit(open_terminal(context.api, vmid, spec, key, options["detach_keys"]))
    sys.exit(run(context.api, vmid, spec, key, with_stdin=interactive))


def new_key() -> str:
    """An Idempotency-Key that nobody else has."""
    return f"pvex-{secrets.token_hex(16)}"


def build_spec(
    command: Iterable[str],
    *,
    user: str | None = None,
    workdir: str | None = None,
    env: Iterable[str] = (),
    env_file: Iterable[str] | None = None,
    labels: Iterable[str] = (),
    redact: Iterable[int] = (),
    timeout: float | None = None,
    queue_timeout: float | None = None,
    background: str | None = None,
    placement: str | None = None,
    on_disconnect: str | None = None,
    **_: Any,
) -> dict[str, Any]:
    """The body of POST /exec/{vmid}: only what was given. Raises UsageError."""
    spec: dict[str, Any] = {
        "command": list(command),
        "user": user,
        "cwd": workdir,
        "timeout": timeout,
        "queue_timeout": queue_timeout,
        "background": background,
        "placement": placement,
        "on_disconnect": on_disconnect,
        "env": dict(_read_env(env, env_file or ())),
        "labels": dict(_pair("--label", label) for label in labels),
        "redact": list(redact),
    }
    spec = {name: value for name, value in spec.items() if value not in (None, {}, [])}
    try:
        json.dumps(spec, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise UsageError("arguments and environment have to be UTF-8: send other bytes on stdin (-i)") from None
    return spec


def _read_env(given: Iterable[str], file: Iterable[str]) -> Iterable[tuple[str, str]]:
    """What is named without a value has our own, and is left out where we have none: as docker has it."""
    lines = [("--env-file", line.rstrip("\n")) for line in file if line.strip() and not line.startswith("#")]
    for option, entry in (*lines, *(("--env", entry) for entry in given)):
        if "=" in entry:
            yield _pair(option, entry)
        elif entry in os.environ:
            yield entry, os.environ[entry]


def _pair(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"{option} takes NAME=VALUE")
    return name, value
