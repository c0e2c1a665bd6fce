"""The package as Debian's own tools make it: built in the build root, twice, and looked at by lintian."""

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PREVIOUS = "7e97cc8e2845070ea0049eb6c37e68b06b96a7ab"
"""The commit whose package a node has before the upgrade that is tried; a release's, once there is one."""

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
_THIRD = Place("/build/third", 0o022, {"LANG": "C.UTF-8"})


def copy_source(into: Path) -> None:
    """The working tree as a source package has it."""
    shutil.copytree(REPOSITORY, into, symlinks=True, ignore=shutil.ignore_patterns(*_NOT_SOURCE))


def build(root: Path, source: Path, products: Path) -> None:
    """Build `source` in `root`, twice at once, and the previous state.

    The binary packages go to the new directory `products`, the previous state's to `previous` below it.

    Raises PackageError if lintian has a word, or if the builds, in different places, make different bytes.
    """
    with ThreadPoolExecutor() as pool:
        begun = pool.submit(_build, root, source, _FIRST, "full"), pool.submit(_build, root, source, _SECOND, "binary")
        previous = pool.submit(_build_previous, root, source)
        first, second = (made.result() for made in begun)
        packages = [path for path in first if path.suffix == ".deb"]
        twins = {path.name: path for path in second}
        for package in packages:
            if twins[package.name].read_bytes() != package.read_bytes():
                raise PackageError(f"{package.name} is not reproducible: two builds make other bytes")
        _lint(root, next(path for path in first if path.suffix == ".changes"))
    (products / "previous").mkdir(parents=True)
    shutil.copy(previous.result(), products / "previous")
    for package in packages:
        shutil.copy(package, products)


def _build_previous(root: Path, source: Path) -> Path:
    """The gateway's package of PREVIOUS; where there is no history, as in a shallow clone, of the same source again.

    It has a version below that of `source`, and says it.
    """
    unpacked = root / "build/previous"
    try:
        _unpack_commit(unpacked)
        version = f"{_version_of(source)}~{PREVIOUS[:7]}"
    except (PackageError, OSError) as error:
        print(f"debian: the previous package is of the same source, for there is no {PREVIOUS}: {error}", flush=True)
        shutil.copytree(source, unpacked, symlinks=True)
        version = f"{_version_of(source)}~same"
    named = _version_of(unpacked)
    _replace(unpacked / "debian/changelog", f"({named})", f"({version})")
    _replace(unpacked / "gateway/__init__.py", f'__version__ = "{named}"', f'__version__ = "{version}"')
    made = _build(root, unpacked, _THIRD, "any")
    return next(path for path in made if path.suffix == ".deb")


def _unpack_commit(into: Path) -> None:
    archive = into.with_suffix(".tar")
    trusting = ("-c", "safe.directory=*")  # make is root here, the repository may be somebody's
    _run("git", *trusting, "-C", str(REPOSITORY), "archive", f"--output={archive}", PREVIOUS)
    into.mkdir(parents=True)
    _run("tar", "--extract", "-C", str(into), "-f", str(archive))


def _version_of(source: Path) -> str:
    first = (source / "debian/changelog").read_text().partition("\n")[0]
    return first.partition("(")[2].partition(")")[0]


def _build(root: Path, source: Path, place: Place, kind: str) -> list[Path]:
    above = root / place.directory.lstrip("/")
    shutil.copytree(source, above / "pve-exec-gateway", symlinks=True)
    command = ["dpkg-buildpackage", "--no-sign", f"--build={kind}"]
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
