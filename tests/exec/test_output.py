"""A10, A13, A19: output is bytes: all counted and hashed, kept as asked, never mixed, cut or lost."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Run
from tests.exec.api import Api
from tests.exec.gateways import Gateway
from tests.exec.inside import begun, new_mark
from tests.exec.waiting import until
from tests.soak.mixing import mix_outputs


def bytes_of(result: dict[str, Any], stream: str = "stdout") -> bytes:
    """The bytes that a result's stream holds, whatever they were encoded in."""
    text: str = result[stream]
    return base64.b64decode(text) if result["encoding"][stream] == "base64" else text.encode()


def echo(run: Run, vmid: int, data: bytes, **spec: Any) -> dict[str, Any]:
    """`data` through `cat` in the guest."""
    result = run(vmid, ["cat"], stdin=base64.b64encode(data).decode(), stdin_encoding="base64", **spec)
    assert result["reason"] == "exited", result["spawn_error"]
    return result


def resident_kib(pid: int) -> int:
    """The most memory that a process has had, in KiB."""
    found = re.search(r"^VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1])


def test_gigabyte_is_counted_and_hashed_in_little_memory(run: Run, gateway: Gateway) -> None:
    """A10: 1 GiB against a limit of 1 MiB: exact count and SHA-256, both halves, memory grows by < 32 MiB."""
    line, size, limit = b"0123456789abcde\n", 1 << 30, 1 << 20
    echo(run, 101, b"x" * (1 << 20), output={"limit": limit})
    pids = [gateway.services.pid("supervisor")]
    before = [resident_kib(pid) for pid in pids]
    result = run(101, f"yes 0123456789abcde | head -c {size}", output={"limit": limit})
    grown = [resident_kib(pid) - was for pid, was in zip(pids, before, strict=True)]
    assert max(grown) < 32 << 10
    digest, block = hashlib.sha256(), line * (1 << 16)
    for _ in range(size // len(block)):
        digest.update(block)
    count = result["output"]["stdout"]
    assert (count["bytes"], count["sha256"]) == (size, digest.hexdigest())
    assert (count["dropped"], count["dropped_at"]) == (size - limit, limit // 2)
    assert result["stdout"] == line.decode() * (limit // len(line))


@pytest.mark.parametrize(
    ("keep", "kept", "dropped_at"),
    [("head", b"0123456789", 10), ("tail", b"qrstuvwxyz", 0), ("head+tail", b"01234vwxyz", 5)],
)
def test_kept_part_is_the_one_asked_for(api: Api, small_vmid: int, keep: str, kept: bytes, dropped_at: int) -> None:
    """`keep` chooses head, tail or both; what was dropped is counted, and is a 416 with a code when read."""
    data = b"0123456789abcdefghijklmnopqrstuvwxyz"
    result = echo(api.run, small_vmid, data, output={"limit": 10, "keep": keep})
    count = result["output"]["stdout"]
    assert bytes_of(result) == kept
    assert (count["bytes"], count["dropped"], count["dropped_at"]) == (36, 26, dropped_at)
    assert count["sha256"] == hashlib.sha256(data).hexdigest()
    raw = api.get(f"/execs/{result['id']}/stdout")
    assert (raw.status, raw.body) == (200, kept)
    gap = api.get(f"/execs/{result['id']}/stdout", headers={"Range": f"bytes={dropped_at}-{dropped_at + 2}"})
    assert (gap.status, gap.code) == (416, "output_dropped")


def test_limit_of_nothing_still_counts(run: Run, small_vmid: int) -> None:
    """output.limit 0 keeps no byte and counts all."""
    result = run(small_vmid, "echo hello; echo err >&2", output={"limit": 0})
    assert (result["stdout"], result["stderr"]) == ("", "")
    assert [result["output"][name]["bytes"] for name in ("stdout", "stderr")] == [6, 4]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(bytes(range(256)) * 40, id="all-bytes"),
        pytest.param(b"\0" * 5000, id="NUL"),
        pytest.param(b"a\rb\r\r\nc\r", id="lone-CR"),
        pytest.param(b"\xff", id="not-UTF-8"),
        pytest.param("\U0001f600".encode()[:3], id="cut-character"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xef\xbb\xbfbom", id="BOM"),
        *(pytest.param(b"x" * n + "\U0001f600".encode() * 40_000, id=f"4-byte-characters-{n}") for n in range(4)),
        pytest.param(b"z" * (5 << 20), id="5-MiB-without-a-newline"),
    ],
)
def test_bytes_come_back_as_they_were(api: Api, small_vmid: int, data: bytes) -> None:
    """A19: identical in the JSON result and in the raw download, with the same count and hash."""
    result = echo(api.run, small_vmid, data, output={"limit": 8 << 20})
    assert bytes_of(result) == data
    try:
        data.decode()
    except UnicodeDecodeError:
        assert result["encoding"]["stdout"] == "base64"
    else:
        assert result["encoding"]["stdout"] == "utf-8"
    assert result["output"]["stdout"] == {
        "bytes": len(data),
        "dropped": 0,
        "dropped_at": None,
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    raw = api.get(f"/execs/{result['id']}/stdout")
    assert (raw.status, raw.body, raw.headers["X-Output-Complete"]) == (200, data, "true")
    if data:
        part = api.get(f"/execs/{result['id']}/stdout", headers={"Range": "bytes=-1"})
        assert (part.status, part.body) == (206, data[-1:])


@pytest.mark.parametrize("limit", range(1, 14))
def test_cut_never_goes_through_a_character(run: Run, limit: int) -> None:
    """A19: whatever the limit, what is kept of UTF-8 stays UTF-8, and the counts fit what is there."""
    text = "a\u00e9\u20ac\U0001f600" * 20
    result = echo(run, 101, text.encode(), output={"limit": limit})
    count = result["output"]["stdout"]
    assert result["encoding"]["stdout"] == "utf-8"
    kept = result["stdout"].encode()
    assert len(kept) == count["bytes"] - count["dropped"]
    assert text.encode().startswith(kept[: count["dropped_at"]])
    assert text.encode().endswith(kept[count["dropped_at"] :])


def test_streams_stay_apart_and_whole(api: Api, vmid: int) -> None:
    """A13: execs of 20 KiB on each stream, 8 at a time under load: no byte lost or mixed, no code wrong."""
    mix_outputs(api, [vmid], execs=60)


def test_output_is_read_while_the_command_runs(api: Api, small_vmid: int) -> None:
    """A running command's output is there for its owner, from any offset, and says that it is not complete."""
    mark = new_mark()
    with api.begin(small_vmid, {"command": f"echo first; sleep {mark}", "labels": {"test": mark}}):
        exec_id = begun(api, mark, mark)
        until(lambda: api.get(f"/execs/{exec_id}/stdout").body, why="its first line")
        answer = api.get(f"/execs/{exec_id}/stdout")
        assert (answer.body, answer.headers["X-Output-Complete"]) == (b"first\n", "false")
        assert api.get(f"/execs/{exec_id}/stdout?offset=3").body == b"st\n"
        assert api.get(f"/execs/{exec_id}/stdout?offset=7").status == 416
        assert api.request("DELETE", f"/execs/{exec_id}?wait=20").json()["reason"] == "cancelled"
        assert api.get(f"/execs/{exec_id}/stdout").body == b"first\n"
