"""Requests and replies of the token resource."""

from __future__ import annotations

from typing import Annotated, NotRequired, TypedDict

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from gateway.auth.actions import GRANTABLE, Action
from gateway.auth.grants import LIMITABLE
from gateway.exec.spec import ExecSpec, Strict


class ReachTerms(TypedDict):
    """What commands are limited to: patterns (none: any), users (none: no `user` may be sent), cwd, names in env."""

    commands: list[list[str]]
    users: list[str]
    cwd: list[str]
    env: list[str]


class Reach(TypedDict):
    """One action and the guests it reaches, like `100-199,205` or `all`, empty for none; `terms` where it is limited to
    certain commands. What one entry alone allows is allowed."""

    action: str
    guests: str
    terms: NotRequired[ReachTerms]


class TokenSelf(TypedDict):
    """What the caller's own token is and may do; pools stand as their guests, protected guests are taken out."""

    id: str
    name: str
    expires: str | None
    reach: list[Reach]


class CanRequest(Strict):
    """A what-if: an action, the guest, and the command as it would be sent to POST /exec/{vmid}."""

    action: Annotated[Action, Field(strict=False)] = Field(description="As in a grant, like `exec:run`.")
    vmid: int | None = Field(default=None, ge=100, le=999_999_999, description="None: on any guest at all.")
    exec: ExecSpec | None = Field(default=None, description="With exec:run or exec:terminal, and a vmid.")

    @field_validator("action")
    @classmethod
    def _can_be_granted(cls, value: Action) -> Action:
        if value not in GRANTABLE:
            raise PydanticCustomError("not_grantable", "no grant can give this action")
        return value

    @model_validator(mode="after")
    def _fits(self) -> CanRequest:
        if self.exec is not None and (self.vmid is None or self.action not in LIMITABLE):
            raise PydanticCustomError(
                "exec_without_guest", "`exec` needs a `vmid`, and exec:run or exec:terminal", {"field": "exec"}
            )
        return self


class CanReply(TypedDict):
    """The decision; `reason` why not, `field` the first field of the command that no grant allows."""

    allowed: bool
    reason: str | None
    field: str | None
