"""Words to the service manager (sd_notify(3)): one datagram to the socket that NOTIFY_SOCKET names."""

from __future__ import annotations

import os
import socket
import time

from gateway import __version__

READY = f"READY=1\nSTATUS={__version__}"
"""It serves, as this version: `systemctl show -p StatusText` tells which one runs."""
ALIVE = "WATCHDOG=1"


def notify(state: str, *, to: str | None = None) -> bool:
    """Send `state`, for example "READY=1"; False when nobody listens. Never raises: it is a courtesy.

    `to` is where, for who has taken NOTIFY_SOCKET out of the environment.
    """
    address = to or os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(1.0)
            sock.connect(address)
            sock.send(state.encode())
    except OSError:
        return False
    return True


def reloading() -> str:
    """That a reload begins now, as `Type=notify-reload` wants it told (systemd.service(5))."""
    return f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"


def alive_every() -> float | None:
    """How often to send ALIVE, in seconds: half of what the manager waits for (sd_watchdog_enabled(3)); None: never."""
    given, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not given.isdecimal() or int(given) == 0 or pid not in ("", str(os.getpid())):
        return None
    return int(given) / 2e6
