"""The programs that use the generated clients: how each language checks and builds them, and how they are started."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
SOURCES = Path(__file__).parent
GENERATED = REPOSITORY / "build/clients"

Start = Callable[[str], list[str]]
"""The command that starts the program of a name."""


def build_python(into: Path) -> Start:
    """mypy, strict, of the programs; of the client it reads the types. Its cache goes to `into`."""
    python = GENERATED / ".venv/bin/python"
    strict = ("--config-file=", "--strict", "--follow-imports=silent", f"--cache-dir={into}")
    _run([str(python), "-m", "mypy", *strict, str(SOURCES / "python")], MYPYPATH=str(GENERATED / "python"))
    path = f"PYTHONPATH={GENERATED / 'python'}"
    return lambda program: ["env", path, "PYTHONDONTWRITEBYTECODE=1", str(python), f"{SOURCES}/python/{program}.py"]


def build_typescript(into: Path) -> Start:
    """tsc, strict, beside the generated types: where somebody's own programs would stand."""
    project = GENERATED / "typescript"
    shutil.copytree(SOURCES / "typescript", project, dirs_exist_ok=True)
    compiler = project / "node_modules/typescript/bin/tsc"
    _run(["node", str(compiler), "-p", str(project), "--outDir", str(project / "dist")])
    return lambda program: ["node", str(project / f"dist/{program}.js")]


def build_go(into: Path) -> Start:
    """gofmt, go vet and go build, with the standard library alone: nothing can be fetched."""
    source = SOURCES / "go"
    assert _run(["gofmt", "-l", str(source)]) == ""
    own = {"GOFLAGS": "-mod=mod", "GOPROXY": "off", "GOTOOLCHAIN": "local", "GOCACHE": str(GENERATED / ".go-cache")}
    _run(["go", "vet", "./...", "pveexec"], cwd=source, **own)
    _run(["go", "build", "-o", f"{into}/", "./..."], cwd=source, **own)
    return lambda program: [str(into / program)]


BUILDS: dict[str, Callable[[Path], Start]] = {"python": build_python, "typescript": build_typescript, "go": build_go}
"""By language. Each fails with what the compiler says."""


def _run(command: Sequence[str], cwd: Path = REPOSITORY, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-5000:]}{done.stderr[-5000:]}"
    return done.stdout
