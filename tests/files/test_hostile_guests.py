"""Files in guests whose root does what it can: links, races, FIFOs, full disks, missing programs, killed launchers."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import signal
import socket
import ssl
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.exec.api import Api
from tests.exec.gateways import Gateway
from tests.exec.waiting import until
from tests.files.conftest import STOPPED
from tests.files.paths import url
from tests.files.test_files import DATA, put, shell
from tests.opened import noted
from tests.pvesim import guests
from tests.pvesim.guests import Guest


def leftovers(guest: Guest) -> list[Path]:
    """Temporary files of ours, wherever in the guest they are."""
    return list(guest.rootfs.rglob(".pveg-*"))


def sessions(guest: Guest, gateway: Gateway) -> list[Path]:
    """The cgroups of sessions of files in a guest; of one that does not run, their processes."""
    if guest.vmid not in STOPPED.values():
        return list(guest.cgroup.glob(f"pveg-{gateway.instance}/fs_*"))
    return [process for process in Path("/proc").glob("[0-9]*") if serves(process, guest.rootfs)]


def serves(process: Path, root: Path) -> bool:
    """Whether it is a launcher's that has nothing but this tree."""
    with contextlib.suppress(OSError):
        return "pveg-nursery" in os.readlink(process / "exe") and (process / "root").samefile(root)
    return False


def test_a_link_out_of_the_root_never_reaches_the_node(files: Api, any_vmid: int, tmp_path: Path) -> None:
    """B13: a link, an absolute path or a chain of `..` to a file of the node leads to nothing, or the guest's own."""
    outside = tmp_path / "outside"
    outside.write_text("the node's")
    climb = "/.." * 40
    guest = guests.get(any_vmid)
    shell(any_vmid, f"rm -f /root/out /root/up; ln -s {outside} /root/out; ln -s {climb}{outside} /root/up")
    for path in ("/root/out", "/root/up", f"{climb}{outside}", f"/proc/1/root{outside}"):
        assert files.get(url(any_vmid, path)).code == "file_not_found"
        assert put(files, any_vmid, path, b"guest's").status == 404
        assert files.request("DELETE", url(any_vmid, f"{climb}{outside}")).status == 404
    (guest.rootfs / "root/swapped").unlink(missing_ok=True)
    assert outside.read_text() == "the node's"


def test_what_is_no_regular_file_is_not_opened(files: Api, small_vmid: int) -> None:
    """FIFOs, devices and sockets are refused by name and at once, to read, to write and through links."""
    shell(small_vmid, "rm -rf /root/kinds; mkdir /root/kinds; mkfifo /root/kinds/fifo; ln -s fifo /root/kinds/link")
    kinds = {"/root/kinds/fifo": "fifo", "/root/kinds/link": "fifo", "/dev/null": "character-device"}
    for path, kind in kinds.items():
        for answer in (files.get(url(small_vmid, path)), put(files, small_vmid, path, b"x")):
            assert (answer.status, answer.code, answer.json()["file_type"]) == (409, "file_type_refused", kind)
    assert put(files, small_vmid, "/root/kinds", b"x").json()["file_type"] == "directory"
    assert put(files, small_vmid, "/root/kinds/", b"x").json()["file_type"] == "directory"
    assert put(files, small_vmid, "/root/kinds/none/x", b"x").code == "file_not_found"
    assert put(files, small_vmid, "/etc/passwd/x", b"x").json()["errno"] == "ENOTDIR"


def test_somebodys_link_in_a_shared_directory(files: Api, any_vmid: int) -> None:
    """A link that another user has laid in a sticky directory is followed if the kernel follows it; root's own is."""
    follows = Path("/proc/sys/fs/protected_symlinks").read_text() == "0\n"
    shell(any_vmid, "rm -rf /root/tmp /root/new /root/aim; mkdir -m 1777 /root/tmp; echo secret > /root/aim")
    shell(any_vmid, "cd /root/tmp; ln -s /root/aim theirs; ln -s /root/new new; ln -s /root/aim own")
    shell(any_vmid, "cd /root/tmp; chown -h 1234 theirs new")
    read = files.get(url(any_vmid, "/root/tmp/theirs"))
    written = [put(files, any_vmid, f"/root/tmp/{name}", b"x") for name in ("theirs", "new")]
    if follows:
        assert read.body == b"secret\n" and [answer.status for answer in written] == [200, 201]
    else:
        assert [answer.json()["errno"] for answer in (read, *written)] == ["EACCES"] * 3
        assert files.get(url(any_vmid, "/root/aim")).body == b"secret\n"
    assert put(files, any_vmid, "/root/tmp/own", b"x").status == 200


