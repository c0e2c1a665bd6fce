"""`python -m tests.demo start|stop`: what `make demo` and `make demo-stop` do, and what they print."""

import argparse
import os
import sys
import time

from tests.demo import first_request, life
from tests.pvesim.node import NodeError
from tests.pvesim.services import ServicesError


def main() -> int:
    options = _parse()
    if os.geteuid() != 0 and (options.action == "start" or life.HOME.exists()):
        print(
            f"demo: {options.action} must run as root: the node is made of namespaces and containers", file=sys.stderr
        )
        return 2
    try:
        with life.locked():
            return _start(options.port) if options.action == "start" else _stop()
    except (life.DemoError, NodeError, ServicesError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


def _start(port: int) -> int:
    """Keep a demo that answers; else clear away what is there and start anew."""
    began = time.monotonic()
    answer = first_request.send() if life.runs_on(port) else ""
    if first_request.succeeded(answer):
        print(f"The demo runs on https://127.0.0.1:{port}: node pve1, guests 101, 102, 104 (103 is stopped).")
    else:
        life.stop()
        life.start(port)
        print(
            f"Node pve1 and the gateway on https://127.0.0.1:{port} are up after {time.monotonic() - began:.1f} s.\n"
            "Guests: 101, 102 run; 104 runs, unprivileged; 103 is stopped."
        )
        answer = first_request.send()
    print(f"\n{first_request.COMMAND}\n\n{first_request.pretty(answer)}\n")
    if not first_request.succeeded(answer):
        raise life.DemoError("the first command failed; the services' logs are in .demo/gateway/log")
    print("All of it keeps running, its settings are in .demo/env; `make demo-stop` ends it.")
    print("A shell in a guest: . .demo/env; .venv/bin/pvex exec -it 101 -- sh")
    return 0


def _stop() -> int:
    left = life.stop()
    if left:
        raise life.DemoError("stopped, but this is left:\n" + "\n".join(left))
    print("Nothing of the demo is left: no process, container, namespace, bridge, mount or cgroup.")
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.demo", description=__doc__)
    parser.add_argument("action", choices=("start", "stop"))
    parser.add_argument("--port", type=int, default=39377, help="of 127.0.0.1, for the gateway (default: 39377)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
