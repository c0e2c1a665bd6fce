"""Requests and replies of the token resource."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired, TypedDict

from pydantic import Field, StringConstraints, field_validator, model_validator
from pydantic_core import PydanticCustomError

from gateway.api.models.execs import PAGE_MAX, Query
from gateway.auth.actions import GRANTABLE, Action
from gateway.auth.grants import LIMITABLE, MAX_LISTED
from gateway.auth.records import TokenState
from gateway.auth.terms import MAX_NETWORKS, MAX_RATE, MAX_RUNNING, MIN_RATE
from gateway.exec.spec import ExecSpec, Strict

TOKEN_ID = r"^tk_[0-9A-HJKMNP-TV-Z]{26}$"
MAX_GRANTS = 64

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@/-]{0,63}$")]
_NAME = "Who or what uses it; stands in listings and the audit log."
_EXPIRES = "A lifetime like `30d`, `12h` or `2w`, a time like `2030-01-01T00:00:00Z`, or `never`."
_NETWORKS = "Source networks (CIDR) that it may come from; none: from anywhere."
Networks = Annotated[list[Annotated[str, StringConstraints(max_length=64)]], Field(max_length=MAX_NETWORKS)]
Texts = Annotated[list[Annotated[str, StringConstraints(max_length=4096)]], Field(max_length=MAX_LISTED)]
Expires = Annotated[str, StringConstraints(max_length=64)]


class GrantSpec(Strict):
    """Actions on guests, and what the commands there are limited to."""

    actions: Texts = Field(min_length=1, description="Like `exec:run`; `all` is every one.")
    guests: Annotated[str, StringConstraints(max_length=4096)] = Field(
        default="", description="`all`, `101` or `100-199,205`."
    )
    pools: Texts = Field(default=[], description="PVE pools: their guests, as they are at the time.")
    commands: list[Texts] | None = Field(
        default=None, min_length=1, max_length=MAX_LISTED, description="Patterns of argument lists; null: any command."
    )
    users: Texts = Field(default=[], description="The `user` of a command is one of these.")
    cwd: Texts = Field(default=[], description="Its `cwd` is one of these.")
    env: Texts = Field(default=[], description="Names that its `env` may have.")


class LimitsSpec(Strict):
    """What the token may take on each node, below what any token may; null: no bound of its own."""

    rate: float | None = Field(
        default=None, ge=MIN_RATE, le=MAX_RATE, allow_inf_nan=False, description="Requests a second."
    )
    max_running: int | None = Field(default=None, ge=1, le=MAX_RUNNING, description="Execs at the same time.")


class TokenRequest(Strict):
    """A new token. It can be given no more than the caller has."""

    name: Name = Field(description=_NAME)
    grants: list[GrantSpec] = Field(min_length=1, max_length=MAX_GRANTS)
    expires: Expires = Field(description=_EXPIRES)
    networks: Networks = Field(default=[], description=_NETWORKS)
    limits: LimitsSpec = LimitsSpec()


def _absent(description: str, **options: Any) -> Any:
    """A member that may be left out, which is not the same as null."""
    return Field(default=None, description=description, json_schema_extra=_drop_default, **options)


def _drop_default(schema: dict[str, Any]) -> None:
    del schema["default"]


class TokenPatch(Strict):
    """What is to be changed; the rest stays. Lists replace those there are; `limits` changes the members it has."""

    name: Name = _absent(_NAME)
    grants: list[GrantSpec] = _absent("All of its grants.", min_length=1, max_length=MAX_GRANTS)
    expires: Expires = _absent(_EXPIRES)
    networks: Networks = _absent(_NETWORKS)
    limits: LimitsSpec = _absent("Its own limits.")


class RotateRequest(Strict):
    """How the secret is replaced."""

    overlap: Annotated[str, StringConstraints(max_length=16)] = Field(
        default="0",
        description="How long the current secret stays valid, like `1h`, at most 30 days; `0` ends every earlier one.",
    )
    expires: Expires | None = Field(default=None, description=_EXPIRES + " Default: as before.")


class TokensQuery(Query):
    """Filters and paging of the list of tokens."""

    state: TokenState | None = Field(default=None, description="Only tokens in this state.")
    name: str | None = Field(default=None, max_length=64, description="Only tokens of exactly this name.")
    created_by: str | None = Field(
        default=None, max_length=64, description="Only tokens made by this token, or by root on the node: `local`."
    )
    limit: int = Field(default=100, ge=1, le=PAGE_MAX, description="How many at most.")
    after: str | None = Field(default=None, pattern=TOKEN_ID, description="`next` of the page before.")


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


class LimitsView(TypedDict):
    """What the token may take on each node; null: what any token may."""

    rate: float | None
    max_running: int | None


class TokenSelf(TypedDict):
    """What the caller's own token is and may do; pools stand as their guests, protected guests are taken out."""

    id: str
    name: str
    expires: str | None
    reach: list[Reach]
    limits: LimitsView


class GrantView(TypedDict):
    """A grant, as it was given: only what was given stands."""

    actions: list[str]
    guests: NotRequired[str]
    pools: NotRequired[list[str]]
    commands: NotRequired[list[list[str]]]
    users: NotRequired[list[str]]
    cwd: NotRequired[list[str]]
    env: NotRequired[list[str]]


class SecretView(TypedDict):
    """A secret that is valid now: the key of the ring that signed it, and its end where that is before the token's."""

    generation: int
    key: str
    until: str | None


class TokenView(TypedDict):
    """A token, less its secret. `last_used`: to the minute, on the node that answers; null where it is not known."""

    id: str
    name: str
    state: TokenState
    grants: list[GrantView]
    expires: str | None
    networks: list[str]
    limits: LimitsView
    created: str
    created_by: str
    revision: int
    secrets: list[SecretView]
    revoked: str | None
    last_used: str | None
    token: NotRequired[str]


class TokenList(TypedDict):
    """One page of tokens, the oldest first; `next` asks for the page after it and is null on the last."""

    tokens: list[TokenView]
    next: str | None


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
