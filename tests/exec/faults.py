"""Ways in which an audit log can be out of order: each a context, inside of which nothing may be done."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.exec.gateways import Gateway

Fault = Callable[[Gateway, Path], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def loop_disk(image: Path, place: Path) -> Iterator[Path]:
    """A small file system of its own, on a loop device."""
    with image.open("wb") as file:
        file.truncate(24 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["fsfreeze", "-u", str(place)], check=False, capture_output=True)
        subprocess.run(["umount", "-l", str(place)], check=True)


@contextlib.contextmanager
def killed(gateway: Gateway, disk: Path) -> Iterator[None]:
    """The writer is gone."""
    gateway.services.kill("audit", signal.SIGKILL)
    try:
        yield
    finally:
        gateway.services.restart("audit")


@contextlib.contextmanager
def stopped(gateway: Gateway, disk: Path) -> Iterator[None]:
    """The writer does not answer."""
    gateway.services.kill("audit", signal.SIGSTOP)
    try:
        yield
    finally:
        gateway.services.kill("audit", signal.SIGCONT)


@contextlib.contextmanager
def frozen(gateway: Gateway, disk: Path) -> Iterator[None]:
    """The disk hangs in fsync."""
    subprocess.run(["fsfreeze", "-f", str(disk)], check=True)
    try:
        yield
    finally:
        subprocess.run(["fsfreeze", "-u", str(disk)], check=True)


@contextlib.contextmanager
def read_only(gateway: Gateway, disk: Path) -> Iterator[None]:
    """The file system became read-only, as after an I/O error."""
    gateway.services.kill("audit", signal.SIGKILL)  # an open file would make the remount busy
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    gateway.services.restart("audit")
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)


@contextlib.contextmanager
def full(gateway: Gateway, disk: Path) -> Iterator[None]:
    """The disk is full, and so is the log's last block: no record of any size fits."""
    fillers = [(disk / "filler", 4096), (disk / "log/filler", 1)]
    try:
        for path, size in fillers:
            with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
                while True:
                    file.write(b"\0" * size)
        block = gateway.audit_log.stat().st_blksize
        while gateway.audit_log.stat().st_size % block:  # foreign, and noticed; but the simplest way to fill it
            with gateway.audit_log.open("ab") as file:
                file.write(b"{}\n".rjust(block - file.tell() % block))
        yield
    finally:
        for path, _ in fillers:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def log_is_full(gateway: Gateway, disk: Path) -> Iterator[None]:
    """The log has reached audit.max_bytes, and nothing in it is old enough to go: something large came beside it."""
    ballast = gateway.audit_log.with_name("audit.log.ballast")
    with ballast.open("wb") as file:
        file.truncate(1 << 40)  # sparse
    gateway.services.restart("audit")
    try:
        yield
    finally:
        ballast.unlink()


FAULTS: dict[str, Fault] = {
    "killed": killed,
    "stopped": stopped,
    "frozen": frozen,
    "read-only": read_only,
    "log full": log_is_full,
    "disk full": full,
}
