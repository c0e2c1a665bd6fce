"""The story that examples are made of: every operation of the API, asked as somebody would who uses it.

An operation that is new here is recorded by `make examples`; without one, tests/api/test_openapi.py fails.
"""

from __future__ import annotations

import io
import tarfile
from typing import Any
from urllib.parse import quote

from tests.examples.recorder import TAR, Recorder, show_heard, show_input, show_said
from tests.exec.websocket import Closed, WebSocket
from tests.guests.made import TEMPLATE
from tests.pvesim.api.process import Api as PveProcess

FIRST, LAST = 7300, 7319
WEB, COPY, MACHINE = FIRST, FIRST + 1, FIRST + 10
NDJSON, SSE, BYTES = "application/x-ndjson", "text/event-stream", "application/octet-stream"


def tell(to: Recorder, pve: PveProcess) -> None:
    """All of it. It makes guests of FIRST to LAST and leaves some of them; MACHINE is there, and runs."""
    tell_of_making(to)
    exec_id = tell_of_commands(to)
    tell_of_running_execs(to)
    tell_of_terminals(to)
    tell_of_files(to)
    tell_of_guests(to)
    tell_of_power(to)
    tell_of_what_is_kept(to)
    tell_of_tasks(to, pve)
    tell_of_the_end(to)
    tell_of_tokens(to)
    tell_of_the_service(to, exec_id)


def tell_of_making(to: Recorder) -> None:
    """A guest, and a copy of it."""
    to.ask("GET", "/nextid", says="The lowest vmid of the grant that is free")
    wish = {
        "vmid": WEB, "template": TEMPLATE, "storage": "local-lvm", "disk": "1G", "name": "web", "memory": 256,
        "tags": ["prod", "web"], "notes": "the shop", "start": True,
    }  # fmt: skip
    to.ask("POST", "/guests?wait=60", wish, says="A container of a template, started", expect=201)
    again = {"vmid": WEB, "template": TEMPLATE}
    to.ask("POST", "/guests?wait=60", again, name="taken", says="The vmid is somebody's", expect=409)


def tell_of_commands(to: Recorder) -> str:
    """Commands whose result is waited for, streamed, or fetched; the id of the last."""
    run, base = f"/exec/{WEB}", {"command": ["uname", "-s"]}
    to.ask("POST", run, base, says="An argument list: no shell reads it")
    shell = {"command": "echo $GREETING; ls /nowhere", "env": {"GREETING": "hello"}, "timeout": 30}
    to.ask(
        "POST", run, shell, name="shell", says="A string is run by /bin/sh; a command that fails is no failed request"
    )
    missing = {"command": ["/no/such/program"]}
    to.ask("POST", run, missing, name="not_spawned", says="It never began: `spawn_error` tells why")
    stream = {"Accept": NDJSON}
    to.ask(
        "POST",
        run,
        {"command": "echo one; echo two >&2"},
        name="ndjson",
        says="Its events as they come",
        headers=stream,
    )
    to.ask(
        "POST", run, {"command": "echo one"}, name="sse", says="The same for an EventSource", headers={"Accept": SSE}
    )
    detach = {"Prefer": "respond-async", "Idempotency-Key": "backup-2026-11-22"}
    job = {"command": "echo backup done; echo 3 files skipped >&2", "labels": {"job": "backup"}}
    begun = to.ask("POST", run, job, name="detached", says="Started; it runs on by itself", headers=detach, expect=202)
    to.ask("POST", run, {"command": []}, name="invalid", says="What is wrong, field by field", expect=422)
    to.ask("POST", "/exec/999999", base, name="no_guest", says="No such guest, or none of the token's", expect=404)
    exec_id: str = begun["id"]
    path = f"/execs/{exec_id}"
    to.ask("GET", f"{path}?wait=30", says="When it has ended, or after 30 s")
    to.ask("GET", "/execs?label=job%3Dbackup&limit=10", says="Those with a label")
    to.ask("GET", f"{path}/stdout", says="All of it")
    part = {"Range": "bytes=0-5"}
    to.ask("GET", f"{path}/stdout", name="range", says="A part of it", headers=part, expect=206)
    to.ask("GET", f"{path}/stderr", says="What it wrote there")
    to.ask(
        "GET", f"{path}/events", name="ndjson", says="What has happened, from the beginning", headers={"Accept": NDJSON}
    )
    to.ask("GET", f"{path}/events?from=7", name="sse", says="What came behind seq 7", headers={"Accept": SSE})
    to.ask("DELETE", path, name="ended", says="It has ended already", expect=409)
    nobody = "/execs/ex_00000000000000000000000000"
    to.ask("GET", nobody, name="no_exec", says="No such exec, or another token's", expect=404)
    return exec_id


