"""Files of virtual machines by their guest agents: the same requests, the same answers, what cannot be refused by name.

Commands of a simulated machine are processes of the node, so that its files are the node's.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import os
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.files.machine import MAX_WRITE
from tests.exec import faults
from tests.exec.api import Answer, Api
from tests.exec.gateways import Gateway
from tests.exec.test_hostile_guests import reloading
from tests.exec.waiting import until
from tests.files.paths import ACTIONS, url
from tests.files.test_ends import read_reply
from tests.files.test_files import DATA, digest
from tests.files.test_hostile_guests import begin_put
from tests.pvesim.api import machines
from tests.pvesim.api.machines import Machine
from tests.pvesim.api.process import running_api, write_token

VMID = 341


@pytest.fixture(scope="module")
def gateway(make_gateway: Callable[..., Gateway], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that reaches agents by the simulated PVE API."""
    token_file = tmp_path_factory.mktemp("token") / "pve.token"
    write_token(token_file)
    with running_api() as pve:
        yield make_gateway(
            pve={"api": pve.url, "agent_token_file": str(token_file)},
            exec={"max_running_per_guest": 2, "queue_timeout": 1},
        )


@pytest.fixture(scope="module")
def made(node: None) -> Iterator[Machine]:
    machine = machines.create(VMID)
    yield machine
    machine.destroy()


@pytest.fixture
def machine(made: Machine) -> Iterator[Machine]:
    with machines.at_its_best(made):
        yield made


@pytest.fixture
def place(machine: Machine, tmp_path: Path) -> Path:
    """A directory of the machine's."""
    return tmp_path


def put(files: Api, path: Path | bytes, data: bytes, *, headers: Any = None, **query: Any) -> Answer:
    return files.request("PUT", url(VMID, os.fsencode(path), **query), raw=data, headers=headers)


def get(files: Api, path: Path | bytes, **headers: str) -> Answer:
    return files.get(url(VMID, os.fsencode(path)), headers=headers)


# ---- it works


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, (1 << 20) + 70_001])
def test_what_is_written_is_read(files: Api, place: Path, size: int) -> None:
    """Bytes of any number come back as they went, and the machine sees root's file of mode 0644."""
    path, data = place / "file", DATA[:size]
    written = put(files, path, data, headers={"Content-Digest": digest(data)})
    assert written.status == 201, written.body
    told = written.json()
    assert (told["sha256"], told["size"], told["created"]) == (hashlib.sha256(data).hexdigest(), size, True)
    assert (path.read_bytes() == data, path.stat().st_mode & 0o7777, path.stat().st_uid) == (True, 0o644, 0)
    answer = get(files, path)
    assert (answer.status, answer.body == data) == (200, True)
    assert (answer.headers["X-File-Mode"], answer.headers["X-File-User"]) == ("0644", "root")
    assert answer.headers["Content-Digest"] == (digest(data) if size <= 1 << 20 else None)
    assert answer.headers["ETag"] == written.headers["ETag"]
    assert os.listdir(place) == ["file"]


def test_head_and_ranges(files: Api, place: Path) -> None:
    """HEAD has GET's headers; a part is 206 with exactly its bytes, of another version than If-Range's all comes."""
    path, data = place / "range", DATA[:1_300_000]
    path.write_bytes(data)
    head = files.request("HEAD", url(VMID, str(path)))
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", str(len(data)))
    for asked, start, end in (("0-0", 0, 1), ("10-1200009", 10, 1_200_010), ("-7", len(data) - 7, len(data))):
        part = get(files, path, Range=f"bytes={asked}")
        assert (part.status, part.body == data[start:end]) == (206, True)
        assert part.headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(data)}"
    assert get(files, path, Range=f"bytes={len(data)}-").code == "range_not_satisfiable"
    tag = {"Range": "bytes=2-3", "If-Range": head.headers["ETag"]}
    assert get(files, path, **tag).body == data[2:4]
    assert put(files, path, b"abcdef").status == 200
    assert (get(files, path, **tag).status, get(files, path, **tag).body) == (200, b"abcdef")


