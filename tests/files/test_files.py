"""Files in guests: what is written is what is read, as the guest itself sees it."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
from typing import Any
from urllib.parse import quote_from_bytes, unquote_to_bytes

import pytest

from tests.exec.api import Answer, Api
from tests.exec.gateways import Gateway
from tests.exec.waiting import until
from tests.files.conftest import STOPPED
from tests.files.paths import url
from tests.pvesim import guests
from tests.pvesim.guests import Guest

DATA = bytes(range(256)) * 40_000


def digest(data: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


def shell(vmid: int, script: str) -> str:
    """What a script says in the guest; of one that does not run, in its file system."""
    guest = guests.get(vmid)
    done = in_tree(guest, script) if vmid in STOPPED.values() else guest.attach(["sh", "-c", script])
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def in_tree(guest: Guest, script: str) -> subprocess.CompletedProcess[bytes]:
    """What a script makes of a stopped guest's file system, as the guest's root. Nothing else of the guest is there."""
    users = ["-U", "--map-users=100000,0,65536", "--map-groups=100000,0,65536"] if guest.unprivileged else []
    command = [
        "unshare",
        "-m",
        *users,
        "-S",
        "0",
        "-G",
        "0",
        "-R",
        str(guest.rootfs),
        "-w",
        "/",
        "/bin/sh",
        "-c",
        script,
    ]
    return subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, timeout=30)


def put(files: Api, vmid: int, path: bytes | str, data: bytes, *, headers: Any = None, **query: Any) -> Answer:
    return files.request("PUT", url(vmid, path, **query), raw=data, headers=headers)


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, (5 << 20) + 7])
def test_what_is_written_is_read(files: Api, any_vmid: int, size: int) -> None:
    """Bytes of any number come back as they went, and the guest sees root's file of mode 0644."""
    data, path = DATA[:size], f"/root/file-{size}"
    written = put(files, any_vmid, path, data, headers={"Content-Digest": digest(data)})
    assert written.status == 201, written.body
    assert written.json()["sha256"] == hashlib.sha256(data).hexdigest()
    assert shell(any_vmid, f"stat -c '%s %a %u %g' {path}; ls -A /root").split()[:4] == [str(size), "644", "0", "0"]
    answer = files.get(url(any_vmid, path))
    assert (answer.status, answer.body == data) == (200, True)
    assert (answer.headers["X-File-Mode"], answer.headers["X-File-User"]) == ("0644", "root")
    assert answer.headers["Content-Digest"] == (digest(data) if size <= 1 << 20 else None)
    assert put(files, any_vmid, path, b"other").status == 200
    assert files.get(url(any_vmid, path)).body == b"other"
    gone = files.request("DELETE", url(any_vmid, path))
    assert (gone.status, gone.headers.get("Content-Type")) == (204, None)
    assert files.get(url(any_vmid, path)).code == "file_not_found"


def test_head_tells_all_but_the_bytes(files: Api, any_vmid: int) -> None:
    """HEAD has GET's headers, the length among them."""
    put(files, any_vmid, "/root/head", DATA, mode="0640")
    head, whole = (files.request(method, url(any_vmid, "/root/head")) for method in ("HEAD", "GET"))
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", str(len(DATA)))
    for name in ("ETag", "X-File-Mode", "X-File-Uid", "X-File-Type", "Last-Modified", "Accept-Ranges"):
        assert head.headers[name] == whole.headers[name] and head.headers[name]


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-3000009", 10, 3_000_010),
        (f"bytes={len(DATA) - 5}-", len(DATA) - 5, len(DATA)),
        ("bytes=-7", len(DATA) - 7, len(DATA)),
    ],
)
def test_ranges(files: Api, asked: str, start: int, end: int) -> None:
    """A part is 206 with exactly its bytes; small ones with their own digest."""
    put(files, 101, "/root/range", DATA)
    answer = files.get(url(101, "/root/range"), headers={"Range": asked})
    assert (answer.status, answer.body == DATA[start:end]) == (206, True)
    assert answer.headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(DATA)}"
    if end - start <= 1 << 20:
        assert answer.headers["Content-Digest"] == digest(DATA[start:end])


