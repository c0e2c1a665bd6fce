"""`pvex task`: what PVE's workers do, and did, about guests."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from pvex.completion import complete_guests, complete_nodes, complete_tasks
from pvex.context import Context, each, note
from pvex.errors import FAILED, ClientError
from pvex.guests import find_vmid
from pvex.paths import segment
from pvex.show import age, cut, duration, line, show_list, show_one
from pvex.times import read_moment

if TYPE_CHECKING:
    from pvex.api import Api
    from pvex.events import Retry

PAGE = 500
"""How many tasks, or lines of a log, an answer may hold."""
POLL_SECONDS = 30.0
PAUSE_SECONDS = 1.0
PATIENCE = 60.0
"""Seconds for which a gateway that went away is asked again."""

_UPID = click.argument("upid", shell_complete=complete_tasks)
_UPIDS = click.argument("upids", metavar="UPID...", nargs=-1, required=True, shell_complete=complete_tasks)


@click.group()
def task() -> None:
    """Tasks of PVE's: what it does to guests, and did."""


@task.command("ls")
@click.argument("guest", required=False, shell_complete=complete_guests)
@click.option("--node", shell_complete=complete_nodes, help="The node whose tasks. Default: the gateway's.")
@click.option("--since", help="Only those begun since: 30m, 12h, 7d ago, or an RFC 3339 time.")
@click.option("--errors", is_flag=True, help="Only those that failed or warned.")
@click.option("-n", "--last", type=click.IntRange(1), default=50, show_default=True, help="How many at most.")
@click.option("-q", "--quiet", is_flag=True, help="Only upids.")
@click.pass_obj
def list_tasks(
    context: Context, /, guest: str | None, node: str | None, since: str | None, errors: bool, last: int, quiet: bool
) -> None:
    """List a node's tasks, those that run and then the newest: about all guests that the token may see, or GUEST."""
    query = {"since": read_moment("--since", since) if since else None, "node": node, "errors": errors}
    if guest:
        query["vmid"] = find_vmid(context.api, guest)
    tasks = list(context.api.pages("/tasks", "tasks", query, most=last, largest=PAGE))
    columns = {
        "UPID": lambda one: one["upid"],
        "TYPE": lambda one: one["type"],
        "VMID": lambda one: one["vmid"],
        "AGE": lambda one: age(one["started_at"]),
        "TOOK": lambda one: duration(one["ended_at"] - one["started_at"]) if one["ended_at"] else None,
        "STATE": lambda one: "running" if one["state"] == "running" else "ok" if one["ok"] else "failed",
        "END": lambda one: cut(line(one["exitstatus"] or ""), 40),
    }
    show_list(context.output, tasks, columns, only="upid" if quiet else None)


@task.command()
@_UPID
@click.pass_obj
def show(context: Context, /, upid: str) -> None:
    """Show all that is known of a task."""
    show_one(context.output, context.api.get(f"/tasks/{segment(upid)}"))


@task.command("log")
@_UPID
@click.option("-f", "--follow", is_flag=True, help="Stay until it ends; 125 if it has failed.")
@click.pass_obj
def show_log(context: Context, /, upid: str, follow: bool) -> None:
    """Print a task's log."""
    for one in _read_log(context.api, upid, stay=follow):
        print(line(one["text"].expandtabs()), flush=follow)
    if follow:
        view = _wait(context.api, upid, None)
        if not view["ok"]:
            _tell(view)
            sys.exit(FAILED)


@task.command()
@_UPIDS
@click.option("--timeout", type=click.FloatRange(0), metavar="SECONDS", help="Give up after so long. Default: never.")
@click.pass_obj
def wait(context: Context, /, upids: tuple[str, ...], timeout: float | None) -> None:
    """Wait until tasks have ended; 125 if one has failed."""
    until = None if timeout is None else time.monotonic() + timeout
    bad = []

    def ask(upid: str) -> dict[str, Any]:
        view = _wait(context.api, upid, until)
        if not view["ok"]:
            bad.append(upid)
            _tell(view)
        elif context.output == "table":
            click.echo(upid)
        return view

    each(context, upids, ask)
    if bad:
        sys.exit(FAILED)


@task.command()
@_UPIDS
@click.option(
    "--wait", type=click.FloatRange(0, 300), default=15.0, show_default=True, help="Seconds to wait for its end."
)
@click.pass_obj
def stop(context: Context, /, upids: tuple[str, ...], wait: float) -> None:
    """End tasks. What they were at stays half done."""

    def ask(upid: str) -> dict[str, Any]:
        path = f"/tasks/{segment(upid)}"
        view: dict[str, Any] = context.api.call("DELETE", path, query={"wait": wait}, wait=wait)
        if view["state"] != "ended":
            note(f"{upid} is being ended; `pvex task wait {quote(upid)}` waits for it")
        elif context.output == "table":
            click.echo(upid)
        return view

    each(context, upids, ask)


def _wait(api: Api, upid: str, until: float | None) -> dict[str, Any]:
    """The task when it has ended, or when it is `until` (time.monotonic). Raises ClientError."""
    retry = _retry()
    while True:
        began = time.monotonic()
        left = POLL_SECONDS if until is None else max(0.0, min(POLL_SECONDS, until - began))
        view: dict[str, Any] = _ask_again(api, retry, f"/tasks/{segment(upid)}", {}, left)
        if view["state"] == "ended" or (until is not None and time.monotonic() >= until):
            return view
        _pause(began)


def _read_log(api: Api, upid: str, *, stay: bool) -> Iterator[dict[str, Any]]:
    """Its lines: those that there are, and with `stay` those to come. Raises ClientError."""
    retry = _retry()
    after: int | None = 0
    while after is not None:
        began = time.monotonic()
        query = {"after": after, "limit": PAGE}
        page = _ask_again(api, retry, f"/tasks/{segment(upid)}/log", query, POLL_SECONDS if stay else 0.0)
        yield from page["lines"]
        if not stay and len(page["lines"]) < PAGE:
            return
        after = page["next"]
        if not page["lines"]:
            _pause(began)


def _pause(began: float) -> None:
    """A gateway that answers sooner than it was asked to is not asked without end."""
    time.sleep(max(0.0, began + PAUSE_SECONDS - time.monotonic()))


def _retry() -> Retry:
    from pvex.events import Retry

    return Retry(PATIENCE)


def _ask_again(api: Api, retry: Retry, path: str, query: dict[str, Any], wait: float) -> Any:
    """The answer, of a gateway that may be away for a moment meanwhile, too. Raises ClientError."""
    while True:
        try:
            answer = api.get(path, {**query, "wait": wait}, wait=wait)
        except ClientError as error:
            retry.after(error, None)
        else:
            retry.succeeded()
            return answer


def _tell(view: dict[str, Any]) -> None:
    """Why it is no success."""
    upid = view["upid"]
    if view["state"] != "ended":
        note(f"{upid} still runs; `pvex task stop {quote(upid)}` would end it")
    else:
        note(f"{upid} has failed: {line(view['exitstatus'] or 'why is not known')}")
