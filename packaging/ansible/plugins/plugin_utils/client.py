"""Client: requests to one gateway as one token, over one connection at a time, and its refusals as exceptions."""

from __future__ import annotations

import http.client
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlencode

from .keeping import Keeping
from .wire import Address, Cut, Failure, KeptConnection, Misconfigured, Unreachable

READ_SECONDS = 60.0
PATIENCE = 60.0
"""Seconds without success after which a request that was cut or put off is given up."""
BEGIN_PATIENCE = 10.0
"""The same where the gateway has not answered anything yet."""
PIECE = 256 << 10
_BROKEN = (OSError, http.client.HTTPException)
_T = TypeVar("_T")

_HINTS = {
    "unauthenticated": "set a valid token: ansible_pve_exec_token, ansible_pve_exec_token_file or GATEWAY_TOKEN",
    "forbidden": "this collection needs a token with exec:run, file:read and file:write",
    "guest_not_found": "is ansible_pve_exec_vmid right, and in the token's grant?",
    "guest_not_running": "start the guest first",
}


class Problem(Failure):
    """The gateway's refusal, application/problem+json; `document` is all of it."""

    def __init__(self, status: int, document: dict[str, Any], retry_after: float | None = None) -> None:
        self.status = status
        self.document = document
        self.code = str(document.get("code", ""))
        self.retryable = bool(document.get("retryable"))
        self.retry_after = retry_after
        super().__init__(_describe(status, document))


class Client:
    """Not for several threads. `token` stands in requests and nowhere else."""

    def __init__(self, address: Address, token: str, keeping: Keeping) -> None:
        if not re.fullmatch(r"[\x21-\x7e]+", token):
            raise Misconfigured("the token is none: it is one word of printable characters, pveg_...")
        self.address = address
        self._headers = {"Authorization": f"Bearer {token}", "User-Agent": "ansible-pve_exec.gateway"}
        self._keeping = keeping
        self._connection: http.client.HTTPConnection | None = None
        self._answer: http.client.HTTPResponse | None = None
        self.reached = False
        """Whether the gateway has answered us before: then its absence may pass."""

    def twin(self) -> Client:
        """The same gateway and token over a connection of its own."""
        token = self._headers["Authorization"].partition(" ")[2]
        return Client(self.address, token, self._keeping)

    def send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: bytes | Iterable[bytes] | None = None,
        length: int | None = None,
        headers: Mapping[str, str] | None = None,
        read: float = READ_SECONDS,
    ) -> http.client.HTTPResponse:
        """One request, sent once; the response of a success, to be read to its end before the next request.

        `length`: of a body in pieces. `read`: seconds that the gateway may be silent. Raises Failure.
        """
        target = f"{path}{'&' if '?' in path else '?'}{urlencode(query)}" if query else path
        connection = self._take_connection()
        if isinstance(body, bytes):
            body, length = (body,), len(body)
        sent = {**self._headers, **(headers or {})}
        if length is not None:
            sent["Content-Length"] = str(length)
        try:
            connection.sock.settimeout(read)
            connection.putrequest(method, target, skip_accept_encoding=True)
            for name, value in sent.items():
                connection.putheader(name, value)
            connection.endheaders()
            _send_body(connection, body or ())
            response = connection.getresponse()
            self.reached = True
            if not 200 <= response.status < 300:
                raise _read_problem(response)
        except _BROKEN as exc:
            raise self.cut(exc) from exc
        self._answer = response
        return response

    def call(self, method: str, path: str, **options: Any) -> Any:
        """One request, its JSON answer. Raises Failure."""
        response = self.send(method, path, **options)
        try:
            content = response.read()
            return json.loads(content) if content else None
        except (*_BROKEN, ValueError) as exc:
            raise self.cut(exc) from exc

    def again(self, attempt: Callable[[], _T]) -> _T:
        """What `attempt` gives, which may be made more than once: a GET, a PUT of a whole file, or a request with an
        Idempotency-Key. Raises Failure."""
        retry = Retry(self)
        while True:
            try:
                return attempt()
            except Failure as failure:
                retry.after(failure)

    def cut(self, exc: Exception) -> Cut:
        """The connection can serve nothing more."""
        self._drop()
        return Cut(f"the connection to {self.address.url} was cut ({str(exc) or type(exc).__name__})")

    def wait_at_most(self, seconds: float) -> None:
        """How long the gateway may be silent from now on."""
        if self._connection is not None and self._connection.sock is not None:
            self._connection.sock.settimeout(seconds)

    def close(self) -> None:
        """Gives the connection back, where its last answer was read whole."""
        connection, self._connection = self._connection, None
        if isinstance(connection, KeptConnection) and self._is_free():
            connection.release()
        elif connection is not None:
            connection.close()

    def forget(self) -> None:
        """Nothing is kept for the next task."""
        self._drop()
        self._keeping.forget(self.address)

    def _take_connection(self) -> http.client.HTTPConnection:
        if self._connection is not None and (self._connection.sock is None or not self._is_free()):
            self._drop()
        if self._connection is None:
            self._connection = self._keeping.connect(self.address)
            self._answer = None
        return self._connection

    def _is_free(self) -> bool:
        return self._answer is None or self._answer.isclosed()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class Retry:
    """Whether, and when, a request that may be sent again is."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._until: float | None = None
        self._delay = 0.0

    def succeeded(self) -> None:
        self._until, self._delay = None, 0.0

    def after(self, failure: Failure) -> None:
        """Returns when it is time to try again; raises `failure` where that makes no sense, or no more."""
        passing = isinstance(failure, Cut) or (isinstance(failure, Unreachable) and self._client.reached)
        wait = self._delay
        if isinstance(failure, Problem):
            passing = failure.retryable
            wait = max(wait, failure.retry_after or 0.1)
        now = time.monotonic()
        if self._until is None:
            self._until = now + (PATIENCE if self._client.reached else BEGIN_PATIENCE)
        if not passing or now + wait >= self._until:
            raise failure
        time.sleep(wait)
        self._delay = min(3.0, 2 * self._delay or 0.1)


def _send_body(connection: http.client.HTTPConnection, body: Iterable[bytes]) -> None:
    """All of it, or as much as the gateway takes: where it refuses the rest, its answer says why."""
    try:
        for piece in body:
            connection.send(piece)
    except (BrokenPipeError, ConnectionResetError):
        pass


def _read_problem(response: http.client.HTTPResponse) -> Problem:
    content = response.read()
    try:
        document = json.loads(content)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        document = {"detail": f"the answer was {response.status} {response.reason}: is that a gateway?"}
    after = response.headers.get("Retry-After", "")
    return Problem(response.status, document, float(after) if after.isdigit() else None)


def _describe(status: int, document: dict[str, Any]) -> str:
    code = str(document.get("code", ""))
    text = str(document.get("detail") or document.get("title") or f"the gateway answered {status}")
    fields = [f"{error.get('path')}: {error.get('message')}" for error in document.get("errors", ())]
    if fields:
        text = "; ".join(fields)
    if code in _HINTS:
        text += f"; {_HINTS[code]}"
    return " ".join(text.split()) + (f" [{code}]" if code else "")
