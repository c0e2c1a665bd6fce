"""`python -m tests.debian [--keep DIRECTORY]`: builds the package, installs it, tries it; what it proves it prints."""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
_TRIAL_SECONDS = 150
_INSTALL = ("apt-get", "-q", "-y", "--no-install-recommends", "-o", "Dpkg::Use-Pty=0", "install")
_EARLIER = "0.0.9"


def main() -> int:
    """0 when all holds; 1 when something does not; 2 where it cannot be tried."""
    parser = argparse.ArgumentParser(prog="python -m tests.debian", description="Prove the Debian package.")
    parser.add_argument("--keep", type=Path, metavar="DIRECTORY", help="leave the packages there")
    parser.add_argument(
        "--packages", type=Path, nargs="+", default=[], metavar="FILE", help="try these, and build none"
    )
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("tests.debian: must run as root: it mounts, and boots a container", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing is left then either
    linux.unshare(linux.CLONE_NEWNS)
    linux.mount("none", "/", "", flags=linux.MS_REC | linux.MS_PRIVATE)
    try:
        with tempfile.TemporaryDirectory(prefix="pveg-debian-") as state:
            _prove(Path(state), options.packages, options.keep)
    except FAILURES as error:
        print(f"tests.debian: {error}", file=sys.stderr)
        return 1
    return 0


def _prove(state: Path, built: list[Path], keep: Path | None) -> None:
    products = state / "packages"
    products.mkdir()
    if not built:
        with _told("built twice, the same bytes, lintian clean"), roots.mounted(roots.BUILD, state / "build") as root:
            package.build(root, products)
    for file in built:
        shutil.copy(file, products)
    fresh = sorted(products.iterdir())
    gateway = next(products.glob("pve-exec-gateway_*.deb"))
    if keep:
        shutil.copytree(products, keep, dirs_exist_ok=True)
    package.earlier(gateway, _EARLIER, products)
    binds = {machine.SOURCE: package.REPOSITORY, machine.PRODUCTS: products}
    name = f"pveg-debian-{os.getpid()}"
    with roots.mounted(roots.NODE, state / "node") as root, machine.booted(root, name, binds) as node:
        with _told("a node with its guests"):
            node.run("python3", "-m", "tests.debian.node", timeout=_TRIAL_SECONDS)
        with _told("installed by apt, without a network"):
            files = [f"{machine.PRODUCTS}/{path.name}" for path in fresh]
            print(node.run(*_INSTALL, *files, timeout=_TRIAL_SECONDS).splitlines()[-1])
        for trial in package.trials():
            with _told(trial):
                node.run(f"debian/tests/{trial}", timeout=_TRIAL_SECONDS, shown=True)


@contextmanager
def _told(what: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    print(f"debian: {what}: {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
