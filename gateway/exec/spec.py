"""What a caller asks to be run: the one definition of an exec's fields, for the API and the supervisor."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypeAliasType

# Linux: MAX_ARG_STRLEN is 32 pages, the terminating NUL included (include/uapi/linux/binfmts.h).
MAX_ARG_BYTES = 131_071
# Ours: well under the 2 MiB that a default 8 MiB stack allows for argv and environment together (execve(2)).
MAX_ARGS_BYTES = 1_500_000
DEFAULT_SHELL = ("/bin/sh", "-c")

Arg = Annotated[str, StringConstraints(max_length=MAX_ARG_BYTES)]
Command = TypeAliasType("Command", str | list[Arg])
"""A name for clients, too: where one of several is taken and it has none, generators make one up."""
LabelKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._/-]{0,62})$")]
LabelValue = Annotated[str, StringConstraints(max_length=256)]


class Keep(StrEnum):
    """Which part of an output that is longer than the limit is kept."""

    HEAD_TAIL = "head+tail"
    HEAD = "head"
    TAIL = "tail"


class OnLimit(StrEnum):
    """What happens to a command whose output passes the limit."""

    DROP = "drop"
    KILL = "kill"


class OnFull(StrEnum):
    """What happens when a streamed or detached command fills its spool."""

    BLOCK = "block"
    DROP = "drop"


class Background(StrEnum):
    """What happens to processes that outlive the command."""

    DETACH = "detach"
    WAIT = "wait"
    KILL = "kill"


class OnDisconnect(StrEnum):
    """What happens to the command when its client goes away before the result."""

    KILL = "kill"
    CONTINUE = "continue"


class Placement(StrEnum):
    """Where the command's cgroup is: its own beside the guest's, or inside the guest's (best-effort endings)."""

    OWN = "own"
    GUEST = "guest"


