"""The token store of one gateway, where its configuration says it is; apart, for the command line to be quick."""

from __future__ import annotations

from pathlib import Path

from gateway.auth.last_used import LastUsed
from gateway.auth.tokens import TokenStore
from gateway.config import Config
from gateway.pve.pools import PoolFile


def build_tokens(config: Config) -> TokenStore:
    """The store as the services and the command use it."""
    return TokenStore(
        config.tokens.directory,
        config.tokens.key_file,
        protected=config.guests.protected,
        pools=PoolFile(config.pve.etc / "user.cfg").read,
        require_quorum=config.tokens.require_quorum,
        cluster_lock=_cluster_lock(config),
        last_used=LastUsed(config.tokens.last_used),
    )


def _cluster_lock(config: Config) -> Path | None:
    """Where the store is below /etc/pve all nodes change it, and pmxcfs has a place for locks of them all."""
    if config.pve.etc not in config.tokens.directory.parents:
        return None
    return config.pve.etc / "priv" / "lock" / "pve-exec-gateway-tokens"
