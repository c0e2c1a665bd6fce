"""Completion of guests, commands and profiles, by what the gateway says at the moment; it never tells of an error."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Any

import click
from click.shell_completion import CompletionItem

SECONDS = 3.0
"""Nobody waits longer for a Tab."""


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

    def find(api: Any) -> Iterable[CompletionItem]:
        for one in api.pages("/execs", "execs", most=50):
            if one["id"].startswith(incomplete):
                yield CompletionItem(one["id"], help=f"{one['vmid']} {' '.join(one['command'])[:40]}")

    return _ask(context, find)


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
