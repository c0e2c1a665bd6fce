"""Files of containers that do not run: mounted by pct while they are needed, and never left so."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.exec import faults
from tests.exec.api import Answer, Api
from tests.exec.gateways import Gateway
from tests.exec.test_hostile_guests import reloading
from tests.exec.waiting import until
from tests.files.conftest import STOPPED
from tests.files.paths import ACTIONS, url
from tests.files.test_ends import HALF, SIZE, outcome_of, read_reply
from tests.files.test_files import DATA, put
from tests.files.test_hostile_guests import begin_put, leftovers, sessions
from tests.pvesim import config, pct, pmxcfs
from tests.pvesim.guests import Guest

UNPRIVILEGED = STOPPED["stopped, unprivileged"]


class LoggedPct:
    """The node's pct, with a list of what it was asked for, and something to do before."""

    def __init__(self, directory: Path) -> None:
        self.program = directory / "pct"
        self._log = directory / "pct.log"
        self._before = directory / "pct.before"
        self._before.write_text("")
        self._before.chmod(0o755)
        real = f'exec {shlex.quote(sys.executable)} -I {shlex.quote(str(pct.__file__))} "$@"'
        self.program.write_text(f'#!/bin/sh\necho "$@" >> {self._log}\n. {self._before}\n{real}\n')
        self.program.chmod(0o755)

    def calls(self, vmid: int) -> list[str]:
        said = self._log.read_text().splitlines() if self._log.exists() else []
        return [verb for verb, of in (line.split() for line in said) if of == str(vmid)]

    @contextlib.contextmanager
    def doing(self, script: str) -> Iterator[None]:
        """Before its own work it runs this script of the shell."""
        self._before.write_text(f"{script}\n")
        try:
            yield
        finally:
            self._before.write_text("")

    def run(self, *words: str) -> None:
        """An administrator's call."""
        subprocess.run([sys.executable, "-I", pct.__file__, *words], check=True, capture_output=True)


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> LoggedPct:
    return LoggedPct(tmp_path_factory.mktemp("pct"))


@pytest.fixture
def guest(stopped_guests: dict[int, Guest]) -> Guest:
    """The unprivileged one, where that makes no difference."""
    return stopped_guests[UNPRIVILEGED]


@pytest.fixture(scope="module")
def gateway(make_gateway: Callable[..., Gateway], logged: LoggedPct) -> Gateway:
    return make_gateway(lxc={"pct": str(logged.program)})


def lock_of(guest: Guest) -> str | None:
    return config.parse_pve(config.pve_path(guest.vmid).read_text()).get("lock")


def until_free(guest: Guest, gateway: Gateway) -> None:
    """Nothing of ours is in the guest, and no lock on it."""
    until(lambda: lock_of(guest) is None, why="its lock is taken off")
    until(lambda: not sessions(guest, gateway), why="nothing of ours is in it")
    mark = gateway.spool / "mounted" / str(guest.vmid)
    until(lambda: not mark.exists(), why="nothing of ours is left of it")


@contextlib.contextmanager
def options(guest: Guest, text: str) -> Iterator[None]:
    """More lines in the guest's configuration."""
    path = config.pve_path(guest.vmid)
    before = path.read_text()
    pmxcfs.write(path, before + text)
    try:
        yield
    finally:
        pmxcfs.write(path, before)


@contextlib.contextmanager
def half_put(files: Api, guest: Guest, gateway: Gateway) -> Iterator[Any]:
    """An upload to /root/ends, half of which is on its way; before it stood `old` there."""
    assert put(files, guest.vmid, "/root/ends", b"old").status in (200, 201)
    until(lambda: not sessions(guest, gateway))
    with contextlib.closing(begin_put(files, guest.vmid, "/root/ends", SIZE)) as sock:
        sock.sendall(DATA[:HALF])
        until(lambda: sessions(guest, gateway), why="the upload is under way")
        yield sock


def read(files: Api, guest: Guest, path: str = "/root/ends") -> Answer:
    return files.get(url(guest.vmid, path))


def test_pct_is_run_once_for_many(files: Api, stopped: Guest, gateway: Gateway, logged: LoggedPct) -> None:
    """Requests at the same time, and soon after, share one mount, which nobody else on the node sees; then it is gone,
    and PVE's lock with it."""
    paths = [f"/root/many-{number}" for number in range(6)]
    with half_put(files, stopped, gateway), ThreadPoolExecutor(len(paths)) as pool:
        before = len(logged.calls(stopped.vmid))
        written = pool.map(lambda path: put(files, stopped.vmid, path, path.encode()).status, paths)
        assert list(written) == [201] * len(paths)
        assert lock_of(stopped) == "mounted"
        assert str(stopped.rootfs) not in Path("/proc/self/mountinfo").read_text()
        assert [read(files, stopped, path).body for path in paths] == [path.encode() for path in paths]
        for path in paths:
            assert files.request("DELETE", url(stopped.vmid, path)).status == 204
        assert logged.calls(stopped.vmid)[before:] == []
    until_free(stopped, gateway)
    assert logged.calls(stopped.vmid)[before:] == ["unmount"]


