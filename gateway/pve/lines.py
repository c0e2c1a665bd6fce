"""Connections to PVE's API that are used again, each by one call at a time, and never for long.

pveproxy closes a connection that was idle for 5 s; a change sent into such a close would have an unknown end. So an
idle connection of more than 2 s is not used any more.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter

_MAX_IDLE = 32
_MAX_IDLE_SECONDS = 2.0

Stamp = tuple[int, int, int]


class CaUnreadable(Exception):
    """The CA's file cannot be read, or holds no certificate."""


@dataclass
class Line:
    """One connection. `used`: it has carried a call before; `whole`: its last answer was read to its end."""

    session: requests.Session
    stamp: Stamp
    idle_since: float = 0.0
    used: bool = False
    whole: bool = field(default=False)


class Lines:
    """The connections whose server's certificate `ca` has signed; new ones after that file was replaced."""

    def __init__(self, ca: Path, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._ca = ca
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._idle: list[Line] = []
        self._pid = os.getpid()
        self._context: tuple[Stamp, ssl.SSLContext] | None = None

    @contextlib.contextmanager
    def take(self, *, new: bool = False) -> Iterator[Line]:
        """A connection for one call; it is kept if that sets `whole`. Raises CaUnreadable."""
        stamp = self._stamp()
        line = None if new else self._take_idle(stamp)
        line = line or self._open(stamp)
        line.whole = False
        try:
            yield line
        finally:
            if line.whole:
                self._put_back(line)
            else:
                line.session.close()

    def close(self) -> None:
        """Closes those that are idle."""
        with self._lock:
            idle, self._idle = self._idle, []
        for line in idle:
            line.session.close()

    def _take_idle(self, stamp: Stamp) -> Line | None:
        stale: list[Line] = []
        found = None
        with self._lock:
            if self._pid != os.getpid():  # they are the parent's
                self._pid, self._idle = os.getpid(), []
            oldest = self._monotonic() - _MAX_IDLE_SECONDS
            while self._idle and found is None:
                line = self._idle.pop()
                if line.idle_since < oldest or line.stamp != stamp:
                    stale.append(line)
                else:
                    found = line
        for line in stale:
            line.session.close()
        return found

    def _put_back(self, line: Line) -> None:
        line.used, line.idle_since = True, self._monotonic()
        with self._lock:
            if len(self._idle) < _MAX_IDLE:
                self._idle.append(line)
                return
        line.session.close()

    def _open(self, stamp: Stamp) -> Line:
        session = requests.Session()
        session.trust_env = False  # no proxies, CAs or passwords of the environment
        session.mount("https://", _Adapter(self._trust(stamp)))
        return Line(session, stamp)

    def _stamp(self) -> Stamp:
        try:
            info = self._ca.stat()
        except OSError as exc:
            raise CaUnreadable(exc.strerror) from exc
        return info.st_ino, info.st_size, info.st_mtime_ns

    def _trust(self, stamp: Stamp) -> ssl.SSLContext:
        known = self._context
        if known is not None and known[0] == stamp:
            return known[1]
        try:
            context = ssl.create_default_context(cafile=str(self._ca))
        except OSError as exc:  # an SSLError is one, too
            raise CaUnreadable(exc.strerror) from exc
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # PVE's CA has no keyUsage, which Python 3.13 asks for
        self._context = stamp, context
        return context


class _Adapter(HTTPAdapter):
    """One connection, whose certificate the given context verifies."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__(pool_connections=1, pool_maxsize=1)

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options, ssl_context=self._context)

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """The context has the CA; requests would add the one that it ships."""
        conn.cert_reqs = "CERT_REQUIRED"
