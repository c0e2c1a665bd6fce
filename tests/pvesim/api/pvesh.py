"""The node's `pvesh`: the API as root@pam, in this process, with its tasks in the foreground (PVE/CLI/pvesh.pm).

    pvesh get|create|set|delete PATH [--KEY VALUE]... [--output-format json]

Answers go to stdout, a task's log before them; what fails goes to stderr, with exit code 255 for a refusal and 2 for
a status that is none. As the real one it waits for the task that it starts, and a null result prints nothing.
"""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

from tests.pvesim.api import routes, settings
from tests.pvesim.api.call import ROOT_USER, Listed
from tests.pvesim.api.failure import Failure
from tests.pvesim.services import REPOSITORY

_METHODS = {"get": "GET", "create": "POST", "set": "PUT", "delete": "DELETE"}


def install(home: Path) -> None:
    """Write the program of the API whose directory is `home`."""
    program = home / "bin/pvesh"
    program.parent.mkdir(parents=True)
    words = [sys.executable, "-m", "tests.pvesim.api.pvesh", str(home)]
    where = f"PYTHONPATH={shlex.quote(str(REPOSITORY))}"
    program.write_text(f'#!/bin/sh\nexec env {where} {shlex.join(words)} "$@"\n')
    program.chmod(0o755)


def main(home: Path, arguments: list[str]) -> int:
    sim = settings.load(home)
    if not sim.faults.has_pmxcfs():
        refused = "ipcc_send_rec[1] failed: Connection refused\n" * 3
        print(f"{refused}Unable to load access control list: Connection refused", file=sys.stderr)
        return 111
    try:
        method, path, given = _parse(arguments)
        data = routes.call(sim, ROOT_USER, method, path, given, is_cli=True)
    except UsageError as error:
        print(error, file=sys.stderr)
        return 255
    except Failure as failure:
        print(str(failure).rstrip(), file=sys.stderr)
        return 255 if failure.status < 500 else 2
    if isinstance(data, Listed):
        data = data.data
    if data is not None:
        print(json.dumps(data))
    return 0


class UsageError(Exception):
    """The command line is none of pvesh's."""


def _parse(arguments: list[str]) -> tuple[str, str, dict[str, Any]]:
    if arguments[:1] == ["--noproxy"]:  # in front only
        arguments = arguments[1:]
    if len(arguments) < 2 or arguments[0] not in _METHODS:
        raise UsageError(f"ERROR: unknown command 'pvesh {' '.join(arguments[:1])}'")
    verb, path, *rest = arguments
    given: dict[str, Any] = {}
    while rest:
        name = rest.pop(0)
        if not name.startswith("-"):
            raise UsageError(f"400 too many arguments\n{name}")
        key, equals, value = name.lstrip("-").partition("=")
        if not equals:
            value = rest.pop(0) if rest and not rest[0].startswith("--") else "1"
        if key in given:
            old = given[key]
            given[key] = [*(old if isinstance(old, list) else [old]), value]
        else:
            given[key] = value
    for option in ("output-format", "human-readable", "noborder", "noheader", "quiet"):
        given.pop(option, None)
    return _METHODS[verb], "/" + path.strip("/"), given


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
