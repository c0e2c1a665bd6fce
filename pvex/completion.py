"""Completion of guests, commands and profiles, by what the gateway says at the moment; it never tells of an error."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Any

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class, split_arg_string

from pvex.show import plain

SECONDS = 3.0
"""Nobody waits longer for a Tab."""


@add_completion_class
class _Bash(BashComplete):
    """Without a space behind `GUEST:` and `tag=`, and with words that hold colons, as upids and volumes do.

    Readline takes such a word for several (COMP_WORDBREAKS) and replaces the last of them, so that only what stands
    behind the last colon is given back. `!` would be history's: it comes with a backslash.
    """

    source_template = BashComplete.source_template.replace(
        "COMPREPLY+=($value)", "COMPREPLY+=($value); [[ $value != *[:=] ]] || compopt -o nospace"
    ).replace(
        "COMP_CWORD=$COMP_CWORD",
        'COMP_CWORD=$COMP_CWORD COMP_LINE="${COMP_LINE:0:$COMP_POINT}" COMP_WORDBREAKS="$COMP_WORDBREAKS"',
    )
    _before = ""
    """What of the word that is being typed stays as it is."""

    def get_completion_args(self) -> tuple[list[str], str]:
        typed = os.environ.get("COMP_LINE", "")
        if not typed or ":" not in os.environ.get("COMP_WORDBREAKS", ""):
            return super().get_completion_args()
        words = split_arg_string(typed)
        incomplete = words.pop() if words and not typed[-1].isspace() else ""
        self._before = incomplete[: incomplete.rfind(":") + 1]
        return words[1:], incomplete

    def format_completion(self, item: CompletionItem) -> str:
        value = str(item.value)
        if item.type == "plain":
            value = value.removeprefix(self._before).replace("!", r"\\!")  # `read` takes one of the two
        return f"{item.type},{value}"


def complete_guests(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Vmids, with names for help, and names."""

    def find(api: Any) -> Iterable[CompletionItem]:
        for guest in api.pages("/guests", "guests", most=1000):
            name, status = guest["name"] or "", guest["status"]
            if str(guest["vmid"]).startswith(incomplete):
                yield CompletionItem(str(guest["vmid"]), help=f"{name} {status}")
            if incomplete and not incomplete.isdigit() and name.startswith(incomplete):
                yield CompletionItem(name, help=f"{guest['vmid']} {status}")

    return _ask(context, find)


def complete_execs(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ids of commands that run, and of those that are remembered; the command for help."""
    return _ask(context, lambda api: _execs(api, incomplete, {}))


def complete_running(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ids of commands that run alone."""
    return _ask(context, lambda api: _execs(api, incomplete, {"state": "running"}))


def _execs(api: Any, incomplete: str, query: dict[str, str]) -> Iterable[CompletionItem]:
    found = api.pages("/execs", "execs", query, most=50)
    return _match(found, incomplete, "id", lambda one: f"{one['vmid']} {plain(' '.join(one['command']))[:40]}")


def complete_places(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """What `cp` takes: `GUEST:` where that is being typed, else files here."""
    guests = complete_guests(context, parameter, incomplete) if incomplete and "/" not in incomplete else []
    if guests and not os.path.lexists(incomplete):
        return [CompletionItem(f"{one.value}:", help=one.help) for one in guests]
    return [CompletionItem(incomplete, type="file")]


def complete_there(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """What `file` takes: `GUEST:`; what is in the guest is not looked at, for that is recorded."""
    if ":" in incomplete:
        return []
    return [CompletionItem(f"{one.value}:", help=one.help) for one in complete_guests(context, parameter, incomplete)]


def complete_snapshots(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The snapshots of the guest that was named before."""
    return _of_guest(context, incomplete, "snapshots", "name", "description")


def complete_backups(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The backups of the guest that was named before."""
    return _of_guest(context, incomplete, "backups", "volume", "notes")


def _of_guest(context: click.Context, incomplete: str, what: str, name: str, about: str) -> list[CompletionItem]:
    def find(api: Any) -> Iterable[CompletionItem]:
        from pvex.guests import find_vmid

        found = api.pages(f"/guests/{find_vmid(api, context.params['guest'])}/{what}", what)
        return _match(found, incomplete, name, lambda one: plain(one[about])[:40])

    return _ask(context, find) if context.params.get("guest") else []


def complete_nodes(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The nodes of the cluster."""
    return _named(context, incomplete, "nodes")


def complete_storages(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The storages of the gateway's node."""
    return _named(context, incomplete, "storages")


def complete_pools(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The resource pools."""
    return _named(context, incomplete, "pools")


def complete_offers(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The templates of PVE's catalogue."""
    return _named(context, incomplete, "templates", {"available": True})


def _named(
    context: click.Context, incomplete: str, what: str, query: dict[str, Any] | None = None
) -> list[CompletionItem]:
    return _ask(context, lambda api: _match(api.pages(f"/{what}", what, query), incomplete, "name"))


def complete_tasks(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The node's last tasks; what they are for help."""

    def find(api: Any) -> Iterable[CompletionItem]:
        found = api.pages("/tasks", "tasks", most=50)
        return _match(found, incomplete, "upid", lambda one: f"{one['type']} {one['vmid']} {one['state']}")

    return _ask(context, find)


def complete_tokens(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ids of tokens; the name for help."""

    def find(api: Any) -> Iterable[CompletionItem]:
        found = api.pages("/tokens", "tokens", most=1000)
        return _match(found, incomplete, "id", lambda one: f"{plain(one['name'])} {one['state']}")

    return _ask(context, find)


def _match(
    items: Iterable[Any], incomplete: str, member: str, about: Callable[[Any], str | None] = lambda _: None
) -> Iterable[CompletionItem]:
    """Those whose `member` begins so; `about` tells their help."""
    for one in items:
        if one[member].startswith(incomplete):
            yield CompletionItem(one[member], help=about(one))


def complete_profiles(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of profiles."""
    from pvex.errors import ClientError
    from pvex.profile import load_store

    try:
        return [CompletionItem(name) for name in load_store().profiles if name.startswith(incomplete)]
    except ClientError:
        return []


def _ask(context: click.Context, find: Callable[[Any], Iterable[CompletionItem]]) -> list[CompletionItem]:
    from pvex.api import Api
    from pvex.errors import ClientError
    from pvex.profile import choose_profile

    try:
        profile = choose_profile(context.find_root().params.get("profile"))
        with closing(Api(profile, seconds=SECONDS)) as api:
            return list(find(api))
    except ClientError:
        return []
