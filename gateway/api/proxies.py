"""Who a client is when a trusted proxy stands between: X-Forwarded-For, believed as far as proxies of ours wrote it."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from typing import Any

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def find_client(environ: Mapping[str, Any], trusted: Collection[Network]) -> str:
    """The client's address: the connection's own, unless that is a trusted proxy's.

    Then the last one in X-Forwarded-For that is not: each proxy adds, at its end, whom it was called by, and what
    stands before that is the client's own word. A proxy that adds nothing, or no address, is itself the client.
    """
    remote = str(environ.get("REMOTE_ADDR", ""))
    if not trusted:
        return remote
    client = _parse(remote)
    named = str(environ.get("HTTP_X_FORWARDED_FOR", "")).split(",")
    while client is not None and named and any(client in network for network in trusted):
        before = _parse(named.pop().strip())
        if before is None:
            break
        client = before
    return remote if client is None else str(client)


def _parse(text: str) -> Address | None:
    """An address, as some write it with a port; a mapped one as what it maps."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