def test_owner_and_mode_are_the_machines(files: Api, place: Path) -> None:
    """Names and numbers mean what they mean in the machine; what is not given stays as it was."""
    path = place / "owned"
    made = put(files, path, b"1", mode="4750", user="daemon", group="1235").json()
    assert (made["mode"], made["uid"], made["gid"], made["user"], made["group"]) == ("4750", 1, 1235, "daemon", None)
    assert put(files, path, b"22").json()["created"] is False
    assert (path.stat().st_mode & 0o7777, path.stat().st_uid, path.stat().st_gid) == (0o4750, 1, 1235)
    put(files, path, b"333", user="7", mode="600")
    answer = get(files, path)
    assert [answer.headers[f"X-File-{name}"] for name in ("Uid", "Gid", "Mode")] == ["7", "1235", "0600"]
    assert put(files, path, b"4", user="nobody-here").json()["errors"][0]["code"] == "unknown_user"
    assert path.read_bytes() == b"333"


def test_only_if_nothing_is_there_and_only_what_was_promised(files: Api, place: Path) -> None:
    """`If-None-Match: *` replaces nothing, nor does a body that is not what Content-Digest says; nothing is left."""
    path = place / "once"
    once = {"If-None-Match": "*"}
    assert put(files, path, b"first", headers=once).status == 201
    assert put(files, path, b"second", headers=once).code == "precondition_failed"
    assert put(files, path, b"third", headers={"Content-Digest": digest(b"other")}).code == "digest_mismatch"
    until(lambda: os.listdir(place) == ["once"], why="what was not finished is removed")
    assert path.read_bytes() == b"first"


@pytest.mark.parametrize("name", [b"new\nline\n", b"sp ace+&=%$(id)`", b"\xff\xfe", b"-rf", b"quote'\"\\", b"a" * 255])
def test_any_name(files: Api, place: Path, name: bytes) -> None:
    """A name of any bytes can be written, listed exactly, read, and removed."""
    path = os.fsencode(place) + b"/" + name
    assert put(files, path, b"x" + name).status == 201
    assert os.listdir(os.fsencode(place)) == [name]
    listed = get(files, place).json()["entries"][0]
    told = listed["name"].encode() if listed["encoding"] == "utf-8" else base64.b64decode(listed["name"])
    assert (told, listed["size"], listed["type"]) == (name, len(name) + 1, "file")
    assert get(files, path).body == b"x" + name
    assert files.request("DELETE", url(VMID, path)).status == 204
    assert get(files, place).json() == {"entries": [], "next": None}


def test_a_directory_comes_in_pages(files: Api, place: Path) -> None:
    """Pages hold every entry once, in the order of the names' bytes, with what stands there, links as such."""
    for number in range(250):
        (place / f"n{number}").write_bytes(b"x" * number)
    (place / "sub").mkdir()
    (place / "link").symlink_to("n1")
    os.mkfifo(place / "fifo")
    seen: list[dict[str, Any]] = []
    after: str | None = ""
    while after is not None:
        page = files.get(url(VMID, str(place), limit=100, after=after)).json()
        assert len(page["entries"]) <= 100
        seen, after = seen + page["entries"], page["next"]
    names = [entry["name"] for entry in seen]
    assert names == sorted(names) and len(names) == 253
    by_name = {entry["name"]: entry for entry in seen}
    assert [by_name[name]["type"] for name in ("sub", "link", "fifo", "n1")] == ["directory", "link", "fifo", "file"]
    assert (by_name["link"]["target"], by_name["n17"]["size"], by_name["n17"]["user"]) == ("n1", 17, "root")
    assert files.request("HEAD", url(VMID, str(place))).headers["X-File-Type"] == "directory"


def test_links(files: Api, place: Path) -> None:
    """A write replaces what a link leads to, a delete the link; one that leads to nothing is not written through."""
    (place / "real").mkdir()
    (place / "real/file").write_bytes(b"one")
    (place / "near").symlink_to("real/file")
    (place / "far").symlink_to(place / "near")
    (place / "dangling").symlink_to("real/none")
    (place / "round").symlink_to("round")
    assert get(files, place / "far").body == b"one"
    assert put(files, place / "far", b"two").status == 200
    assert ((place / "real/file").read_bytes(), (place / "far").is_symlink()) == (b"two", True)
    refused = put(files, place / "dangling", b"three")
    assert (refused.status, refused.code, refused.json()["unsupported"]) == (422, "driver_unsupported", ["link"])
    assert put(files, place / "round", b"").json()["errno"] == get(files, place / "round").json()["errno"] == "ELOOP"
    assert files.request("DELETE", url(VMID, str(place / "far"))).status == 204
    assert sorted(os.listdir(place)) == ["dangling", "near", "real", "round"]
    assert os.listdir(place / "real") == ["file"]