def test_places_of_the_kernel(files: Api, small_vmid: int) -> None:
    """/proc and /dev hold nothing of the node: our own process shows its pipes and its program, no more."""
    listed = files.get(url(small_vmid, "/proc/self/fd")).json()["entries"]
    targets = [entry.get("target", "") for entry in listed]
    assert all(target.startswith(("pipe:", "/proc/")) for target in targets), targets
    for path in ("/proc/self/fd/0", "/proc/self/fd/1"):
        assert files.get(url(small_vmid, path)).json()["file_type"] == "fifo"
    for path in ("/proc/sys/kernel/none", "/proc/sys/kernel/hostname", "/sys/none"):
        assert put(files, small_vmid, path, b"x").code == "file_refused"
    assert put(files, small_vmid, "/proc/self/exe", b"x").json()["errno"] == "ELOOP"


def test_a_guest_without_any_program(files: Api, spoilt: Guest) -> None:
    """Nothing of the guest is needed: without a shell, tar, cat, libraries or /etc all works, by number."""
    for name in ("bin", "sbin", "usr", "etc"):
        (spoilt.rootfs / name).rename(spoilt.rootfs / f"{name}.away")
    try:
        assert put(files, spoilt.vmid, "/root/bare", DATA, user="12", mode="640").status == 201
        answer = files.get(url(spoilt.vmid, "/root/bare"))
        assert (answer.body == DATA, answer.headers["X-File-Uid"], answer.headers["X-File-User"]) == (True, "12", None)
        assert put(files, spoilt.vmid, "/root/bare", b"", user="root").status == 422
        assert files.request("DELETE", url(spoilt.vmid, "/root/bare")).status == 204
    finally:
        for name in ("bin", "sbin", "usr", "etc"):
            (spoilt.rootfs / f"{name}.away").rename(spoilt.rootfs / name)


def test_a_guest_without_proc(files: Api, spoilt: Guest, gateway: Gateway) -> None:
    """Without /proc no process of ours can be started there: a 503 that says so, taken back in the log."""
    shell(spoilt.vmid, "mount -t tmpfs tmpfs /proc")
    try:
        refused = put(files, spoilt.vmid, "/root/plain", b"one")
        assert (refused.status, refused.code) == (503, "node_not_ready")
    finally:
        shell(spoilt.vmid, "umount /proc")
    until(lambda: gateway.records(event="file:aborted", vmid=spoilt.vmid))
    until(lambda: not sessions(spoilt, gateway))


def test_a_full_disk(files: Api, small_vmid: int) -> None:
    """B13: what does not fit is 507, the old file stays whole, and the disk is as empty as it was."""
    shell(small_vmid, "mkdir -p /root/tiny; mount -t tmpfs -o size=1m tmpfs /root/tiny")
    try:
        assert put(files, small_vmid, "/root/tiny/file", b"old").status == 201
        refused = put(files, small_vmid, "/root/tiny/file", DATA)
        assert (refused.status, refused.code, refused.json()["errno"]) == (507, "guest_disk_full", "ENOSPC")
        assert files.get(url(small_vmid, "/root/tiny/file")).body == b"old"
        assert put(files, small_vmid, "/root/tiny/file", DATA[: 900 << 10]).status == 200
    finally:
        shell(small_vmid, "umount /root/tiny")


def begin_put(files: Api, vmid: int, path: str, size: int) -> ssl.SSLSocket:
    """An upload whose body the caller sends, or not."""
    plain = socket.create_connection((files.host, files.port), timeout=30)
    sock = noted(files._context.wrap_socket(plain, server_hostname="localhost"))
    sock.sendall(
        f"PUT {url(vmid, path)} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {files.token}\r\n"
        f"Content-Length: {size}\r\n\r\n".encode()
    )
    return sock


