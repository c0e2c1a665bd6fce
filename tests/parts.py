"""Runs the suite as several pytest processes side by side, each in a node of its own. `python -m tests.parts [ARGS]`

Most of it waits: for commands in guests, for tasks of PVE, for time limits. More of them than processors are sooner
done. The first part's output is shown as it comes, that of the others when all have ended; the last line counts for
all. Arguments go to each; with a path in them there is one process.

Very few that fail are run once more, by themselves: of ten thousand tests of real processes on a machine that is busy
with three of them at once, one in some runs looks at a wrong moment. Both results are shown, and such a test is a
defect to be mended all the same.
"""

from __future__ import annotations

import json
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
    "guests": (
        "tests/cluster",
        "tests/devices",
        "tests/files",
        "tests/guests",
        "tests/pve",
        "tests/pvesim",
        "tests/pvex",
    ),
}
"""Directories of the parts but the last, which has the rest."""
_SOME_FAILED, _NOTHING_CHOSEN = 1, 5  # pytest's exit codes
_MOST_AGAIN = 3
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
        if codes <= {_SOME_FAILED, _NOTHING_CHOSEN} and _passes_alone(directory, counts):
            codes.discard(_SOME_FAILED)
    seconds = time.monotonic() - began
    summary = ", ".join(f"{count} {word}" for word, count in counts.items()) or "no tests ran"
    print(f"{f' {summary} in {seconds:.2f}s ({int(seconds // 60)} min {seconds % 60:.0f} s) ':=^80}", flush=True)
    return max(codes - {_NOTHING_CHOSEN}, default=0 if counts["passed"] else _NOTHING_CHOSEN)


def _passes_alone(directory: str, counts: Counter[str]) -> bool:
    """Runs what has failed once more, if that is very little, and counts it anew."""
    failed = [test for told in Path(directory).glob("c-*/v/cache/lastfailed") for test in json.loads(told.read_text())]
    if not failed or len(failed) > _MOST_AGAIN or len(failed) != counts["failed"] + counts["error"]:
        return False
    print("\n".join(["", "Failed beside others, now alone:", *failed]), flush=True)
    code, _ = _run_shown(_pytest("alone", failed, directory))
    if code:
        return False
    counts["passed"] += len(failed)
    counts["passed alone only"] = len(failed)
    del counts["failed"], counts["error"]
    return True


def _pytest(name: str, arguments: Iterable[str], directory: str) -> list[str]:
    """The command for it in a node of its own, so that no part sees processes, sockets or mounts of another, nor what
    another keeps in `directory`."""
    node = ["-m", "tests.pvesim", "run", "--state", f".test/{name}", "--guests", "test", "--"]
    own = [f"--basetemp={directory}/t-{name}", "-o", f"cache_dir={directory}/c-{name}"]
    return [sys.executable, *node, sys.executable, "-m", "pytest", *own, *arguments]


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
