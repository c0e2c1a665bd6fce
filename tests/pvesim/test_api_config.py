"""Changes of a configuration: digest, pending changes, both kinds of locks, and what waits for whom."""

from __future__ import annotations

import fcntl
import time
from pathlib import Path

import pytest

from tests.exec.waiting import until
from tests.pvesim import pmxcfs
from tests.pvesim.api import config_text
from tests.pvesim.api.client import Pve
from tests.pvesim.api.process import Api
from tests.pvesim.conftest import LXC, MakeContainer
from tests.pvesim.test_node import inside_a_node

CHANGED = "detected modified configuration - file changed by other user? Try again."
FILE = """\
#a %3A description
#ä
arch: amd64
hostname: web
lxc.cap.drop: sys_admin
mp0: local:1/vm-1-disk-0.raw,mp=/x

[pve:pending]
delete: tty
memory: 256

[before]
#taken
hostname: old
snaptime: 1
"""


def test_files_are_read_and_written_as_pve_does() -> None:
    """Description, raw keys, pending changes and snapshots survive a round."""
    read = config_text.parse(FILE)
    assert read.values["description"] == "a : description\nä\n"
    assert read.raw == [("lxc.cap.drop", "sys_admin")]
    assert read.pending_delete == ["tty"] and read.pending["memory"] == "256"
    assert read.snapshots["before"] == {"description": "taken\n", "hostname": "old", "snaptime": "1"}
    again = config_text.parse(config_text.print_config(read))
    assert (again.values, again.pending, again.snapshots, again.raw) == (
        read.values, read.pending, read.snapshots, read.raw)  # fmt: skip


@inside_a_node
def test_stopped_takes_all_at_once(pve: Pve, container: MakeContainer) -> None:
    """Null and no task; numbers come back as numbers, tags sorted, the description with its newline."""
    path = f"{LXC}/{container()}/config"
    assert pve.do("PUT", path, memory=100, tags="b;A", description="one\ntwo: 1", onboot=1) is None
    shown = pve.do("GET", path)
    assert (shown["memory"], shown["onboot"], shown["tags"]) == (100, 1, "a;b")
    assert shown["description"] == "one\ntwo: 1\n"
    assert "pending" not in (pmxcfs.ROOT / f"lxc/{path.split('/')[4]}.conf").read_text()


@inside_a_node
def test_running_keeps_some_for_later(pve: Pve, container: MakeContainer) -> None:
    """What cannot be hot-plugged waits: `config` shows it, `config?current=1` does not, a start applies it."""
    vmid = container(start=1, cmode="shell")
    path = f"{LXC}/{vmid}"
    until(lambda: pve.do("GET", f"{path}/status/current")["status"] == "running")
    pve.do("PUT", f"{path}/config", tty=3, memory=100, tags="x", delete="cmode")
    assert pve.do("GET", f"{path}/config")["tty"] == 3
    assert "tty" not in pve.do("GET", f"{path}/config", current=1)
    assert pve.do("GET", f"{path}/config", current=1)["memory"] == 100
    told = {entry["key"]: entry for entry in pve.do("GET", f"{path}/pending")}
    assert told["tty"] == {"key": "tty", "pending": 3} and told["cmode"] == {
        "key": "cmode",
        "value": "shell",
        "delete": 1,
    }
    pve.do("PUT", f"{path}/config", revert="cmode")
    pve.run("POST", f"{path}/status/stop")
    assert "tty" not in pve.do("GET", f"{path}/config", current=1)
    pve.run("POST", f"{path}/status/start")
    assert pve.do("GET", f"{path}/config", current=1)["tty"] == 3
    assert pve.do("GET", f"{path}/config", current=1)["cmode"] == "shell"


@inside_a_node
def test_digest(pve: Pve, container: MakeContainer) -> None:
    """Of two changes with the same digest one comes through; the other is a 500 that asks to try again."""
    path = f"{LXC}/{container()}/config"
    digest = pve.do("GET", path)["digest"]
    pve.do("PUT", path, cores=2, digest=digest)
    reply = pve.ask("PUT", path, cores=1, digest=digest)
    assert (reply.status, reply.reason) == (500, CHANGED)
    assert pve.do("GET", path)["cores"] == 2


@inside_a_node
@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({}, 500, "no options specified"),
        ({"delete": "memory"}, 500, "unable to delete required option 'memory'"),
        ({"delete": "bogus"}, 400, "unknown option 'bogus'"),
        ({"delete": "tags", "tags": "x"}, 400, "you can't use '-tags' and '-delete tags' at the same time"),
        ({"mp0": "nowhere:1,mp=/x"}, 500, "storage 'nowhere' does not exist"),
    ],
)
def test_changes_that_cannot_be(
    pve: Pve, container: MakeContainer, change: dict[str, str], status: int, words: str
) -> None:
    """Refused as a whole."""
    path = f"{LXC}/{container()}/config"
    before = pve.do("GET", path)
    reply = pve.ask("PUT", path, **change)
    assert (reply.status, words) == (status, reply.errors.get("delete") or reply.reason)
    assert pve.do("GET", path) == before


@inside_a_node
def test_lock_in_the_configuration(pve: Pve, root: Pve, container: MakeContainer) -> None:
    """A change is a 500, a start is accepted and fails in its task, and root passes with `skiplock`."""
    vmid = container()
    path = f"{LXC}/{vmid}"
    file = pmxcfs.ROOT / f"lxc/{vmid}.conf"
    pmxcfs.write(file, file.read_text() + "lock: backup\n")
    for method, where in (("PUT", f"{path}/config"), ("DELETE", path), ("POST", f"{path}/clone")):
        given = {"PUT": {"cores": 1}, "POST": {"newid": 7094}}.get(method, {})
        reply = pve.ask(method, where, **given)
        assert (reply.status, reply.reason) == (500, "CT is locked (backup)")
    assert pve.fail("POST", f"{path}/status/start") == "CT is locked (backup)"
    assert pve.do("GET", f"{path}/status/current")["lock"] == "backup"
    root.run("POST", f"{path}/status/start", skiplock=1)


@inside_a_node
def test_lock_of_the_node(pve: Pve, container: MakeContainer) -> None:
    """Whoever holds the flock makes a change wait, ten seconds in PVE; then it is a 500."""
    vmid = container()
    name = f"/run/lock/lxc/pve-config-{vmid}.lock"
    with Path(name).open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        begun = time.monotonic()
        reply = pve.ask("PUT", f"{LXC}/{vmid}/config", cores=2)
        assert (reply.status, reply.reason) == (500, f"can't lock file '{name}' - got timeout")
        assert time.monotonic() - begun >= 1
    pve.do("PUT", f"{LXC}/{vmid}/config", cores=2)


@inside_a_node
def test_change_without_an_answer_is_applied(sound: Api, pve: Pve, container: MakeContainer) -> None:
    """Why a lost answer proves nothing: the request is carried out, and nobody was told."""
    path = f"{LXC}/{container()}/config"
    sound.faults.add("drop", path, method="PUT", times=1)
    with pytest.raises(OSError):
        pve.ask("PUT", path, cores=3)
    assert pve.do("GET", path)["cores"] == 3
