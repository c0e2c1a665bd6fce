"""How much memory execs may ask for beyond what the defaults give each: large inputs and raised output limits.

The sum is bounded for the node, or the products of the maxima would end the supervisor, and every command with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gateway.errors import TooManyExecs


class Memory:
    """Bytes promised to execs, by exec id."""

    def __init__(self, total: int) -> None:
        self._free = total
        self._promised: dict[str, int] = {}

    def promise(self, exec_id: str, size: int) -> None:
        """Raises TooManyExecs when that is more than is left."""
        if size > self._free:
            raise TooManyExecs(
                "running execs with large inputs or output limits take all of exec.memory; try again, or ask for less",
                retry_after=1,
            )
        self._free -= size
        self._promised[exec_id] = self._promised.get(exec_id, 0) + size

    def renew(self, promises: Mapping[str, int]) -> None:
        """Counts what an earlier image of this program promised to execs that still run, over the bound if need be."""
        self._promised.update(promises)
        self._free -= sum(promises.values())

    def promised_to(self, exec_ids: Iterable[str]) -> dict[str, int]:
        """What these execs were promised, for the next image."""
        return {exec_id: self._promised[exec_id] for exec_id in exec_ids if exec_id in self._promised}

    def release(self, exec_id: str) -> None:
        """The exec has ended, or never began."""
        self._free += self._promised.pop(exec_id, 0)
