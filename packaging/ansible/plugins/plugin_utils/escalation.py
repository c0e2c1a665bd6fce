"""What sudo, su and their like ask for before the command runs, and what they are answered."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.module_utils.common.text.converters import to_bytes

if TYPE_CHECKING:
    from ansible.plugins.become import BecomeBase

    from .running import Output


class Escalation:
    """The dialogue with a become plugin's program, which asks for a password. `seconds`: what it may take."""

    def __init__(self, become: BecomeBase, seconds: float) -> None:
        self._become = become
        self._seconds = seconds
        self._until = time.monotonic() + seconds
        self._asked = False
        self._over = False

    def is_over(self) -> bool:
        return self._over

    def answer(self, output: Output) -> bytes | None:
        """The password, when it is asked for. Raises AnsibleError for a wrong one, AnsibleConnectionFailure when
        nothing more happens."""
        if self._become.check_success(bytes(output.stdout)):
            self._over = True
            return None
        for stream in (output.stdout, output.stderr):
            said = bytes(stream)
            if not self._become.check_password_prompt(said):
                continue
            if self._asked or self._become.check_incorrect_password(said):
                raise AnsibleError(f"Incorrect {self._become.name} password")
            self._asked = True
            stream.clear()
            password: bytes = to_bytes(self._become.get_option("become_pass"), errors="surrogate_or_strict")
            return password + b"\n"
        if time.monotonic() > self._until:
            raise AnsibleConnectionFailure(f"{self._become.name} neither ran the command nor asked for a password")
        return None


def check_password(become: BecomeBase, output: Output) -> None:
    """Raises AnsibleError where the program has ended for want of the right password."""
    if become.check_success(bytes(output.stdout)):
        return
    said = bytes(output.stdout + output.stderr)
    if become.check_incorrect_password(said):
        raise AnsibleError(f"Incorrect {become.name} password")
    if become.check_missing_password(said):
        raise AnsibleError(f"Missing {become.name} password")
