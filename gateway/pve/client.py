"""The node's PVE API over HTTPS, as an API token: one call at a time, nothing kept, every failure told apart.

What matters of a failed change is whether PVE may have begun it: PveUnreachable and PveRefused say that it has not,
PveSilent that nobody knows (PVE.md, API traps).
"""

from __future__ import annotations

import json
import re
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from proxmoxer.backends.https import ProxmoxHTTPApiTokenAuth
from proxmoxer.core import ProxmoxResource, ResourceException
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, NewConnectionError
from urllib3.exceptions import SSLError as UrllibSslError

from gateway.auth.private import read_private
from gateway.errors import TokenStoreError
from gateway.pve.answer import AnswerError, read_json

_TIMEOUT = 30.0  # PVE waits 10 s for a lock: less than that, and a change that "failed" is made later
_PIECE = 64 << 10
_MAX_TEXT = 16 << 20
_SHOWN = 300
_TOKEN = re.compile(
    r"(?P<user>[^\s:/!=]+@[A-Za-z][A-Za-z0-9._-]+)!(?P<name>[A-Za-z][A-Za-z0-9._-]+)=(?P<secret>[!-~]+)"
)
_SEGMENT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9])?")
_NOBODY_KNOWS = {502, 504, 596, 597, 598, 599}  # AnyEvent::HTTP's own: something broke after the connection stood


class PveFailure(Exception):
    """A call that did not succeed; the text is safe to show."""


class PveUnreachable(PveFailure):
    """The call never left: no token, no connection, or a certificate that the CA did not sign."""


class PveSilent(PveFailure):
    """The call may have arrived, and no answer came: whether it was carried out is unknown."""


