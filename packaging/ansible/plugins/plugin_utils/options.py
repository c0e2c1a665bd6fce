"""From a plugin's options to a client."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, Protocol

from .client import Client
from .keeping import Keeping
from .wire import Misconfigured, parse_address


class Plugin(Protocol):
    """One that has the options of the documentation fragment `gateway`."""

    def get_option(self, option: str) -> Any: ...


def make_client(plugin: Plugin) -> Client:
    """Raises Misconfigured."""
    if not plugin.get_option("url"):
        raise Misconfigured("which gateway? Set ansible_pve_exec_url, https://HOST:39377")
    address = parse_address(plugin.get_option("url"), plugin.get_option("ca") or None, plugin.get_option("timeout"))
    keeping = Keeping(Path(plugin.get_option("persist_directory")), plugin.get_option("persist"))
    return Client(address, _find_token(plugin), keeping)


def _find_token(plugin: Plugin) -> str:
    token = plugin.get_option("token")
    if token:
        return str(token).strip()
    path = plugin.get_option("token_file")
    if not path:
        raise Misconfigured(
            "no token: set ansible_pve_exec_token (in a vault), ansible_pve_exec_token_file or GATEWAY_TOKEN"
        )
    try:
        with open(path, encoding="ascii") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise Misconfigured(f"{path} holds a token and others can read it: chmod 600 {path}")
            return file.read().strip()
    except (OSError, ValueError) as exc:
        raise Misconfigured(
            f"cannot read the token from {path}: {getattr(exc, 'strerror', None) or 'it is none'}"
        ) from None
