"""C4: a real ext4 on a loop device that fills up, freezes, turns read-only or loses the log's file."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from gateway.audit.chain import Sealed
from gateway.audit.client import AuditClient
from gateway.audit.protocol import encode_frame
from gateway.audit.settings import AuditSettings
from gateway.audit.verify import verify
from gateway.errors import AuditUnavailable

from .live import BUSY, Writer, intent, keys_of, make_settings, read_log, wait_until
from .test_audit_writer import connect

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a loop device needs root")


@dataclass(frozen=True)
class Disk:
    """An 8 MiB ext4, mounted in a mount namespace of its own; `inside` runs a program there."""

    holder: int
    mount: Path

    @property
    def prefix(self) -> list[str]:
        return ["nsenter", "-m", "-t", str(self.holder), "--"]

    @property
    def seen_from_here(self) -> Path:
        return Path(f"/proc/{self.holder}/root{self.mount}")

    def inside(self, *command: str) -> None:
        subprocess.run([*self.prefix, *command], check=True, capture_output=True, timeout=30)

    def fill(self) -> None:
        """To the last block; dd ends with ENOSPC, which is what it is for."""
        command = [*self.prefix, "dd", "if=/dev/zero", f"of={self.mount}/ballast", "bs=1k"]
        subprocess.run(command, check=False, capture_output=True, timeout=30)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        self.inside("fsfreeze", "--freeze", str(self.mount))
        try:
            yield
        finally:
            self.inside("fsfreeze", "--unfreeze", str(self.mount))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Gone with the last process of its namespace, whatever the test did."""
    image, mount = tmp_path / "image", tmp_path / "disk"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(8 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True, capture_output=True)
    script = 'mount -o loop "$1" "$2" && echo mounted && exec cat'
    command = ["unshare", "-m", "--propagation", "private", "/bin/sh", "-c", script, "sh", str(image), str(mount)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout and holder.stdin
        assert holder.stdout.readline() == b"mounted\n"
        yield Disk(holder.pid, mount)
        holder.stdin.close()
        holder.wait(10)


@pytest.fixture
def running(disk: Disk, tmp_path: Path) -> Iterator[tuple[Writer, AuditClient]]:
    settings = make_settings(tmp_path, disk.mount / "log")
    with Writer(settings, disk.prefix) as writer:
        client = AuditClient(settings.socket)
        client.commit(intent(0))
        yield writer, client
        client.close()


def seen(disk: Disk, settings: AuditSettings) -> AuditSettings:
    """The same settings with the log's path as it is seen from outside the namespace."""
    return replace(settings, directory=disk.seen_from_here / "log")


def records_of(disk: Disk, writer: Writer) -> list[Sealed]:
    return read_log(seen(disk, writer.settings))


def refuse(client: AuditClient, number: int) -> float:
    """One intent that must be refused; the seconds it took, less than 2 but for a busy machine."""
    began = time.monotonic()
    with pytest.raises(AuditUnavailable):
        client.commit(intent(number))
    took = time.monotonic() - began
    assert took < 2 + BUSY
    return took


def recover(client: AuditClient) -> None:
    """Without a restart and without traffic the writer is well again, and takes records."""
    wait_until(lambda: client.ping()["ok"])
    client.commit(intent(99))


def assert_whole(disk: Disk, writer: Writer, *refused: int) -> list[Sealed]:
    """The chain verifies, and no refused intent is in it, unless it is taken back."""
    settings = seen(disk, writer.settings)
    assert verify(settings.directory, keys_of(settings)).fault is None
    kept = read_log(settings)
    aborted = {sealed.record["audit_id"] for sealed in kept if sealed.record["event"] == "exec:aborted"}
    for sealed in kept:
        if sealed.record["event"] == "exec:intent" and sealed.record["exec_id"] in {f"ex_{n}" for n in refused}:
            assert sealed.record["audit_id"] in aborted
    assert [sealed for sealed in kept if sealed.record["event"] == "exec:intent"][-1].record["exec_id"] == "ex_99"
    return kept


def test_a_full_disk(disk: Disk, running: tuple[Writer, AuditClient]) -> None:
    """No space: refused within 2 s, nothing half-written; space again: goes on, and records the gap."""
    writer, client = running
    disk.fill()
    accepted = 0
    with contextlib.suppress(AuditUnavailable):
        for number in range(1, 100):
            client.commit(intent(number))
            accepted += 1
    assert accepted < 20, "the file's last block held more than it can"
    refuse(client, 200)
    status = client.ping()
    assert not status["ok"] and "No space left" in status["why"]
    (disk.seen_from_here / "ballast").unlink()
    recover(client)
    kept = assert_whole(disk, writer, 200)
    gap = next(sealed.record["data"] for sealed in kept if sealed.record["event"] == "audit:recovered")
    assert gap["refused"] == 2 and "No space left" in gap["why"]


def test_a_frozen_file_system(disk: Disk, running: tuple[Writer, AuditClient]) -> None:
    """A hung disk: the first caller hears no within 2 s, later ones at once; what becomes durable after all is
    taken back; health answers all the time; thawed, it goes on by itself."""
    writer, client = running
    with disk.frozen():
        first = refuse(client, 1)
        later = [refuse(client, number) for number in (2, 3, 4)]
        # The one right behind may have come in the moment before the disk was found to hang.
        assert first > 1 and max(later[1:]) < 1.5, "a later one waited, too"
        status = client.ping()
        assert not status["ok"] and "has not answered" in status["why"]
    recover(client)
    kept = assert_whole(disk, writer, 1, 2, 3, 4)
    by_exec = [(sealed.record["event"], sealed.record.get("exec_id")) for sealed in kept]
    assert ("exec:intent", "ex_1") in by_exec and ("exec:aborted", "ex_1") in by_exec
    assert not {(event, f"ex_{n}") for event, _ in by_exec for n in (2, 3, 4)} & set(by_exec)


def test_many_callers_on_a_frozen_file_system(disk: Disk, running: tuple[Writer, AuditClient]) -> None:
    """30 threads at once all hear no within 2 s, and each one's intent is absent or taken back."""
    writer, client = running
    with disk.frozen():
        threads = [threading.Thread(target=refuse, args=(client, number)) for number in range(1, 31)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    recover(client)
    assert_whole(disk, writer, *range(1, 31))


def test_callers_that_left_a_frozen_file_system(disk: Disk, running: tuple[Writer, AuditClient]) -> None:
    """A caller that died while its intent was being written leaves an aborted record behind it."""
    writer, client = running
    with disk.frozen(), connect(writer.settings) as sock:
        sock.sendall(encode_frame({"id": 1, "record": intent(1), "wait": True}))
        wait_until(lambda: client.ping()["writing"])
    recover(client)
    wait_until(lambda: {"ex_1"} <= {sealed.record.get("exec_id") for sealed in records_of(disk, writer)})
    client.commit(intent(99))
    assert_whole(disk, writer, 1)


def test_a_writer_killed_on_a_frozen_file_system(disk: Disk, running: tuple[Writer, AuditClient]) -> None:
    """It had told its caller no and dies before it can take back what the disk then keeps: the caller does."""
    writer, client = running
    with disk.frozen():
        refuse(client, 1)
        writer.signal(signal.SIGKILL)
    writer.process.wait(30)
    with Writer(writer.settings, disk.prefix) as successor:
        assert client.settle(30)
        client.commit(intent(99))
        kept = assert_whole(disk, successor, 1)
    assert "exec:aborted" in {sealed.record["event"] for sealed in kept}


def test_a_deleted_file(disk: Disk, running: tuple[Writer, AuditClient]) -> None:
    """The log's file is deleted: the next caller is refused, the one after it finds a new file that says so."""
    writer, client = running
    (disk.seen_from_here / "log" / "audit.log").unlink()
    refuse(client, 1)
    recover(client)
    kept = records_of(disk, writer)
    assert kept[0].record["event"] == "audit:opened" and kept[0].record["data"]["reason"] == "deleted"
    assert "ex_1" not in {sealed.record.get("exec_id") for sealed in kept}


def test_a_file_system_turned_read_only(disk: Disk, running: tuple[Writer, AuditClient]) -> None:
    """Read-only: refused, with the reason; writable again: goes on by itself."""
    writer, client = running
    disk.fill()
    with contextlib.suppress(AuditUnavailable):
        for number in range(1, 100):
            client.commit(intent(number))
    remount = ["mount", "-o", "remount,ro", str(disk.mount)]
    wait_until(lambda: succeeds(disk, remount))
    refuse(client, 200)
    assert "Read-only" in client.ping()["why"]
    disk.inside("mount", "-o", "remount,rw", str(disk.mount))
    (disk.seen_from_here / "ballast").unlink()
    recover(client)
    assert_whole(disk, writer, 200)


def succeeds(disk: Disk, command: list[str]) -> bool:
    """The failed log is closed, but for the moments in which it is tried again."""
    return subprocess.run([*disk.prefix, *command], capture_output=True, timeout=30, check=False).returncode == 0


def test_a_writer_that_starts_on_a_bad_disk(disk: Disk, tmp_path: Path) -> None:
    """It comes up, says why it takes nothing, and begins the log once it can."""
    settings = make_settings(tmp_path, disk.mount / "log")
    disk.inside("mkdir", "-m", "0700", str(settings.directory))
    disk.inside("mount", "-o", "remount,ro", str(disk.mount))
    with Writer(settings, disk.prefix) as writer:
        client = AuditClient(settings.socket)
        refuse(client, 1)
        assert "Read-only" in client.ping()["why"]
        disk.inside("mount", "-o", "remount,rw", str(disk.mount))
        recover(client)
        client.close()
        assert_whole(disk, writer, 1)
