"""A node for one piece of work: made for it, and gone with it, also when whoever runs it is killed."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from tests.pvesim import boot, cgroup, debian, node, sets

FAILURES = (node.NodeError, boot.BootError, cgroup.CgroupError, debian.TemplateError, OSError)
"""What the making of a node raises, with a message for who asked for it."""


def work_in_node(state: Path, work: Callable[[], int], *, name: str = "pve1", guests: str = "demo") -> int:
    """The exit code of `work`, done in a new node with these guests. Raises one of FAILURES where there can be none."""
    with node.locked(state):
        if node.find(state):
            raise node.NodeError(f"a node already runs in {state}: use exec, or another directory")
        sets.fetch_templates(guests)
        started, lifeline = node.start(state, name)
    try:
        return node.run_inside(started, lambda: sets.create(guests)) or node.run_inside(started, work)
    finally:
        lifeline.close()
        with node.locked(state):
            node.clear(state)


def run_program(program: str, state: Path, work: Callable[[], int], *, guests: str = "demo") -> int:
    """The same for a program of ours, which says why it cannot: 2 then."""
    if os.geteuid() != 0:
        print(f"{program}: must run as root: it makes a node of namespaces and containers", file=sys.stderr)
        return 2
    try:
        return work_in_node(state, work, guests=guests)
    except FAILURES as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
