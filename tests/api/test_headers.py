"""Accept and Prefer as RFC 9110 and RFC 7240 have them."""

from __future__ import annotations

import pytest

from gateway.api.headers import choose_media_type, prefers_async
from gateway.errors import NotAcceptable

OURS = ("application/json", "application/x-ndjson", "text/event-stream")


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, 0),
        ("", 0),
        ("*/*", 0),
        ("application/*", 0),
        ("application/json, text/plain, */*", 0),
        ("application/x-ndjson", 1),
        ("Application/X-NDJSON; charset=utf-8", 1),
        ("text/event-stream", 2),
        ("text/*", 2),
        ("application/json;q=0.5, application/x-ndjson", 1),
        ("application/x-ndjson;q=0.5, application/json", 0),
        ("application/x-ndjson;q=0.9, text/event-stream;q=0.91", 2),
        ("*/*;q=0.1, application/x-ndjson", 1),
        ("application/json;q=0, */*", 1),
        ("application/json;q=0, application/x-ndjson ; q=0 , */*", 2),
        ("text/html, application/x-ndjson;q=0.001", 1),
        ("application/x-ndjson;q=2, application/json", 0),
        (",, ,application/x-ndjson,", 1),
        ('text/html;title="a,application/json", text/event-stream', 2),
    ],
)
def test_accept(accept: str | None, chosen: int) -> None:
    """What the client likes best; the first of equals."""
    environ = {} if accept is None else {"HTTP_ACCEPT": accept}
    assert choose_media_type(environ, OURS) == OURS[chosen]


@pytest.mark.parametrize("accept", ["text/html", "application/json;q=0", "*/*;q=0", "*", "json", "/", ";q=1", "a/b;q"])
def test_accept_of_something_else(accept: str) -> None:
    """Who takes none of ours, or says nothing that can be understood, is told so."""
    with pytest.raises(NotAcceptable) as caught:
        choose_media_type({"HTTP_ACCEPT": accept}, OURS)
    assert all(name in caught.value.detail for name in OURS)


@pytest.mark.parametrize(
    ("prefer", "wanted"),
    [
        ("respond-async", True),
        ("Respond-Async", True),
        ("wait=10, respond-async; foo=bar", True),
        ("return=minimal", False),
        ('x="a, respond-async, b"', False),
        ("respond-asynchronously", False),
        ("", False),
    ],
)
def test_prefer(prefer: str, wanted: bool) -> None:
    """`respond-async` among other preferences."""
    assert prefers_async({"HTTP_PREFER": prefer}) is wanted
