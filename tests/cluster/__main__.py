"""Serves the mounts of a cluster, `python -m tests.cluster DIRECTORY...`, until stdin ends; commands come on stdin.

`quorum N 0|1`, `ahead SECONDS` (the clock that locks age by), `ballast BYTES` (taken by other files): each is
answered by a line on stdout.
"""

from __future__ import annotations

import ctypes
import os
import select
import sys
from pathlib import Path

from .memdb import Memdb
from .node import Node


def main() -> None:
    """Runs it; every mount is gone at its end."""
    memdb = Memdb()
    memdb.make("/priv", 0, directory=True)
    memdb.make("/priv/lock", 0, directory=True)
    paths = [Path(text) for text in sys.argv[1:]]
    nodes = {node.fd: node for node in (Node(memdb, number, path) for number, path in enumerate(paths))}
    print("mounted", flush=True)
    try:
        _serve(memdb, nodes)
    finally:
        for path in paths:
            ctypes.CDLL(None).umount2(os.fsencode(path), 2)  # MNT_DETACH


def _serve(memdb: Memdb, nodes: dict[int, Node]) -> None:
    poll = select.poll()
    for fd in (0, *nodes):
        poll.register(fd, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd in nodes:
                nodes[fd].answer()
                continue
            line = sys.stdin.readline()
            if not line:
                return
            _obey(memdb, list(nodes.values()), *line.split())
            print("done", flush=True)


def _obey(memdb: Memdb, nodes: list[Node], word: str, *values: str) -> None:
    if word == "quorum":
        nodes[int(values[0])].quorate = values[1] == "1"
    elif word == "ahead":
        memdb.ahead = float(values[0])
    elif word == "ballast":
        memdb.ballast = int(values[0])


main()
