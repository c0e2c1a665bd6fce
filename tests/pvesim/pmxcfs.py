"""The node's /etc/pve: its files, their modes, the guest map and the certificates (PVE.md, pmxcfs).

What the real FUSE file system refuses (chmod, symlinks, mmap, writes without quorum) this tmpfs allows.
"""

import contextlib
import fcntl
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path("/etc/pve")
_LOCK = Path("/run/pvesim/vmlist.lock")
_WWW_DATA = 33
_DAYS = "3650"

VmList = dict[str, dict[str, str | int]]


def create(node: str) -> None:
    """Fill an empty /etc/pve for `node`, certificates apart."""
    for directory in ("", "nodes"):
        _make_directory(ROOT / directory, 0o755)
    for directory in ("priv", "priv/lock"):
        _make_directory(ROOT / directory, 0o700)
    make_node(node)
    (ROOT / "local").symlink_to(f"nodes/{node}")
    (ROOT / "lxc").symlink_to(f"nodes/{node}/lxc")
    (ROOT / "qemu-server").symlink_to(f"nodes/{node}/qemu-server")
    write(ROOT / ".members", json.dumps({"nodename": node, "version": 0}) + "\n", mode=0o440)
    _write_vmlist(0, {})


def make_node(node: str) -> None:
    """The directories of a node; `.members` does not tell of it."""
    for directory in ("", "lxc", "qemu-server"):
        _make_directory(ROOT / "nodes" / node / directory, 0o755)
    _make_directory(ROOT / "nodes" / node / "priv", 0o700)


def write(path: Path, text: str, *, mode: int = 0o640) -> None:
    """Replace a file by rename, with PVE's owner and `mode`: 0600 under priv/ whatever was asked."""
    if ROOT / "priv" in path.parents:
        mode = 0o600
    new = path.with_name(f"{path.name}.tmp.{os.getpid()}")
    new.write_text(text)
    _own(new, mode)
    new.rename(path)


def register(vmid: int, *, node: str | None = None, kind: str = "lxc") -> None:
    """List a guest in `.vmlist`: on this node, or on another `node` of a cluster that does not exist."""
    entry: dict[str, str | int] = {"node": node or socket.gethostname(), "type": kind, "version": 0}
    _change_vmlist(lambda version, ids: ids.update({str(vmid): {**entry, "version": version}}))


def unregister(vmid: int) -> None:
    """Take a guest out of `.vmlist`; one that is not listed is no error."""
    _change_vmlist(lambda _, ids: ids.pop(str(vmid), None))


def make_certificates(node: str, address: str) -> None:
    """Make the cluster CA and the node's `pve-ssl.pem` signed by it, RSA 2048 as PVE's own.

    The subject names are those of a real node: localhost, 127.0.0.1, ::1, the node's name and its address.
    """
    ca, ca_key = ROOT / "pve-root-ca.pem", ROOT / "priv/pve-root-ca.key"
    certificate, key = ROOT / "local/pve-ssl.pem", ROOT / "local/pve-ssl.key"
    names = f"subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1,DNS:{node},IP:{address}"
    request = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-sha256", "-days", _DAYS)
    authority = ("-CA", str(ca), "-CAkey", str(ca_key), "-addext", "basicConstraints=critical,CA:FALSE")
    _openssl(*request, "-subj", "/CN=Proxmox Virtual Environment", "-keyout", str(ca_key), "-out", str(ca))
    _openssl(
        *request, *authority, "-subj", f"/CN={node}", "-addext", names,
        "-addext", "extendedKeyUsage=serverAuth,clientAuth", "-keyout", str(key), "-out", str(certificate),
    )  # fmt: skip
    for file, mode in ((ca, 0o640), (ca_key, 0o600), (certificate, 0o640), (key, 0o640)):
        _own(file, mode)


def _openssl(*command: str) -> None:
    environment = {**os.environ, "OPENSSL_CONF": "/etc/ssl/openssl.cnf"}
    subprocess.run(command, check=True, capture_output=True, env=environment)


def _make_directory(path: Path, mode: int) -> None:
    path.mkdir(exist_ok=True)
    _own(path, mode)


def _own(path: Path, mode: int) -> None:
    os.chown(path, 0, _WWW_DATA)
    path.chmod(mode)


def _change_vmlist(change: Callable[[int, VmList], object]) -> None:
    with _locked():
        content = json.loads((ROOT / ".vmlist").read_text())
        version, ids = content["version"] + 1, content["ids"]
        change(version, ids)
        _write_vmlist(version, ids)


def _write_vmlist(version: int, ids: VmList) -> None:
    write(ROOT / ".vmlist", json.dumps({"version": version, "ids": ids}) + "\n", mode=0o440)
    changes = {"starttime": int(time.time()), "clinfo": 1, "vmlist": version}
    write(ROOT / ".version", json.dumps(changes) + "\n", mode=0o440)


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
