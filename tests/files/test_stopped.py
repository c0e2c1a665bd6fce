"""Files of containers that do not run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.exec.api import Api
from tests.exec.gateways import Gateway
from tests.exec.waiting import until
from tests.files.paths import url
from tests.files.test_files import put
from tests.pvesim import config, guests
from tests.pvesim.guests import Guest

PRIVILEGED, UNPRIVILEGED = 946, 947


@pytest.fixture(scope="module", params=[PRIVILEGED, UNPRIVILEGED], ids=["privileged", "unprivileged"])
def stopped(request: pytest.FixtureRequest, node: None) -> Iterator[Guest]:
    """A busybox guest that has never been started."""
    guest = guests.create(request.param, unprivileged=request.param == UNPRIVILEGED, start=False)
    try:
        yield guest
    finally:
        guest.destroy()


def lock_of(vmid: int) -> str | None:
    return config.parse_pve(config.pve_path(vmid).read_text()).get("lock")


def test_smoke(files: Api, stopped: Guest, gateway: Gateway) -> None:
    """It works."""
    made = put(files, stopped.vmid, "/root/made", b"hello", mode="0640", user="7")
    assert made.status == 201, made.body
    assert lock_of(stopped.vmid) == "mounted"
    answer = files.get(url(stopped.vmid, "/root/made"))
    assert (answer.status, answer.body) == (200, b"hello")
    assert answer.headers["X-File-Uid"] == "7"
    status = (stopped.rootfs / "root/made").stat()
    assert status.st_uid == (100007 if stopped.unprivileged else 7)
    until(lambda: lock_of(stopped.vmid) is None)
    print(gateway.log("supervisor"))
