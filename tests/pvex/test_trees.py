"""`pvex cp` of directories: what goes in comes out again, and lies where docker cp would put it."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pvex import packing
from tests.exec.gateways import Gateway
from tests.exec.waiting import until
from tests.pvex.client import Pvex
from tests.pvex.proxy import Proxy
from tests.pvex.pty import Screen
from tests.pvex.test_cuts import HANDSHAKE

ROOT = "/root/pvex-trees"
"""A directory of guest 101 that is these tests' alone."""


@pytest.fixture(scope="module")
def files(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pvex]:
    """pvex with a token that may write files and run commands in guest 101."""
    token = gateway.token("trees", actions="exec:run,file:write", guests="101")
    pvex = Pvex(gateway, tmp_path_factory.mktemp("trees"), token)
    shell(pvex, f"rm -rf {ROOT}; mkdir {ROOT}")
    yield pvex
    shell(pvex, f"rm -rf {ROOT}")


def shell(pvex: Pvex, script: str) -> str:
    """What a script in guest 101 prints."""
    with contextlib.closing(pvex.gateway.api(pvex.token)) as api:
        answer = api.run(101, script)
    assert answer["exit_code"] == 0, answer
    return str(answer["stdout"])


def cp(pvex: Pvex, *words: str | Path, code: int = 0, **options: Any) -> str:
    """`pvex cp`, in this process; what it says."""
    done = pvex.inside("cp", *map(str, words), **options)
    assert done.returncode == code, done
    return done.stderr.decode()


def describe(root: Path) -> dict[bytes, Any]:
    """All that there is of a directory: kinds, modes, times, targets, bytes; of hard links the first name."""
    seen: dict[bytes, Any] = {}
    first: dict[int, bytes] = {}
    for above, directories, names in os.walk(os.fsencode(root)):
        for path in sorted(os.path.join(above, name) for name in directories + names):
            about, name = os.lstat(path), os.path.relpath(path, os.fsencode(root))
            if stat.S_ISLNK(about.st_mode):
                seen[name] = os.readlink(path)
            elif stat.S_ISDIR(about.st_mode):
                seen[name] = (about.st_mode, about.st_mtime_ns)
            else:
                same = first.setdefault(about.st_ino, name) if about.st_nlink > 1 else None
                seen[name] = (about.st_mode, about.st_mtime_ns, same, Path(os.fsdecode(path)).read_bytes())
    return seen


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A directory with all that a copy can do wrong."""
    root = tmp_path / "site"
    (root / "d/e/empty").mkdir(parents=True)
    (root / "d/file").write_bytes(os.urandom(300_000))
    (root / "d/second").hardlink_to(root / "d/file")
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o750)
    for name in (b"new\nline", b"no\xffutf8", "grüße".encode(), b"n" * 150, b" -e $x \\"):
        Path(os.fsdecode(os.fsencode(root) + b"/" + name)).write_bytes(name)
    (root / "absolute").symlink_to("/no/such")
    (root / "up").symlink_to("../../../etc/passwd")
    os.symlink(b"to\xff", os.fsencode(root) + b"/odd")
    with open(root / "sparse", "wb") as file:
        file.truncate(4 << 20)
    os.utime(root / "d/file", ns=(10**18, 1_234_567_890_123_456_789))
    os.utime(root / "d/e/empty", (1, 1))
    return root


def test_there_and_back(files: Pvex, site: Path, tmp_path: Path) -> None:
    """Names, bytes, modes, times, links and hard links; FIFOs are left out, and it is told."""
    before = describe(site)
    os.mkfifo(site / "fifo")
    assert cp(files, site, f"101:{ROOT}/there") == "pvex: left out: 1 (FIFOs, sockets, devices)\n"
    shell(files, f"mkfifo {ROOT}/there/pipe; chown 7:8 {ROOT}/there/run.sh; chmod 4755 {ROOT}/there/run.sh")
    told = cp(files, f"101:{ROOT}/there", tmp_path / "back")
    assert told.startswith("pvex: left out: 1 (") and told.count("\n") == 1
    (tmp_path / "back/run.sh").chmod(0o750)
    assert describe(tmp_path / "back") == before
    assert (tmp_path / "back/sparse").stat().st_blocks == 0
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


WHERE = {
    "becomes it": ("src", "new", "new/f"),
    "goes into it": ("src", "there", "there/src/f"),
    "goes into it by its slash": ("src/", "there/", "there/src/f"),
    "only its content": ("src/.", "there", "there/f"),
    "only its content, new": ("src/.", "new", "new/f"),
    "over one of the same name": ("src", "over", "over/src/f"),
    "a file in a directory": ("src/f", "there", "there/f"),
    "a file with a new name": ("src/f", "new", "new"),
}


@pytest.mark.parametrize("case", WHERE)
def test_where_it_goes(files: Pvex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """As docker cp does, into the guest and out of it."""
    source, target, made = WHERE[case]
    made = f"{made}\n"
    (tmp_path / "src").mkdir()
    (tmp_path / "src/f").write_text("f")
    shell(files, f"rm -rf {ROOT}/*; cd {ROOT}; mkdir -p there over/src")
    cp(files, tmp_path / source if source[-1:] != "." else f"{tmp_path}/src/.", f"101:{ROOT}/{target}")
    assert shell(files, f"cd {ROOT}; find * -type f") == made
    shell(files, f"rm -rf {ROOT}/*; mkdir {ROOT}/src; echo f > {ROOT}/src/f")
    (tmp_path / "to/there").mkdir(parents=True)
    (tmp_path / "to/over/src").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "to")
    cp(files, f"101:{ROOT}/{source}", target)
    assert [str(path) + "\n" for path in Path().rglob("*") if path.is_file()] == [made]


def test_owners(files: Pvex, site: Path) -> None:
    """Our numbers mean nothing there: all is root's, or whose it shall be."""
    os.chown(site / "run.sh", 4711, 4711)
    cp(files, site, f"101:{ROOT}/owned")
    cp(files, "--user", "5", "--group", "6", site, f"101:{ROOT}/given")
    seen = shell(files, f"cd {ROOT}; stat -c '%u:%g' owned/run.sh owned given given/run.sh given/d/file given/up")
    assert seen.split() == ["0:0", "0:0", "5:6", "5:6", "5:6", "5:6"]


