"""`python -m tests.debian [--keep DIRECTORY]`: builds the package, installs it, tries it; what it proves it prints."""

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.debian import machine, package, roots
from tests.pvesim import cgroup, debian, linux

FAILURES = (
    package.PackageError,
    machine.MachineError,
    debian.TemplateError,
    cgroup.CgroupError,
    subprocess.TimeoutExpired,
    OSError,
)
_NODE_SECONDS = 150
_TRIAL_SECONDS = 900
_AUTOPKGTEST = (
    *("autopkgtest", "--no-built-binaries", "--ignore-restrictions=isolation-container,breaks-testbed"),
    *(f"--env=PVEG_PACKAGES={machine.PRODUCTS}", "--timeout-test=400"),
)


def main() -> int:
    """0 when all holds; 1 when something does not; 2 where it cannot be tried."""
    parser = argparse.ArgumentParser(prog="python -m tests.debian", description="Prove the Debian package.")
    parser.add_argument("--keep", type=Path, metavar="DIRECTORY", help="leave the packages there")
    parser.add_argument("--packages", type=Path, metavar="DIRECTORY", help="try what --keep left there, and build none")
    parser.add_argument("--only", metavar="TRIAL", help="run this of the package's tests alone")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("tests.debian: must run as root: it mounts, and boots a container", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing is left then either
    linux.unshare(linux.CLONE_NEWNS)
    linux.mount("none", "/", "", flags=linux.MS_REC | linux.MS_PRIVATE)
    try:
        with tempfile.TemporaryDirectory(prefix="pveg-debian-") as state:
            _prove(Path(state), options.packages, options.keep, options.only)
    except FAILURES as error:
        print(f"tests.debian: {error}", file=sys.stderr)
        return 1
    return 0


def _prove(state: Path, built: Path | None, keep: Path | None, only: str | None) -> None:
    source, products = state / "source", state / "packages"
    package.copy_source(source)
    if built:
        shutil.copytree(built, products)
    else:
        with contextlib.ExitStack() as held:
            with _told("the build's root file system"):
                root = held.enter_context(roots.mounted(roots.BUILD, state / "build"))
            with _told("built twice, the same bytes, lintian clean; the previous state built"):
                package.build(root, source, products)
    if keep:
        shutil.copytree(products, keep, dirs_exist_ok=True)
    binds = {machine.SOURCE: source, machine.PRODUCTS: products}
    name = f"pveg-debian-{os.getpid()}"
    with contextlib.ExitStack() as held:
        with _told("a Debian 13, booted; a node with its guests"):
            root = held.enter_context(roots.mounted(roots.NODE, state / "node"))
            node = held.enter_context(machine.booted(root, name, binds))
            node.run("python3", "-m", "tests.debian.node", timeout=_NODE_SECONDS)
        with _told("the package's tests, by autopkgtest"):
            fresh = [f"{machine.PRODUCTS}/{path.name}" for path in products.glob("*.deb")]
            chosen = [f"--test-name={only}"] if only else []
            command = (*_AUTOPKGTEST, *chosen, *sorted(fresh), machine.SOURCE, "--", "null")
            print("\n".join(_told_by_tests(node.run(*command, timeout=_TRIAL_SECONDS))), flush=True)


def _told_by_tests(said: str) -> Iterator[str]:
    """What autopkgtest's output holds of the tests themselves, and their results."""
    inside = False
    for line in said.splitlines():
        if line.endswith(" summary"):
            return
        if line.startswith("autopkgtest ["):
            inside = line.endswith("[-----------------------")
        elif inside or re.match(r"\S+ +(PASS|FAIL|SKIP)\b", line):
            yield line


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    print(f"debian: {what}: {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
