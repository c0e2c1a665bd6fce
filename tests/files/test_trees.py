"""Directories as tar archives: what goes in is what the guest has, and what comes out is what it had."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable
from typing import Any

import pytest

from tests.exec.api import Answer, Api
from tests.exec.gateways import Gateway
from tests.exec.waiting import until
from tests.files.archives import MTIME, entry
from tests.files.paths import url
from tests.files.test_files import shell
from tests.files.test_hostile_guests import leftovers
from tests.pvesim import guests

TAR = "application/x-tar"


def archive(*entries: tuple[tarfile.TarInfo, bytes] | tarfile.TarInfo, kind: int = tarfile.PAX_FORMAT) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=kind) as tar:
        for each in entries:
            info, data = each if isinstance(each, tuple) else (each, b"")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return made.getvalue()


def send(files: Api, vmid: int, path: str, data: bytes, **query: Any) -> Answer:
    return files.request("PUT", url(vmid, path, **query), raw=data, headers={"Content-Type": TAR})


def fetch(files: Api, vmid: int, path: str) -> tarfile.TarFile:
    answer = files.get(url(vmid, path), headers={"Accept": TAR})
    assert (answer.status, answer.headers["Content-Type"]) == (200, TAR), answer.body
    return tarfile.open(fileobj=io.BytesIO(answer.body))


def make_empty(vmid: int) -> int:
    shell(vmid, "rm -rf /root/tree /root/aim; mkdir /root/tree /root/aim; echo kept > /root/aim/file")
    return vmid


@pytest.fixture
def empty(small_vmid: int) -> int:
    """A guest with an empty /root/tree."""
    return make_empty(small_vmid)


@pytest.fixture
def any_empty(any_vmid: int) -> int:
    """The same, or one that does not run."""
    return make_empty(any_vmid)


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_a_tree_goes_in_and_comes_out(files: Api, any_empty: int, kind: int) -> None:
    """Files, directories, links and hard links, with modes, owners and times, whoever made the archive."""
    long = "d/" + "n" * 90
    data = archive(
        entry("./", tarfile.DIRTYPE, mode=0o700),
        entry("./d", tarfile.DIRTYPE, mode=0o2750, uid=5, gid=6),
        (entry("./d/file", mode=0o4711, uid=7, gid=8), bytes(range(256)) * 2000),
        (entry(long), b"long"),
        (entry("new/parents/file"), b""),
        entry("d/link", tarfile.SYMTYPE, linkname="/nowhere/../at all", uid=9),
        entry("d/second", tarfile.LNKTYPE, linkname="./d/file"),
        kind=kind,
    )
    answer = send(files, any_empty, "/root/tree", data)
    assert answer.status == 200, answer.body
    told = answer.json()
    assert (told["entries"], told["kept"], told["size"]) == (7, 0, len(data))
    assert told["sha256"] == hashlib.sha256(data).hexdigest()
    seen = shell(any_empty, "cd /root/tree; stat -c '%a %u %g %Y' d d/file; stat -c %h d/second; readlink d/link")
    assert seen.splitlines() == [f"2750 5 6 {MTIME}", f"4711 7 8 {MTIME}", "2", "/nowhere/../at all"]
    with fetch(files, any_empty, "/root/tree") as tar:
        members = {member.name: member for member in tar}
        assert members.keys() == {
            ".",
            "d",
            "d/file",
            long,
            "new",
            "new/parents",
            "new/parents/file",
            "d/link",
            "d/second",
        }
        first = members["d/file"] if members["d/file"].isreg() else members["d/second"]
        content = tar.extractfile(first)
        assert content is not None and content.read() == bytes(range(256)) * 2000
        assert {members["d/file"].type, members["d/second"].type} == {tarfile.REGTYPE, tarfile.LNKTYPE}
        assert (first.mode, first.uid, first.gid, first.mtime) == (0o4711, 7, 8, MTIME)
        assert (members["d/link"].linkname, members["d/link"].uid) == ("/nowhere/../at all", 9)
        assert (members["d"].mode, members["d"].mtime, members["d"].isdir()) == (0o2750, MTIME, True)


def test_what_is_kept(files: Api, any_empty: int) -> None:
    """B5: an archive leaves an existing .env and what is in data alone, and makes what is not there."""
    shell(
        any_empty, "cd /root/tree; echo secret > .env; mkdir data; echo mine > data/db; echo old > app; ln -s x data/l"
    )
    entries = [(entry(name), b"theirs") for name in ("./.env", "data//./db", "data/new", "data/l", "app", ".envrc")]
    answer = send(files, any_empty, "/root/tree", archive(*entries), keep="./.env&keep=data/")
    assert (answer.json()["entries"], answer.json()["kept"]) == (3, 3), answer.body
    seen = shell(any_empty, "cd /root/tree; cat .env data/db app; readlink data/l; cat data/new .envrc")
    assert seen == "secret\nmine\ntheirsx\ntheirstheirs"
    again = send(files, any_empty, "/root/tree", archive((entry(".env"), b"first")))
    assert again.json()["kept"] == 0 and shell(any_empty, "cat /root/tree/.env") == "first"


HOSTILE: dict[str, tuple[str, Callable[[], bytes]]] = {
    "absolute": ("absolute", lambda: archive((entry("/root/aim/file"), b"x"))),
    "climbs": ("climbs", lambda: archive((entry("a/../../aim/file"), b"x"))),
    "a hard link out": ("absolute", lambda: archive(entry("a", tarfile.LNKTYPE, linkname="/root/aim/file"))),
    "through its own link": (
        "through_link",
        lambda: archive(entry("out", tarfile.SYMTYPE, linkname="/root/aim"), (entry("out/file"), b"x")),
    ),
    "a directory over its own link": (
        "through_link",
        lambda: archive(entry("out", tarfile.SYMTYPE, linkname="/root/aim"), entry("out", tarfile.DIRTYPE)),
    ),
    "a hard link through its own link": (
        "through_link",
        lambda: archive(
            entry("out", tarfile.SYMTYPE, linkname="../aim"), entry("a", tarfile.LNKTYPE, linkname="out/file")
        ),
    ),
    "a device": ("device", lambda: archive(entry("null", tarfile.CHRTYPE, devmajor=1, devminor=3))),
    "a FIFO": ("device", lambda: archive(entry("fifo", tarfile.FIFOTYPE))),
    "huge headers": ("headers_too_large", lambda: archive(entry("a", pax_headers={"comment": "x" * 70_000}))),
    "a sparse file": ("sparse", lambda: archive(entry("a", pax_headers={"GNU.sparse.major": "1"}))),
    "a size of no file": ("malformed", lambda: archive(entry("a", pax_headers={"size": "-5"}))),
    "no archive": ("malformed", lambda: b"no archive" * 100),
    "cut": ("cut", lambda: archive((entry("a"), b"x" * 5000))[:3000]),
    "nothing": ("cut", lambda: b""),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives(files: Api, empty: int, name: str) -> None:
    """Each is refused with its reason, nothing outside of the directory is touched, and nothing of ours is left."""
    reason, make = HOSTILE[name]
    answer = send(files, empty, "/root/tree", make())
    assert (answer.status, answer.code, answer.json()["reason"]) == (422, "tar_refused", reason), answer.body
    assert shell(empty, "cat /root/aim/file; ls -A /root/aim") == "kept\nfile\n"
    assert leftovers(guests.get(empty)) == []


def test_links_that_stand_there_already(files: Api, any_empty: int) -> None:
    """A link of the guest's is not followed into: not on the way, and a file takes the place of the link itself."""
    shell(any_empty, "cd /root/tree; ln -s /root/aim out; ln -s /root/aim/file leaf")
    through = send(files, any_empty, "/root/tree", archive((entry("out/file"), b"x")))
    assert (through.json()["reason"], through.json()["entry"]) == ("through_link", "out/file")
    assert send(files, any_empty, "/root/tree", archive((entry("leaf"), b"x"))).status == 200
    assert shell(any_empty, "cat /root/aim/file /root/tree/leaf") == "kept\nx"
    over = send(files, any_empty, "/root/tree", archive((entry("tree"), b"x")), keep="none")
    assert over.status == 200
    shell(any_empty, "mkdir /root/tree/dir")
    refused = send(files, any_empty, "/root/tree", archive((entry("dir"), b"x")))
    assert (refused.code, refused.json()["entry"]) == ("file_type_refused", "dir")


