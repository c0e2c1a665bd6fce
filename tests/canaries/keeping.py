"""Acts of who makes tokens, and of who writes files."""

from __future__ import annotations

import contextlib
import io
import tarfile

from tests.canaries.acting import MACHINE, TOLD, Acts
from tests.canaries.words import Sink


def make_tokens(act: Acts) -> None:
    """Tokens themselves, which stand in one reply each, and the names of such as are not made."""
    grant = {"actions": ["exec:run"], "guests": "101"}
    wish = {
        "name": act.put("createToken", "the name of a token", *TOLD, Sink.PRINTED),
        "grants": [grant],
        "expires": "1h",
    }
    made = act.ask("createToken", "POST", "/tokens", wish)
    assert made.status == 201, made.body
    act.canaries.watch(made.json()["token"], "a token that was made", Sink.REPLY)
    act.token_ids.append(made.json()["id"])
    act.ask("createToken", "POST", "/tokens", {**wish, "name": act.put("createToken", "a name that is none") + "\n"})
    path = f"/tokens/{made.json()['id']}"
    rotated = act.ask("rotateToken", "POST", f"{path}/rotate", {"overlap": "1m"})
    act.canaries.watch(rotated.json()["token"], "a token that was rotated", Sink.REPLY)
    with contextlib.closing(act.connect(made.json()["token"])) as api:
        act.hear("runExec", api.post(101, {"command": ["true"]}))
        act.hear("runExec", api.post(104, {"command": ["true"]}))
        act.hear("listTokens", api.get("/tokens"))


def write_files(act: Acts) -> None:
    """Contents, whole and refused, of files and of archives; names stand in the log."""
    name = "writeFile"
    for vmid in (101, 104, MACHINE):
        place = "/tmp" if vmid == MACHINE else "/root"
        path = f"/guests/{vmid}/files?path={place}/{act.put(name, 'the name of a file', *TOLD, Sink.ARGV)}"
        content = act.put(name, "the content of a file", Sink.REPLY)
        written = act.ask(name, "PUT", path, raw=content.encode() * 99)
        assert written.status == 201, written.body
        act.ask("readFile", "GET", path)
        wrong = {"Content-Digest": "sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:"}
        act.ask(name, "PUT", path, raw=act.put(name, "content that is not as it says").encode(), headers=wrong)
        act.ask(name, "PUT", f"{path}/below", raw=act.put(name, "content for no place").encode())
        act.ask("deleteFile", "DELETE", path)
    tar = {"Content-Type": "application/x-tar"}
    for carrier, prefix in (("an archive", "."), ("an archive that is refused", "..")):
        data = _archive(f"{prefix}/{act.put(name, f'a name in {carrier}', *TOLD)}", act.put(name, carrier, Sink.REPLY))
        act.ask(name, "PUT", "/guests/101/files?path=/root", raw=data, headers=tar)
    act.ask(name, "PUT", "/guests/101/files?path=/root", raw=act.put(name, "no archive").encode(), headers=tar)


def _archive(name: str, content: str) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content.encode()))
    return made.getvalue()
