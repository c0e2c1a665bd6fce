"""What those are told who wait for something when the supervisor stops."""

from __future__ import annotations

from gateway.errors import NodeNotReady


def stopping(what: str) -> NodeNotReady:
    """Nothing of it has begun, nor will."""
    return NodeNotReady(
        f"the supervisor is being stopped or restarted, and nothing of this {what} has run; send it again",
        missing=["supervisor"],
        retry_after=1,
    )