def test_its_owners_are_the_guests(files: Api, stopped: Guest) -> None:
    """A number is the guest's, set-user-id and all; what its map does not have is refused."""
    shift = config.UID_SHIFT if stopped.unprivileged else 0
    assert put(files, stopped.vmid, "/root/owned-here", b"1", user="7", group="8", mode="4750").status == 201
    status = (stopped.rootfs / "root/owned-here").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (shift + 7, shift + 8, 0o4750)
    if stopped.unprivileged:
        refused = put(files, stopped.vmid, "/root/owned-here", b"2", user="70000")
        assert (refused.status, refused.json()["errors"][0]["code"]) == (422, "not_mapped"), refused.body
    files.request("DELETE", url(stopped.vmid, "/root/owned-here"))


def test_a_map_of_its_own(files: Api, guest: Guest, gateway: Gateway) -> None:
    """lxc.idmap lines count instead of PVE's own map; one that is none is refused before anything is mounted."""
    until_free(guest, gateway)
    lines = "".join(f"lxc.idmap: {kind} 0 100000 1000\nlxc.idmap: {kind} 1000 300000 10\n" for kind in "ug")
    with options(guest, lines):
        assert put(files, guest.vmid, "/root/mapped", b"1", user="1005", group="3").status == 201
        status = (guest.rootfs / "root/mapped").stat()
        assert (status.st_uid, status.st_gid) == (300005, 100003)
        assert put(files, guest.vmid, "/root/mapped", b"1", user="1010").status == 422
        assert files.request("DELETE", url(guest.vmid, "/root/mapped")).status == 204
        until_free(guest, gateway)
    with options(guest, "lxc.idmap: u 0 1 2 3 4\n"):
        assert put(files, guest.vmid, "/root/mapped", b"1").code == "guest_unsupported"
        assert lock_of(guest) is None


@pytest.mark.parametrize("lock", ["backup", "mounted", "snapshot-delete"])
def test_a_locked_one_is_left_alone(files: Api, guest: Guest, gateway: Gateway, logged: LoggedPct, lock: str) -> None:
    """Whoever has the lock keeps it: 423 with its name, pct is not even run, and nothing is announced."""
    until_free(guest, gateway)
    before = logged.calls(guest.vmid)
    with options(guest, f"lock: {lock}\n"):
        for answer in (read(files, guest, "/root"), put(files, guest.vmid, "/root/x", b"")):
            assert (answer.status, answer.code, answer.json()["lock"]) == (423, "guest_locked", lock)
        assert lock_of(guest) == lock
    assert logged.calls(guest.vmid) == before


def test_a_lock_that_comes_between(files: Api, guest: Guest, gateway: Gateway, logged: LoggedPct) -> None:
    """A lock that somebody takes while pct is on its way is his: 423, and it stays."""
    until_free(guest, gateway)
    path = config.pve_path(guest.vmid)
    before = path.read_text()
    with logged.doing(f"grep -q ^lock: {path} || echo 'lock: backup' >> {path}"):
        answer = read(files, guest, "/root")
    assert (answer.status, answer.code, answer.json()["lock"]) == (423, "guest_locked", "backup")
    assert lock_of(guest) == "backup"
    pmxcfs.write(path, before)
    assert read(files, guest, "/root").status == 200


def test_a_mount_that_fails_leaves_no_lock(files: Api, guest: Guest, gateway: Gateway, logged: LoggedPct) -> None:
    """What pct cannot mount is told in its words; the lock that it leaves behind is taken off."""
    until_free(guest, gateway)
    with options(guest, "mp0: /no/such/directory,mp=/srv\n"):
        refused = read(files, guest, "/root")
        assert (refused.status, refused.code) == (502, "pve_failed")
        assert "directory '/no/such/directory' does not exist" in refused.json()["detail"]
        until_free(guest, gateway)
        assert logged.calls(guest.vmid)[-2:] == ["mount", "unmount"]
    with logged.doing("exit 3"):
        assert read(files, guest, "/root").code == "pve_failed"
    until_free(guest, gateway)
    assert read(files, guest, "/root").status == 200


