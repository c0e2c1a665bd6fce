"""Plays: ansible-playbook as a process, with the collection as it would be installed, and what each task came to."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.exec.gateways import Gateway
from tests.exec.waiting import until
from tests.pvesim.services import REPOSITORY

COLLECTION = REPOSITORY / "packaging/ansible"
PROGRAMS = Path(sys.executable).parent
"""Where ansible-playbook and its like are: beside the Python that runs the tests."""
_CALLBACKS = Path(__file__).parent / "callbacks"
_NUMBERS = itertools.count(1)
_LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class Played:
    """One run of ansible-playbook: what it printed, and the tasks' results in their order."""

    exit_code: int
    printed: str
    results: list[dict[str, Any]]

    def of(self, task: str, host: str = "guest") -> dict[str, Any]:
        """The result of the task with that name."""
        found = [one for one in self.results if (one["task"], one["host"]) == (task, host)]
        assert len(found) == 1, (task, self.printed[-4000:])
        return found[0]


@dataclass(frozen=True)
class Plays:
    """Plays with a token, in a directory of their own. `persist`: seconds that connections are kept."""

    gateway: Gateway
    directory: Path
    token: str = field(repr=False)

    def environment(self) -> dict[str, str]:
        """Nothing of ours but the path: which gateway and CA, where the collection is, where its keepers live."""
        return {
            "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
            "HOME": str(self.directory),
            "LC_ALL": "C.UTF-8",
            "GATEWAY_URL": self.gateway.services.url,
            "GATEWAY_CA": str(self.gateway.services.ca),
            "ANSIBLE_COLLECTIONS_PATH": str(self.directory / "collections"),
            "ANSIBLE_CALLBACK_PLUGINS": str(_CALLBACKS),
            "ANSIBLE_CALLBACKS_ENABLED": "results",
            "ANSIBLE_PERSISTENT_CONTROL_PATH_DIR": str(self.keepers),
            "ANSIBLE_DEPRECATION_WARNINGS": "0",
            "ANSIBLE_NOCOLOR": "1",
        }

    @property
    def keepers(self) -> Path:
        return self.directory / "k"

    def play(
        self,
        tasks: list[dict[str, Any]],
        hosts: dict[str, dict[str, Any]],
        *options: str,
        environment: dict[str, str] | None = None,
        **variables: Any,
    ) -> Played:
        """Runs the tasks in `hosts`, each given with its variables; `variables` are those of all of them. The token is
        where a vault would put it, unless `ansible_pve_exec_token` is among them."""
        shared = {
            "ansible_connection": "pve_exec.gateway.exec",
            "ansible_python_interpreter": "/usr/bin/python3",
            "ansible_pve_exec_token": self.token,
            **variables,
        }
        number = next(_NUMBERS)
        inventory, book, results = (self.directory / f"{number}-{name}" for name in ("i.yml", "play.yml", "results"))
        inventory.write_text(yaml.safe_dump({"all": {"hosts": hosts, "vars": shared}}))
        book.write_text(yaml.safe_dump([{"hosts": "all", "gather_facts": False, "tasks": tasks}]))
        done = self.run(
            "ansible-playbook",
            *("-i", str(inventory), str(book), *options),
            environment={"PLAY_RESULTS": str(results), **(environment or {})},
        )
        lines = results.read_text().splitlines() if results.exists() else []
        return Played(done.returncode, done.stdout, [json.loads(line) for line in lines])

    def run(self, program: str, *arguments: str, environment: dict[str, str] | None = None) -> Any:
        """Any of Ansible's programs, to its end; stdout has stderr, too."""
        return subprocess.run(
            [str(PROGRAMS / program), *arguments],
            env={**self.environment(), **(environment or {})},
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )

    def end_keepers(self) -> None:
        """None is left."""
        for one in self.keepers.glob("pveg-*"):
            one.unlink(missing_ok=True)
        until(lambda: not self.find_keepers(), why="keepers end when their sockets are gone")

    def find_keepers(self) -> list[int]:
        """The processes that hold connections for these plays."""
        return [int(pid.name) for pid, words in _commands() if os.fsencode(f"{self.keepers}/pveg-") in words]


@contextmanager
def installed(gateway: Gateway, directory: Path, token: str) -> Iterator[Plays]:
    """Plays with the collection in its place."""
    place = directory / "collections/ansible_collections/pve_exec"
    place.mkdir(parents=True)
    (place / "gateway").symlink_to(COLLECTION)
    plays = Plays(gateway, directory, token)
    try:
        yield plays
    finally:
        plays.end_keepers()


@contextmanager
def looked_at() -> Iterator[set[bytes]]:
    """Meanwhile the argument list and environment of every process here, of guests too, as they are seen from time to
    time."""
    seen: set[bytes] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(_LOOK_SECONDS):
            for directory, words in _commands():
                with suppress(OSError):
                    seen.update((words, (directory / "environ").read_bytes()))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield seen
    finally:
        over.set()
        looking.join()


def _commands() -> Iterator[tuple[Path, bytes]]:
    """The processes of this node, each with its command line."""
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            yield directory, (directory / "cmdline").read_bytes()
        except OSError:
            continue
