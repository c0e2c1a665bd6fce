"""Runs the suite as several pytest processes side by side, each in a node of its own. `python -m tests.parts [ARGS]`

Most of it waits: for commands in guests, for tasks of PVE, for time limits. More of them than processors are sooner
done. The first part's output is shown as it comes, that of the others when all have ended; the last line counts for
all. Arguments go to each; with a path in them there is one process.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[1]
PARTS = {
    "execs": ("tests/chaos", "tests/conformance", "tests/exec", "tests/fuzz"),
    "guests": ("tests/cluster", "tests/guests", "tests/pve", "tests/pvesim"),
}
"""Directories of the parts but the last, which has the rest."""
_NOTHING_CHOSEN = 5  # pytest's exit code
_COUNT = re.compile(r"(\d+) (passed|failed|errors?|skipped|xfailed|xpassed|warnings?|deselected)")


def main(arguments: list[str]) -> int:
    """The exit code of the part that failed, else 0; pytest's own where one process was enough."""
    if any(Path(argument.partition("::")[0]).exists() for argument in arguments):
        with tempfile.TemporaryDirectory() as directory:
            return subprocess.run(_pytest("node", arguments, directory), cwd=ROOT, check=False).returncode
    began = time.monotonic()
    rest = tuple(f"--ignore={path}" for paths in PARTS.values() for path in paths)
    first, *others = {**PARTS, "rest": rest}.items()
    with tempfile.TemporaryDirectory() as directory:
        printed = {name: Path(directory, name) for name, _ in others}
        running: list[subprocess.Popen[bytes]] = []
        try:
            for name, paths in others:
                with printed[name].open("wb") as file:
                    running.append(_start(_pytest(name, [*arguments, *paths], directory), file))
            code, last = _run_shown(_pytest(first[0], [*arguments, *first[1]], directory))
            codes = {code, *(process.wait() for process in running)} - {0}
        except BaseException:
            for process in running:
                process.terminate()
            for process in running:
                process.wait()
            raise
        counts = _count(last)
        for name, path in printed.items():
            lines = path.read_text(errors="replace").splitlines()
            print("\n".join(["", f"The part {name}:", *lines]))
            counts += _count(lines[-1] if lines else "")
    seconds = time.monotonic() - began
    summary = ", ".join(f"{count} {word}" for word, count in counts.items()) or "no tests ran"
    print(f"{f' {summary} in {seconds:.2f}s ({int(seconds // 60)} min {seconds % 60:.0f} s) ':=^80}", flush=True)
    return max(codes - {_NOTHING_CHOSEN}, default=0 if counts["passed"] else _NOTHING_CHOSEN)


def _pytest(name: str, arguments: Iterable[str], directory: str) -> list[str]:
    """The command for it in a node of its own, so that no part sees processes, sockets or mounts of another, nor what
    another keeps in `directory`."""
    node = ["-m", "tests.pvesim", "run", "--state", f".test/{name}", "--guests", "test", "--"]
    return [sys.executable, *node, sys.executable, "-m", "pytest", f"--basetemp={directory}/t-{name}", *arguments]


def _start(command: list[str], printed: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, cwd=ROOT, stdout=printed, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)


def _run_shown(command: list[str]) -> tuple[int, str]:
    """Runs it with its output shown as it comes; its exit code and last line."""
    last = ""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        assert process.stdout is not None
        try:
            while piece := process.stdout.read(1):
                sys.stdout.write(piece)
                sys.stdout.flush()
                last = "" if last.endswith("\n") else last
                last += piece
        except BaseException:
            process.terminate()
            raise
    return process.returncode, last


def _count(summary: str) -> Counter[str]:
    """What the last line of pytest's says, the failed first: `1 failed, 20 passed in 3.21s`."""
    found = {
        word.rstrip("s") if word.startswith("error") else word: int(count) for count, word in _COUNT.findall(summary)
    }
    return Counter(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