def test_what_the_kernel_makes_up(files: Api, machine: Machine) -> None:
    """Files of /proc, whose size says nothing, come whole, and are refused by name where they are too large."""
    assert b"\nPid:\t1\n" in files.get(url(VMID, "/proc/1/status")).body
    modules = Path("/proc/kallsyms").read_bytes()
    answer = files.get(url(VMID, "/proc/kallsyms"))
    if len(modules) < 512 << 10:
        assert answer.body == modules
    else:
        assert (answer.status, answer.json()["unsupported"]) == (422, ["size"])


# ---- what cannot be done is refused by name, and nothing is touched


def test_refusals_name_the_reason(files: Api, place: Path, gateway: Gateway) -> None:
    """Archives both ways, directories to be removed and large files are 422 `driver_unsupported`, with the reason."""
    path = place / "file"
    path.write_bytes(b"old")
    tar = {"Content-Type": "application/x-tar"}
    (place / "dir").mkdir()
    asked = {
        "tar": [get(files, place, Accept="application/x-tar"), put(files, place, bytes(1024), headers=tar)],
        "recursive": [files.request("DELETE", url(VMID, str(place / "dir"), recursive="true"))],
    }
    for word, answers in asked.items():
        for answer in answers:
            assert (answer.status, answer.code) == (422, "driver_unsupported"), answer.body
            assert answer.json()["unsupported"] == [word]
    with contextlib.closing(begin_put(files, VMID, str(path), MAX_WRITE + 1)) as sock:
        reply = sock.recv(65536)
    assert reply.startswith(b"HTTP/1.1 422 ") and b'"unsupported":["size"]' in reply
    assert sorted(os.listdir(place)) == ["dir", "file"] and path.read_bytes() == b"old"
    said = until(lambda: gateway.records(event="file:outcome"))[-1]["data"]
    assert (said["reason"], said["code"]) == ("failed", "driver_unsupported")


def test_no_record_nothing_done(files: Api, place: Path, gateway: Gateway) -> None:
    """C4: while the audit log takes nothing, nothing is read, written or removed: 503; it recovers."""
    path = place / "file"
    path.write_bytes(b"old")
    with faults.stopped(gateway, Path()):
        for answer in (get(files, path), put(files, path, b"new"), files.request("DELETE", url(VMID, str(path)))):
            assert (answer.status, answer.code) == (503, "audit_unavailable")
    assert path.read_bytes() == b"old" and os.listdir(place) == ["file"]
    until(lambda: put(files, path, b"new").status == 200, why="it recovers")


def test_what_stands_there_is_refused_as_in_containers(files: Api, place: Path) -> None:
    """FIFOs, devices and directories are refused by their type, what is not there is 404, what is no way ENOTDIR."""
    os.mkfifo(place / "fifo")
    (place / "link").symlink_to("fifo")
    (place / "file").write_bytes(b"old")
    kinds: dict[Path, str] = {place / "fifo": "fifo", place / "link": "fifo", Path("/dev/null"): "character-device"}
    for path, kind in kinds.items():
        for answer in (get(files, path), put(files, path, b"x")):
            assert (answer.status, answer.code, answer.json()["file_type"]) == (409, "file_type_refused", kind)
    for more in (b"", b"/", b"/none/", b"/."):
        assert put(files, os.fsencode(place) + more, b"x").json()["file_type"] == "directory"
    assert files.request("DELETE", url(VMID, str(place))).json()["file_type"] == "directory"
    for path in (place / "none", place / "none/x"):
        assert get(files, path).code == files.request("DELETE", url(VMID, str(path))).code == "file_not_found"
    assert put(files, place / "none/x", b"x").code == "file_not_found"
    assert (
        put(files, place / "file/x", b"x").json()["errno"] == get(files, place / "file/x").json()["errno"] == "ENOTDIR"
    )
    assert put(files, Path("/proc/sys/none"), b"x").code == "file_refused"
    assert sorted(os.listdir(place)) == ["fifo", "file", "link"]