def test_what_its_configuration_mounts_is_there(files: Api, guest: Guest, gateway: Gateway, tmp_path: Path) -> None:
    """Mount points are what they are in the running guest, read-only ones too; a link in the way is pct's to refuse."""
    until_free(guest, gateway)
    tmp_path.chmod(0o755)
    (tmp_path / "file").write_text("of the mount point")
    with options(guest, f"mp0: {tmp_path},mp=/srv/data,ro=1\n"):
        assert read(files, guest, "/srv/data/file").body == b"of the mount point"
        assert put(files, guest.vmid, "/srv/data/new", b"").json()["errno"] == "EROFS"
        removed = files.request("DELETE", url(guest.vmid, "/srv", recursive="true"))
        assert removed.code == "file_refused" and (tmp_path / "file").exists()
        until_free(guest, gateway)
    (guest.rootfs / "srv/data").rmdir()
    (guest.rootfs / "srv/data").symlink_to(tmp_path)
    with options(guest, f"mp0: {tmp_path},mp=/srv/data\n"):
        refused = read(files, guest, "/srv/data/file")
        assert "symlink encountered" in refused.json()["detail"]
        until_free(guest, gateway)
    (guest.rootfs / "srv/data").unlink()


def test_a_template_is_read_alone(files: Api, guest: Guest, gateway: Gateway) -> None:
    """Others are made of its files: they can be looked at."""
    until_free(guest, gateway)
    with options(guest, "template: 1\n"):
        assert read(files, guest, "/etc/passwd").status == 200
        assert put(files, guest.vmid, "/root/x", b"").code == "guest_unsupported"
        assert files.request("DELETE", url(guest.vmid, "/etc/passwd")).code == "guest_unsupported"
        until_free(guest, gateway)


def test_who_may_not(files: Api, guest: Guest, gateway: Gateway, logged: LoggedPct) -> None:
    """The grants are a running guest's: without them nothing is mounted, and an absent guest is the same."""
    until_free(guest, gateway)
    before = logged.calls(guest.vmid)
    reader = gateway.api(gateway.token("reader", actions="file:read", guests="101"))
    assert read(reader, guest, "/root").code == "guest_not_found"
    assert put(reader, 101, "/root/x", b"").status == 403
    reader.close()
    assert files.get(url(998, "/root")).code == "guest_not_found"
    assert logged.calls(guest.vmid) == before


def test_no_record_no_mount(files: Api, guest: Guest, gateway: Gateway, logged: LoggedPct) -> None:
    """C4: while the audit log takes nothing, pct is not even run: 503, and the guest has no lock; it recovers."""
    until_free(guest, gateway)
    before = logged.calls(guest.vmid)
    with faults.stopped(gateway, Path()):
        removed = files.request("DELETE", url(guest.vmid, "/etc/passwd"))
        for answer in (read(files, guest, "/etc/passwd"), put(files, guest.vmid, "/root/x", b""), removed):
            assert (answer.status, answer.code) == (503, "audit_unavailable")
        assert logged.calls(guest.vmid) == before
    until(lambda: read(files, guest, "/etc/passwd").status == 200, why="it recovers")
    until_free(guest, gateway)


def test_records(files: Api, guest: Guest, gateway: Gateway) -> None:
    """One intent and one outcome, as for a guest that runs; of one that could not be mounted the log says `aborted`."""
    made = put(files, guest.vmid, "/root/recorded", b"12345").json()
    assert outcome_of(gateway, "/root/recorded", "file:write")["bytes"] == 5
    events = [record["event"] for record in gateway.records(audit_id=made["audit_id"])]
    assert events == ["file:write", "file:outcome"]
    files.request("DELETE", url(guest.vmid, "/root/recorded"))
    until_free(guest, gateway)
    with options(guest, "mp0: /no/such/directory,mp=/srv\n"):
        read(files, guest, "/root/not-mounted")
    asked = [one for one in gateway.records(event="file:read") if one["data"]["path"] == "/root/not-mounted"][-1]
    until(lambda: gateway.records(event="file:aborted", audit_id=asked["audit_id"]))
    until_free(guest, gateway)


# ---- who goes in the middle


def test_a_client_that_leaves_while_it_is_mounted(
    files: Api, guest: Guest, gateway: Gateway, logged: LoggedPct, tmp_path: Path
) -> None:
    """What it had mounted is unmounted, and nobody has been in it."""
    until_free(guest, gateway)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with logged.doing(f'[ "$1" != mount ] || read -r _ < {gate}'):
        with contextlib.closing(begin_put(files, guest.vmid, "/root/left", SIZE)) as sock:
            sock.sendall(DATA[: 1 << 16])
            until(lambda: logged.calls(guest.vmid)[-1:] == ["mount"], why="pct is on its way")
        gate.write_text("\n")
    until_free(guest, gateway)
    assert logged.calls(guest.vmid)[-2:] == ["mount", "unmount"]
    assert not (guest.rootfs / "root/left").exists()


