"""The node is what PVE.md says a node is, and its guests behave like PVE's; runs inside a node."""

import os
import socket
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from tests.pvesim import cgroup, config, guests, pct, pmxcfs
from tests.pvesim.api.lxc import runtime

inside_a_node = pytest.mark.skipif(
    not Path("/run/pvesim").exists(), reason="runs in a node: python3 -m tests.pvesim run ... -- pytest"
)
pytestmark = inside_a_node


@pytest.fixture(params=[101, 102, 104, 201, 202])
def vmid(request: pytest.FixtureRequest) -> int:
    """Each running guest of the test set in turn."""
    number: int = request.param
    if not config.pve_path(number).exists():
        pytest.skip(f"guest {number} is not in this node: start it with --guests test")
    return number


@pytest.fixture
def hostile() -> Iterator[guests.Guest]:
    """An unprivileged guest whose /etc/passwd is a FIFO and that has no /bin/sh."""

    def prepare(rootfs: Path) -> None:
        for name in ("etc/passwd", "bin/sh"):
            (rootfs / name).unlink()
        os.mkfifo(rootfs / "etc/passwd")

    guest = guests.create(990, unprivileged=True, prepare=prepare)
    yield guest
    guest.destroy()


def test_cgroups_are_pure_v2_with_nsdelegate() -> None:
    """The node shows one cgroup mount, v2, a delegation boundary, with the node's own root at `/`."""
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if " - cgroup" in line]
    assert len(mounts) == 1
    assert " / /sys/fs/cgroup " in mounts[0]
    assert mounts[0].partition(" - ")[2].startswith("cgroup2 ")
    assert "nsdelegate" in mounts[0].rpartition(" ")[2].split(",")


def test_pve_tree_has_the_owners_and_modes_of_pmxcfs() -> None:
    """Files are root:www-data 0640, nothing in priv is open to www-data, the links lead to this node."""
    assert (pmxcfs.ROOT / "local").readlink() == Path("nodes", os.uname().nodename)
    certificate = (pmxcfs.ROOT / "local/pve-ssl.key").stat()
    assert (stat.S_IMODE(certificate.st_mode), certificate.st_gid) == (0o640, 33)
    for path in (pmxcfs.ROOT / "priv").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    entry = config.parse_pve((pmxcfs.ROOT / "lxc/104.conf").read_text())
    assert entry["unprivileged"] == "1"


def test_certificate_is_signed_by_the_cluster_ca() -> None:
    """The node's certificate verifies against pve-root-ca.pem for all the names a real one carries."""
    for name in ("localhost", os.uname().nodename):
        _verify("-verify_hostname", name)
    for address in ("127.0.0.1", "::1"):
        _verify("-verify_ip", address)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pmxcfs.ROOT / "local/pve-ssl.pem", pmxcfs.ROOT / "local/pve-ssl.key")


def test_exec_cgroup_stands_beside_ns_and_dies_as_one(vmid: int) -> None:
    """A command put into a cgroup beside `ns` stays there, is seen so by the guest, dies by cgroup.kill."""
    tree = guests.get(vmid).cgroup / "pveg-test"
    tree.mkdir()
    try:
        with _attach_in(tree, vmid, "grep ^0:: /proc/self/cgroup; setsid sleep 600 & exec sleep 600") as attached:
            assert attached.stdout
            assert attached.stdout.readline() == b"0::/../pveg-test\n"
            cgroup.kill(tree)
            assert attached.wait(10) == -9
        assert (tree / "cgroup.procs").read_text() == ""
    finally:
        cgroup.kill(tree)
        tree.rmdir()


@pytest.mark.parametrize(("by", "reaches_beside"), [("pve", "0"), ("lxc", "1")])
def test_freeze_shows_in_ns(vmid: int, by: Literal["pve", "lxc"], reaches_beside: str) -> None:
    """Either freeze shows in `ns/cgroup.events`; PVE's leaves alone what runs beside `ns`, LXC's does not."""
    guest = guests.get(vmid)
    beside = guest.cgroup / "pveg-test"
    beside.mkdir()
    guest.freeze(by=by)
    try:
        assert "frozen 1" in (guest.cgroup / "ns/cgroup.events").read_text()
        assert f"frozen {reaches_beside}" in (beside / "cgroup.events").read_text()
        assert guest.state() == {"pve": "RUNNING", "lxc": "FROZEN"}[by]
    finally:
        guest.thaw(by=by)
        beside.rmdir()
    assert "frozen 0" in (guest.cgroup / "ns/cgroup.events").read_text()


def test_prepared_guest_is_hostile_and_leaves_nothing(hostile: guests.Guest) -> None:
    """`prepare` shapes a guest before it starts; destroy removes it from LXC, /etc/pve and the cgroups."""
    assert hostile.attach(["stat", "-c", "%F %u", "/etc/passwd"]).stdout == b"fifo 0\n"
    assert hostile.attach(["/bin/sh"]).returncode == 127
    assert '"990"' in (pmxcfs.ROOT / ".vmlist").read_text()
    hostile.destroy()
    assert not hostile.rootfs.exists()
    assert not hostile.cgroup.exists()
    assert '"990"' not in (pmxcfs.ROOT / ".vmlist").read_text()
    with pytest.raises(guests.GuestError, match="does not exist"):
        guests.get(990)


@pytest.mark.parametrize(("vmid", "uid"), [(201, 100000), (202, 0)])
def test_debian_guest_boots_systemd_wholly(vmid: int, uid: int) -> None:
    """systemd is `running`, nothing failed, and set-uid programs survived the shift of owners."""
    if not config.pve_path(vmid).exists():
        pytest.skip(f"guest {vmid} is not in this node: start it with --guests test")
    guest = guests.get(vmid)
    assert guest.attach(["systemctl", "is-system-running"]).stdout == b"running\n"
    su = (guest.rootfs / "usr/bin/su").stat()
    assert (su.st_uid, stat.S_IMODE(su.st_mode)) == (uid, 0o4755)
    assert b"video" in guest.attach(["id", "-nG", "www-data"]).stdout.split()


def test_leftover_cgroup_does_not_stop_a_start() -> None:
    """A directory left in a stopped guest's tree is swept by the start, as `pct start` does."""
    guest = guests.get(103)
    (guest.cgroup / "pveg-left").mkdir(parents=True)
    guest.start()
    assert guest.attach(["true"]).returncode == 0
    guest.stop()
    assert guest.state() == "STOPPED"


def _verify(*options: str) -> None:
    ca, certificate = pmxcfs.ROOT / "pve-root-ca.pem", pmxcfs.ROOT / "local/pve-ssl.pem"
    subprocess.run(["openssl", "verify", *options, "-CAfile", ca, certificate], check=True, capture_output=True)


def _attach_in(tree: Path, vmid: int, script: str) -> subprocess.Popen[bytes]:
    attach = f"lxc-attach -n {vmid} --elevated-privileges=CGROUP -- sh -c '{script}'"
    enter = f"echo $$ > {tree}/cgroup.procs && exec {attach}"
    return subprocess.Popen(["sh", "-c", enter], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)


def test_socket_with_bytes_for_a_name(vmid: int) -> None:
    """Anybody may hold an abstract socket whose name is no UTF-8: guests are seen to run anyway."""
    with socket.socket(socket.AF_UNIX) as held:
        held.bind(b"\0\xff\n\xfe")
        assert runtime.is_running(vmid) and not runtime.is_running(103)
        command = [sys.executable, "-I", pct.__file__, "exec", str(vmid), "--", "true"]
        assert subprocess.run(command, check=False, capture_output=True).returncode == 0
