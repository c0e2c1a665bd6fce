"""Replies of the health routes."""

from __future__ import annotations

from typing import NotRequired, TypedDict


class Alive(TypedDict):
    """This process answers; it says nothing about the node."""

    status: str


class CheckView(TypedDict):
    """One thing that running commands needs. `detail` is for callers with a token only."""

    name: str
    ok: bool
    detail: NotRequired[str]


class Readiness(TypedDict):
    """`ready` when every check is ok, else `not_ready` (with status 503)."""

    status: str
    checks: list[CheckView]
