"""The package as Debian's own tools make it: built in the build root, twice, and looked at by lintian."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]

_NOT_SOURCE = (
    *(".git", ".venv", ".demo", ".test", ".hypothesis", "build", "built", "*.egg-info", "__pycache__"),
    *(".mypy_cache", ".pytest_cache", ".ruff_cache", ".ci", ".gitignore"),
)
_BUILD_SECONDS = 600


class PackageError(Exception):
    """A build, or what was built, is not as it must be; the message ends with what the tool said."""


@dataclass(frozen=True)
class Place:
    """Where a build takes place in the root, and what it must not depend on."""

    directory: str
    umask: int
    environment: dict[str, str]


_FIRST = Place("/build/first", 0o022, {"LANG": "C.UTF-8", "TZ": "UTC"})
_SECOND = Place(
    "/build/somewhere/else", 0o077, {"LANG": "C", "TZ": "Pacific/Kiritimati", "DEB_BUILD_OPTIONS": "parallel=2"}
)


def build(root: Path, products: Path) -> list[Path]:
    """Build the working tree in `root`, copy the binary packages to `products`, return where they are.

    Raises PackageError if lintian has a word, or if a second build elsewhere in the root makes other bytes.
    """
    source = root / "build/source"
    shutil.copytree(REPOSITORY, source, symlinks=True, ignore=shutil.ignore_patterns(*_NOT_SOURCE))
    first = _build(root, source, _FIRST, "--build=full")
    _lint(root, next(path for path in first if path.suffix == ".changes"))
    second = {path.name: path.read_bytes() for path in _build(root, source, _SECOND, "--build=binary")}
    packages = [path for path in first if path.suffix == ".deb"]
    for package in packages:
        if second[package.name] != package.read_bytes():
            raise PackageError(f"{package.name} is not reproducible: two builds make other bytes")
    products.mkdir(parents=True, exist_ok=True)
    return [Path(shutil.copy(package, products)) for package in packages]


def earlier(package: Path, version: str, products: Path) -> Path:
    """The package under an earlier `version`, also as the program says it: what a node has before an upgrade."""
    unpacked = products / "earlier"
    _run("dpkg-deb", "--raw-extract", str(package), str(unpacked))
    control = unpacked / "DEBIAN/control"
    named = dict(line.split(": ", 1) for line in control.read_text().splitlines() if ": " in line)
    _replace(control, f"Version: {named['Version']}", f"Version: {version}")
    module = unpacked / "usr/share" / named["Package"] / "gateway/__init__.py"
    _replace(module, f'__version__ = "{named["Version"]}"', f'__version__ = "{version}"')
    made = products / f"{named['Package']}_{version}_{named['Architecture']}.deb"
    _run("dpkg-deb", "--root-owner-group", "--build", str(unpacked), str(made))
    shutil.rmtree(unpacked)
    return made


def trials() -> list[str]:
    """The names of the package's own tests, in their order (debian/tests/control)."""
    lines = (REPOSITORY / "debian/tests/control").read_text().splitlines()
    named = [line.partition(":")[2].split(",") for line in lines if line.startswith("Tests:")]
    return [name.strip() for names in named for name in names]


def _build(root: Path, source: Path, place: Place, kind: str) -> list[Path]:
    above = root / place.directory.lstrip("/")
    shutil.copytree(source, above / "pve-exec-gateway", symlinks=True)
    command = ["dpkg-buildpackage", "--no-sign", kind]
    _run_in(root, f"{place.directory}/pve-exec-gateway", command, place.environment, umask=place.umask)
    return sorted(path for path in above.iterdir() if path.is_file())


def _lint(root: Path, changes: Path) -> None:
    fatal = "--fail-on=error,warning"
    arguments = ["lintian", "--allow-root", fatal, f"/{changes.relative_to(root)}"]
    print(_run_in(root, "/", arguments, {"LANG": "C.UTF-8"}), end="")


def _run_in(root: Path, directory: str, command: list[str], environment: dict[str, str], *, umask: int = 0o022) -> str:
    isolated = ("unshare", "--mount", "--pid", "--net", "--fork", "--kill-child", "--mount-proc")
    inside = ("chroot", str(root), "env", "-i", "-C", directory, "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root")
    words = [f"{key}={value}" for key, value in environment.items()]
    return _run(*isolated, *inside, *words, *command, umask=umask)


def _replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    if old not in text:
        raise PackageError(f"{file.name} does not say {old!r}")
    file.write_text(text.replace(old, new))


def _run(*command: str, umask: int = -1) -> str:
    done = subprocess.run(
        command,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_BUILD_SECONDS,
        umask=umask,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    if done.returncode:
        said = "\n".join(done.stdout.splitlines()[-40:])
        raise PackageError(f"{' '.join(command[-3:])} failed ({done.returncode}):\n{said}")
    return done.stdout
