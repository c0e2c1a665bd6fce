"""Fixtures of the collection: Ansible with a token for commands and files, and a user of a Debian guest."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ansible.plays import Plays, installed
from tests.exec.gateways import Gateway
from tests.exec.waiting import until
from tests.pvesim import guests

DEBIAN = 201
USER = "ansible-test"
PASSWORD = "4f9a-9c59"


@pytest.fixture(scope="session")
def plays(gateway: Gateway) -> Iterator[Plays]:
    """Ansible as a token that may run commands and copy files in every guest."""
    directory = Path(tempfile.mkdtemp(prefix="ansible-"))  # short: it has sockets
    token = gateway.token("ansible", actions="exec:run,file:read,file:write")
    try:
        with installed(gateway, directory, token) as made:
            yield made
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def login(node: None) -> Iterator[str]:
    """A user of the Debian guest whom sudo asks for his password."""
    guest = guests.get(DEBIAN)
    script = (
        f"useradd -m -s /bin/sh {USER} && echo '{USER}:{PASSWORD}' | chpasswd"
        f" && echo '{USER} ALL=(ALL) ALL' > /etc/sudoers.d/{USER}"
    )
    remove = ["sh", "-c", f"rm -f /etc/sudoers.d/{USER}; userdel -r {USER}"]
    made = guest.attach(["sh", "-c", script])
    assert made.returncode == 0, made.stderr
    try:
        yield USER
    finally:
        until(lambda: guest.attach(remove).returncode == 0, why="a sudo that was given up ends, and then its user goes")