def test_a_range_that_is_not_there(files: Api) -> None:
    """Past the end is 416 with the length; of another version than If-Range's all is sent."""
    put(files, 101, "/root/range", b"0123456789")
    past = files.get(url(101, "/root/range"), headers={"Range": "bytes=10-"})
    assert (past.status, past.code, past.headers["Content-Range"]) == (416, "range_not_satisfiable", "bytes */10")
    tag = files.get(url(101, "/root/range")).headers["ETag"]
    same = files.get(url(101, "/root/range"), headers={"Range": "bytes=2-3", "If-Range": tag})
    assert (same.status, same.body) == (206, b"23")
    put(files, 101, "/root/range", b"abcdefghij")
    other = files.get(url(101, "/root/range"), headers={"Range": "bytes=2-3", "If-Range": tag})
    assert (other.status, other.body) == (200, b"abcdefghij")


def test_owner_and_mode_are_the_guests(files: Api, any_vmid: int) -> None:
    """Names and numbers mean what they mean in the guest, mapped or not; what is not given stays as it was."""
    shell(any_vmid, "grep -q ^deploy: /etc/passwd || echo 'deploy:x:1234:1235::/:/bin/sh' >> /etc/passwd")
    shell(any_vmid, "grep -q ^team: /etc/group || echo 'team:x:1235:' >> /etc/group; rm -f /root/owned")
    made = put(files, any_vmid, "/root/owned", b"1", mode="4750", user="deploy", group="team").json()
    assert (made["mode"], made["uid"], made["gid"], made["user"], made["group"]) == (
        "4750",
        1234,
        1235,
        "deploy",
        "team",
    )
    assert shell(any_vmid, "stat -c '%a %u %g' /root/owned").split() == ["4750", "1234", "1235"]
    assert put(files, any_vmid, "/root/owned", b"22").json()["created"] is False
    assert shell(any_vmid, "stat -c '%a %u %g %s' /root/owned").split() == ["4750", "1234", "1235", "2"]
    put(files, any_vmid, "/root/owned", b"333", user="7", mode="600")
    answer = files.get(url(any_vmid, "/root/owned"))
    assert (answer.headers["X-File-Uid"], answer.headers["X-File-Gid"]) == ("7", "1235")
    assert answer.headers["X-File-Mode"] == "0600"
    unknown = put(files, any_vmid, "/root/owned", b"4", user="nobody-here")
    assert (unknown.status, unknown.json()["errors"][0]["code"]) == (422, "unknown_user")
    assert files.get(url(any_vmid, "/root/owned")).body == b"333"


def test_an_owner_that_the_guest_does_not_map(files: Api) -> None:
    """In an unprivileged guest a number outside of its range is refused, and the old file stays."""
    put(files, 104, "/root/mapped", b"old")
    refused = put(files, 104, "/root/mapped", b"new", user="4000000000")
    assert refused.status == 422, refused.body
    assert (refused.status, refused.json()["errors"][0]["code"]) == (422, "not_mapped"), refused.body
    assert files.get(url(104, "/root/mapped")).body == b"old"


def test_only_if_nothing_is_there(files: Api, any_vmid: int) -> None:
    """`If-None-Match: *` makes a file and replaces none."""
    shell(any_vmid, "rm -f /root/once")
    headers = {"If-None-Match": "*"}
    assert put(files, any_vmid, "/root/once", b"first", headers=headers).status == 201
    again = put(files, any_vmid, "/root/once", b"second", headers=headers)
    assert (again.status, again.code) == (412, "precondition_failed")
    assert files.get(url(any_vmid, "/root/once")).body == b"first"
    assert [name for name in shell(any_vmid, "ls -A /root").split() if name.startswith(".pveg")] == []


def test_another_digest_replaces_nothing(files: Api, gateway: Gateway) -> None:
    """A body that is not what Content-Digest says is 422, the old file stays, and the record says that it failed."""
    put(files, 101, "/root/digest", b"old")
    refused = put(files, 101, "/root/digest", b"new", headers={"Content-Digest": digest(b"other")})
    assert (refused.status, refused.code) == (422, "digest_mismatch")
    assert files.get(url(101, "/root/digest")).body == b"old"
    bad = put(files, 101, "/root/digest", b"new", headers={"Content-Digest": "sha-256=:AAAA:"})
    assert (bad.status, bad.code) == (422, "invalid_request")
    assert put(files, 101, "/root/digest", b"new", headers={"Content-Digest": "md5=:AAAA:"}).status == 200