def test_grants(gateway: Gateway, place: Path) -> None:
    """To read is not to write, and a machine outside of the grant is one that does not exist."""
    (place / "file").write_bytes(b"old")
    reader = gateway.api(gateway.token("reader", actions="file:read", guests=str(VMID)))
    other = gateway.api(gateway.token("other", actions=ACTIONS, guests="900"))
    try:
        assert get(reader, place / "file").body == b"old"
        assert put(reader, place / "file", b"new").status == 403
        hidden, absent = get(other, place / "file"), other.get(url(999, str(place / "file")))
        assert (hidden.status, hidden.code) == (absent.status, absent.code) == (404, "guest_not_found")
    finally:
        reader.close()
        other.close()
    assert (place / "file").read_bytes() == b"old"


def test_the_log_has_path_size_and_digest(files: Api, place: Path, gateway: Gateway) -> None:
    """A record for each, with its outcome; what was in the file stands nowhere in the log."""
    path, secret = place / "secret", b"canary-in-a-machine" * 4000
    put(files, path, secret)
    get(files, path)
    for event in ("file:write", "file:read"):
        told = outcome(gateway, path, event)
        assert (told["reason"], told["bytes"]) == ("ok", len(secret))
        assert told["sha256"] == hashlib.sha256(secret).hexdigest()
    assert "canary-in-a-machine" not in gateway.audit_log.read_text()


# ---- machines and agents that are not well


def test_no_machine_and_no_agent(files: Api, machine: Machine, place: Path) -> None:
    """A machine that does not run and an agent that is away or forbids commands are 409 at once, by name."""
    path = place / "file"
    machine.set_quirks(away=True)
    assert put(files, path, b"x").code == get(files, path).code == "guest_agent_unavailable"
    machine.set_quirks()
    machine.stop()
    assert get(files, path).code == "guest_not_running"
    machine.start()
    assert put(files, path, b"x").status == 201


def test_a_machine_without_programs(files: Api, machine: Machine, place: Path) -> None:
    """Where the commands that it takes are missing, or do something else, it is refused by name."""
    for says in ({"exitcode": 127}, {"exitcode": 1, "out-data": ""}):
        machine.set_quirks(says=says)
        refused = get(files, place)
        assert (refused.status, refused.json()["unsupported"]) == (422, ["programs"])


def test_a_full_disk(files: Api, place: Path) -> None:
    """What does not fit is 507, the old file stays whole, and the disk is as empty as it was."""
    tiny = place / "tiny"
    tiny.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", tiny], check=True)
    try:
        assert put(files, tiny / "file", b"old").status == 201
        refused = put(files, tiny / "file", DATA[: 300 << 10])
        assert (refused.status, refused.code, refused.json()["errno"]) == (507, "guest_disk_full", "ENOSPC")
        until(lambda: os.listdir(tiny) == ["file"], why="nothing is left")
        assert (tiny / "file").read_bytes() == b"old"
        assert put(files, tiny / "file", DATA[: 200 << 10]).status == 200
    finally:
        subprocess.run(["umount", tiny], check=True)


SIZE = 1 << 20
HALF = SIZE // 2


@pytest.fixture
def upload(files: Api, place: Path) -> Iterator[ssl.SSLSocket]:
    """An upload half of which is on its way; before it stood `old` there."""
    (place / "file").write_bytes(b"old")
    with contextlib.closing(begin_put(files, VMID, str(place / "file"), SIZE)) as sock:
        sock.sendall(DATA[:HALF])
        until(lambda: growing(place), why="the upload is under way")
        yield sock


def growing(place: Path) -> list[Path]:
    """The new files that have content by now."""
    return [file for file in place.glob(".pveg-*/new") if file.stat().st_size]


def notes(gateway: Gateway) -> list[Path]:
    """What is remembered of uploads that are not finished."""
    return sorted((gateway.spool / "uploads").glob("fs_*"))


def is_old(place: Path) -> bool:
    """Waits until nothing is left of an upload; whether the old file stands there."""
    until(lambda: os.listdir(place) == ["file"], why="nothing is left of it")
    return (place / "file").read_bytes() == b"old"