class Strict(BaseModel):
    """A model that takes nothing unknown, changes nothing, and never repeats what was sent."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    def __repr_args__(self) -> Iterator[tuple[None, str]]:
        """Which members were given, and not what they are."""
        return ((None, name) for name in sorted(self.model_fields_set))


class OutputSpec(Strict):
    """How much of stdout and stderr each comes back in the result."""

    limit: int | None = Field(
        default=None, ge=0, description="Bytes kept of each stream. Default and maximum: configuration."
    )
    keep: Annotated[Keep, Field(strict=False)] = Field(
        default=Keep.HEAD_TAIL, description="Which part is kept past the limit."
    )
    on_limit: Annotated[OnLimit, Field(strict=False)] = Field(
        default=OnLimit.DROP,
        description="`drop` counts and forgets the rest; `kill` ends the exec (output_limit).",
    )
    on_full: Annotated[OnFull, Field(strict=False)] = Field(
        default=OnFull.BLOCK,
        description="Streamed or detached, past the limit: `block` lets the command wait for its reader while there "
        "is one; `drop` never waits, and a reader that is too slow sees a gap.",
    )


class TtySpec(Strict):
    """A terminal for the command: stdout and stderr are one stream then, and input stays open."""

    rows: int = Field(default=24, ge=1, le=32767)
    cols: int = Field(default=80, ge=1, le=32767)
    term: str = Field(default="xterm-256color", pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$", description="TERM.")


class ExecSpec(Strict):
    """A command and the circumstances it runs in."""

    command: Command = Field(
        description="An argument list runs as it is; a string runs by `shell`. No argument may hold NUL."
    )
    shell: list[Arg] | None = Field(
        default=None,
        min_length=1,
        max_length=16,
        description='Runs a string command. Default ["/bin/sh", "-c"].',
    )
    env: dict[str, str] = Field(default_factory=dict, description="Added to the guest's clean environment.")
    cwd: str | None = Field(
        default=None, min_length=1, max_length=4096, description="From `/`. Default: the user's home."
    )
    user: str | None = Field(
        default=None,
        pattern=r"^[^\s:\x00]{1,64}(:[0-9]{1,10})?$",
        description="name, uid or uid:gid. Default root.",
    )
    stdin: str | None = Field(default=None, description="Input; none given means an empty stdin.")
    stdin_encoding: Annotated[str, Field(pattern=r"^(utf-8|base64)$")] = "utf-8"
    stdin_open: bool = Field(
        default=False,
        description="Streamed or detached: input stays open behind `stdin`, for PUT /execs/{id}/stdin and attach.",
    )
    tty: TtySpec | None = Field(default=None, description="Streamed or detached: run it in a terminal.")
    timeout: float | None = Field(default=None, gt=0, allow_inf_nan=False, description="Seconds of run time.")
    kill_grace: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description="Seconds between SIGTERM (with `tty` SIGHUP, too) and SIGKILL.",
    )
    queue_timeout: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description="Seconds to wait for a free place when limits are reached.",
    )
    output: OutputSpec = OutputSpec()
    background: Annotated[Background, Field(strict=False)] = Background.DETACH
    on_disconnect: Annotated[OnDisconnect, Field(strict=False)] = OnDisconnect.KILL
    placement: Annotated[Placement, Field(strict=False)] = Placement.OWN
    exclusive: bool = Field(default=False, description="Runs while no other exec does in the guest.")
    redact: list[Annotated[int, Field(ge=0)]] = Field(
        default_factory=list,
        max_length=4096,
        description="Positions in `command` shown only as keyed hashes.",
    )
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict, max_length=32)

    @field_validator("command", "shell", "redact", mode="before")
    @classmethod
    def _first_wrong_item(cls, value: Any, info: ValidationInfo) -> Any:
        """Stops at the first item of a wrong type: an error for each of a million would cost gigabytes."""
        kind, wanted, word = (
            (int, "int_type", "integer") if info.field_name == "redact" else (str, "string_type", "string")
        )
        for index, item in enumerate(value if isinstance(value, list) else ()):
            if type(item) is not kind:
                raise PydanticCustomError(wanted, "Input should be a valid {word}", {"word": word, "field": index})
        return value

    @field_validator("command")
    @classmethod
    def _command_runs(cls, value: str | list[str]) -> str | list[str]:
        if not value:
            raise PydanticCustomError("empty_command", "give a command: a string, or a list of at least one argument")
        return value

    @field_validator("env")
    @classmethod
    def _env_names(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if not name or "=" in name:
                raise PydanticCustomError("env_name", "an environment name is not empty and holds no '='")
        return value

    @model_validator(mode="after")
    def _fits_execve(self) -> ExecSpec:
        if self.shell is not None and not isinstance(self.command, str):
            raise PydanticCustomError(
                "shell_without_string", "`shell` runs a string command; this one is a list", {"field": "shell"}
            )
        words = [
            ("command" if isinstance(self.command, str) else f"command.{i}", word) for i, word in enumerate(self.argv())
        ]
        words += [(f"env.{name}", f"{name}={value}") for name, value in self.env.items()]
        words += [("cwd", self.cwd or ""), ("user", self.user or "")]
        total = 0
        for field, word in words:
            if "\x00" in word:
                raise PydanticCustomError("nul", "no NUL byte can be passed to a guest", {"field": field})
            size = _size(field, word)
            if size > MAX_ARG_BYTES:
                raise PydanticCustomError(
                    "argument_too_long",
                    "one argument or environment entry is larger than {limit} bytes; send it on stdin or as a file",
                    {"limit": MAX_ARG_BYTES, "field": field},
                )
            total += size + 9  # its NUL and its pointer count too
        if total > MAX_ARGS_BYTES:
            raise PydanticCustomError(
                "arguments_too_long",
                "arguments and environment together are larger than {limit} bytes; send data on stdin",
                {"limit": MAX_ARGS_BYTES, "field": "command"},
            )
        count = 1 if isinstance(self.command, str) else len(self.command)
        if any(position >= count for position in self.redact):
            raise PydanticCustomError(
                "redact_position", "`redact` names a position that `command` does not have", {"field": "redact"}
            )
        self.stdin_bytes()
        return self

    def argv(self) -> list[str]:
        """The argument list that reaches the guest, byte for byte."""
        if isinstance(self.command, str):
            return [*(self.shell or DEFAULT_SHELL), self.command]
        return self.command

    def stdin_bytes(self) -> bytes:
        """The input's bytes; empty when none is given."""
        if self.stdin is None:
            return b""
        if self.stdin_encoding == "utf-8":
            return self.stdin.encode()
        try:
            return base64.b64decode(self.stdin, validate=True)
        except (binascii.Error, ValueError):
            raise PydanticCustomError(
                "base64", "`stdin` is not base64, as `stdin_encoding` says", {"field": "stdin"}
            ) from None


def _size(field: str, word: str) -> int:
    try:
        return len(word.encode())
    except UnicodeEncodeError:
        raise PydanticCustomError(
            "not_unicode", "a lone surrogate cannot be sent to a guest", {"field": field}
        ) from None