def test_a_cut_upload_changes_nothing(files: Api, any_vmid: int, gateway: Gateway) -> None:
    """A client that leaves in the middle: the old file stays, no temporary one, no process; the record says so."""
    guest = guests.get(any_vmid)
    put(files, any_vmid, "/root/cut", b"old")
    with contextlib.closing(begin_put(files, any_vmid, "/root/cut", 8 << 20)) as sock:
        sock.sendall(DATA[: 4 << 20])
        until(lambda: sessions(guest, gateway), why="the upload is under way")
    until(lambda: not sessions(guest, gateway), why="nothing of it runs")
    assert files.get(url(any_vmid, "/root/cut")).body == b"old"
    assert not leftovers(guest)
    asked = [record for record in gateway.records(event="file:write") if record["data"]["path"] == "/root/cut"][-1]
    (ended,) = until(lambda: gateway.records(event="file:outcome", audit_id=asked["audit_id"]))
    assert ended["data"]["reason"] in ("client_gone", "failed")


def test_a_download_whose_client_leaves(files: Api, gateway: Gateway) -> None:
    """The launcher of a download ends with its client, and the record says that it left."""
    guest = guests.get(101)
    shell(101, "dd if=/dev/zero of=/root/left bs=1048576 count=1 seek=255 2>/dev/null")
    connection = files.connect()
    connection.request("GET", url(101, "/root/left"), headers={"Authorization": f"Bearer {files.token}"})
    connection.getresponse().read(1 << 20)
    assert sessions(guest, gateway)
    connection.close()
    until(lambda: not sessions(guest, gateway), why="nothing of it runs")
    asked = [record for record in gateway.records(event="file:read") if record["data"]["path"] == "/root/left"][-1]
    (ended,) = until(lambda: gateway.records(event="file:outcome", audit_id=asked["audit_id"]))
    assert ended["data"]["reason"] == "client_gone"


def test_a_killed_launcher(files: Api, gateway: Gateway) -> None:
    """The guest's root can kill the process there: the request fails by name, and the old file stays."""
    guest = guests.get(101)
    put(files, 101, "/root/victim", b"old")
    until(lambda: not sessions(guest, gateway), why="nothing of it is left")
    with contextlib.closing(begin_put(files, 101, "/root/victim", 8 << 20)) as sock:
        sock.sendall(DATA[: 1 << 20])
        (group,) = until(lambda: sessions(guest, gateway))
        pids = until(lambda: [pid for pid in (group / "cgroup.procs").read_text().split() if is_ours(pid)])
        os.kill(int(pids[0]), 9)
        with contextlib.suppress(OSError):
            sock.sendall(DATA[: 7 << 20])
        reply = sock.recv(65536)
    assert reply.startswith(b"HTTP/1.1 502 ")
    assert files.get(url(101, "/root/victim")).body == b"old"
    assert not leftovers(guest)


def test_a_change_whose_answer_does_not_come(files: Api, gateway: Gateway) -> None:
    """Told to put a file in its place, the guest says nothing, and the client leaves: the record claims neither that
    it was done nor that it was not."""
    guest = guests.get(101)
    with contextlib.closing(begin_put(files, 101, "/root/unsure", 2 << 20)) as sock:
        sock.sendall(DATA[: (2 << 20) - 1])
        (group,) = until(lambda: sessions(guest, gateway))
        (pid,) = until(lambda: [pid for pid in (group / "cgroup.procs").read_text().split() if has_written(pid)])
        os.kill(int(pid), signal.SIGSTOP)
        sock.sendall(DATA[:1])
        until(lambda: waits_for_the_guest(pid), why="it is told to commit")
    asked = [record for record in gateway.records(event="file:write") if record["data"]["path"] == "/root/unsure"][-1]
    (ended,) = until(lambda: gateway.records(event="file:outcome", audit_id=asked["audit_id"]))
    assert ended["data"] == {"reason": "unknown"}
    until(lambda: not sessions(guest, gateway), why="nothing of it runs")


