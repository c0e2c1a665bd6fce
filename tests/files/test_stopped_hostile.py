"""Files of stopped containers whose root has prepared the tree: links, nodes, pipes, depths, nobody's owners."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.exec.api import Api
from tests.exec.gateways import Gateway
from tests.exec.waiting import until
from tests.files.archives import entry
from tests.files.paths import url
from tests.files.test_ends import SIZE
from tests.files.test_files import DATA, put
from tests.files.test_hostile_guests import begin_put, leftovers, sessions
from tests.files.test_trees import archive, fetch, send
from tests.pvesim import config
from tests.pvesim.guests import Guest

# CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER, CAP_FSETID.
KEPT = 0b11111
SECRET = "the node's"
LEADS_NOWHERE = ("file_not_found", "file_refused")  # or back to itself


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A file of the node's that everybody may read."""
    for directory in (tmp_path, *tmp_path.parents):
        if directory.owner() == "root" and not directory.stat().st_mode & stat.S_IXOTH:
            directory.chmod(directory.stat().st_mode | 0o111)
    file = tmp_path / "outside"
    file.write_text(SECRET)
    return file


@contextlib.contextmanager
def instead_of(guest: Guest, *names: str) -> Iterator[None]:
    """These of the guest's own are out of the way meanwhile, and nothing of what took their places stays."""
    with contextlib.ExitStack() as undo:
        for name in names:
            place, away = guest.rootfs / name, guest.rootfs / f"{name}.away"
            if place.exists():
                place.rename(away)
                undo.callback(away.rename, place)
            undo.callback(remove, place)
        yield


def give(guest: Guest, place: Path) -> None:
    """To the guest's root."""
    owner = config.UID_SHIFT if guest.unprivileged else 0
    os.chown(place, owner, owner, follow_symlinks=False)


def remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


