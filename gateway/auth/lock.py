"""The lock of the token store: one change at a time, on the node or in the whole cluster."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gateway.auth.private import check_directory, explain
from gateway.errors import TokenStoreError

WAIT_SECONDS = 10.0
HOLD_SECONDS = 60.0
_STALE_SECONDS = 110.0
_POLL_SECONDS = 0.02
_CLUSTER_POLL_SECONDS = 0.25


class Held:
    """The lock while it is held. `check` comes before every write: pmxcfs gives a lock to others after 120 s."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._since = monotonic()

    def check(self) -> None:
        """Raises TokenStoreError when it has been held so long (60 s) that another may have it."""
        if self._monotonic() - self._since > HOLD_SECONDS:
            raise TokenStoreError("this change took too long, and nothing was changed; try again")


class StoreLock:
    """Excludes all other writers of a store: threads, processes and, with `cluster`, nodes.

    `cluster` is a path below /etc/pve/priv/lock, which pmxcfs lets one of all nodes make (PVE::Cluster, cfs_lock);
    without it `local` is a file, held by flock.
    """

    def __init__(self, local: Path, cluster: Path | None, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._local = local
        self._cluster = cluster
        self._monotonic = monotonic
        self._threads = threading.Lock()

    @contextmanager
    def hold(self) -> Iterator[Held]:
        """Waits up to 10 s. Raises TokenStoreError when others hold it for longer, or it cannot be had at all."""
        deadline = self._monotonic() + WAIT_SECONDS
        if not self._threads.acquire(timeout=WAIT_SECONDS):
            raise _busy("other changes")
        try:
            with self._own_file(deadline) if self._cluster is None else self._own_directory(self._cluster, deadline):
                yield Held(self._monotonic)
        finally:
            self._threads.release()

    @contextmanager
    def _own_file(self, deadline: float) -> Iterator[None]:
        try:
            check_directory(self._local.parent)
            fd = os.open(self._local, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as exc:
            raise TokenStoreError(f"cannot lock {self._local}: {explain(exc)}") from exc
        try:
            while not _flock(fd):
                self._pause(deadline, _POLL_SECONDS, str(self._local))
            yield
        finally:
            os.close(fd)

    @contextmanager
    def _own_directory(self, path: Path, deadline: float) -> Iterator[None]:
        while not self._make(path):
            self._pause(deadline, _CLUSTER_POLL_SECONDS, str(path))
        since = self._monotonic()
        try:
            yield
        finally:
            # Later it may be another's. Without quorum it stays: stale after 120 s, the next who asks takes it away.
            if self._monotonic() - since < _STALE_SECONDS:
                with suppress(OSError):
                    path.rmdir()

    def _make(self, path: Path) -> bool:
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            with suppress(OSError):
                os.utime(path, (0, 0))  # asks pmxcfs to take it away if it is stale
            return False
        except OSError as exc:
            raise TokenStoreError(f"cannot lock {path}: {explain(exc)}") from exc
        return True

    def _pause(self, deadline: float, seconds: float, what: str) -> None:
        if self._monotonic() + seconds > deadline:
            raise _busy(what)
        time.sleep(seconds)


def _flock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _busy(what: str) -> TokenStoreError:
    return TokenStoreError(f"another change of the token store is under way ({what}); try again", retry_after=5)