def test_what_is_left_out_is_told(files: Api, empty: int, gateway: Gateway) -> None:
    """FIFOs and mounts are not in the archive; a comment at its end and the record say how many."""
    shell(empty, "cd /root/tree; mkfifo fifo; mkdir m d; mount -t tmpfs none m; echo x > m/hidden; echo y > d/file")
    try:
        with fetch(files, empty, "/root/tree") as tar:
            members = {member.name: member for member in tar}
            assert members.keys() == {"d", "d/file", "."}
            assert members["."].pax_headers["comment"].startswith("left out: 2 ")
    finally:
        shell(empty, "umount /root/tree/m")
    until(lambda: any(record["data"].get("left_out") == 2 for record in gateway.records(event="file:outcome")))


def test_names_of_any_bytes(files: Api, any_empty: int) -> None:
    """What is no UTF-8, and what is long, comes and goes as it is."""
    names = ["new\nline", b"\xff\xfe".decode("utf-8", "surrogateescape"), "é", "/".join(["p" * 200] * 8)]
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape") as tar:
        for name in names:
            tar.addfile(entry(name))
    assert send(files, any_empty, "/root/tree", made.getvalue()).status == 200
    with fetch(files, any_empty, "/root/tree") as tar:
        assert {member.name for member in tar if member.isreg()} == set(names)


