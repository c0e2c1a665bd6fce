"""The node's PVE API as an API token: paths of parts that are safe in a URL, the token read at every call."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from gateway.pve.failure import PveFailure
from gateway.pve.ids import PathText
from gateway.pve.token import read_token

if TYPE_CHECKING:
    from gateway.pve.https import Https

_TIMEOUT = 30.0  # PVE waits 10 s for a lock: less than that, and a change that "failed" is made later
_SEGMENT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?")


Observe = Callable[[str, str, float], object]
"""Is told of every call: its method, its outcome (`ok`, or the failure's) and how many seconds it took."""


def ignore(method: str, outcome: str, seconds: float) -> None:
    """Nobody wants to know."""


class PveApi:
    """Calls of one API token. Any thread may use it, and it may be forked.

    `url` ends in /api2/json. `token_file` holds `USER@REALM!NAME=SECRET`, mode 0600; it is read at every call, so a new
    token holds at once. A call takes 30 s at most unless told. `key` is the configuration's name of the token's file.
    """

    def __init__(
        self, url: str, token_file: Path, ca: Path, *, key: str = "pve.token_file", observe: Observe = ignore
    ) -> None:
        self._url = url.rstrip("/")
        self._token_file = token_file
        self._key = key
        self._ca = ca
        self._lock = threading.Lock()
        self._https: Https | None = None
        self._observe = observe

    def get(self, *path: str | int, **parameters: Any) -> Any:
        """The `data` of a GET. Raises PveFailure."""
        return self.call("GET", path, parameters)

    def post(self, *path: str | int, **parameters: Any) -> Any:
        """The `data` of a POST, whose parameters go as JSON. Raises PveFailure."""
        return self.call("POST", path, parameters)

    def call(
        self, method: str, path: tuple[str | int, ...], parameters: Mapping[str, Any], *, timeout: float = _TIMEOUT
    ) -> Any:
        """The `data` of one call; `method` is GET, POST, PUT or DELETE; `timeout` in seconds. Raises PveFailure.

        A part of `path` is a name, a number, or a PathText of pve.ids; ValueError for anything else.
        """
        parts = [_encode(part) for part in path]
        began, outcome = time.monotonic(), "ok"
        try:
            return self._connect().call(read_token(self._token_file, self._key), method, parts, parameters, timeout)
        except PveFailure as exc:
            outcome = exc.outcome
            raise
        finally:
            self._observe(method, outcome, time.monotonic() - began)

    @property
    def token_id(self) -> str:
        """`USER@REALM!NAME` of the token, as tasks name who began them. Raises PveUnreachable."""
        token = read_token(self._token_file, self._key)
        return f"{token.user}!{token.name}"

    def close(self) -> None:
        if self._https:
            self._https.close()

    def _connect(self) -> Https:
        with self._lock:
            if self._https is None:
                from gateway.pve.https import Https

                self._https = Https(self._url, self._ca)
            return self._https


def _encode(part: str | int) -> str:
    if isinstance(part, PathText):
        return quote(part, safe="")
    if not _SEGMENT.fullmatch(str(part)):
        raise ValueError("a part of a PVE path is a name or a number")
    return str(part)