@pytest.mark.parametrize("read", [False, True], ids=["write", "read"])
def test_what_serves_has_nothing_of_the_node(files: Api, stopped: Guest, gateway: Gateway, read: bool) -> None:
    """Its mounts are the tree alone, without set-user-id, devices and programs; its users are the guest's; of
    capabilities it has what files take, and no descriptor but its pipes."""
    (stopped.rootfs / "root/long").write_bytes(b"")
    os.truncate(stopped.rootfs / "root/long", 1 << 30)
    with contextlib.ExitStack() as undo:
        if read:
            connection = undo.enter_context(contextlib.closing(files.connect()))
            asked = {"Authorization": f"Bearer {files.token}"}
            connection.request("GET", url(stopped.vmid, "/root/long"), headers=asked)
            connection.getresponse().read(1 << 20)
        else:
            sock = undo.enter_context(contextlib.closing(begin_put(files, stopped.vmid, "/root/held", SIZE)))
            sock.sendall(DATA[: SIZE // 2])
        until(lambda: len(sessions(stopped, gateway)) == 1, why="what served before has ended")
        (process,) = sessions(stopped, gateway)
        until(lambda: all(not os.readlink(fd).startswith("socket:") for fd in (process / "fd").iterdir()))
        mounts = [line.split() for line in (process / "mountinfo").read_text().splitlines()]
        assert [mount[4] for mount in mounts] == ["/"]
        assert {"nosuid", "nodev", "noexec", "ro" if read else "rw"} <= set(mounts[0][5].split(","))
        status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
        kept = {name: int(status[f"Cap{name}"], 16) for name in ("Inh", "Prm", "Eff", "Amb")}
        assert kept == {"Inh": 0, "Prm": KEPT, "Eff": KEPT, "Amb": 0}
        assert status["NoNewPrivs"] == "1"
        assert status["Uid"].split()[0] == ("100000" if stopped.unprivileged else "0")
        for name in ("user", "mnt"):
            assert os.readlink(process / "ns" / name) != os.readlink(f"/proc/self/ns/{name}")
        targets = [os.readlink(fd) for fd in (process / "fd").iterdir()]
        assert all(target.startswith(("pipe:", "/root")) or target == "/" for target in targets), targets
    until(lambda: not sessions(stopped, gateway))
    (stopped.rootfs / "root/long").unlink()


def test_no_link_leads_out(files: Api, stopped: Guest, outside: Path) -> None:
    """Absolute links, climbing ones, chains, and directories of the tree that are links themselves lead to the tree."""
    climb = "../" * 60
    tricks = {
        "absolute": str(outside),
        "climbing": f"{climb}{outside}",
        "by-root": f"/proc/1/root{outside}",
        "by-cwd": f"/proc/self/cwd/{climb}{outside}",
        "by-fd": "/proc/self/fd/0",
        "by-name": f"/var/lib/lxc/{stopped.vmid}/../../../..{outside}",
    }
    with instead_of(stopped, "tricks", "proc", "dev", "sys", "tmp"):
        (stopped.rootfs / "tricks").mkdir()
        give(stopped, stopped.rootfs / "tricks")
        for name, target in tricks.items():
            (stopped.rootfs / "tricks" / name).symlink_to(target)
            (stopped.rootfs / "tricks" / f"chain-{name}").symlink_to(name)
        (stopped.rootfs / "proc").symlink_to("/")
        (stopped.rootfs / "dev").symlink_to(f"{climb}dev")
        (stopped.rootfs / "sys").symlink_to("sys")
        (stopped.rootfs / "tmp").symlink_to(str(outside.parent))
        for name in tricks:
            for path in (f"/tricks/{name}", f"/tricks/chain-{name}"):
                assert files.get(url(stopped.vmid, path)).json()["code"] in LEADS_NOWHERE, path
                assert put(files, stopped.vmid, path, b"guest's").json()["code"] in LEADS_NOWHERE, path
        for path in ("/tmp/outside", f"/proc{outside}", f"/{climb}{outside}"):
            assert files.get(url(stopped.vmid, path)).code in LEADS_NOWHERE
            assert files.request("DELETE", url(stopped.vmid, path)).code in LEADS_NOWHERE
        assert files.get(url(stopped.vmid, "/sys/x")).json()["errno"] == "ELOOP"
        assert files.get(url(stopped.vmid, "/dev/null")).json().get("errno") in ("ELOOP", None)
        through = send(files, stopped.vmid, "/", archive((entry("tmp/outside"), b"guest's")))
        assert through.json()["reason"] == "through_link"
        assert files.request("DELETE", url(stopped.vmid, "/tricks", recursive="true")).status == 204
        assert outside.read_text() == SECRET


def test_no_node_is_opened(files: Api, stopped: Guest, gateway: Gateway) -> None:
    """Devices of the node's disk and memory, FIFOs and sockets are refused by name; in the way of /etc/passwd, too."""
    with instead_of(stopped, "nodes", "etc/passwd", "etc/group"):
        nodes = stopped.rootfs / "nodes"
        nodes.mkdir()
        give(stopped, nodes)
        kinds = {"mem": (stat.S_IFCHR, 1, 1), "null": (stat.S_IFCHR, 1, 3), "loop": (stat.S_IFBLK, 7, 0)}
        for name, (kind, major, minor) in kinds.items():
            os.mknod(nodes / name, kind | 0o666, os.makedev(major, minor))
        for fifo in (nodes / "fifo", stopped.rootfs / "etc/passwd"):
            os.mkfifo(fifo)
        (stopped.rootfs / "etc/group").symlink_to("/nodes/mem")
        for name in (*kinds, "fifo"):
            for answer in (
                files.get(url(stopped.vmid, f"/nodes/{name}")),
                put(files, stopped.vmid, f"/nodes/{name}", b""),
            ):
                assert (answer.status, answer.code) == (409, "file_type_refused"), (name, answer.body)
        listed = files.get(url(stopped.vmid, "/nodes")).json()["entries"]
        assert {one["name"]: one["type"] for one in listed}["mem"] == "character-device"
        with fetch(files, stopped.vmid, "/nodes") as tar:
            members = tar.getmembers()
            assert members[-1].pax_headers["comment"].startswith("left out: 4 ")
        assert files.request("DELETE", url(stopped.vmid, "/nodes", recursive="true")).status == 204


def test_its_own_proc_gives_no_file_a_name(files: Api, stopped: Guest, outside: Path) -> None:
    """A /proc on its disk whose links mean something else changes nothing of what is written, or where."""
    with instead_of(stopped, "proc"):
        (stopped.rootfs / "proc/self/fd").mkdir(parents=True)
        for number in range(16):
            (stopped.rootfs / f"proc/self/fd/{number}").symlink_to(str(outside))
        for path in ("/root/new", "/root/new"):
            assert put(files, stopped.vmid, path, b"whole").status in (200, 201)
        assert files.get(url(stopped.vmid, "/root/new")).body == b"whole"
        assert outside.read_text() == SECRET and not leftovers(stopped)
        assert files.request("DELETE", url(stopped.vmid, "/root/new")).status == 204


def test_what_belongs_to_nobody_in_the_guest(files: Api, stopped_guests: dict[int, Guest]) -> None:
    """An owner whom the guest's map does not have is the node's: his files are not read, and stay his."""
    (guest,) = [one for one in stopped_guests.values() if one.unprivileged]
    with instead_of(guest, "root/nodes-own"):
        (guest.rootfs / "root/nodes-own").mkdir()
        for path in (guest.rootfs / "root/nodes-own", guest.rootfs / "root/nodes-own/file"):
            if not path.exists():
                path.write_text(SECRET)
            os.chown(path, 0, 0)
            path.chmod(0o700)
        assert files.get(url(guest.vmid, "/root/nodes-own/file")).json()["errno"] == "EACCES"
        assert put(files, guest.vmid, "/root/nodes-own/new", b"").json()["errno"] == "EACCES"
        assert files.get(url(guest.vmid, "/root")).status == 200
        assert files.request("DELETE", url(guest.vmid, "/root/nodes-own", recursive="true")).code == "file_refused"
        assert (guest.rootfs / "root/nodes-own/file").read_text() == SECRET


def test_depths_and_masses(files: Api, stopped: Guest) -> None:
    """A tree deeper than is walked, and an /etc/passwd of a terabyte, are refused or cut, and cost nothing."""
    with instead_of(stopped, "deep", "etc/passwd"):
        with contextlib.ExitStack() as undo:
            here = os.open(stopped.rootfs, os.O_DIRECTORY)
            for number in range(400):
                os.mkdir("d" * 20 if number else "deep", dir_fd=here)
                below = os.open("d" * 20 if number else "deep", os.O_DIRECTORY, dir_fd=here)
                os.close(here)
                here = below
            undo.callback(os.close, here)
        (stopped.rootfs / "etc/passwd").write_bytes(b"root:x:0:0::/:/bin/sh\n")
        os.truncate(stopped.rootfs / "etc/passwd", 1 << 40)
        assert files.get(url(stopped.vmid, "/deep")).status == 200
        refused = files.request("DELETE", url(stopped.vmid, "/deep", recursive="true"))
        assert refused.status in (204, 409), refused.body
        assert put(files, stopped.vmid, "/root/x", b"", user="root").status == 201
        assert files.request("DELETE", url(stopped.vmid, "/root/x")).status == 204
