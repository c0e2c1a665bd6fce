"""Runs gateway, load and Prometheus in a node, then draws what Prometheus has answered."""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
import time
from typing import Any

from tests.bench.machine import run_alone
from tests.dashboard import load, picture
from tests.dashboard.prometheus import Prometheus
from tests.pvesim.api import machines
from tests.pvesim.api.process import running_api, write_token
from tests.pvesim.services import REPOSITORY, Services

PICTURE = REPOSITORY / "docs/dashboard.png"
_BOARD = REPOSITORY / "packaging/grafana/dashboard.json"
_STATE = REPOSITORY / ".demo/dashboard"
_ANSWERS = REPOSITORY / ".demo/dashboard.json"
_MACHINE = 301


def main() -> int:
    """Exit code 2 where a program is missing."""
    parser = argparse.ArgumentParser(prog="python -m tests.dashboard", description="Draw the dashboard's picture.")
    parser.add_argument("--minutes", type=float, default=7.0, help="of load (7)")
    minutes: float = parser.parse_args().minutes
    for program in ("prometheus", "chromium"):
        if shutil.which(program) is None:
            print(f"dashboard: there is no {program}: apt-get install {program}", file=sys.stderr)
            return 2
    code = run_alone(_STATE, lambda: run(minutes * 60))
    if code == 0:
        answers = json.loads(_ANSWERS.read_text())
        picture.draw(json.loads(_BOARD.read_text()), answers, PICTURE)
        print(f"dashboard: {PICTURE.relative_to(REPOSITORY)}")
    return code


def run(seconds: float) -> int:
    """In the node: writes Prometheus' answers, by panel and query."""
    _STATE.mkdir(parents=True, exist_ok=True)
    token_file = _STATE / "pve.token"
    write_token(token_file)
    with contextlib.ExitStack() as held:
        api = held.enter_context(running_api())
        machine = machines.create(_MACHINE)
        held.callback(machine.destroy)
        pve = {"api": api.url, "token_file": str(token_file), "agent_token_file": str(token_file)}
        settings: dict[str, dict[str, Any]] = {"pve": pve, "exec": {"max_running": 6}}
        services = held.enter_context(contextlib.closing(Services(_STATE / "gateway", settings=settings)))
        services.start()
        services.create_token(name="warm", actions="exec:run")
        services.wait_ready()
        server = held.enter_context(Prometheus(_STATE / "prometheus", services))
        began = time.time()
        load.put_under(services, _MACHINE, seconds)
        ended = time.time()
        board = json.loads(_BOARD.read_text())
        answers = [
            [server.ask(target["expr"], began, ended) for target in panel["targets"]] for panel in board["panels"]
        ]
    _ANSWERS.write_text(json.dumps({"began": began, "ended": ended, "panels": answers}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
