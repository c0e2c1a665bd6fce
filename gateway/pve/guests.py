"""Which guest a vmid is, from the configured /etc/pve tree: one stat for a container of this node, two for a machine.

Runs in web: pmxcfs is a FUSE file system that can hang, and the supervisor must not hang with it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from gateway.errors import GuestNotFound, GuestUnsupported, NodeNotReady
from gateway.errors_pve import NodeNotFound
from gateway.exec.order import GuestKind
from gateway.pve.ids import parse_node
from gateway.pve.models import GuestRef

_DIRECTORIES = ((GuestKind.LXC, "lxc"), (GuestKind.QEMU, "qemu-server"))


class Located(NamedTuple):
    """A guest of this node: what it is, and its identity, its configuration file's inode and mtime."""

    kind: GuestKind
    config_id: str


class GuestMap:
    """The guests that the cluster's configuration file system knows."""

    def __init__(self, etc: Path, node: str) -> None:
        self._etc = etc
        self._node = node

    def locate(self, vmid: int) -> Located:
        """A guest of this node.

        Raises GuestNotFound, GuestUnsupported for another node's guest, NodeNotReady without /etc/pve.
        """
        found = self._look(vmid)
        if found is None:
            self._explain_absence(vmid)
            raise GuestNotFound.for_vmid(vmid)
        return found

    def find(self, vmid: int) -> GuestRef:
        """Where a guest is, wherever in the cluster: one read of a small file. Raises GuestNotFound, NodeNotReady."""
        known = self._read_known().get(str(vmid))
        kind, node = (known.get("type"), known.get("node")) if isinstance(known, dict) else (None, None)
        if kind not in tuple(GuestKind) or not isinstance(node, str):
            raise GuestNotFound.for_vmid(vmid)
        return GuestRef(vmid, GuestKind(kind), node)

    def vmids(self) -> frozenset[int]:
        """Every vmid that a guest of the cluster has. Raises NodeNotReady."""
        return frozenset(int(vmid) for vmid in self._read_known() if vmid.isdecimal())

    def require_node(self, name: str) -> str:
        """The name, if the cluster has such a node: PVE would look up any other in DNS, and go there with our token
        (PVE::Cluster, remote_node_ip). Raises InvalidRequest, NodeNotFound, NodeNotReady."""
        node = parse_node(name)
        try:
            known = (self._etc / "nodes" / node).is_dir()
        except OSError as exc:
            raise self._unreadable(exc) from exc
        if not known:
            raise NodeNotFound(f"the cluster has no node {node}; see GET /nodes", node=node)
        return node

    def config_id(self, vmid: int) -> str | None:
        """Its identity; None when no guest of this node has that vmid. Raises NodeNotReady."""
        found = self._look(vmid)
        return found.config_id if found is not None else None

    def _look(self, vmid: int) -> Located | None:
        for kind, directory in _DIRECTORIES:
            try:
                status = (self._etc / "nodes" / self._node / directory / f"{vmid}.conf").stat()
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as exc:
                raise self._unreadable(exc) from exc
            return Located(kind, f"{status.st_ino}.{status.st_mtime_ns}")
        return None

    def _unreadable(self, exc: OSError) -> NodeNotReady:
        return NodeNotReady(
            f"cannot read {self._etc}: {exc.strerror}; see `systemctl status pve-cluster`", missing=["pve.etc"]
        )

    def _explain_absence(self, vmid: int) -> None:
        """Raises what is more precise than "no such guest", if the cluster knows the vmid."""
        known = self._read_known().get(str(vmid))
        if not isinstance(known, dict):
            return
        if known.get("node") != self._node:
            raise GuestUnsupported(
                f"guest {vmid} is on another node; ask the gateway of that node",
                vmid=vmid,
                node=str(known.get("node")),
            )

    def _read_known(self) -> dict[str, Any]:
        """What the cluster knows by vmid (`.vmlist`). Raises NodeNotReady."""
        try:
            known = json.loads((self._etc / ".vmlist").read_text())["ids"]
            if not isinstance(known, dict):
                raise ValueError("not an object")
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise NodeNotReady(
                f"cannot read {self._etc}/.vmlist; see `systemctl status pve-cluster`", missing=["pve.etc"]
            ) from exc
        return known