def outcome(gateway: Gateway, path: Path, event: str = "file:write") -> dict[str, Any]:
    """What is recorded of the last such operation on a path, waited for."""
    asked = [one for one in gateway.records(event=event) if one["data"]["path"] == str(path)][-1]
    (ended,) = until(lambda: gateway.records(event="file:outcome", audit_id=asked["audit_id"]), within=20)
    told: dict[str, Any] = ended["data"]
    return told


def test_a_client_that_leaves(place: Path, gateway: Gateway, upload: ssl.SSLSocket) -> None:
    """A cut upload changes nothing and leaves nothing, and the record says who left."""
    upload.close()
    assert is_old(place)
    assert outcome(gateway, place / "file")["reason"] in ("client_gone", "failed")


def test_commands_go_on_beside_an_upload(files: Api, upload: ssl.SSLSocket, place: Path) -> None:
    """An upload takes one place of its machine and no more: a command runs in the other; with both taken it waits."""
    assert files.run(VMID, ["echo", "x"])["stdout"] == "x\n"
    with contextlib.closing(begin_put(files, VMID, str(place / "file"), SIZE)) as sock:
        sock.sendall(DATA[:HALF])
        until(lambda: len(growing(place)) == 2)
        assert get(files, place / "file").code == "too_many_execs"
    upload.sendall(DATA[HALF:SIZE])
    assert read_reply(upload).startswith(b"HTTP/1.1 200 ")
    assert (place / "file").read_bytes() == DATA[:SIZE]


def test_an_agent_that_is_started_anew(place: Path, machine: Machine, gateway: Gateway, upload: ssl.SSLSocket) -> None:
    """An agent that forgets its commands now and then ends the upload by name, or is not noticed between two."""
    machine.restart_agent()
    upload.sendall(DATA[HALF:SIZE])
    reply = read_reply(upload)
    if reply.startswith(b"HTTP/1.1 200 "):
        until(lambda: os.listdir(place) == ["file"])
        assert (place / "file").read_bytes() == DATA[:SIZE]
    else:
        assert b'"guest_agent_unavailable"' in reply
        assert is_old(place) and outcome(gateway, place / "file")["reason"] == "failed"


def test_an_agent_that_goes_silent(place: Path, machine: Machine, gateway: Gateway, upload: ssl.SSLSocket) -> None:
    """An agent that does a thing and does not say so ends the upload: nobody takes a piece for written, or twice."""
    machine.set_quirks(mute=["guest-exec"])
    upload.sendall(DATA[HALF:SIZE])
    assert b'"guest_agent_unavailable"' in read_reply(upload)
    assert (place / "file").read_bytes() == b"old"
    assert outcome(gateway, place / "file")["reason"] == "failed"


def test_a_machine_that_stops(place: Path, machine: Machine, gateway: Gateway, upload: ssl.SSLSocket) -> None:
    """The upload fails, its place comes free, and the old file is there when the machine is back."""
    machine.stop()
    with contextlib.suppress(OSError):
        upload.sendall(DATA[HALF:SIZE])
    assert read_reply(upload).startswith(b"HTTP/1.1 50")
    assert outcome(gateway, place / "file")["reason"] == "failed"
    assert (place / "file").read_bytes() == b"old"


def test_an_answer_to_the_last_step_that_does_not_come(
    place: Path, machine: Machine, gateway: Gateway, upload: ssl.SSLSocket
) -> None:
    """The agent puts the file in its place, and its answer is lost: the record claims neither that nor the contrary."""
    machine.set_quirks(mute=["guest-exec"], where="mv -fT")
    upload.sendall(DATA[HALF:SIZE])
    assert b'"guest_agent_unavailable"' in read_reply(upload)
    until(lambda: (place / "file").read_bytes() == DATA[:SIZE])
    assert outcome(gateway, place / "file")["reason"] == "unknown"


def test_a_reload_is_not_noticed(files: Api, gateway: Gateway, place: Path, upload: ssl.SSLSocket) -> None:
    """An upload and a download that are under way when the supervisor becomes a new image end as if it had not."""
    (place / "long").write_bytes(DATA)
    connection = files.connect()
    connection.request("GET", url(VMID, str(place / "long")), headers={"Authorization": f"Bearer {files.token}"})
    reply = connection.getresponse()
    first = reply.read(1000)
    with reloading(gateway, files):
        upload.sendall(DATA[HALF : HALF + 100_000])
    upload.sendall(DATA[HALF + 100_000 : SIZE])
    assert first + reply.read() == DATA
    connection.close()
    assert read_reply(upload).startswith(b"HTTP/1.1 200 ")
    assert (place / "file").read_bytes() == DATA[:SIZE]
    assert outcome(gateway, place / "file")["bytes"] == SIZE
    until(lambda: sorted(os.listdir(place)) == ["file", "long"])


