"""The demo's life: what it consists of, how it starts, and how all of it ends."""

import contextlib
import errno
import os
import shlex
import shutil
import socket
from contextlib import AbstractContextManager
from pathlib import Path

from tests.demo import footprint
from tests.pvesim import node, sets
from tests.pvesim.api.process import start_api
from tests.pvesim.services import REPOSITORY, Services, remove_sockets

HOME = REPOSITORY / ".demo"
NODE = HOME / "node"
GATEWAY = HOME / "gateway"
ENVIRONMENT = HOME / "env"

_VMID = 101
_PVE = Path("/run/pvesim/api")
_PVE_PORT = 8006


class DemoError(Exception):
    """The demo cannot be started or stopped."""


def locked() -> AbstractContextManager[None]:
    """Hold the demo against another start or stop at the same time."""
    return node.locked(HOME)


def runs_on(port: int) -> bool:
    """Whether a demo was started on this port and its node is alive."""
    with contextlib.suppress(OSError):
        return node.find(NODE) is not None and f"https://127.0.0.1:{port}\n" in ENVIRONMENT.read_text()
    return False


def start(port: int) -> None:
    """Start the node, its guests and the services, make a token, write ENVIRONMENT.

    Everything ends with this process, however that ends, until it has succeeded. Raises DemoError, NodeError and
    ServicesError.
    """
    pve = {
        "pvesh": str(_PVE / "bin/pvesh"),
        "token_file": str(GATEWAY / "pve.token"),
        "agent_token_file": str(GATEWAY / "pve-agent.token"),
    }
    with _listen(port) as listener, node.locked(NODE):
        services = Services(GATEWAY, listener=listener, settings={"pve": pve})
        started, lifeline = node.start(NODE, "pve1")
        with lifeline:
            if node.run_inside(started, lambda: sets.create("demo") or _start_services(services)):
                raise DemoError("the node's guests, its PVE API or the services did not start")
            token = services.create_token(name="demo", expires="30d")
            services.wait_ready()
            _write_environment(services, token)
            node.detach(lifeline)


def stop() -> list[str]:
    """End and remove all that is the demo's; returns what is left nevertheless."""
    before = footprint.take(NODE)
    with node.locked(NODE):
        node.clear(NODE)
    remove_sockets(GATEWAY)
    if GATEWAY.exists():
        shutil.rmtree(GATEWAY)
    ENVIRONMENT.unlink(missing_ok=True)
    return footprint.find_left(before, HOME)


def _listen(port: int) -> socket.socket:
    """The web service's socket, on the machine's own loopback: the node has one of its own."""
    try:
        return socket.create_server(("127.0.0.1", port), backlog=2048)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise DemoError(f"port {port} of 127.0.0.1 is taken: stop what uses it, or `make demo PORT=...`") from None


def _start_services(services: Services) -> int:
    """The gateway's own, and the PVE API of the node, to which `setup` makes the gateway known."""
    services.start()
    _PVE.mkdir()
    start_api(_PVE, port=_PVE_PORT, log=services.log("pve-api"))
    services.command("setup")
    return 0


def _write_environment(services: Services, token: str) -> None:
    settings = {
        "GATEWAY_URL": services.url,
        "GATEWAY_TOKEN": token,
        "GATEWAY_CA": str(services.ca),
        "GATEWAY_VMID": str(_VMID),
        "GATEWAY_CONFIG": str(services.config),
    }
    new = ENVIRONMENT.with_suffix(".new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.writelines(f"export {name}={shlex.quote(value)}\n" for name, value in settings.items())
    new.rename(ENVIRONMENT)
