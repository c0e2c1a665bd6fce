"""The vocabulary of actions: each has its meaning, said once and shown wherever people look."""

from __future__ import annotations

from pathlib import Path

from gateway.api.openapi import build_openapi
from gateway.auth.actions import GRANTABLE, MEANINGS, Action


def test_every_action_has_a_meaning() -> None:
    """All that can be granted is explained, in SECURITY.md and in the OpenAPI document, with the same words."""
    assert frozenset(MEANINGS) == GRANTABLE == frozenset(Action) - {Action.PUBLIC, Action.ANY_TOKEN}
    text = (Path(__file__).parents[2] / "SECURITY.md").read_text()
    for action, meaning in MEANINGS.items():
        assert f"| `{action}` | {meaning} |\n" in text
    assert build_openapi()["x-actions"] == {str(action): meaning for action, meaning in MEANINGS.items()}