def tell_of_running_execs(to: Recorder) -> None:
    """What is done to an exec while it runs."""
    detach = {"Prefer": "respond-async"}
    fed = {"command": ["cat"], "stdin_open": True}
    path = f"/execs/{_begin(to, fed, detach)}"
    raw = {"Content-Type": BYTES}
    to.ask("PUT", f"{path}/stdin?offset=0&eof=true", raw=b"some input\n", says="All of its input", headers=raw)
    screen = {"command": ["sleep", "600"], "tty": {"rows": 24, "cols": 80}}
    path = f"/execs/{_begin(to, screen, detach)}"
    to.ask("POST", f"{path}/resize", {"rows": 50, "cols": 132}, says="A larger window")
    to.ask("POST", f"{path}/signal", {"signal": "TERM", "to": "tree"}, says="SIGTERM to all of its processes")
    path = f"/execs/{_begin(to, {'command': ['sleep', '600']}, detach)}"
    to.ask("DELETE", f"{path}?wait=20", says="Ended, with everything that it started")


def tell_of_files(to: Recorder) -> None:
    """A file is written, read, listed and removed."""
    path = f"/guests/{WEB}/files?path=/srv/motd"
    raw = {"Content-Type": BYTES}
    text = b"come in, we are open\n"
    to.ask("PUT", f"{path}&mode=0640", raw=text, says="A new one, root's", headers=raw, expect=201)
    to.ask("PUT", path, raw=text, name="replaced", says="In place of another; its mode stays", headers=raw)
    to.ask("GET", path, says="All of it")
    to.ask("GET", path, name="range", says="A part of it", headers={"Range": "bytes=0-6"}, expect=206)
    to.ask("GET", f"/guests/{WEB}/files?path=/srv", name="directory", says="What is in a directory")
    tree, tar = f"/guests/{WEB}/files?path=/srv", {"Content-Type": TAR}
    says = "An archive; the file that is there stays"
    to.ask("PUT", f"{tree}&keep=motd", raw=_archive("motd", "site/index"), name="tree", says=says, headers=tar)
    climbs = _archive("../etc/passwd")
    to.ask("PUT", tree, raw=climbs, name="hostile", says="An entry leads out of it", headers=tar, expect=422)
    to.ask("GET", tree, name="tree", says="A directory as an archive", headers={"Accept": TAR})
    to.ask("DELETE", path, says="It is gone", expect=204)
    to.ask("GET", path, name="no_file", says="There is no such file", expect=404)


def _archive(*names: str) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in names:
            tar.addfile(tarfile.TarInfo(name))
    return made.getvalue()


def _begin(to: Recorder, spec: dict[str, Any], headers: dict[str, str]) -> str:
    answer = to.api.post(WEB, spec, headers=headers)
    assert answer.status == 202, answer.body
    exec_id: str = answer.json()["id"]
    return exec_id


def tell_of_terminals(to: Recorder) -> None:
    """A WebSocket that starts a command, another that follows it."""
    path = f"/exec/{WEB}/terminal"
    to.ask("POST", "/tickets", {"path": path}, says="For a browser, which can send no token with a WebSocket")
    start = {"command": ["head", "-n", "1"], "stdin_open": True}
    with WebSocket(to.api, path) as socket:
        socket.say("start", **start)
        messages = [show_said("start", **start), show_heard(started := socket.receive())]
        socket.send_input(0, b"hello\n")
        messages.append(show_input(0, b"hello\n"))
        messages += _hear_all(socket)
    to.note_messages(path, "A command that is given a line, and repeats it", messages)
    assert isinstance(started, dict)
    path = f"/execs/{started['exec']['id']}/attach?from=0"
    with WebSocket(to.api, path) as socket:
        messages = _hear_all(socket)
    to.note_messages(path, "What it wrote, once more", messages)


