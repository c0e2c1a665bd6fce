"""Which guest is meant: a vmid as it stands, a name by the gateway's list."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvex.errors import ClientError, Problem, UsageError

if TYPE_CHECKING:
    from pvex.api import Api


def find_vmid(api: Api, text: str) -> int:
    """Raises UsageError where no guest has that name, or several have; ClientError where we may not look."""
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        found = [guest["vmid"] for guest in api.pages("/guests", "guests") if guest["name"] == text]
    except Problem as problem:
        if problem.code != "forbidden":
            raise
        raise ClientError(f"this token may not list guests (guest:read): give a vmid in place of {text!r}") from problem
    if len(found) == 1:
        return int(found[0])
    if found:
        raise UsageError(f"{len(found)} guests are called {text!r}: say which, by vmid: {', '.join(map(str, found))}")
    raise UsageError(f"no guest is called {text!r}; `pvex ls` lists those that this token may see")