def test_links_lead_where_the_guest_has_them_lead(files: Api, any_vmid: int) -> None:
    """Links are followed, relative, absolute and through `..`, as far as the guest's own root; a write replaces their
    target, a delete the link."""
    shell(any_vmid, "rm -rf /root/l; mkdir -p /root/l/real; cd /root/l; echo one > real/file; ln -s real/file near")
    shell(
        any_vmid, "cd /root/l; ln -s /root/l/near far; ln -s ../../../../../../root/l/far up; ln -s real/new dangling"
    )
    assert files.get(url(any_vmid, "/root/l/up")).body == b"one\n"
    assert put(files, any_vmid, "/root/l/up", b"two").status == 200
    assert shell(any_vmid, "cat /root/l/real/file; readlink /root/l/up; ls -A /root/l/real").split()[-1] == "file"
    assert put(files, any_vmid, "/root/l/dangling", b"three").status == 201
    assert shell(any_vmid, "cat /root/l/real/new") == "three"
    assert files.request("DELETE", url(any_vmid, "/root/l/up")).status == 204
    assert shell(any_vmid, "cat /root/l/far") == "two"
    shell(any_vmid, "ln -s round /root/l/round")
    for answer in (files.get(url(any_vmid, "/root/l/round")), put(files, any_vmid, "/root/l/round", b"")):
        assert (answer.code, answer.json()["errno"]) == ("file_refused", "ELOOP")


NAMES = [
    b"plain",
    b"new\nline",
    b"sp ace+&=%",
    b"\xff\xfe",
    "é".encode(),
    b"a" * 255,
    b"-rf",
    b"quote'\"",
    b"\\",
    b"\x7f",
]


@pytest.mark.parametrize("name", NAMES)
def test_any_name(files: Api, name: bytes, gateway: Gateway) -> None:
    """A name of any bytes can be written, listed exactly, read, and removed."""
    shell(101, "rm -rf /root/names; mkdir /root/names")
    assert put(files, 101, b"/root/names/" + name, b"x" + name).status == 201
    entry = files.get(url(101, "/root/names")).json()["entries"][0]
    told = entry["name"].encode() if entry["encoding"] == "utf-8" else base64.b64decode(entry["name"])
    assert told == name
    assert (Guest(101, "", False).rootfs / "root/names").exists()
    assert files.get(url(101, b"/root/names/" + name)).body == b"x" + name
    assert files.request("DELETE", url(101, b"/root/names/" + name)).status == 204
    assert files.get(url(101, "/root/names")).json() == {"entries": [], "next": None}


def test_a_directory_comes_in_pages(files: Api, any_vmid: int) -> None:
    """Pages hold every entry once, in the order of the names' bytes, links as such."""
    shell(any_vmid, "rm -rf /root/many; mkdir /root/many; cd /root/many; for i in $(seq 1 250); do : > n$i; done")
    shell(any_vmid, "cd /root/many; mkdir sub; ln -s n1 link; mkfifo fifo; ln -sf $(printf '\\377') sub/odd")
    seen: list[dict[str, Any]] = []
    after: str | None = ""
    while after is not None:
        page = files.get(url(any_vmid, "/root/many", limit=100, after=after)).json()
        assert len(page["entries"]) <= 100
        seen, after = seen + page["entries"], page["next"]
    names = [entry["name"] for entry in seen]
    assert names == sorted(names) and len(names) == 253
    kinds = {entry["name"]: entry["type"] for entry in seen}
    assert (kinds["sub"], kinds["link"], kinds["fifo"], kinds["n1"]) == ("directory", "link", "fifo", "file")
    link = next(entry for entry in seen if entry["name"] == "link")
    assert (link["target"], link["target_encoding"]) == ("n1", "utf-8")
    (odd,) = files.get(url(any_vmid, "/root/many/sub")).json()["entries"]
    assert (odd["encoding"], odd["target"], odd["target_encoding"]) == ("utf-8", "/w==", "base64")
    assert unquote_to_bytes("n100") == b"n100"


@pytest.mark.parametrize("name", [b"\xff" * 255, "\U0001f600".encode() * 255], ids=["no text", "255 characters"])
def test_a_page_behind_a_long_name(files: Api, name: bytes) -> None:
    """The last name of a page is taken for the next one, however many bytes a file system lets it have."""
    shell(101, "rm -rf /root/long; mkdir /root/long")
    assert files.get(url(101, "/root/long", after=quote_from_bytes(name))).json() == {"entries": [], "next": None}
    if len(name) == 255:
        for each in (name, name[:-1] + b"\xfe"):
            assert put(files, 101, b"/root/long/" + each, b"").status == 201
        first = files.get(url(101, "/root/long", limit=1)).json()
        assert unquote_to_bytes(first["next"]) == name[:-1] + b"\xfe"
        second = files.get(url(101, "/root/long", limit=1, after=first["next"])).json()
        assert (base64.b64decode(second["entries"][0]["name"]), second["next"]) == (name, None)


