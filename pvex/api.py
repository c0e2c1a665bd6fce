"""Api: requests to one gateway as one token, JSON answers, and errors that say what to do."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from requests.exceptions import ConnectionError as NotConnected
from requests.exceptions import ConnectTimeout, RequestException, SSLError
from urllib3.exceptions import NewConnectionError

from pvex import __version__
from pvex.errors import ClientError, Cut, Problem, Unreachable, Untrusted

if TYPE_CHECKING:
    from pvex.profile import Profile

CONNECT_SECONDS = 10.0
READ_SECONDS = 60.0
STREAM_SECONDS = 20.0
"""Silence after which a stream is taken for cut; the gateway's heartbeats come every 4 seconds."""

Query = Mapping[str, Any]


class Api:
    """One connection after another to one gateway. Not for several threads: each takes a `twin` of its own."""

    def __init__(self, profile: Profile, *, seconds: float | None = None) -> None:
        """`seconds`: what connecting, or an answer, may take at most, in place of the usual."""
        self.profile = profile
        self._seconds = seconds
        self._session = requests.Session()
        self._session.auth = _Bearer(profile.token)
        self._session.headers["User-Agent"] = f"pvex/{__version__}"
        self._session.mount("https://", _Adapter(make_context(profile)))

    def twin(self) -> Api:
        """The same gateway and token over a connection of its own."""
        return Api(self.profile)

    def close(self) -> None:
        self._session.close()

    def get(self, path: str, query: Query | None = None, *, wait: float = 0) -> Any:
        return self.call("GET", path, query=query, wait=wait)

    def post(self, path: str, body: Any = None, query: Query | None = None, *, wait: float = 0) -> Any:
        return self.call("POST", path, body, query=query, wait=wait)

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        data: bytes | None = None,
        query: Query | None = None,
        headers: Mapping[str, str] | None = None,
        wait: float = 0,
    ) -> Any:
        """One request, its JSON answer; `wait`: seconds that the gateway may take beyond the usual.

        Raises Problem, Unreachable, Untrusted and Cut.
        """
        return self.read(
            self.send(method, path, body, data=data, query=query, headers=headers, read=READ_SECONDS + wait)
        )

    def read(self, response: requests.Response) -> Any:
        """The JSON object of a response, or None where it has no body. Raises Cut."""
        if response.status_code == 204:
            return None
        try:
            document = response.json()
            if not isinstance(document, dict):
                raise ValueError("no object")
        except (RequestException, ValueError) as exc:
            raise Cut(f"the answer of {self.profile.url} broke off, or is no gateway's; ask again") from exc
        return document

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        data: Any = None,
        query: Query | None = None,
        headers: Mapping[str, str] | None = None,
        read: float = READ_SECONDS,
        stream: bool = False,
    ) -> requests.Response:
        """One request; the response of a success, unread with `stream`. Raises as `call`."""
        url = self.profile.url + path
        asked = {name: _text(value) for name, value in (query or {}).items() if value not in (None, [], ())}
        try:
            response = self._session.request(
                method,
                url,
                params=asked,
                json=body,
                data=data,
                headers=dict(headers or {}),
                timeout=(self._seconds or CONNECT_SECONDS, self._seconds or read),
                stream=stream,
                allow_redirects=False,
            )
            if not 200 <= response.status_code < 300:
                raise Problem(response.status_code, _read_problem(response))
        except SSLError as exc:
            raise self._untrusted(exc) from exc
        except RequestException as exc:
            raise self._unreachable(exc) from exc
        return response

    def pages(
        self, path: str, member: str, query: Query | None = None, most: int | None = None, *, largest: int = 1000
    ) -> Iterator[Any]:
        """The items of a list, page by page; at most `most`. `largest`: what a page may hold. Raises as `call`."""
        asked = dict(query or {})
        count = 0
        while True:
            if most is not None:
                asked["limit"] = min(largest, most - count)
            page = self.get(path, asked)
            for item in page[member]:
                yield item
                count += 1
            if page.get("next") is None or (most is not None and count >= most):
                return
            if page["next"] == asked.get("after"):
                raise Cut(f"the list of {self.profile.url} does not go on; ask again")
            asked["after"] = page["next"]

    def _untrusted(self, exc: Exception) -> ClientError:
        if "EOF" in str(exc):
            return Cut(f"the connection to {self.profile.url} was cut ({_reason(exc)})")
        if "CERTIFICATE_VERIFY_FAILED" not in str(exc):
            return Unreachable(f"no TLS with {self.profile.url}: is that the gateway's port? ({_reason(exc)})")
        trusted = f"the CA in {self.profile.ca}" if self.profile.ca else "the CAs of this machine"
        return Untrusted(
            f"the certificate of {self.profile.url} is not one of {trusted}: give the cluster's "
            f"/etc/pve/pve-root-ca.pem with `pvex login --ca FILE`, or as GATEWAY_CA ({_reason(exc)})"
        )

    def _unreachable(self, exc: Exception) -> ClientError:
        inner = exc.args[0] if exc.args else None
        if isinstance(exc, ConnectTimeout) or (
            isinstance(exc, NotConnected) and isinstance(getattr(inner, "reason", None), NewConnectionError)
        ):
            return Unreachable(f"cannot reach {self.profile.url}: is the gateway running? ({_reason(exc)})")
        return Cut(f"the connection to {self.profile.url} was cut ({_reason(exc)})")


def make_context(profile: Profile) -> ssl.SSLContext:
    """What the gateway's certificate is verified by. Raises ClientError for a CA file that is none."""
    try:
        context = ssl.create_default_context(cafile=str(profile.ca) if profile.ca else None)
    except OSError as exc:  # an SSLError is one, too
        raise ClientError(f"cannot use the CA {profile.ca}: {exc.strerror or exc}; give one in PEM") from exc
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # PVE's CA has no keyUsage, which Python 3.13 asks for
    return context


class _Bearer(AuthBase):
    """Puts the token into the header; without it requests would look into ~/.netrc."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class _Adapter(HTTPAdapter):
    """Connections whose certificates the given context verifies."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__(pool_connections=1, pool_maxsize=1)

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options, ssl_context=self._context)

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """The context has the CA; requests would add the one that it ships."""
        conn.cert_reqs = "CERT_REQUIRED"


def _read_problem(response: requests.Response) -> dict[str, Any]:
    try:
        document = response.json()
    except ValueError:
        document = None
    if isinstance(document, dict):
        return document
    host = urlsplit(response.url).netloc
    return {"detail": f"{host} answered {response.status_code} {response.reason}: is that a gateway?"}


def _text(value: Any) -> Any:
    """As a query carries it."""
    if isinstance(value, bool):
        return str(value).lower()
    return value


def _reason(exc: BaseException) -> str:
    """The innermost cause in a few words."""
    inner: BaseException = exc
    while (deeper := getattr(inner, "reason", None) or inner.__cause__ or inner.__context__) is not None:
        if not isinstance(deeper, BaseException) or deeper is inner:
            break
        inner = deeper
    if isinstance(inner, ssl.SSLCertVerificationError):
        return inner.verify_message
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror
    return str(inner).splitlines()[0] if str(inner) else type(inner).__name__