def test_what_is_kept(files: Pvex, tmp_path: Path) -> None:
    """--keep: what is there stays, what is not is made; by its path in the directory, wherever that goes."""
    (tmp_path / "app/data").mkdir(parents=True)
    for name in ("app/.env", "app/data/db", "app/main"):
        (tmp_path / name).write_text("new")
    shell(files, f"mkdir -p {ROOT}/kept/app/data; cd {ROOT}/kept/app; echo old | tee .env main > data/other")
    cp(files, "--keep", ".env", "--keep", "data", tmp_path / "app", f"101:{ROOT}/kept")
    seen = shell(files, f"cd {ROOT}/kept/app; cat .env main; echo; cat data/db; echo; cat data/other")
    assert seen.split() == ["old", "new", "new", "old"]


def test_archives(files: Pvex, site: Path, tmp_path: Path) -> None:
    """- is an archive where a directory stands on the other side, and from guest to guest the two fit together."""
    with tarfile.open(tmp_path / "site.tar", "w") as tar:
        tar.add(site / "d", "d")
    shell(files, f"mkdir {ROOT}/tar {ROOT}/again")
    cp(files, "-", f"101:{ROOT}/tar", stdin=(tmp_path / "site.tar").read_bytes())
    done = files.inside("cp", f"101:{ROOT}/tar", "-")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        assert {"d/file", "d/second", "d/e/empty", "."} <= set(tar.getnames())
    cp(files, "-", f"101:{ROOT}/again/", stdin=done.stdout)
    assert shell(files, f"cd {ROOT}; cmp tar/d/file again/d/file && echo same") == "same\n"
    told = cp(files, f"101:{ROOT}/tar", f"101:{ROOT}/again", code=2)
    assert f"pvex cp 101:{ROOT}/tar - | pvex cp - 101:{ROOT}/again" in told


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["site", "101:{}/links"], 125, "101:{}/links: 'site': its path"),
        (["site", "101:{}/file"], 125, "101:{}/file: 'file': its path"),
        (["site", "101:{}/no/such"], 125, "101:{}/no/such: nothing stands at this path"),
        (["site", "102:{}"], 125, "`pvex ls` lists"),
        (["--mode", "0644", "site", "101:{}"], 2, "--mode is for a file"),
        (["--keep", "x", "site/run.sh", "101:{}/x"], 2, "--keep is for a directory"),
        (["--user", "1", "101:{}", "x"], 2, "--keep are for what goes into a guest"),
        (["101:{}", "site/run.sh"], 125, "site/run.sh is no directory"),
        (["101:{}", "no/such"], 125, "no/such: No such file or directory"),
        (["101:{}/file", "none/"], 125, "none/: there is no such directory"),
        (["101:{}/d", "blocked"], 125, "blocked/d/f: Is a directory"),
        (["101:{}/link", "site"], 125, "site/link: here a link"),
    ],
)
def test_refusals(
    files: Pvex, site: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, told: str
) -> None:
    """One line that names the place and the reason."""
    monkeypatch.chdir(site.parent)
    (site.parent / "blocked/d/f").mkdir(parents=True)
    (site / "link").symlink_to("d")
    shell(
        files,
        f"rm -rf {ROOT}/*; cd {ROOT}; touch file; mkdir d real links; touch d/f; ln -s real link; ln -s . links/site",
    )
    line = cp(files, *(word.format(ROOT) for word in words), code=code)
    assert told.format(ROOT) in line and line.count("\n") == 1, line


