"""What a request on the supervisor's socket is made of: members of its header, and the handlers that read them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from gateway.errors import TokenStoreError
from gateway.exec.origin import Origin
from gateway.supervisor.link.protocol import ProtocolError
from gateway.supervisor.operations.connection import Connection, Reply

Handler = Callable[[Connection, dict[str, Any], list[bytes], Origin], Awaitable[Reply]]
Table = Mapping[str, Handler]
"""The operations of one room, by their names on the wire."""

T = TypeVar("T")

_DECISION_SECONDS = 2.0


def member(header: dict[str, Any], name: str, kind: type[T]) -> T:
    """What stands there; a whole number where a float may stand, too. Raises ProtocolError."""
    value = header.get(name)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ProtocolError(f"{name} is not of type {kind.__name__}")
    return value


def optional(header: dict[str, Any], name: str, kind: type[T]) -> T | None:
    """The same, or None where nothing stands. Raises ProtocolError."""
    return None if header.get(name) is None else member(header, name, kind)


def natural(header: dict[str, Any], name: str) -> int:
    """A number that is not negative. Raises ProtocolError."""
    value = member(header, name, int)
    if value < 0:
        raise ProtocolError(f"{name} is negative")
    return value


async def decide_again(connection: Connection, origin: Origin, exec_id: str) -> Origin:
    """The same caller as its token is now, which the web alone can tell. Raises TokenStoreError if it does not.

    `exec_id`: what is about to begin; empty where it is no exec.
    """
    try:
        answer = await connection.ask({"turn": exec_id}, _DECISION_SECONDS)
        now = Origin.from_wire(answer.get("origin"))
    except TimeoutError as exc:
        raise TokenStoreError("nobody could tell in time whether the token may do this still; try again") from exc
    except ValueError as exc:
        raise ProtocolError(str(exc)) from exc
    if now.token_id != origin.token_id:
        raise ProtocolError("another token's turn")
    return now
