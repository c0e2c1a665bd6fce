"""What is the same for everybody: from memory, with an ETag; and the page at /docs, which is closed in itself."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files

import pytest

from gateway.api.docs import PAGE_POLICY
from gateway.api.documents import Document, Documents
from gateway.api.routes import ROUTES
from gateway.web.safe import SAFE_HEADERS

from .fakes import Api, assert_problem

PAGES = [route.path for route in ROUTES if not route.described]
DOCUMENTS = ["/openapi.json", "/openapi.yaml", *PAGES]


@pytest.mark.parametrize("path", DOCUMENTS)
def test_is_kept_by_who_has_it(api: Api, path: str) -> None:
    """The ETag stays while the bytes do; who names it is told so, in no body."""
    response = api.request("GET", path)
    etag = response.headers["ETag"]
    assert response.status_code == 200 and response.data and response.headers["Cache-Control"] == "no-cache"
    for asked in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        again = api.request("GET", path, headers={"If-None-Match": asked})
        assert (again.status_code, again.data, again.headers["ETag"]) == (304, b"", etag)
    for asked in ('"other"', etag.strip('"'), ""):
        assert api.request("GET", path, headers={"If-None-Match": asked}).status_code == 200
    assert api.request("HEAD", path).data == b""


def test_is_made_once() -> None:
    """However often it is asked for; another name is none."""
    made: list[str] = []

    def make() -> Document:
        made.append("x")
        return Document(b"x", "text/plain")

    documents = Documents({"x": make})
    assert documents.find("x") is documents.find("x") and made == ["x"]
    with pytest.raises(KeyError):
        documents.find("y")


@pytest.mark.parametrize("path", DOCUMENTS)
def test_is_safe_for_browsers(api: Api, path: str) -> None:
    """Nothing is sniffed, framed, embedded elsewhere or told as a referrer; only the page itself may load anything."""
    headers = api.request("GET", path).headers
    for name, value in SAFE_HEADERS:
        if name == "Content-Security-Policy" and path == "/docs":
            assert headers[name] == PAGE_POLICY and "unsafe" not in PAGE_POLICY
        elif name != "Cache-Control":
            assert headers[name] == value, name
    assert headers.getlist("Content-Security-Policy") == [headers["Content-Security-Policy"]]


@pytest.mark.parametrize(
    "path", ["/docs/", "/docs/page.html", "/docs/VERSION", "/docs/..%2fopenapi", "/docs/../cli.py"]
)
def test_names_no_file(api: Api, path: str) -> None:
    """Other paths are no operation, whatever lies beside the pages."""
    assert_problem(api.request("GET", path), 404, "not_found")


def test_page_names_what_it_runs() -> None:
    """The hashes in the page are those of Swagger UI's files: with another version alone a browser runs nothing."""
    here = files("gateway.api.docs")
    named = re.findall(r'"docs/([a-z.-]+)" integrity="sha384-([^"]+)"', here.joinpath("page.html").read_text())
    assert [file for file, _ in named] == ["swagger-ui.css", "swagger-ui-bundle.js"]
    for file, wanted in named:
        found = hashlib.sha384(here.joinpath("swagger-ui", file).read_bytes()).digest()
        assert base64.b64encode(found).decode() == wanted, file