class PveRefused(PveFailure):
    """PVE's answer is an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"the PVE API answered {status}: {message[:_SHOWN]}")
        self.status = status
        self.message = message


class PveApi:
    """Calls of one API token. Holds nothing between them, so any thread may use it.

    `url` ends in /api2/json. `token_file` holds `USER@REALM!NAME=SECRET`, mode 0600; it is read at every call, so a new
    token holds at once. Each call has a connection of its own: pveproxy closes an idle one after 5 s, and a change
    sent into such a close would have an unknown end.
    """

    def __init__(self, url: str, token_file: Path, ca: Path) -> None:
        self._url = url.rstrip("/")
        self._token_file = token_file
        self._ca = ca

    def get(self, *path: str | int, **parameters: Any) -> Any:
        """The `data` of a GET. Raises PveFailure."""
        return self._call(path, lambda resource: resource.get(**parameters))

    def post(self, *path: str | int, **parameters: Any) -> Any:
        """The `data` of a POST, whose parameters go as JSON. Raises PveFailure."""
        return self._call(path, lambda resource: resource.post(**parameters))

    def _call(self, path: tuple[str | int, ...], call: Callable[[ProxmoxResource], Any]) -> Any:
        for segment in path:
            if not _SEGMENT.fullmatch(str(segment)):
                raise ValueError("a part of a PVE path is a name or a number")
        with _Session(self._read_token(), self._context()) as session:
            resource = ProxmoxResource(base_url=self._url, session=session, serializer=_Serializer())
            try:
                return call(resource([str(segment) for segment in path]))
            except ResourceException as exc:
                raise _refusal(exc) from exc
            except requests.RequestException as exc:
                raise self._failure(exc) from exc
            except (HTTPError, AnswerError, TimeoutError) as exc:
                raise PveSilent(f"the PVE API at {self._url} broke off its answer") from exc

    def _context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=str(self._ca))
        except OSError as exc:  # an SSLError is one, too
            raise PveUnreachable(f"cannot read the CA {self._ca} (pve.ca): {exc.strerror}") from exc
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # PVE's CA has no keyUsage, which Python 3.13 asks for
        return context

    def _read_token(self) -> ProxmoxHTTPApiTokenAuth:
        try:
            text = read_private(self._token_file)[1].decode("ascii", "replace").strip()
        except FileNotFoundError as exc:
            raise PveUnreachable(f"there is no PVE API token: {self._token_file} (pve.token_file) is absent") from exc
        except TokenStoreError as exc:
            raise PveUnreachable(exc.detail) from exc
        token = _TOKEN.fullmatch(text)
        if token is None:
            raise PveUnreachable(f"{self._token_file} (pve.token_file) does not hold USER@REALM!NAME=SECRET")
        return ProxmoxHTTPApiTokenAuth(token["user"], token["name"], token["secret"], verify_ssl=True, timeout=_TIMEOUT)

    def _failure(self, exc: requests.RequestException) -> PveFailure:
        where = urlsplit(self._url).netloc
        if isinstance(exc, requests.exceptions.SSLError) and _never_sent(exc):
            return PveUnreachable(f"{where} does not show a certificate for its name of the CA {self._ca} (pve.ca)")
        if _never_sent(exc):
            return PveUnreachable(f"cannot connect to the PVE API at {where}; see `systemctl status pveproxy`")
        return PveSilent(f"the PVE API at {where} did not answer")


@dataclass(frozen=True)
class _Answer:
    """What proxmoxer needs of a response. `content` is empty: proxmoxer would write all of it into a log line."""

    status_code: int
    reason: str
    body: Any
    content: bytes = b""


class _Serializer:
    """Hands on what has been parsed on its way in."""

    def loads(self, answer: _Answer) -> Any:
        return answer.body.get("data") if isinstance(answer.body, dict) else None

    def loads_errors(self, answer: _Answer) -> Any:
        return answer.body if isinstance(answer.body, dict) else {}


class _Session(requests.Session):
    """One call: parameters as JSON, no environment's proxies or CAs, no redirects, a deadline for the whole."""

    def __init__(self, auth: ProxmoxHTTPApiTokenAuth, context: ssl.SSLContext) -> None:
        super().__init__()
        self.trust_env = False
        self._token = auth
        self.mount("https://", _Adapter(context))

    def request(  # type: ignore[override]
        self, method: str, url: str, data: dict[str, Any] | None = None, params: dict[str, Any] | None = None
    ) -> _Answer:
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "Connection": "close"}
        body = None
        if method not in ("GET", "DELETE"):
            headers["Content-Type"] = "application/json"
            body = json.dumps(data or {}, ensure_ascii=False, separators=(",", ":")).encode()
        deadline = time.monotonic() + _TIMEOUT
        response = super().request(
            method,
            url,
            params=params,
            data=body,
            headers=headers,
            auth=self._token,
            timeout=_TIMEOUT,
            allow_redirects=False,
            stream=True,
        )
        with response:
            pieces = _until(deadline, response.raw.stream(_PIECE))
            is_json = response.headers.get("Content-Type", "").startswith("application/json")
            parsed = read_json(pieces, _MAX_TEXT) if is_json else None
            if parsed is None and response.status_code < 400:
                raise AnswerError("a success that is not JSON")
            # A redirect is no answer of PVE's.
            status = response.status_code if not 300 <= response.status_code < 400 else HTTPStatus.BAD_GATEWAY
            return _Answer(status, response.reason, parsed)


class _Adapter(HTTPAdapter):
    """Connections whose certificate the given context verifies."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options, ssl_context=self._context)

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """The context has the CA; requests would add the one that it ships."""
        conn.cert_reqs = "CERT_REQUIRED"


def _until(deadline: float, pieces: Iterator[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        if time.monotonic() > deadline:
            raise TimeoutError
        yield piece


def _never_sent(exc: requests.RequestException) -> bool:
    """Whether it failed before the request was on its way."""
    if isinstance(exc, requests.exceptions.ConnectTimeout):
        return True
    reason = getattr(exc.args[0], "reason", None) if exc.args else None
    return isinstance(reason, NewConnectionError) or (
        isinstance(reason, UrllibSslError) and "CERTIFICATE_VERIFY_FAILED" in str(reason)
    )


def _refusal(exc: ResourceException) -> PveFailure:
    """What PVE said: its JSON's `message`, which is whole, or the status line, which is its first line."""
    status = int(exc.status_code)
    said = exc.errors if isinstance(exc.errors, dict) else {}
    message = str(said.get("message") or exc.content or "").strip()
    wrong = said.get("errors")
    if isinstance(wrong, dict):
        message += " " + "; ".join(f"{name}: {why}".strip() for name, why in wrong.items())
    if status in _NOBODY_KNOWS:
        return PveSilent(f"the PVE API answered {status}: something broke on the way")
    return PveRefused(status, message)
