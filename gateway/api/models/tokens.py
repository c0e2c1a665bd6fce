"""Replies of the token resource."""

from __future__ import annotations

from typing import TypedDict


class Reach(TypedDict):
    """One action and the guests it reaches, like `100-199,205` or `all`; empty for none."""

    action: str
    guests: str


class TokenSelf(TypedDict):
    """What the caller's own token is and may do; protected guests are already taken out."""

    id: str
    name: str
    expires: str | None
    reach: list[Reach]