def test_a_reload_is_not_noticed(files: Api, guest: Guest, gateway: Gateway) -> None:
    """An upload goes on while the supervisor becomes a new image, which unmounts when it is done."""
    with half_put(files, guest, gateway) as upload:
        with reloading(gateway, files):
            pass
        upload.sendall(DATA[HALF:SIZE])
        assert read_reply(upload).startswith(b"HTTP/1.1 200 ")
    assert read(files, guest).body == DATA[:SIZE]
    assert outcome_of(gateway, "/root/ends", "file:write")["bytes"] == SIZE
    until_free(guest, gateway)


def test_a_killed_supervisor(files: Api, guest: Guest, gateway: Gateway) -> None:
    """With it dies what served, and what was mounted is gone; the next one takes off the lock. The old file stays."""
    with half_put(files, guest, gateway) as upload:
        gateway.services.kill("supervisor")
        until(lambda: not sessions(guest, gateway), why="nothing of it runs")
        assert lock_of(guest) == "mounted"
        gateway.services.restart("supervisor")
        with contextlib.suppress(OSError):
            upload.sendall(DATA[HALF:SIZE])
        assert read_reply(upload).startswith(b"HTTP/1.1 50")
    until_free(guest, gateway)
    assert read(files, guest).body == b"old" and not leftovers(guest)


def test_a_supervisor_that_is_killed_while_pct_mounts(
    files: Api, guest: Guest, gateway: Gateway, logged: LoggedPct, tmp_path: Path
) -> None:
    """pct dies with it, before it can take the lock behind the back of the next one."""
    until_free(guest, gateway)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    before = len(logged.calls(guest.vmid))
    with (
        logged.doing(f'[ "$1" != mount ] || read -r _ < {gate}'),
        contextlib.closing(begin_put(files, guest.vmid, "/root/left", SIZE)) as sock,
    ):
        sock.sendall(DATA[: 1 << 16])
        until(lambda: logged.calls(guest.vmid)[before:] == ["mount"], why="pct is on its way")
        gateway.services.kill("supervisor")
        until(lambda: not reads(gate), why="pct has died")
    gateway.services.restart("supervisor")
    until_free(guest, gateway)
    assert logged.calls(guest.vmid)[before:] == ["mount"]
    assert read(files, guest, "/root").status == 200


def reads(fifo: Path) -> bool:
    """Whether anybody has a FIFO open to read it."""
    try:
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True


def test_what_a_killed_supervisor_left_is_taken_off_only_if_it_is_ours(
    files: Api, guest: Guest, gateway: Gateway, logged: LoggedPct
) -> None:
    """An administrator who has unlocked the guest meanwhile, and mounted it himself, keeps what he has."""
    with half_put(files, guest, gateway):
        gateway.services.kill("supervisor")
    assert lock_of(guest) == "mounted"
    logged.run("unmount", str(guest.vmid))
    logged.run("mount", str(guest.vmid))
    try:
        gateway.services.restart("supervisor")
        assert read(files, guest, "/root").code == "guest_locked"
        assert lock_of(guest) == "mounted"
        assert str(guest.rootfs) in Path("/proc/self/mountinfo").read_text()
    finally:
        logged.run("unmount", str(guest.vmid))
    assert read(files, guest, "/root").status == 200


def test_a_supervisor_that_is_stopped(files: Api, guest: Guest, gateway: Gateway) -> None:
    """It leaves no lock behind."""
    with half_put(files, guest, gateway):
        gateway.services.kill("supervisor", signal.SIGTERM)
        until_free(guest, gateway)
    gateway.services.restart("supervisor")
    assert read(files, guest).body == b"old"


def test_a_killed_web(files: Api, guest: Guest, gateway: Gateway) -> None:
    """Nothing is written, nothing stays mounted."""
    with half_put(files, guest, gateway):
        gateway.services.kill("web")
        until_free(guest, gateway)
    gateway.services.restart("web")
    files.close()
    assert read(files, guest).body == b"old"


def test_a_container_that_is_started_meanwhile(gateway: Gateway, guest: Guest) -> None:
    """PVE starts it in spite of its lock, and so it may be: the upload ends by name, the old file stays, the lock is
    taken off, and its files are the running guest's from then on."""
    files = gateway.api(gateway.token("starts", actions=ACTIONS))
    with half_put(files, guest, gateway) as upload:
        guest.start()
        try:
            until(lambda: not sessions(guest, gateway), why="nothing of ours is in it from outside")
            with contextlib.suppress(OSError):
                upload.sendall(DATA[HALF:SIZE])
            assert read_reply(upload).startswith(b"HTTP/1.1 50")
            until_free(guest, gateway)
            assert read(files, guest).body == b"old"
            assert files.run(guest.vmid, ["cat", "/root/ends"])["stdout"] == "old"
        finally:
            guest.stop(kill=True)
    until(lambda: read(files, guest).body == b"old", why="it has stopped")
    files.close()
