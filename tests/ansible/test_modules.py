"""Ansible's own modules in a Debian guest: twenty tasks over one connection, as root, as others, with and without
pipelining."""

from __future__ import annotations

import os
import random
from typing import Any

from tests.ansible.conftest import DEBIAN, PASSWORD
from tests.ansible.plays import Plays, looked_at
from tests.conftest import needs_debian
from tests.exec.gateways import Gateway
from tests.pvex.proxy import Proxy

pytestmark = needs_debian
HOST = {"guest": {"ansible_pve_exec_vmid": DEBIAN}}
PLACE = "/tmp/ansible test"
EVERYDAY: list[dict[str, Any]] = [
    {"name": "ping", "ping": {}},
    {"name": "setup", "setup": {"gather_subset": ["!all", "distribution"]}},
    {"name": "directory", "file": {"path": PLACE, "state": "directory", "mode": "1777"}},
    {"name": "command", "command": {"argv": ["sh", "-c", "echo out; echo err >&2; exit 7"]}, "failed_when": False},
    {"name": "shell", "shell": "printf '%s' \"$0\" ünïcödé | cat"},
    {"name": "text", "copy": {"content": "line 1\n", "dest": f"{PLACE}/text"}},
    {"name": "empty", "copy": {"src": "empty", "dest": f"{PLACE}/empty"}},
    {"name": "binary", "copy": {"src": "binary", "dest": f"{PLACE}/bi nary"}},
    {"name": "unchanged", "copy": {"src": "binary", "dest": f"{PLACE}/bi nary"}},
    {"name": "template", "template": {"src": "template.j2", "dest": f"{PLACE}/template"}},
    {"name": "line", "lineinfile": {"path": f"{PLACE}/text", "line": "line 2"}},
    {"name": "mode", "file": {"path": f"{PLACE}/text", "mode": "0600", "owner": "www-data"}},
    {"name": "stat", "stat": {"path": f"{PLACE}/bi nary"}},
    {"name": "fetch", "fetch": {"src": f"{PLACE}/bi nary", "dest": "fetched/", "flat": True}},
    {"name": "fetch empty", "fetch": {"src": f"{PLACE}/empty", "dest": "fetched/", "flat": True}},
    {"name": "fetch nothing", "fetch": {"src": f"{PLACE}/none", "dest": "fetched/"}, "ignore_errors": True},
    {"name": "bytes", "raw": "printf 'a\\377b\\000c'"},
    {
        "name": "natively",
        "command": "id",
        "become": True,
        "become_user": "www-data",
        "become_method": "pve_exec.gateway.user",
    },
    {"name": "loop", "command": "echo {{ item }}", "loop": [1, 2]},
    {"name": "later", "command": "sleep 0.2", "async": 20, "poll": 1},
    {"name": "remove", "file": {"path": PLACE, "state": "absent"}},
]


def test_everyday_tasks(plays: Plays, gateway: Gateway) -> None:
    """More than twenty of them over one connection; files arrive whole in both directions, exit codes and streams as
    they are, and the token is in nothing that -vvvv prints, nor in what any process is given where all may see it."""
    data = random.Random(6).randbytes(300_000)
    (plays.directory / "empty").touch()
    (plays.directory / "binary").write_bytes(data)
    (plays.directory / "template.j2").write_text("{{ ansible_facts.distribution }} {{ inventory_hostname }}\n")
    with Proxy(gateway.services.port, iter(())) as proxy, looked_at() as seen:
        done = plays.play(EVERYDAY, HOST, "-vvvv", ansible_pve_exec_url=proxy.url)
        plays.end_keepers()
    assert done.exit_code == 0, done.printed[-4000:]
    assert [one["task"] for one in done.results] == [task["name"] for task in EVERYDAY]
    assert proxy.connections == 1
    command = done.of("command")
    assert (command["rc"], command["stdout"], command["stderr"]) == (7, "out", "err")
    assert done.of("shell")["stdout"].endswith("ünïcödé")
    assert not done.of("unchanged")["changed"] and done.of("line")["changed"]
    assert done.of("stat")["stat"]["size"] == len(data)
    assert (plays.directory / "fetched/bi nary").read_bytes() == data
    assert (plays.directory / "fetched/empty").read_bytes() == b""
    assert done.of("fetch nothing")["outcome"] == "failed"
    assert done.of("bytes")["stdout"].encode(errors="surrogateescape") == b"a\xffb\x00c"
    assert done.of("natively")["stdout"].startswith("uid=33(www-data)") and "(video)" in done.of("natively")["stdout"]
    assert plays.token not in done.printed
    for one in (f"HOME={plays.directory}", f"{plays.keepers}/pveg-"):
        assert any(os.fsencode(one) in text for text in seen), "Ansible and the keeper of its connection were looked at"
    assert not [text for text in seen if plays.token.encode() in text]


def test_without_pipelining(plays: Plays, login: str) -> None:
    """As a user who is not root: his files are his, sudo and su ask him for his password, and get it; a wrong one, or
    none, is a failed task that says so. No connection is kept where none is wanted."""
    sudo = {"become": True, "become_method": "sudo"}
    su = {"become": True, "become_method": "su", "become_user": login}
    tasks: list[dict[str, Any]] = [
        {"name": "who", "command": "id -un"},
        {"name": "copy", "copy": {"src": "mine", "dest": "/tmp/ansible-mine"}},
        {"name": "owner", "command": "stat -c %U /tmp/ansible-mine"},
        {"name": "sudo", "command": "id -un", **sudo},
        {"name": "su", "raw": "id -un; cat", **su},
        {"name": "wrong", "command": "id", **sudo, "vars": {"ansible_become_password": "wrong"}},
        {"name": "missing", "command": "id", **sudo, "vars": {"ansible_become_password": ""}},
        {"name": "clean", "command": "rm /tmp/ansible-mine", **sudo},
    ]
    for task in tasks:
        task["ignore_errors"] = True
    (plays.directory / "mine").write_text("mine")
    done = plays.play(
        tasks,
        HOST,
        environment={"ANSIBLE_BECOME_ALLOW_SAME_USER": "1"},
        ansible_user=login,
        ansible_become_password=PASSWORD,
        ansible_pipelining=False,
        ansible_pve_exec_persist=0,
    )
    assert [one["outcome"] for one in done.results] == ["ok"] * 5 + ["failed"] * 2 + ["ok"], done.printed[-4000:]
    assert done.of("who")["stdout"] == login
    assert done.of("owner")["stdout"] == login
    assert done.of("sudo")["stdout"] == "root"
    assert done.of("su")["stdout"].split() == [login]
    assert "Incorrect sudo password" in done.of("wrong")["msg"]
    assert "Missing sudo password" in done.of("missing")["msg"]
    assert not plays.find_keepers()
