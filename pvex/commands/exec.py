"""`pvex exec`: one command in one guest, as if it ran here."""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
from typing import TYPE_CHECKING, Any

import click

from pvex.completion import complete_guests
from pvex.context import Context, note
from pvex.errors import BROKEN_PIPE, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pvex.api import Api
    from pvex.terminal import Keys


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
@click.option("--env-file", type=click.File(), help="Lines of NAME=VALUE.")
@click.option("-d", "--detach", is_flag=True, help="Do not wait: print the exec's id.")
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
        click.echo(context.api.call("POST", f"/exec/{vmid}", spec, headers=headers)["id"])
        return
    if tty and interactive:
        sys.exit(open_terminal(context.api, vmid, spec, key, options["detach_keys"]))
    sys.exit(attend(context.api, vmid, spec, key, with_stdin=interactive))


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
    for line in file:
        if line.strip() and not line.startswith("#"):
            yield _pair("--env-file", line.rstrip("\n"))
    for entry in given:
        if "=" in entry:
            yield _pair("--env", entry)
        elif entry in os.environ:
            yield entry, os.environ[entry]


def _pair(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"{option} takes NAME=VALUE")
    return name, value


def attend(api: Api, vmid: int, spec: dict[str, Any], key: str, *, with_stdin: bool) -> int:
    """Runs it, hands input, output and signals through, and gives the exit code."""
    from pvex.events import run_stream
    from pvex.signals import Forwarding, Left, end_quietly
    from pvex.stdin import Pump

    if with_stdin:
        spec = {**spec, "stdin_open": True}
    exec_id = ""
    try:
        with Forwarding(api) as forwarding:
            for event in run_stream(api, vmid, spec, key):
                kind = event["type"]
                if kind == "start" and not exec_id:
                    exec_id = event["exec"]["id"]
                    forwarding.begun(exec_id)
                    if with_stdin:
                        Pump(api, exec_id).start()
                elif kind == "end":
                    return tell_end(event["exec"])
                else:
                    write(api, exec_id, event)
    except Left:
        end_quietly(api, exec_id)
        raise
    raise AssertionError("a stream ends with an end")


def describe_terminal(*, ours: bool) -> dict[str, Any]:
    """The terminal that the command gets: one like ours, where that is to be it. Raises UsageError."""
    from pvex.terminal import terminal_size

    if not ours:
        return {}
    if not sys.stdin.isatty():
        raise UsageError("stdin is no terminal: leave -t out")
    term = os.environ.get("TERM", "")
    return {**terminal_size(), **({"term": term} if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}", term) else {})}


def open_terminal(api: Api, vmid: int, spec: dict[str, Any], key: str, detach_keys: str) -> int:
    """Begins it, detached and so once only, and attaches to it."""
    from pvex.terminal import Keys

    keys = Keys(detach_keys)
    headers = {"Prefer": "respond-async", "Idempotency-Key": key}
    exec_id = api.call("POST", f"/exec/{vmid}", spec, headers=headers)["id"]
    return hold_terminal(api, exec_id, keys)


def hold_terminal(api: Api, exec_id: str, keys: Keys) -> int:
    """Our terminal is the exec's until it ends, or the detach keys are pressed."""
    from pvex.signals import Left, end_quietly
    from pvex.terminal import Detached, Terminal

    try:
        view = Terminal(api, exec_id, keys).run()
    except Detached:
        note(f"detached; `pvex attach {exec_id}` comes back, `pvex kill {exec_id}` ends it")
        return 0
    except Left:
        end_quietly(api, exec_id)
        raise
    return tell_end(view)


def write(api: Api, exec_id: str, event: dict[str, Any]) -> None:
    """Shows what an event brings. Who reads us no more ends the command, as SIGPIPE would."""
    from pvex.events import read_data
    from pvex.signals import end_quietly

    kind = event["type"]
    if kind == "gap":
        note(f"{event['bytes']} bytes of {event['stream']} were not kept")
    if kind not in ("stdout", "stderr"):
        return
    out = (sys.stdout if kind == "stdout" else sys.stderr).buffer
    try:
        out.write(read_data(event))
        out.flush()
    except BrokenPipeError:
        end_quietly(api, exec_id)
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())  # what is buffered has nowhere to go
        sys.exit(BROKEN_PIPE)


def tell_end(view: dict[str, Any]) -> int:
    """Says what the exit code does not; gives it."""
    from pvex.ending import exit_code, explain

    text = explain(view)
    if text:
        note(text)
    return exit_code(view)
