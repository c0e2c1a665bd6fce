"""Changes of a stopped container whose files have just been asked for: what has it mounted gets out of the way."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.exec.api import Answer, Api
from tests.exec.gateways import Gateway
from tests.exec.waiting import until
from tests.files.paths import url
from tests.files.test_files import DATA, put
from tests.files.test_hostile_guests import begin_put
from tests.guests import made
from tests.guests.made import TEMPLATE
from tests.pvesim import config

FIRST, LAST = 7640, 7649
MINE, COPY = FIRST, FIRST + 1
SIZE = 8 << 20


@pytest.fixture(scope="module", autouse=True)
def stopped(api: Api) -> Iterator[None]:
    """Guest 7640 does not run."""
    wish = {"template": TEMPLATE, "vmid": MINE, "storage": "local-lvm", "start": False}
    answer = api.request("POST", "/guests?wait=60", wish, timeout=90)
    assert answer.status == 201, answer.body
    yield
    made.sweep(FIRST, LAST)


def ask(api: Api, method: str, path: str, body: object = None) -> Answer:
    return api.request(method, f"/guests/{path}", body, timeout=90)


def is_mounted(vmid: int) -> bool:
    return config.parse_pve(config.pve_path(vmid).read_text()).get("lock") == "mounted"


@contextlib.contextmanager
def uploading(api: Api) -> Iterator[None]:
    """An upload is under way, and ends well behind it."""
    until(lambda: not is_mounted(MINE))
    with contextlib.closing(begin_put(api, MINE, "/root/file", SIZE)) as sock:
        sock.sendall(DATA[: SIZE // 2])
        until(lambda: is_mounted(MINE), why="the upload is under way")
        yield
        sock.sendall(DATA[SIZE // 2 : SIZE])
        assert sock.recv(65536).startswith(b"HTTP/1.1 20")


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PATCH", f"{MINE}", {"tags": ["x"]}, 200),
        ("PATCH", f"{MINE}", {"options": {"dev0": "/dev/null,mode=0660"}}, 200),
        ("POST", f"{MINE}/snapshots?wait=60", {"name": "clean"}, 200),
        ("POST", f"{MINE}/snapshots/clean/rollback?wait=60", None, 200),
        ("DELETE", f"{MINE}/snapshots/clean?wait=60", None, 200),
        ("POST", f"{MINE}/clone?wait=60", {"vmid": COPY, "full": True}, 201),
        ("POST", f"{MINE}/backups?wait=60", {"storage": "local"}, 200),
    ],
)  # fmt: skip
def test_a_change_behind_a_file(api: Api, method: str, path: str, body: object, status: int) -> None:
    """What stays mounted for the next file request goes at once for a change, whichever way it is made."""
    assert put(api, MINE, "/root/file", b"1").status in (200, 201)
    answer = ask(api, method, path, body)
    assert answer.status == status, answer.body


def test_a_change_during_a_file(api: Api) -> None:
    """It waits for what has begun, which ends as it would have, and for no file that is asked for later."""
    with ThreadPoolExecutor() as pool:
        with uploading(api):
            changing = pool.submit(ask, api, "PATCH", f"{MINE}", {"tags": ["y"]})
        assert changing.result().status == 200, changing.result().body
    assert api.get(url(MINE, "/root/file")).body == DATA[:SIZE]


def test_a_change_during_a_long_file(api: Api) -> None:
    """After some seconds it is refused by name: the file goes on, and the words say what stands in the way."""
    with uploading(api):
        answer = ask(api, "PATCH", f"{MINE}", {"tags": ["z"]})
        assert (answer.status, answer.code, answer.json()["lock"]) == (423, "guest_locked", "mounted"), answer.body
        assert "its files are being read or written" in answer.json()["detail"]
    assert api.get(url(MINE, "/root/file")).body == DATA[:SIZE]


def test_a_change_without_the_supervisor(api: Api, gateway: Gateway) -> None:
    """Whoever is away has nothing mounted: the change is made."""
    until(lambda: not is_mounted(MINE))
    gateway.services.kill("supervisor")
    answer = ask(api, "PATCH", f"{MINE}", {"tags": ["w"]})
    gateway.services.restart("supervisor")
    assert answer.status == 200, answer.body


def test_its_end_behind_a_file(api: Api, gateway: Gateway) -> None:
    """A container can be destroyed right behind a file; no mount and no mark of it stays."""
    assert put(api, MINE, "/root/file", b"1").status in (200, 201)
    gone = ask(api, "DELETE", f"{MINE}?confirm={MINE}&wait=60")
    assert gone.status == 200, gone.body
    until(lambda: not (gateway.spool / "mounted" / str(MINE)).exists(), why="nothing of ours is left of it")
    made.assert_nothing_left(MINE)
