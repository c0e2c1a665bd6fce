"""Who acts: somebody who has secrets to hand over, the guests that it is about, and what of a request is no secret."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.canaries.words import Canaries, Sink
from tests.exec.api import Answer, Api
from tests.pvesim.api.process import Api as PveProcess

FIRST, LAST = 7760, 7769
MADE, MADE_MACHINE, COPY, NEVER_MADE, MACHINE = range(FIRST, FIRST + 5)
"""A container and a machine that the acts make, a copy, what is not made, and a machine with an agent."""
NOBODY = LAST

TOLD = (Sink.AUDIT, Sink.REPLY, Sink.PROBLEM, Sink.KEPT)
"""What stands in records and listings by design: names, labels, words of a command."""


@dataclass
class Acts:
    """Who acts, on what. `connect` makes clients with another token, or none; `hear` is told each reply."""

    api: Api
    connect: Callable[[str | None], Api]
    canaries: Canaries
    pve: PveProcess
    hear: Callable[[str, Answer], None]
    exec_ids: list[str] = field(default_factory=list)
    token_ids: list[str] = field(default_factory=list)

    def ask(self, operation: str, method: str, path: str, body: object = None, **options: Any) -> Answer:
        """One request; whatever comes of it is looked at."""
        answer = self.api.request(method, path, body, **options)
        self.hear(operation, answer)
        return answer

    def put(self, operation: str, carrier: str, *allowed: Sink) -> str:
        return self.canaries.put(operation, carrier, *allowed)