def test_a_directory_is_removed_on_purpose_alone(files: Api, any_vmid: int) -> None:
    """Without `recursive` a directory stays; with it all goes, links and FIFOs too, but nothing that links lead to."""
    shell(any_vmid, "rm -rf /root/d /root/kept; mkdir -p /root/d/a/b/c /root/kept; echo 1 > /root/kept/file")
    shell(any_vmid, "cd /root/d; echo 2 > a/b/f; ln -s /root/kept a/link; mkfifo a/b/c/fifo; : > .hidden")
    refused = files.request("DELETE", url(any_vmid, "/root/d"))
    assert (refused.status, refused.code, refused.json()["file_type"]) == (409, "file_type_refused", "directory")
    assert files.request("DELETE", url(any_vmid, "/root/d", recursive="true")).status == 204
    assert shell(any_vmid, "ls -d /root/d 2>/dev/null; cat /root/kept/file") == "1\n"
    gone = files.request("DELETE", url(any_vmid, "/root/d", recursive="true"))
    assert (gone.status, gone.code) == (404, "file_not_found")
    for path in ("/", "/root/.", "/root/..", "/root/"):
        assert files.request("DELETE", url(any_vmid, path, recursive="true")).status == 409
    assert shell(any_vmid, "cat /root/kept/file") == "1\n"


def test_what_the_kernel_makes_up(files: Api) -> None:
    """Files of /proc and /sys, whose size says nothing, come whole; so does a sparse file, holes as zeros."""
    shown = files.get(url(101, "/proc/1/status"))
    assert shown.status == 200 and b"\nPid:\t1\n" in shown.body
    assert files.get(url(101, "/proc/self/comm")).status == 200
    assert files.get(url(101, "/sys/kernel/mm/transparent_hugepage/enabled")).body.strip()
    shell(101, "rm -f /root/sparse; dd if=/dev/zero of=/root/sparse bs=1 count=1 seek=4194303 2>/dev/null")
    assert files.get(url(101, "/root/sparse")).body == bytes(4 << 20)


def test_records(files: Api, gateway: Gateway) -> None:
    """Each operation is announced with its path before, and followed by bytes and digest; no record has content."""
    secret = "content-4711-of-the-file"
    put(files, 101, "/root/recorded", secret.encode(), mode="600")
    files.get(url(101, "/root/recorded"))
    files.request("DELETE", url(101, b"/root/recorded"))
    until(lambda: len(_outcomes(gateway)) == 3)
    sha256 = hashlib.sha256(secret.encode()).hexdigest()
    wrote, read, removed = _outcomes(gateway)
    assert wrote == {"reason": "ok", "bytes": len(secret), "sha256": sha256, "created": True}
    assert read == {"reason": "ok", "bytes": len(secret), "sha256": sha256}
    assert removed == {"reason": "ok"}
    assert secret not in gateway.audit_log.read_text()
    asked = [record["action"] for record in gateway.records() if _is_of(record)]
    assert asked == ["file:write", "file:read", "file:write"]


def _is_of(record: dict[str, Any]) -> bool:
    return (record.get("data") or {}).get("path") == "/root/recorded"


def _outcomes(gateway: Gateway) -> list[dict[str, Any]]:
    ids = [record["audit_id"] for record in gateway.records() if _is_of(record)]
    return [record["data"] for record in gateway.records(event="file:outcome") if record["audit_id"] in ids]


def test_who_may_not(gateway: Gateway, files: Api) -> None:
    """A token that reads writes nothing; one for another guest sees none; exec:run alone reads no file."""
    put(files, 101, "/root/granted", b"mine")
    reader = gateway.api(gateway.token("reader", actions="file:read", guests="101"))
    assert reader.get(url(101, "/root/granted")).body == b"mine"
    assert put(reader, 101, "/root/granted", b"other").status == 403
    assert reader.request("DELETE", url(101, "/root/granted")).status == 403
    assert reader.get(url(104, "/root/granted")).code == "guest_not_found"
    runner = gateway.api()
    assert runner.get(url(101, "/root/granted")).status == 403
    assert json.loads(files.get(url(101, "relative")).body)["errors"][0]["path"] == "path"
    for api in (reader, runner):
        api.close()
