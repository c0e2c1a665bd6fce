"""The node's PVE API over HTTPS, as an API token: connections that are used again, every failure told apart.

What matters of a failed change is whether PVE may have begun it: PveUnreachable and PveRefused say that it has not,
PveSilent that nobody knows (PVE.md, API traps).
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import requests
from proxmoxer.backends.https import ProxmoxHTTPApiTokenAuth
from proxmoxer.core import ProxmoxResource, ResourceException
from urllib3.exceptions import HTTPError, NewConnectionError
from urllib3.exceptions import SSLError as UrllibSslError

from gateway.auth.private import read_private
from gateway.errors import TokenStoreError
from gateway.pve.answer import AnswerError, read_json
from gateway.pve.ids import PathText
from gateway.pve.lines import CaUnreadable, Line, Lines

# proxmoxer logs what is sent, passwords too, at INFO.
logging.getLogger("proxmoxer").setLevel(logging.WARNING)

_TIMEOUT = 30.0  # PVE waits 10 s for a lock: less than that, and a change that "failed" is made later
_PIECE = 64 << 10
_MAX_TEXT = 16 << 20
_SHOWN = 300
_TOKEN = re.compile(
    r"(?P<user>[^\s:/!=]+@[A-Za-z][A-Za-z0-9._-]+)!(?P<name>[A-Za-z][A-Za-z0-9._-]+)=(?P<secret>[!-~]+)"
)
_SEGMENT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?")
_NOBODY_KNOWS = {502, 504, 596, 597, 598, 599}  # AnyEvent::HTTP's own: something broke after the connection stood


class PveFailure(Exception):
    """A call that did not succeed; the text is safe to show."""


class PveUnreachable(PveFailure):
    """The call never left: no token, no connection, or a certificate that the CA did not sign."""


class PveSilent(PveFailure):
    """The call may have arrived, and no answer of PVE's came: whether it was carried out is unknown.

    `nonsense`: something came, but nothing that PVE sends.
    """

    def __init__(self, text: str, *, nonsense: bool = False) -> None:
        super().__init__(text)
        self.nonsense = nonsense


class PveRefused(PveFailure):
    """PVE's answer is an error; `errors` says of which parameters, where PVE does."""

    def __init__(self, status: int, message: str, errors: Mapping[str, Any] | None = None) -> None:
        super().__init__(f"the PVE API answered {status}: {message[:_SHOWN]}")
        self.status = status
        self.message = message
        self.errors = errors or {}


class PveApi:
    """Calls of one API token. Any thread may use it, and it may be forked.

    `url` ends in /api2/json. `token_file` holds `USER@REALM!NAME=SECRET`, mode 0600; it is read at every call, so a new
    token holds at once. A call takes 30 s at most unless told. `key` is the configuration's name of the token's file.
    """

    def __init__(self, url: str, token_file: Path, ca: Path, *, key: str = "pve.token_file") -> None:
        self._url = url.rstrip("/")
        self._token_file = token_file
        self._key = key
        self._ca = ca
        self._lines = Lines(ca)

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
        token = self._read_token()
        try:
            with self._lines.take() as line:
                try:
                    return self._ask(line, token, method, parts, parameters, timeout)
                except requests.ConnectionError as exc:
                    # A question may be asked twice; a change that nobody answered may have been made.
                    if method != "GET" or not line.used or _never_sent(exc):
                        raise
            with self._lines.take(new=True) as line:
                return self._ask(line, token, method, parts, parameters, timeout)
        except CaUnreadable as exc:
            raise PveUnreachable(f"cannot read the CA {self._ca} (pve.ca): {exc}") from exc
        except ResourceException as exc:
            raise _refusal(exc) from exc
        except requests.RequestException as exc:
            raise self._failure(exc) from exc
        except AnswerError as exc:
            raise PveSilent(f"the PVE API at {self._url} broke off its answer, or it is none", nonsense=True) from exc
        except (HTTPError, TimeoutError) as exc:
            raise PveSilent(f"the PVE API at {self._url} broke off its answer") from exc

    @property
    def token_id(self) -> str:
        """`USER@REALM!NAME` of the token, as tasks name who began them. Raises PveUnreachable."""
        token = self._read_token()
        return f"{token.username}!{token.token_name}"

    def close(self) -> None:
        self._lines.close()

    def _ask(
        self,
        line: Line,
        token: ProxmoxHTTPApiTokenAuth,
        method: str,
        parts: list[str],
        parameters: Mapping[str, Any],
        timeout: float,
    ) -> Any:
        session = _Session(line, token, timeout)
        resource = ProxmoxResource(base_url=self._url, session=session, serializer=_Serializer())(parts)
        return getattr(resource, method.lower())(**parameters)

    def _read_token(self) -> ProxmoxHTTPApiTokenAuth:
        try:
            text = read_private(self._token_file)[1].decode("ascii", "replace").strip()
        except FileNotFoundError as exc:
            raise PveUnreachable(f"there is no PVE API token: {self._token_file} ({self._key}) is absent") from exc
        except TokenStoreError as exc:
            raise PveUnreachable(exc.detail) from exc
        token = _TOKEN.fullmatch(text)
        if token is None:
            raise PveUnreachable(f"{self._token_file} ({self._key}) does not hold USER@REALM!NAME=SECRET")
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


class _Session:
    """One call on a line, as proxmoxer asks for it: parameters as JSON, no redirects, a deadline for the whole."""

    def __init__(self, line: Line, token: ProxmoxHTTPApiTokenAuth, timeout: float) -> None:
        self._line = line
        self._token = token
        self._timeout = timeout

    def request(
        self, method: str, url: str, data: dict[str, Any] | None = None, params: dict[str, Any] | None = None
    ) -> _Answer:
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        body = None
        if method not in ("GET", "DELETE"):
            headers["Content-Type"] = "application/json"
            body = json.dumps(data or {}, ensure_ascii=False, separators=(",", ":")).encode()
        deadline = time.monotonic() + self._timeout
        response = self._line.session.request(
            method,
            url,
            params=params,
            data=body,
            headers=headers,
            auth=self._token,
            timeout=self._timeout,
            allow_redirects=False,
            stream=True,
        )
        with response:
            # As they come: `stream` waits for whole pieces, each byte of which may be as late as the call may take.
            pieces = _until(deadline, iter(lambda: response.raw.read1(_PIECE), b""))
            is_json = response.headers.get("Content-Type", "").startswith("application/json")
            parsed = read_json(pieces, _MAX_TEXT) if is_json else None
            if parsed is None and response.status_code < 400:
                raise AnswerError("a success that is not JSON")
            self._line.whole = is_json
            # A redirect is no answer of PVE's.
            status = response.status_code if not 300 <= response.status_code < 400 else HTTPStatus.BAD_GATEWAY
            return _Answer(status, response.reason, parsed)


def _encode(part: str | int) -> str:
    if isinstance(part, PathText):
        return quote(part, safe="")
    if not _SEGMENT.fullmatch(str(part)):
        raise ValueError("a part of a PVE path is a name or a number")
    return str(part)


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
    wrong = wrong if isinstance(wrong, dict) else {}
    if wrong:
        message += " " + "; ".join(f"{name}: {why}".strip() for name, why in wrong.items())
    if status in _NOBODY_KNOWS:
        return PveSilent(f"the PVE API answered {status}: something broke on the way")
    return PveRefused(status, message, wrong)