def test_what_changes_meanwhile(files: Pvex, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that gets shorter is told by its name, and not taken for a fault of the connection."""
    real = packing._describe

    def shorten(name: str, about: os.stat_result) -> tarfile.TarInfo:
        if name.endswith("d/file"):
            os.truncate(site / "d/file", 5)
        return real(name, about)

    monkeypatch.setattr(packing, "_describe", shorten)
    assert "site/d/file was cut short" in cp(files, site, f"101:{ROOT}/short", code=125)


def test_more_than_an_archive_holds(files: Pvex, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes in several; a hard link may lead into an earlier one."""
    monkeypatch.setattr(packing, "MAX_ENTRIES", 3)
    cp(files, site, f"101:{ROOT}/parts")
    assert len(shell(files, f"cd {ROOT}/parts; find . -exec echo x \\;").splitlines()) == len(describe(site)) + 1
    assert shell(files, f"stat -c %h {ROOT}/parts/d/file") == "2\n"


def test_a_cut(files: Pvex, site: Path, tmp_path: Path) -> None:
    """Into the guest it begins anew; out of it, what has come is whole, and people are told that it is not all."""
    with Proxy(files.gateway.services.port, iter([1 << 30, HANDSHAKE // 2, HANDSHAKE // 2])) as proxy:
        cp(files, site, f"101:{ROOT}/cut", GATEWAY_URL=proxy.url)
        assert proxy.broken == 2
    with Proxy(files.gateway.services.port, iter([HANDSHAKE + 2_000_000])) as proxy:
        told = cp(files, f"101:{ROOT}/cut", tmp_path / "cut", code=125, GATEWAY_URL=proxy.url)
    assert "every file that has come is whole, others are missing" in told and told.count("\n") == 1
    whole = describe(site)
    came = describe(tmp_path / "cut")
    assert 0 < len(came) < len(whole) and all(whole[name] == came[name] for name in came if name != b"d")


@pytest.mark.parametrize("path", ["wide", "wide/zeros"])
def test_a_reader_that_leaves(files: Pvex, path: str) -> None:
    """`pvex cp GUEST:/PATH - | head -c 1` ends as any program before head does."""
    shell(files, f"mkdir -p {ROOT}/wide; truncate -s 64M {ROOT}/wide/zeros")
    with files.start("cp", f"101:{ROOT}/{path}", "-") as copying:
        assert copying.stdout and copying.stdout.read(1)
        copying.stdout.close()
        assert copying.wait(20) == 141


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_somebody_leaves(files: Pvex, tmp_path: Path, number: signal.Signals, code: int) -> None:
    """Ctrl-C, or TERM: nothing half-made is left, and it is told what there is."""
    shell(files, f"mkdir -p {ROOT}/long; cd {ROOT}/long; echo a > a; truncate -s 8G z")
    target = tmp_path / "long"
    with files.start("cp", f"101:{ROOT}/long", str(target)) as copying:
        until(lambda: target.exists() and any(path.name.startswith(".pvex-") for path in target.iterdir()))
        copying.send_signal(number)
        _, told = copying.communicate(timeout=20)
    assert (copying.returncode, b"every file that has come is whole" in told) == (code, True), told
    assert [path.name for path in target.iterdir()] in ([], ["a"])


def test_a_bar(files: Pvex, tmp_path: Path) -> None:
    """Of a directory that goes in it is known how much it is."""
    (tmp_path / "much").mkdir()
    with open(tmp_path / "much/zeros", "wb") as file:
        file.truncate(64 << 20)
    with Screen(files, "cp", str(tmp_path / "much"), f"101:{ROOT}/much") as screen:
        assert "%" in screen.until("MiB/s")
        assert screen.end() == 0