def test_one_intent_and_one_outcome(files: Api, empty: int, gateway: Gateway) -> None:
    """The record of a tree has its count, bytes and digest, and of one that failed how far it came; never content."""
    data = archive((entry("a"), b"content-0815"), (entry("b"), b"content-0815"))
    bad = archive((entry("c"), b"content-0815"), (entry("/d"), b"content-0815"))
    ids = [send(files, empty, "/root/tree", data).json()["audit_id"]]
    send(files, empty, "/root/tree", bad)
    outcomes = until(lambda: gateway.records(event="file:outcome", audit_id=ids[0]))
    good = [record["data"] for record in outcomes]
    sha256 = hashlib.sha256(data).hexdigest()
    assert good == [{"reason": "ok", "entries": 2, "kept": 0, "bytes": len(data), "sha256": sha256}]
    until(lambda: gateway.records(event="file:outcome")[-1]["data"].get("code") == "tar_refused")
    assert gateway.records(event="file:outcome")[-1]["data"]["entries"] == 1
    assert "content-0815" not in gateway.audit_log.read_text()


def test_what_is_not_for_archives(files: Api, empty: int) -> None:
    """`keep` without an archive, `mode` and If-None-Match with one, and a path of no directory are refused."""
    assert files.request("PUT", url(empty, "/root/x", keep="a"), raw=b"").json()["errors"][0]["path"] == "keep"
    assert send(files, empty, "/root/tree", archive(), mode="644").json()["errors"][0]["path"] == "mode"
    assert send(files, empty, "/root/aim/file", archive()).code == "file_type_refused"
    assert send(files, empty, "/root/none", archive()).code == "file_not_found"
    assert send(files, empty, "/root/tree", archive(), keep="../x").json()["reason"] == "climbs"
    assert send(files, empty, "/root/tree", archive()).json()["entries"] == 0


def test_an_upload_that_is_cut(files: Api, any_empty: int, gateway: Gateway) -> None:
    """What was whole is there, what was not leaves the old file, nothing of ours stays, and the record says so."""
    shell(any_empty, "echo old > /root/tree/big")
    data = archive((entry("small"), b"new"), (entry("big"), b"x" * (4 << 20)))
    headers = {"Content-Type": TAR, "Content-Length": str(len(data))}
    connection = files.connect()
    connection.putrequest("PUT", url(any_empty, "/root/tree"))
    for name, value in {**headers, "Authorization": f"Bearer {files.token}"}.items():
        connection.putheader(name, value)
    connection.endheaders()
    connection.send(data[: 2 << 20])
    until(lambda: shell(any_empty, "cat /root/tree/small 2>/dev/null || true") == "new")
    connection.close()
    until(lambda: gateway.records(event="file:outcome")[-1]["data"].get("entries") == 1)
    assert gateway.records(event="file:outcome")[-1]["data"]["reason"] in ("failed", "client_gone")
    assert shell(any_empty, "cat /root/tree/big") == "old\n"
    until(lambda: leftovers(guests.get(any_empty)) == [])


def test_who_may_not(gateway: Gateway, files: Api, empty: int) -> None:
    """A token that reads fetches trees and unpacks none; one for another guest sees none."""
    reader = gateway.api(gateway.token("tree-reader", actions="file:read", guests=str(empty)))
    assert send(reader, empty, "/root/tree", archive()).status == 403
    assert reader.get(url(empty, "/root/aim"), headers={"Accept": TAR}).status == 200
    other = gateway.api(gateway.token("tree-other", actions="file:read,file:write", guests="199"))
    assert send(other, empty, "/root/tree", archive()).code == "guest_not_found"
    for api in (reader, other):
        api.close()
