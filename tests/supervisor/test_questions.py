"""Questions to guest agents: what cannot be asked is told, and counts as nothing."""

from __future__ import annotations

import asyncio
import threading
from typing import cast

import pytest

from gateway.exec.agent import Agent, AgentAway
from gateway.supervisor.agent.questions import Questions


def test_node_without_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A question for which there is no thread was not asked: it says so, and no reload waits for its answer."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def run() -> None:
        questions = Questions(asyncio.get_running_loop(), lambda: cast(Agent, None))
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", start)
            with pytest.raises(AgentAway):
                await questions.ask(301, lambda _: 1)
        assert questions.quiet
        assert await questions.ask(301, lambda _: 2) == 2
        assert questions.quiet

    asyncio.run(run())
