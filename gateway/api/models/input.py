"""What is sent to a running exec: bytes of input, signals, a terminal's size; and tickets to attach to one."""

from __future__ import annotations

import signal
from enum import StrEnum
from typing import Annotated, TypedDict

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypeAliasType

from gateway.api.models.execs import Query
from gateway.exec.spec import Strict

MAX_SIGNAL = 64  # Linux: _NSIG (include/uapi/asm-generic/signal.h)
_NAMES = {name.removeprefix("SIG"): member.value for name, member in signal.Signals.__members__.items()}


SignalName = TypeAliasType("SignalName", str | int)


class StdinQuery(Query):
    """Where the bytes belong, and whether they are the last."""

    offset: int | None = Field(
        default=None,
        ge=0,
        lt=1 << 63,
        description="Place of the first byte in all of the input; what was taken before is not taken twice. "
        "Default: where the input so far ends.",
    )
    eof: bool = Field(default=False, description="The input ends behind these bytes.")


class StdinState(TypedDict):
    """How far the input has been taken: `offset` is where to go on; `eof`, that its end has been sent."""

    offset: int
    eof: bool


class Target(StrEnum):
    """Who gets a signal."""

    COMMAND = "command"
    TREE = "tree"


class SignalRequest(Strict):
    """A signal for the command, or for all processes of its tree."""

    signal: SignalName = Field(description='A name, like "TERM" or "SIGTERM", or a number from 1 to 64.')
    to: Annotated[Target, Field(strict=False)] = Target.COMMAND

    @field_validator("signal")
    @classmethod
    def _is_known(cls, value: int | str) -> int | str:
        if signal_number(value) is None:
            raise PydanticCustomError("unknown_signal", 'a signal is a name like "TERM", or a number from 1 to 64')
        return value

    @property
    def number(self) -> int:
        """The signal's number on Linux."""
        number = signal_number(self.signal)
        assert number is not None
        return number


class ResizeRequest(Strict):
    """A terminal's size in characters."""

    rows: int = Field(ge=1, le=32767)
    cols: int = Field(ge=1, le=32767)


class TicketRequest(Strict):
    """The WebSocket that is to be opened."""

    path: str = Field(
        pattern=r"^/(exec/[1-9][0-9]{2,8}/terminal|execs/ex_[0-9A-HJKMNP-TV-Z]{26}/attach)$",
        description="`/exec/{vmid}/terminal` or `/execs/{id}/attach`.",
    )


class Ticket(TypedDict):
    """Stands for the caller's token on one WebSocket, once, for `expires_in` seconds."""

    ticket: str
    expires_in: int


def signal_number(value: int | str) -> int | None:
    """The number of a signal on Linux, given by name or number; None where there is no such signal."""
    number = value if isinstance(value, int) else _NAMES.get(value.upper().removeprefix("SIG"))
    return number if number is not None and 1 <= number <= MAX_SIGNAL else None
