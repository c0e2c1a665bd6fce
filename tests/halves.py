"""Runs the suite as two pytest processes side by side, each in a node of its own. `python -m tests.halves [ARGS]`

Most of the first waits (for commands in guests, for time limits), most of the second computes. What the second prints
is shown when both have ended; the last line counts for both. Arguments go to both; with a path in them there is one
process.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
WAITING = ("tests/chaos", "tests/conformance", "tests/exec", "tests/fuzz")
_NOTHING_CHOSEN = 5  # pytest's exit code
_COUNT = re.compile(r"(\d+) (passed|failed|errors?|skipped|xfailed|xpassed|warnings?|deselected)")


def main(arguments: list[str]) -> int:
    """The exit code of the half that failed, else 0; pytest's own where one process was enough."""
    if any(Path(argument.partition("::")[0]).exists() for argument in arguments):
        return subprocess.run(_pytest("node", *arguments), cwd=ROOT, check=False).returncode
    began = time.monotonic()
    rest = [f"--ignore={path}" for path in WAITING]
    with tempfile.TemporaryFile("w+") as printed:
        other = subprocess.Popen(
            _pytest("computing", *arguments, *rest),
            cwd=ROOT,
            stdout=printed,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
        try:
            first, said = _run_shown(_pytest("waiting", *arguments, *WAITING))
            second = other.wait()
        except BaseException:
            other.terminate()
            other.wait()
            raise
        printed.seek(0)
        lines = printed.read().splitlines()
    print("\n".join(["", "The tests that compute most:", *lines]))
    codes = {first, second} - {0}
    counts = _count(said) + _count(lines[-1] if lines else "")
    seconds = time.monotonic() - began
    summary = ", ".join(f"{count} {word}" for word, count in counts.items()) or "no tests ran"
    print(f"{f' {summary} in {seconds:.2f}s ({int(seconds // 60)} min {seconds % 60:.0f} s) ':=^80}", flush=True)
    return max(codes - {_NOTHING_CHOSEN}, default=0 if counts["passed"] else _NOTHING_CHOSEN)


def _pytest(node: str, *arguments: str) -> list[str]:
    """The command for it in a node of its own, so that no half sees processes, sockets or mounts of the other."""
    made = ["-m", "tests.pvesim", "run", "--state", f".test/{node}", "--guests", "test", "--"]
    return [sys.executable, *made, sys.executable, "-m", "pytest", *arguments]


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
