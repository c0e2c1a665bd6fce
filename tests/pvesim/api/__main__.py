"""Runs the simulated API in a node until it is killed: `python3 -m tests.pvesim.api [--port N]`; prints its port."""

import argparse

from tests.pvesim.api.qga import Timing
from tests.pvesim.api.routes import this_node
from tests.pvesim.api.server import Server


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m tests.pvesim.api", description="A simulated PVE API.")
    parser.add_argument("--port", type=int, default=8006, help="on 127.0.0.1; 0 for a free one (default: 8006)")
    parser.add_argument("--refusal-delay", type=float, default=3.0, help="seconds that a failed login takes")
    parser.add_argument("--ping-timeout", type=float, default=3.0, help="seconds until an agent counts as away")
    parser.add_argument("--agent-timeout", type=float, default=5.0, help="seconds for an agent's answer")
    options = parser.parse_args()
    node = this_node(Timing(options.ping_timeout, options.agent_timeout))
    server = Server(("127.0.0.1", options.port), node, options.refusal_delay)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
