"""Connections to the supervisor's own socket, past the web."""

from __future__ import annotations

import socket
from pathlib import Path

import yaml

from tests.exec.gateways import Gateway
from tests.opened import noted


def socket_of(gateway: Gateway) -> Path:
    """The supervisor's socket, as the gateway's configuration names it."""
    return Path(yaml.safe_load(gateway.services.config.read_text())["supervisor"]["socket"])


def connect(path: Path) -> socket.socket:
    """A connection on which nothing takes longer than twenty seconds."""
    sock = noted(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    sock.settimeout(20)
    sock.connect(str(path))
    return sock