def _hear_all(socket: WebSocket) -> list[dict[str, Any]]:
    """What comes until the close, pieces of input acknowledged being one."""
    heard = []
    while not isinstance(message := socket.receive(), Closed):
        shown = show_heard(message)
        if not (isinstance(message, dict) and message["type"] == "ack"):
            heard.append(shown)
    return [*heard, show_heard(message)]


def tell_of_guests(to: Recorder) -> None:
    """The cluster, a guest in it, and what is changed of that."""
    to.ask("GET", "/nodes", says="One that is offline has no figures")
    to.ask("GET", "/storages?content=rootdir", says="Those that hold containers' volumes")
    to.ask("GET", "/pools", says="With the guests that the token may read")
    to.ask("GET", "/devices?kind=fuse", says="Those of one kind")  # which are alike on every machine, unlike others
    to.ask("GET", f"/devices/lookup?path=/dev/null&vmid={WEB}", says="With the line that gives it to a container")
    to.ask("GET", "/guests?tag=web", says="Those with a tag")
    path = f"/guests/{WEB}"
    guest = to.ask("GET", path, says="All that PVE knows of it")
    edit = {"memory": 384, "options": {"nameserver": "192.0.2.53"}, "delete": ["searchdomain"]}
    match = {"If-Match": f'"{guest["digest"]}"'}
    to.ask("PATCH", path, edit, says="The configuration that was read, changed", headers=match)
    stale = {"If-Match": f'"{"0" * 40}"'}
    to.ask("PATCH", path, edit, name="stale", says="It is another by now", headers=stale, expect=412)
    to.ask("GET", f"{path}/addresses", says="A guest without a network has none")
    to.ask("POST", f"{path}/resize?wait=60", {"disk": "rootfs", "size": "+1G"}, says="A gibibyte more")
    tell_of_gifts(to, path)


def tell_of_gifts(to: Recorder, path: str) -> None:
    """What of the node a container is given while it runs."""
    devices = f"{path}/devices"
    to.ask("POST", devices, {"path": "/dev/null"}, says="It is there, with these numbers")
    to.ask("POST", devices, {"path": "/dev/sda"}, name="refused", says="Node policy names no such device", expect=403)
    to.ask("GET", devices, says="One, and the guest shows it")
    to.ask("DELETE", f"{devices}?key=dev0", says="It has it until its next start")
    to.ask("POST", f"{path}/mounts", {"path": "/data", "size": "1G"}, says="A new volume, mounted")


def tell_of_power(to: Recorder) -> None:
    """Every switch once."""
    path = f"/guests/{WEB}"
    machine = f"/guests/{MACHINE}"
    to.ask("POST", f"{machine}/suspend?wait=60", says="Its processors are halted")
    to.ask("POST", f"{machine}/resume?wait=60", says="They go on")
    to.ask("POST", f"{path}/reboot?wait=60&timeout=20", says="With what was pending")
    to.ask("POST", f"{path}/shutdown?wait=60&timeout=20&force=true", says="It has 20 s to do so by itself")
    to.ask("POST", f"{path}/start?wait=60", says="PVE's task has ended well")
    to.ask("POST", f"{path}/start?wait=60", name="runs", says="It runs already", expect=409)
    to.ask("POST", f"{path}/stop?wait=60", says="At once")


def tell_of_what_is_kept(to: Recorder) -> None:
    """Snapshots, backups, templates, and copies."""
    path = f"/guests/{WEB}"
    taken = {"name": "before-upgrade", "description": "as it was"}
    to.ask("POST", f"{path}/snapshots?wait=60", taken, says="Before something is tried")
    to.ask("GET", f"{path}/snapshots", says="The oldest first")
    to.ask("POST", f"{path}/snapshots/before-upgrade/rollback?wait=60", says="All as it was")
    to.ask("DELETE", f"{path}/snapshots/before-upgrade?wait=60", says="It is not needed any more")
    kept = {"storage": "local", "mode": "stop", "notes": "{{guestname}}, weekly"}
    to.ask("POST", f"{path}/backups?wait=60", kept, says="To a storage that holds backups")
    (backup,) = to.ask("GET", f"{path}/backups", says="The newest first")["backups"]
    to.ask("DELETE", f"{path}/backups?wait=60&volume={quote(backup['volume'], safe='')}", says="By its name")
    to.ask("GET", "/templates", says="What is on the storages of this node")
    offered = "/templates?available=true&limit=1"
    to.ask("GET", offered, name="offered", says="What PVE's catalogue offers")
    download = {"storage": "shared", "template": "alpine-3.22-default_20250617_amd64.tar.xz"}
    to.ask("POST", "/templates?wait=60", download, says="One that the catalogue offers")
    copy = {"vmid": COPY, "name": "web-copy", "full": True, "storage": "local"}
    to.ask("POST", f"{path}/clone?wait=60", copy, says="A whole copy", expect=201)


