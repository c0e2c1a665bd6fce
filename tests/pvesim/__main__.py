"""The commands of the simulated node: start, exec, run, stop, packages."""

import argparse
import os
import sys
from pathlib import Path

from tests.pvesim import alone, node, packages, sets


def main() -> int:
    options = _parse()
    if options.command == "packages":
        print(" ".join(packages.missing_packages()))
        return 0
    if os.geteuid() != 0:
        print("pvesim: must run as root: a node is made of namespaces and containers", file=sys.stderr)
        return 2
    options.state = options.state.resolve()
    try:
        return _COMMANDS[options.command](options)
    except alone.FAILURES as error:
        print(f"pvesim: {error}", file=sys.stderr)
        return 1


def _start(options: argparse.Namespace) -> int:
    """Start the node with its guests and leave it running; one that runs is kept."""
    with node.locked(options.state):
        if node.find(options.state):
            return 0
        sets.fetch_templates(options.guests)
        started, lifeline = node.start(options.state, options.name)
        code = node.run_inside(started, lambda: sets.create(options.guests))
        if code == 0:
            node.detach(lifeline)
        else:
            node.clear(options.state)
    return code


def _exec(options: argparse.Namespace) -> int:
    running = node.find(options.state)
    if running is None:
        raise node.NodeError(f"no node runs in {options.state}")
    return node.run_inside(running, lambda: node.replace_process(options.argv))


def _run(options: argparse.Namespace) -> int:
    """Start a node, run the command in it, end the node: by its lifeline also when we are killed."""
    command = options.argv
    return alone.work_in_node(
        options.state, lambda: node.replace_process(command), name=options.name, guests=options.guests
    )


def _stop(options: argparse.Namespace) -> int:
    if not options.state.exists():
        return 0
    with node.locked(options.state):
        node.clear(options.state)
    return 0


_COMMANDS = {"start": _start, "exec": _exec, "run": _run, "stop": _stop}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python3 -m tests.pvesim", description="A simulated PVE node.")
    commands = parser.add_subparsers(dest="command", required=True)
    described = {
        "start": "start a node with guests and leave it running; a running one is kept",
        "exec": "run a command in a running node, with its exit code",
        "run": "start a node, run a command in it, stop the node",
        "stop": "end a node, or what a killed one left, and remove everything of it",
    }
    for name, text in described.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--state", type=Path, required=True, help="the directory that identifies the node")
        if name in ("start", "run"):
            command.add_argument("--name", default="pve1", help="the node's name (default: pve1)")
            command.add_argument("--guests", choices=sorted(sets.SETS), default="demo", help="guests to make")
        if name in ("exec", "run"):
            command.add_argument("argv", nargs="+", metavar="CMD", help="after --: the command to run")
    commands.add_parser("packages", help="name the Debian packages that are needed and absent")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