def has_written(pid: str) -> bool:
    """Whether the launcher has all but the last byte of 2 MiB in a new file."""
    with contextlib.suppress(OSError):
        return any(fd.stat().st_size == (2 << 20) - 1 for fd in Path(f"/proc/{pid}/fd").iterdir())
    return False


def waits_for_the_guest(pid: str) -> bool:
    """Whether the launcher, which stands still, has been sent more than the last byte of content with its header."""
    with open(f"/proc/{pid}/fd/0", "rb") as pipe:
        waiting = array.array("i", [0])
        fcntl.ioctl(pipe, termios.FIONREAD, waiting)
    return waiting[0] > 9


def is_ours(pid: str) -> bool:
    """Whether it is the launcher in the guest, in file mode by now: then it has closed the handshake's socket."""
    with contextlib.suppress(OSError):
        if "pveg-launcher" in os.readlink(f"/proc/{pid}/exe"):
            return not any(os.readlink(fd).startswith("socket:") for fd in Path(f"/proc/{pid}/fd").iterdir())
    return False


@pytest.fixture
def racing(spoilt: Guest) -> Iterator[Guest]:
    """The guest with a directory in which somebody swaps `d/sub`, a directory, for a link to /root/kept, again and
    again."""
    script = (
        "rm -rf /root/race /root/kept; mkdir -p /root/race/d/sub /root/kept; cd /root; echo 1 > kept/file; "
        "(while [ ! -e /root/stop ]; do mkdir -p race/d/sub; : > race/d/sub/x; mv race/d/sub race/away 2>/dev/null; "
        "ln -s /root/kept race/d/sub 2>/dev/null; rm -rf race/away; rm -f race/d/sub; done) > /dev/null 2>&1 &"
    )
    shell(spoilt.vmid, f"rm -f /root/stop; {script}")
    yield spoilt
    shell(spoilt.vmid, "touch /root/stop")


def test_a_directory_that_is_swapped_for_a_link(files: Api, racing: Guest) -> None:
    """While `d/sub` becomes a link and a directory by turns, removing `d` never removes what the link leads to."""
    for _ in range(25):
        files.request("DELETE", url(racing.vmid, "/root/race/d", recursive="true"))
        assert (racing.rootfs / "root/kept/file").read_text() == "1\n"


def test_what_is_mounted_stays(files: Api, spoilt: Guest) -> None:
    """Removing a directory stops at what is mounted below: nothing in there is touched."""
    shell(
        spoilt.vmid,
        "mkdir -p /root/top/a/mnt /root/data; echo 1 > /root/data/file; mount -o bind /root/data /root/top/a/mnt",
    )
    try:
        refused = files.request("DELETE", url(spoilt.vmid, "/root/top", recursive="true"))
        assert (refused.status, refused.code) == (409, "file_refused")
        assert shell(spoilt.vmid, "cat /root/data/file") == "1\n"
    finally:
        shell(spoilt.vmid, "umount /root/top/a/mnt")
    assert files.request("DELETE", url(spoilt.vmid, "/root/top", recursive="true")).status == 204


def test_a_frozen_and_a_stopped_guest(files: Api, spoilt: Guest) -> None:
    """A frozen one is a 409 at once, as for commands. A stopped one has the same files, nothing is made in its cgroup,
    and it starts whether its files are held or not."""
    put(files, spoilt.vmid, "/root/frozen", b"old")
    spoilt.freeze()
    try:
        answers = [files.get(url(spoilt.vmid, "/root/frozen")), put(files, spoilt.vmid, "/root/frozen", b"new")]
    finally:
        spoilt.thaw()
    assert [answer.code for answer in answers] == ["guest_frozen", "guest_frozen"]
    spoilt.stop()
    try:
        until(lambda: files.get(url(spoilt.vmid, "/root/frozen")).body == b"old", why="it has stopped")
        assert not spoilt.cgroup.exists()
    finally:
        spoilt.start()
    assert files.get(url(spoilt.vmid, "/root/frozen")).body == b"old"