def tell_of_tasks(to: Recorder, pve: PveProcess) -> None:
    """A task that runs is looked at and ended; one that has ended is read."""
    pve.faults.add("stall", "vzstart", seconds=60, times=1)
    started = to.ask("POST", f"/guests/{WEB}/start", name="begun", says="PVE has begun", expect=202)
    path = f"/tasks/{quote(started['upid'], safe='')}"
    to.ask("GET", path, name="running", says="It runs")
    to.ask("DELETE", f"{path}?wait=30", says="It has ended, unfinished")
    to.ask("GET", path, name="ok", says="How it ended")
    to.ask("GET", f"{path}/log?limit=10", says="From its first line")
    to.ask("GET", f"/tasks?vmid={WEB}&limit=2", says="Those about one guest")


def tell_of_the_end(to: Recorder) -> None:
    """Guests go to another node, become templates, and are destroyed."""
    path = f"/guests/{COPY}"
    to.ask("POST", f"{path}/migrate?wait=60", {"target": "pve2"}, says="It does not run, and moves as it is")
    to.ask("POST", f"/guests/{WEB}/template?wait=60", says="It is only cloned from now on")
    to.ask(
        "DELETE", f"/guests/{WEB}?wait=60", name="unconfirmed", says="What cannot be undone is named twice", expect=400
    )
    to.ask("DELETE", f"/guests/{WEB}?wait=60&confirm={WEB}", says="With its disks")


def tell_of_tokens(to: Recorder) -> None:
    """A token's life."""
    to.ask("GET", "/tokens/self", says="Pools stand as their guests")
    question = {"action": "exec:run", "vmid": WEB, "exec": {"command": ["systemctl", "restart", "nginx"]}}
    to.ask("POST", "/tokens/self/can", question, says="It may")
    grant = {
        "actions": ["exec:run"], "guests": f"{FIRST}-{FIRST + 9}", "users": ["www-data"],
        "commands": [["/usr/bin/systemctl", "restart", "nginx"]],
    }  # fmt: skip
    wish = {"name": "deploy", "grants": [grant], "expires": "1h", "networks": ["192.0.2.0/24"], "limits": {"rate": 10}}
    made = to.ask(
        "POST", "/tokens", wish, says="One command, by one user; `token` stands here and nowhere again", expect=201
    )
    more = {"name": "greedy", "grants": [{"actions": ["exec:run"], "guests": "all"}], "expires": "1h"}
    to.ask("POST", "/tokens", more, name="more", says="More than the caller's own grants", expect=403)
    path = f"/tokens/{made['id']}"
    to.ask("GET", "/tokens?name=deploy", says="By name")
    to.ask("GET", path, says="All but its secret")
    to.ask("PATCH", path, {"networks": [], "limits": {"rate": None}}, says="From anywhere; its rate is not limited")
    to.ask("POST", f"{path}/rotate", {"overlap": "10m"}, says="The old secret is good for another ten minutes")
    to.ask("POST", f"{path}/revoke", says="It is worth nothing from now on")
    to.ask("DELETE", path, says="Its last state")


def tell_of_the_service(to: Recorder, exec_id: str) -> None:
    """The audit log, and what monitors ask for."""
    to.ask("GET", f"/audit?exec_id={exec_id}", says="What one command was, and how it ended")
    to.ask("GET", "/audit/verify", says="As it was written")
    to.ask("GET", "/metrics", says="All that is counted")
    to.ask("GET", "/health/live", says="The web process answers")
    to.ask("GET", "/health/ready", says="Commands can run")
