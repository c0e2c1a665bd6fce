"""Ansible by `pct exec` over ssh to the node: as community.proxmox's proxmox_pct_remote does, but by OpenSSH with
ControlPersist and with pipelining, which makes it faster than that.

The variables ssh_pct_command (ssh with its options, and the node) and ssh_pct_tool (pct) say how.
"""

from __future__ import annotations

DOCUMENTATION = r"""
name: ssh_pct
short_description: pct exec over ssh
description: for a benchmark
author: the authors of pve-exec-gateway
options:
  command:
    description: The way to the node.
    type: list
    elements: str
    vars:
      - name: ssh_pct_command
  tool:
    description: Where pct is on the node.
    vars:
      - name: ssh_pct_tool
  vmid:
    description: The container.
    vars:
      - name: ansible_pve_exec_vmid
  pipelining:
    description: Modules on standard input.
    type: boolean
    default: false
    vars:
      - name: ansible_pipelining
"""

import shlex
import subprocess
from typing import BinaryIO

from ansible.plugins.connection import ConnectionBase


class Connection(ConnectionBase):
    transport = "ssh_pct"
    has_pipelining = True

    def _connect(self) -> Connection:
        self._connected = True
        return self

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        done = subprocess.run(self._command(cmd), input=in_data or b"", capture_output=True, check=False)
        return done.returncode, done.stdout, done.stderr

    def put_file(self, in_path: str, out_path: str) -> None:
        super().put_file(in_path, out_path)
        with open(in_path, "rb") as source:
            subprocess.run(self._command(f"cat > {shlex.quote(out_path)}"), stdin=source, check=True)

    def fetch_file(self, in_path: str, out_path: str) -> None:
        super().fetch_file(in_path, out_path)
        target: BinaryIO
        with open(out_path, "wb") as target:
            command = self._command(f"cat {shlex.quote(in_path)}")
            subprocess.run(command, stdin=subprocess.DEVNULL, stdout=target, check=True)

    def close(self) -> None:
        self._connected = False

    def _command(self, script: str) -> list[str]:
        remote = [self.get_option("tool"), "exec", str(self.get_option("vmid")), "--", "/bin/sh", "-c", script]
        return [*self.get_option("command"), shlex.join(remote)]
