"""A network of a client's own in the node, cut without a word: what is sent into it is dropped, nothing comes out."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator

from tests.pvesim import linux
from tests.pvesim.boot import BRIDGE

_ADDRESS, _HARDWARE = "10.254.0.1", "02:00:0a:fe:00:01"
_CLIENTS_END = "eth0"


class Network:
    """A network namespace with one address, on the node's bridge. One at a time in a node."""

    def __init__(self) -> None:
        self._nodes_end = f"pvegcut{os.getpid()}"
        outside = _own_namespace()
        linux.unshare(linux.CLONE_NEWNET)  # this thread alone
        self._namespace = _own_namespace()
        _return_to(outside)
        peer = f"peer name {_CLIENTS_END} address {_HARDWARE} netns /proc/self/fd/{self._namespace}"
        self._ip(f"link add {self._nodes_end} type veth {peer}")
        self._ip(f"link set {self._nodes_end} master {BRIDGE} up")
        with self.inside():
            self._ip(f"link set {_CLIENTS_END} up")
            self._ip(f"addr add {_ADDRESS}/8 dev {_CLIENTS_END}")

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Sockets that this thread makes meanwhile are in the network, for as long as they live."""
        outside = _own_namespace()
        linux.setns(self._namespace, linux.CLONE_NEWNET)
        try:
            yield
        finally:
            _return_to(outside)

    def cut(self) -> None:
        """From now on all is lost, and no side is told: the network takes packets for an address that nobody has."""
        # As behind a router: that the address answers no more is nothing that the node gets to know.
        self._ip(f"neigh replace {_ADDRESS} lladdr {_HARDWARE} dev {BRIDGE} nud permanent")
        with self.inside():
            self._ip(f"addr flush dev {_CLIENTS_END}")

    def close(self) -> None:
        """Removes it; sockets in it are the caller's to close."""
        self._ip(f"link del {self._nodes_end}")
        os.close(self._namespace)

    def _ip(self, words: str) -> None:
        subprocess.run(
            ["ip", *words.split()], check=True, stdin=subprocess.DEVNULL, pass_fds=[self._namespace], timeout=10
        )


def _own_namespace() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _return_to(namespace: int) -> None:
    linux.setns(namespace, linux.CLONE_NEWNET)
    os.close(namespace)