def test_a_killed_supervisor(files: Api, gateway: Gateway, place: Path, upload: ssl.SSLSocket) -> None:
    """After SIGKILL to the supervisor the old file stays, and the log says `unknown`. The next one removes what was
    left of the upload, and nothing that looks like it."""
    gateway.services.kill("supervisor")
    anothers = place / ".pveg-0123456789abcdef"
    anothers.mkdir(mode=0o700)
    (anothers / "new").write_bytes(b"x")
    gateway.services.restart("supervisor")
    with contextlib.suppress(OSError):
        upload.sendall(DATA[HALF:SIZE])
    assert read_reply(upload).startswith(b"HTTP/1.1 50")
    assert (place / "file").read_bytes() == b"old"
    assert outcome(gateway, place / "file")["reason"] == "unknown"
    until(lambda: growing(place) == [anothers / "new"], why="what it had begun is removed")
    until(lambda: not notes(gateway), why="and forgotten")
    assert put(files, place / "file", b"new").status == 200
    assert sorted(os.listdir(place)) == [anothers.name, "file"]


@pytest.mark.parametrize("change", ["moved", "linked", "opened", "named"])
def test_what_a_killed_supervisor_left_may_be_anothers_by_now(
    files: Api, gateway: Gateway, place: Path, upload: ssl.SSLSocket, change: str
) -> None:
    """What is not where it was, not as it was, or not of our name is left alone, and not asked for again."""
    (new,) = growing(place)
    (note,) = notes(gateway)
    gateway.services.kill("supervisor")
    if change in ("moved", "linked"):
        moved = new.parent.rename(place / "elsewhere")
        if change == "linked":
            new.parent.symlink_to(moved)
        new = moved / "new"
    elif change == "opened":
        new.parent.chmod(0o755)
    else:
        moved = new.parent.rename(place / "named")
        told = json.loads(note.read_text())
        note.write_text(json.dumps({**told, "directory": base64.b64encode(os.fsencode(moved)).decode()}))
        new = moved / "new"
    gateway.services.restart("supervisor")
    until(lambda: not notes(gateway), why="it is forgotten")
    assert new.exists()


def test_notes_that_are_none(gateway: Gateway, files: Api, machine: Machine, place: Path) -> None:
    """What is damaged, or too old, is forgotten; one of a machine that does not run is kept."""
    gateway.services.kill("supervisor")
    directory = gateway.spool / "uploads"
    directory.mkdir(exist_ok=True)
    where = base64.b64encode(b"/root/.pveg-0123456789abcdef").decode()
    good = json.dumps({"vmid": 349, "inode": "1 2", "directory": where})
    texts = {"fs_a": "", "fs_b": "[1]", "fs_c": '{"vmid": "x"}', "fs_old": good, "fs_off": good}
    for name, text in texts.items():
        (directory / f"{name}.json").write_text(text)
    os.utime(directory / "fs_old.json", (0, 0))
    gateway.services.restart("supervisor")
    until(lambda: [path.stem for path in notes(gateway)] == ["fs_off"])
    (directory / "fs_off.json").unlink()


def test_a_file_that_is_replaced_while_it_is_read(files: Api, place: Path) -> None:
    """A reply never has bytes of two files: it is cut. What grows is read as far as it was long."""
    path = place / "moving"
    path.write_bytes(DATA)
    connection = files.connect()
    connection.request("GET", url(VMID, str(path)), headers={"Authorization": f"Bearer {files.token}"})
    reply = connection.getresponse()
    first = reply.read(1000)
    (place / "other").write_bytes(bytes(len(DATA)))
    (place / "other").rename(path)
    with pytest.raises(http.client.IncompleteRead) as cut:
        reply.read()
    got = first + cut.value.partial
    assert DATA.startswith(got) and len(got) < len(DATA)
    connection.close()
