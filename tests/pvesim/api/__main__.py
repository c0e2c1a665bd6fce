"""Runs the simulated API in a node until it is killed: `python3 -m tests.pvesim.api [--port N]`; prints its port."""

import argparse
import os
import tempfile
from pathlib import Path

from tests.pvesim.api import settings
from tests.pvesim.api.server import Server


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m tests.pvesim.api", description="A simulated PVE API.")
    parser.add_argument("--port", type=int, default=8006, help="on 127.0.0.1; 0 for a free one (default: 8006)")
    parser.add_argument("--home", type=Path, help="its directory: settings.json, if there, and its faults")
    options = parser.parse_args()
    home = options.home or Path(tempfile.mkdtemp(prefix="api-", dir="/run/pvesim"))
    sim = settings.load(home)
    settings.prepare(sim)
    server = Server(("127.0.0.1", options.port), sim)
    print(server.server_address[1], flush=True)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nobody reads on, and what PVE's methods print is for tasks and pvesh
    server.serve_forever()


if __name__ == "__main__":
    main()
