"""A cluster of two nodes, for the tests of what lies below /etc/pve."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.auth.tokens import TokenStore

ROOT = Path(__file__).parents[2]


@dataclass
class Cluster:
    """The nodes' /etc/pve, and the process behind them."""

    process: subprocess.Popen[str]
    nodes: tuple[Path, Path]

    def store(self, node: int, *, require_quorum: bool = False) -> TokenStore:
        """The token store as the gateway of a node has it."""
        etc = self.nodes[node]
        place = etc / "priv" / "pve-exec-gateway"
        return TokenStore(
            place / "tokens",
            place / "keys" / "token.keys",
            require_quorum=require_quorum,
            cluster_lock=etc / "priv" / "lock" / "pve-exec-gateway-tokens",
        )

    def tell(self, command: str) -> None:
        """A command of `tests.cluster`, done when this returns."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Two nodes with quorum and nothing but priv/lock."""
    if os.geteuid() != 0 or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("mounting FUSE needs root and /dev/fuse")
    nodes = tmp_path / "a", tmp_path / "b"
    for path in nodes:
        path.mkdir()
    command = [sys.executable, "-m", "tests.cluster", *map(str, nodes)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdin is not None
        try:
            assert process.stdout.readline() == "mounted\n"
            yield Cluster(process, nodes)
        finally:
            process.stdin.close()
            process.wait(20)
