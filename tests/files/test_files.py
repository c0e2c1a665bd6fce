"""Files in guests: what is written is what is read, as the guest itself sees it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator

import pytest

from tests.exec.api import Api
from tests.exec.gateways import Gateway
from tests.files.paths import ACTIONS, url
from tests.pvesim import guests


@pytest.fixture(scope="module")
def files(gateway: Gateway) -> Iterator[Api]:
    """The API as a token that may read and write files, and run commands."""
    opened = gateway.api(gateway.token("files", actions=ACTIONS))
    yield opened
    opened.close()


def digest(data: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, (5 << 20) + 7])
def test_what_is_written_is_read(files: Api, small_vmid: int, size: int) -> None:
    """Bytes of any number come back as they went, and the guest sees root's file of mode 0644."""
    data = bytes(i * 7 & 0xFF for i in range(256)) * (size // 256 + 1)
    data = data[:size]
    path = f"/root/file-{size}"
    written = files.request("PUT", url(small_vmid, path), raw=data, headers={"Content-Digest": digest(data)})
    assert written.status == 201, written.body
    assert written.json()["sha256"] == hashlib.sha256(data).hexdigest()
    seen = guests.get(small_vmid).attach(["stat", "-c", "%s %a %u %g", path])
    assert seen.stdout.decode().split() == [str(size), "644", "0", "0"]
    answer = files.get(url(small_vmid, path))
    assert (answer.status, answer.body == data) == (200, True)
    assert answer.headers["X-File-Mode"] == "0644" and answer.headers["X-File-User"] == "root"
    assert files.request("PUT", url(small_vmid, path), raw=b"other").status == 200
    assert files.get(url(small_vmid, path)).body == b"other"
    assert files.request("DELETE", url(small_vmid, path)).status == 204
    assert files.get(url(small_vmid, path)).code == "file_not_found"
