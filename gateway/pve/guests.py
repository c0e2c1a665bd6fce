"""Which guest a vmid is, from the configured /etc/pve tree: one stat for a container of this node.

Runs in web: pmxcfs is a FUSE file system that can hang, and the supervisor must not hang with it.
"""

from __future__ import annotations

import json
from pathlib import Path

from gateway.errors import GuestNotFound, GuestUnsupported, NodeNotReady


class GuestMap:
    """The guests that the cluster's configuration file system knows."""

    def __init__(self, etc: Path, node: str) -> None:
        self._etc = etc
        self._node = node

    def locate(self, vmid: int) -> str:
        """The identity of a container of this node: its configuration file's inode and mtime.

        Raises GuestNotFound, GuestUnsupported for a VM or another node's guest, NodeNotReady without /etc/pve.
        """
        identity = self.config_id(vmid)
        if identity is None:
            self._explain_absence(vmid)
            raise GuestNotFound.for_vmid(vmid)
        return identity

    def config_id(self, vmid: int) -> str | None:
        """The same; None when no container of this node has that vmid."""
        try:
            status = (self._etc / "nodes" / self._node / "lxc" / f"{vmid}.conf").stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as exc:
            raise NodeNotReady(
                f"cannot read {self._etc}: {exc.strerror}; see `systemctl status pve-cluster`",
                missing=["pve.etc"],
            ) from exc
        return f"{status.st_ino}.{status.st_mtime_ns}"

    def _explain_absence(self, vmid: int) -> None:
        """Raises what is more precise than "no such guest", if the cluster knows the vmid."""
        try:
            known = json.loads((self._etc / ".vmlist").read_text())["ids"].get(str(vmid))
        except (OSError, ValueError, KeyError, AttributeError) as exc:
            raise NodeNotReady(
                f"cannot read {self._etc}/.vmlist; see `systemctl status pve-cluster`", missing=["pve.etc"]
            ) from exc
        if not isinstance(known, dict):
            return
        if known.get("type") == "qemu":
            raise GuestUnsupported(f"guest {vmid} is a virtual machine; only containers can run commands", vmid=vmid)
        if known.get("node") != self._node:
            raise GuestUnsupported(
                f"guest {vmid} is on another node; ask the gateway of that node",
                vmid=vmid,
                node=str(known.get("node")),
            )
