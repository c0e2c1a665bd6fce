"""The become plugin: another user of the guest by the gateway itself, which needs no sudo or su there."""

from __future__ import annotations

DOCUMENTATION = r"""
name: user
short_description: Run as another user of the container, by the gateway
author: the authors of pve-exec-gateway
version_added: 0.1.0
description:
  - The gateway starts the command as that user, with his groups. The container needs neither C(sudo) nor C(su), and no
    password is asked for; whom a token may become is in its grant (C(users)).
  - For P(pve_exec.gateway.exec#connection) alone.
options:
  become_user:
    description: User you 'become' to execute the task.
    type: str
    default: root
    ini:
      - section: privilege_escalation
        key: become_user
    vars:
      - name: ansible_become_user
    env:
      - name: ANSIBLE_BECOME_USER
    keyword:
      - name: become_user
"""

from typing import Any

from ansible.plugins.become import BecomeBase


class BecomeModule(BecomeBase):
    """Marks the command; the connection takes the mark away. Where it does not, the shell finds no such program."""

    name = "pve_exec.gateway.user"

    def build_become_command(self, cmd: str, shell: Any) -> str:
        super().build_become_command(cmd, shell)
        return self._mark() + cmd if cmd else cmd

    def take_user(self, cmd: str) -> tuple[str, str] | None:
        """Who is to run the command, and the command without the mark; None for one that has none, which stays the
        login user's."""
        mark = self._mark()
        return (self.get_option("become_user"), cmd.replace(mark, "", 1)) if mark in cmd else None

    def _mark(self) -> str:
        """Nothing that a shell's quotes would change; the id is new with each command, and nobody's guess."""
        return f"{self.name}-needs-the-connection-pve_exec.gateway.exec {self._id} "
