"""One call of the PVE API over HTTPS, by proxmoxer: connections that are used again, every failure told apart.

The only module with proxmoxer, and with lines.py the only one with requests: they take 50 ms and 8 MB, so client.py
imports this when PVE is asked for the first time.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from proxmoxer.backends.https import ProxmoxHTTPApiTokenAuth
from proxmoxer.core import ProxmoxResource, ResourceException
from urllib3.exceptions import HTTPError, NewConnectionError
from urllib3.exceptions import SSLError as UrllibSslError

from gateway.pve.answer import AnswerError, read_json
from gateway.pve.failure import PveFailure, PveRefused, PveSilent, PveUnreachable
from gateway.pve.lines import CaUnreadable, Line, Lines
from gateway.pve.token import PveToken
from gateway.pve.withheld import withhold

# proxmoxer logs what is sent, passwords too, at INFO.
logging.getLogger("proxmoxer").setLevel(logging.WARNING)

_PIECE = 64 << 10
_MAX_TEXT = 16 << 20
_NOBODY_KNOWS = {502, 504, 596, 597, 598, 599}  # AnyEvent::HTTP's own: something broke after the connection stood


class Https:
    """Calls to one URL, which ends in /api2/json. Any thread may use it, and it may be forked."""

    def __init__(self, url: str, ca: Path) -> None:
        self._url = url
        self._ca = ca
        self._lines = Lines(ca)

    def call(
        self, token: PveToken, method: str, parts: list[str], parameters: Mapping[str, Any], timeout: float
    ) -> Any:
        """The `data` of one call; `parts` of the path are encoded, `timeout` is in seconds. Raises PveFailure."""
        auth = ProxmoxHTTPApiTokenAuth(token.user, token.name, token.secret, verify_ssl=True, timeout=timeout)
        try:
            with self._lines.take() as line:
                try:
                    return self._ask(line, auth, method, parts, parameters, timeout)
                except requests.ConnectionError as exc:
                    # A question may be asked twice; a change that nobody answered may have been made.
                    if method != "GET" or not line.used or _never_sent(exc):
                        raise
            with self._lines.take(new=True) as line:
                return self._ask(line, auth, method, parts, parameters, timeout)
        except CaUnreadable as exc:
            raise PveUnreachable(f"cannot read the CA {self._ca} (pve.ca): {exc}") from exc
        except ResourceException as exc:
            raise _refusal(exc, parameters) from exc
        except requests.RequestException as exc:
            raise self._failure(exc) from exc
        except AnswerError as exc:
            raise PveSilent(f"the PVE API at {self._url} broke off its answer, or it is none", nonsense=True) from exc
        except (HTTPError, TimeoutError) as exc:
            raise PveSilent(f"the PVE API at {self._url} broke off its answer") from exc

    def close(self) -> None:
        self._lines.close()

    def _ask(
        self,
        line: Line,
        auth: ProxmoxHTTPApiTokenAuth,
        method: str,
        parts: list[str],
        parameters: Mapping[str, Any],
        timeout: float,
    ) -> Any:
        session = _Session(line, auth, timeout)
        resource = ProxmoxResource(base_url=self._url, session=session, serializer=_Serializer())(parts)
        return getattr(resource, method.lower())(**parameters)

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

    def __init__(self, line: Line, auth: ProxmoxHTTPApiTokenAuth, timeout: float) -> None:
        self._line = line
        self._auth = auth
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
            auth=self._auth,
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


def _refusal(exc: ResourceException, parameters: Mapping[str, Any]) -> PveFailure:
    """What PVE said: its JSON's `message`, which is whole, or the status line, which is its first line. Without what is
    secret of the parameters."""
    status = int(exc.status_code)
    said = exc.errors if isinstance(exc.errors, dict) else {}
    message = withhold(str(said.get("message") or exc.content or "").strip(), parameters)
    told = said.get("errors")
    wrong = {name: withhold(str(why), parameters) for name, why in told.items()} if isinstance(told, dict) else {}
    if wrong:
        message += " " + "; ".join(f"{name}: {why}".strip() for name, why in wrong.items())
    if status in _NOBODY_KNOWS:
        return PveSilent(f"the PVE API answered {status}: something broke on the way")
    return PveRefused(status, message, wrong)
