"""What keeps Ansible from a guest: the host is unreachable, and one line says what to do."""

from __future__ import annotations

import socket
from typing import Any

from tests.ansible.plays import Plays

RAW: list[dict[str, Any]] = [{"name": "raw", "raw": "echo here"}]


def test_unreachable(plays: Plays) -> None:
    """Guest stopped, not there or nameless; token refused or not enough; gateway away or not trusted; no shell, no
    such user: each told in a line of its own, while a guest that is well is served. No token is shown."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = f"https://127.0.0.1:{taken.getsockname()[1]}"
    bare = plays.gateway.token("bare", actions="file:read")
    weak, away = {"ansible_pve_exec_token": bare}, {"ansible_pve_exec_url": nobody}
    hosts: dict[str, dict[str, Any]] = {
        "101": {},
        "103": {},
        "998": {},
        "web": {},
        "forged": {"ansible_host": 101, "ansible_pve_exec_token": plays.token[:-2] + "xx"},
        "broken": {"ansible_host": 101, "ansible_pve_exec_token": plays.token + "\n# two lines"},
        "weak": {"proxmox_vmid": 101, **weak},
        "away": {"ansible_pve_exec_vmid": 101, **away},
        "stranger": {"ansible_pve_exec_vmid": 101, "ansible_pve_exec_ca": "/etc/ssl/certs/ca-certificates.crt"},
        "none": {"ansible_pve_exec_vmid": 101, "ansible_pve_exec_ca": "/no/such.pem"},
        "plain": {"ansible_pve_exec_vmid": 101, "ansible_pve_exec_url": "http://pve1:39377"},
        "nobody": {"ansible_pve_exec_vmid": 101, "ansible_user": "no-such-user"},
        "shellless": {"ansible_pve_exec_vmid": 101, "ansible_executable": "/no/such/sh"},
    }
    told = {
        "103": "start the guest first [guest_not_running]",
        "998": "is ansible_pve_exec_vmid right, and in the token's grant? [guest_not_found]",
        "web": "'web' is no vmid: set ansible_pve_exec_vmid",
        "forged": "set a valid token: ansible_pve_exec_token",
        "broken": "the token is none",
        "weak": "needs a token with exec:run, file:read and file:write [forbidden]",
        "away": "is the gateway running, and ansible_pve_exec_url right?",
        "stranger": "give the cluster's /etc/pve/pve-root-ca.pem as ansible_pve_exec_ca",
        "none": "No such file or directory",
        "plain": "would send the token unencrypted: give https://",
        "nobody": "nothing could be run in guest 101",
        "shellless": "nothing could be run in guest 101",
    }
    done = plays.play(RAW, hosts, "-vvvv", "--forks", "4")
    assert done.of("raw", "101")["stdout"].strip() == "here", done.printed[-4000:]
    for host, words in told.items():
        result = done.of("raw", host)
        assert result["outcome"] == "unreachable", (host, result)
        assert words in result["msg"] and "\n" not in result["msg"].strip(), (host, result["msg"])
    for secret in (plays.token, bare):
        assert secret not in done.printed and secret[:-2] not in done.printed


def test_token_from_a_file(plays: Plays) -> None:
    """A token's file is read where nobody else can read it; else it is refused. The environment does as well."""
    good, open_to_all = plays.directory / "token", plays.directory / "token-for-all"
    for path, mode in ((good, 0o600), (open_to_all, 0o644)):
        path.write_text(plays.token + "\n")
        path.chmod(mode)
    hosts = {
        "file": {"ansible_pve_exec_token_file": str(good)},
        "open": {"ansible_pve_exec_token_file": str(open_to_all)},
        "neither": {},
    }
    done = plays.play(RAW, hosts, ansible_pve_exec_token="", ansible_pve_exec_vmid=101)
    assert done.of("raw", "file")["outcome"] == "ok", done.printed
    assert f"chmod 600 {open_to_all}" in done.of("raw", "open")["msg"]
    assert "no token: set" in done.of("raw", "neither")["msg"]
