"""Refusal: the edge's own answers, given where no application can answer yet (RFC 9457)."""

import json
import logging
from collections.abc import Callable, Mapping
from email.utils import formatdate
from http import HTTPStatus

import gunicorn.http.errors as parse_errors

from gateway import ulid
from gateway.errors import GatewayRestarting, InternalError, MalformedRequest, Overloaded, PayloadTooLarge
from gateway.web.codes import EDGE_CODES
from gateway.web.safe import SAFE_HEADERS

SERVER = "pve-exec-gateway"
_SAFE = "".join(f"{name}: {value}\r\n" for name, value in SAFE_HEADERS)

_TITLES = {
    error.code: error.title
    for error in (GatewayRestarting, InternalError, MalformedRequest, Overloaded, PayloadTooLarge)
}
"""Of the kinds of problems that the application has, too."""


class Refusal(Exception):
    """A request that the edge answers itself, and whose connection is then closed.

    `code` is stable and machine-read, one of EDGE_CODES; `detail` says what to do next and never repeats what was sent.
    """

    def __init__(self, status: int, code: str, detail: str, *, retry_after: int | None = None) -> None:
        super().__init__(code)
        assert code in EDGE_CODES[status], code
        self.status = status
        self.code = code
        self.detail = detail
        self.retry_after = retry_after
        self.request_id = ulid.new("req_")

    def encode(self, more: Mapping[str, str] | None = None) -> bytes:
        """The whole HTTP/1.1 reply; `more` are further header fields."""
        phrase = HTTPStatus(self.status).phrase
        problem = {
            "type": f"urn:pve-exec-gateway:problem:{self.code}",
            "title": _TITLES.get(self.code, phrase),
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
            "request_id": self.request_id,
            "retryable": self.retry_after is not None,
        }
        body = json.dumps(problem).encode()
        retry = "" if self.retry_after is None else f"Retry-After: {self.retry_after}\r\n"
        fields = "".join(f"{name}: {value}\r\n" for name, value in (more or {}).items())
        head = (
            f"HTTP/1.1 {self.status} {phrase}\r\nServer: {SERVER}\r\nDate: {formatdate(usegmt=True)}\r\n"
            f"Connection: close\r\nContent-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n"
            f"X-Request-Id: {self.request_id}\r\n{_SAFE}{retry}{fields}\r\n"
        )
        return head.encode("ascii") + body


class RefusalLog:
    """A line for each refused request, but no more than strangers should fill the journal with. For many threads.

    `sum_up` is called twice a second: between two calls 10 lines are written, and it tells how many more there were.
    """

    LINES = 10

    def __init__(self, log: logging.Logger, count: Callable[[int], object]) -> None:
        """`count` is told the status of each."""
        self._log = log
        self._count = count
        self._written = 0
        self._omitted = 0

    def note(self, address: str, no: Refusal) -> None:
        """One was refused."""
        self._count(no.status)
        if self._written >= self.LINES:
            self._omitted += 1
            return
        self._written += 1
        self._log.info("refused a request of %s: %s, %s", address, no.code, no.request_id)

    def sum_up(self) -> None:
        """Begins anew."""
        omitted, self._omitted, self._written = self._omitted, 0, 0
        if omitted:
            self._log.info("refused %d more requests", omitted)


def malformed() -> Refusal:
    """The bytes are no HTTP/1.1 request."""
    return Refusal(400, "malformed_request", "Send a well-formed HTTP/1.1 request, with one Host.")


def tls_required() -> Refusal:
    """Plain HTTP came in on a TLS port."""
    return Refusal(400, "tls_required", "This port speaks HTTPS: use https:// in the URL.")


def head_too_large() -> Refusal:
    """A header field, their number, or all of the head is over the limit."""
    return Refusal(431, "headers_too_large", "Send at most 64 header fields, 16 KiB each, 64 KiB in all.")


def body_too_large(limit: int) -> Refusal:
    """The body is longer than `limit` bytes."""
    return Refusal(413, "payload_too_large", f"Send a body of at most {limit} bytes.")


def too_slow(what: str) -> Refusal:
    """The client did not send its head or body in time."""
    return Refusal(408, "request_timeout", f"The request's {what} took too long to arrive: send it again.")


def overloaded() -> Refusal:
    """All threads are busy and enough requests wait already."""
    return Refusal(503, "overloaded", "Too many requests are waiting: try again.", retry_after=5)


def restarting() -> Refusal:
    """The worker ends, and can wait for the rest of the request no longer."""
    return Refusal(503, "gateway_restarting", "The gateway's web service restarts: go on in a moment.", retry_after=1)


def internal_error() -> Refusal:
    """The application raised; the log has the traceback under the request's id."""
    return Refusal(500, "internal_error", "This is a fault of the gateway: its log tells more.")


def from_parse_error(error: Exception) -> Refusal:
    """What gunicorn's parser said, as ours. Its own text shows what the client sent, and is dropped."""
    for name, refusal in _PARSE_ERRORS.items():
        kind = getattr(parse_errors, name, None)  # gunicorn 27 knows more of them than 23
        if kind is not None and isinstance(error, kind):
            return Refusal(*refusal)
    return malformed()


_PARSE_ERRORS = {
    "LimitRequestLine": (414, "request_line_too_long", "Send a request line of at most 8190 bytes."),
    "LimitRequestHeaders": (431, "headers_too_large", head_too_large().detail),
    "InvalidHTTPVersion": (505, "http_version_unsupported", "Send the request with HTTP/1.1."),
    "UnsupportedTransferCoding": (501, "transfer_coding_unsupported", "Send the body chunked or with a length."),
    "ExpectationFailed": (417, "expectation_failed", "Only `Expect: 100-continue` is understood."),
}
