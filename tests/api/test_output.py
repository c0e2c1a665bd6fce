"""GET /execs/{id}/stdout and stderr: whole, by offset, by Range, and around bytes that were not kept."""

from __future__ import annotations

import pytest

from .fakes import Api, assert_problem

DATA = bytes(range(256)) * 10


@pytest.fixture
def ended(api: Api) -> tuple[str, str]:
    """A token and the id of an ended exec of it with 2560 bytes on stdout."""
    token = api.token()
    api.supervisor.streams = {"stdout": DATA, "stderr": b""}
    exec_id: str = api.request("POST", "/exec/101", token, json={"command": ["x"]}).json["id"]
    return token, exec_id


def test_whole(api: Api, ended: tuple[str, str]) -> None:
    """The bytes as they are, with their length and whether more will come."""
    token, exec_id = ended
    response = api.request("GET", f"/execs/{exec_id}/stdout", token)
    assert (response.status_code, response.data) == (200, DATA)
    assert response.headers["Content-Type"] == "application/octet-stream"
    assert response.headers["Content-Length"] == "2560"
    assert response.headers["X-Output-Complete"] == "true"
    assert "X-Output-Dropped" not in response.headers
    empty = api.request("GET", f"/execs/{exec_id}/stderr", token)
    assert (empty.status_code, empty.data) == (200, b"")


def test_head(api: Api, ended: tuple[str, str]) -> None:
    """HEAD tells the length and sends nothing."""
    token, exec_id = ended
    response = api.request("HEAD", f"/execs/{exec_id}/stdout", token)
    assert (response.status_code, response.data, response.headers["Content-Length"]) == (200, b"", "2560")


@pytest.mark.parametrize(("offset", "data"), [(0, DATA), (2559, DATA[2559:]), (2560, b"")])
def test_offset(api: Api, ended: tuple[str, str], offset: int, data: bytes) -> None:
    """From `offset` on; the very end is empty, not an error, so that a reader can follow."""
    token, exec_id = ended
    response = api.request("GET", f"/execs/{exec_id}/stdout?offset={offset}", token)
    assert (response.status_code, response.data) == (200, data)


@pytest.mark.parametrize(
    ("header", "status", "data", "content_range"),
    [
        ("bytes=0-9", 206, DATA[:10], "bytes 0-9/2560"),
        ("bytes=2550-", 206, DATA[2550:], "bytes 2550-2559/2560"),
        ("bytes=2550-9999", 206, DATA[2550:], "bytes 2550-2559/2560"),
        ("bytes=-10", 206, DATA[-10:], "bytes 2550-2559/2560"),
        ("bytes=-9999", 206, DATA, "bytes 0-2559/2560"),
        ("bytes=0-1,5-6", 200, DATA, None),
        ("bytes=9-5", 200, DATA, None),
        ("lines=1-2", 200, DATA, None),
        ("bytes=x", 200, DATA, None),
    ],
)
def test_range(
    api: Api, ended: tuple[str, str], header: str, status: int, data: bytes, content_range: str | None
) -> None:
    """One byte range is served; several, other units and nonsense are ignored, as RFC 9110 allows."""
    token, exec_id = ended
    response = api.request("GET", f"/execs/{exec_id}/stdout", token, headers={"Range": header})
    assert (response.status_code, response.data) == (status, data)
    assert response.headers.get("Content-Range") == content_range


@pytest.mark.parametrize("range_or_offset", ["bytes=2560-", "bytes=-0", "?offset=2561"])
def test_past_the_end(api: Api, ended: tuple[str, str], range_or_offset: str) -> None:
    """A range that begins past the end is 416 and names the length."""
    token, exec_id = ended
    query, header = (range_or_offset, "") if range_or_offset.startswith("?") else ("", range_or_offset)
    response = api.request("GET", f"/execs/{exec_id}/stdout{query}", token, headers={"Range": header})
    assert_problem(response, 416, "range_not_satisfiable")
    assert response.headers["Content-Range"] == "bytes */2560"


def test_gap(api: Api, ended: tuple[str, str]) -> None:
    """Without a range what is kept comes, and the gap is named; a range into the gap is 416 with a code."""
    token, exec_id = ended
    api.supervisor.gap = (100, 2000)
    whole = api.request("GET", f"/execs/{exec_id}/stdout", token)
    assert whole.data == DATA[:100] + DATA[2000:]
    assert whole.headers["X-Output-Dropped"] == "100-1999"
    assert whole.headers["X-Output-Bytes"] == "2560"
    assert api.request("GET", f"/execs/{exec_id}/stdout?offset=2000", token).data == DATA[2000:]
    for header in ("bytes=50-150", "bytes=1999-2100", "bytes=500-600"):
        response = api.request("GET", f"/execs/{exec_id}/stdout", token, headers={"Range": header})
        assert assert_problem(response, 416, "output_dropped")["kept"] == [[0, 100], [2000, 2560]]


def test_running(api: Api, ended: tuple[str, str]) -> None:
    """While the command runs the length is not final, and the reply says so."""
    token, exec_id = ended
    api.supervisor.execs[exec_id][0]["state"] = "running"
    response = api.request("GET", f"/execs/{exec_id}/stdout", token, headers={"Range": "bytes=0-9"})
    assert response.headers["X-Output-Complete"] == "false"
    assert response.headers["Content-Range"] == "bytes 0-9/*"
