"""Whom a command runs as, in guests whose passwd and group files are well, missing or hostile."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.launcher.harness import Ended, build_spec, run, start

FILES = 2  # spec.h: SPEC_FILES

# By the shell alone: any other program might itself wait on the file that a test made a FIFO.
SHOW = """
while read -r key value; do
  case $key in Uid:) uid=${value%%[!0-9]*};; Gid:) gid=${value%%[!0-9]*};; Groups:) groups=$value;; esac
done < /proc/self/status
echo "$uid $gid $groups|$HOME|$USER|$LOGNAME|$SHELL"
"""


def show(root: Path, user: str) -> Ended:
    """Runs a command that prints who it is."""
    return run(build_spec(["sh", "-c", SHOW], ["PATH=/bin"], user=user), root=root)


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", "0 0 0 6|/root|root|root|/bin/sh"),
        ("0", "0 0 0 6|/root|root|root|/bin/sh"),
        ("root", "0 0 0 6|/root|root|root|/bin/sh"),
        ("www-data", "33 33 33 44 108|/srv/www|www-data|www-data|/usr/sbin/nologin"),
        ("33", "33 33 33 44 108|/srv/www|www-data|www-data|/usr/sbin/nologin"),
        ("33:33", "33 33 33|/srv/www|www-data|www-data|/usr/sbin/nologin"),
        ("33:0", "33 0 0|/srv/www|www-data|www-data|/usr/sbin/nologin"),
        ("0:5", "0 5 5|/root|root|root|/bin/sh"),
        ("1000", "1000 1001 44 1001|/home/maker|maker|maker|/bin/sh"),
        ("bare", "50 60 60|/|bare|bare|/bin/sh"),
        ("4711", "4711 4711 4711|/|4711|4711|/bin/sh"),
        ("4711:42", "4711 42 42|/|4711|4711|/bin/sh"),
        ("4294967294", "4294967294 4294967294 4294967294|/|4294967294|4294967294|/bin/sh"),
    ],
)
def test_becomes_the_user(root: Path, user: str, expected: str) -> None:
    """Ids, supplementary groups and the account's variables follow the table in users.h."""
    ended = show(root, user)
    assert (ended.code, ended.stdout.decode().strip(), ended.stderr) == (0, expected, b"")


@pytest.mark.parametrize(
    ("user", "error"),
    [
        ("nobody-here", errno.ENOENT),
        ("www", errno.ENOENT),
        ("www-data2", errno.ENOENT),
        ("broken", errno.ENOENT),
        ("+nis", errno.ENOENT),
        ("-1", errno.ENOENT),
        (" 33", errno.ENOENT),
        ("33 ", errno.ENOENT),
        ("+33", errno.ENOENT),
        ("0x21", errno.ENOENT),
        ("x" * 100_000, errno.ENOENT),
        ("4294967295", errno.EINVAL),
        ("4294967296", errno.EINVAL),
        ("18446744073709551616", errno.EINVAL),
        ("9" * 5000, errno.EINVAL),
        ("33:", errno.EINVAL),
        (":33", errno.EINVAL),
        (":", errno.EINVAL),
        ("33:-1", errno.EINVAL),
        ("33:4294967295", errno.EINVAL),
        ("33:33:33", errno.EINVAL),
        ("33:video", errno.EINVAL),
        ("www-data:33", errno.EINVAL),
    ],
)
def test_refuses_what_is_no_user(root: Path, user: str, error: int) -> None:
    """Names that nobody has are ENOENT; numbers out of range and half pairs are EINVAL; nothing becomes root."""
    assert show(root, user).failure == ("user", error)


def make_sparse(path: Path) -> None:
    """1 GiB that takes no room."""
    with path.open("wb") as file:
        file.truncate(1 << 30)


HOSTILE: dict[str, tuple[Callable[[Path], object], int]] = {
    "missing": (lambda path: None, errno.ENOENT),
    "a FIFO": (os.mkfifo, errno.EINVAL),
    "a directory": (os.mkdir, errno.EINVAL),
    "a device that never ends": (lambda path: os.mknod(path, 0o20666, os.makedev(1, 5)), errno.EINVAL),
    "a link": (lambda path: path.symlink_to("shadow"), errno.ELOOP),
    "a link to itself": (lambda path: path.symlink_to(path.name), errno.ELOOP),
    "1 GiB": (make_sparse, errno.EFBIG),
    "a line of 10 MiB": (lambda path: path.write_bytes(b"x" * (10 << 20)), errno.EFBIG),
    "one byte too long": (lambda path: path.write_bytes(b"\n" * ((1 << 20) + 1)), errno.EFBIG),
    "NULs": (lambda path: path.write_bytes(b"\0" * 4096), errno.ENOENT),
    "garbage": (lambda path: path.write_bytes(bytes(range(256)) * 64 + b":::::\n::\n:"), errno.ENOENT),
}


@pytest.mark.parametrize(("make", "error"), HOSTILE.values(), ids=HOSTILE.keys())
def test_survives_a_hostile_passwd(root: Path, make: Callable[[Path], object], error: int) -> None:
    """A name fails with the file's error; root and numbers run in spite of it, with the fallbacks."""
    passwd = root / "etc/passwd"
    passwd.rename(root / "etc/shadow")
    make(passwd)
    assert show(root, "www-data").failure == ("user", error)
    assert show(root, "").stdout == b"0 0 0 6|/root|root|root|/bin/sh\n"
    assert show(root, "33").stdout == b"33 33 33|/|33|33|/bin/sh\n"
    assert show(root, "33:44").stdout == b"33 44 44|/|33|33|/bin/sh\n"


@pytest.mark.parametrize(("make", "error"), HOSTILE.values(), ids=HOSTILE.keys())
def test_survives_a_hostile_group(root: Path, make: Callable[[Path], object], error: int) -> None:
    """A name fails in stage `groups`, unless the file only lacks it; a number goes without supplementary groups."""
    group = root / "etc/group"
    group.rename(root / "etc/gshadow")
    make(group)
    named = show(root, "www-data")
    if error == errno.ENOENT:
        assert named.stdout.startswith(b"33 33 33|/srv/www|")
    else:
        assert named.failure == ("groups", error)
    assert show(root, "33").stdout.startswith(b"33 33 33|/srv/www|")
    assert show(root, "").stdout.startswith(b"0 0 0|/root|")


def test_bounds_the_number_of_groups(root: Path) -> None:
    """1023 beside the primary one are honoured; one more is E2BIG for a name, and none for a number."""
    group = root / "etc/group"
    lines = [f"g{gid}:x:{gid}:www-data\n" for gid in range(1000, 2024)]
    group.write_text("".join(lines[:-1]))
    assert len(show(root, "www-data").stdout.split(b"|")[0].split()) == 2 + 1024
    group.write_text("".join(lines))
    assert show(root, "www-data").failure == ("groups", errno.E2BIG)
    assert show(root, "33").stdout.startswith(b"33 33 33|")


def test_reads_a_file_of_the_greatest_size(root: Path) -> None:
    """1 MiB exactly is read, and its last line counts without a newline too."""
    last = b"late:x:70:71::/srv/www:/bin/late"
    (root / "etc/passwd").write_bytes(b"\n" * ((1 << 20) - len(last)) + last)
    assert show(root, "late").stdout == b"70 71 71|/srv/www|late|late|/bin/late\n"


@pytest.mark.parametrize(
    "line",
    [
        "u:x:4294967295:5::/:/bin/sh",
        "u:x:4294967296:5::/:/bin/sh",
        "u:x:-5:5::/:/bin/sh",
        "u:x: 5:5::/:/bin/sh",
        "u:x::5::/:/bin/sh",
        "u:x:5::x:/:/bin/sh",
        "u:x:5:5\0::/:/bin/sh",
        "u\0:x:5:5::/:/bin/sh",
        "u:x:5:5::/srv\0/www:/bin/sh",
        "-u:x:5:5::/:/bin/sh",
        "#u:x:5:5::/srv/www:/bin/sh",
    ],
)
def test_passes_over_lines_that_are_no_entry(root: Path, line: str) -> None:
    """An entry with ids that are none, with a NUL, or commented out, is nobody's, by name or by number; above all it is
    not uid 0."""
    (root / "etc/passwd").write_text(line + "\n")
    for name in ("u", line[:2]):
        assert show(root, name.strip(":\0")).failure == ("user", errno.ENOENT)
    assert show(root, "5").stdout == b"5 5 5|/|5|5|/bin/sh\n"


@pytest.mark.parametrize("flags", [0, FILES], ids=["command", "file mode"])
def test_keeps_no_way_back_to_root(root: Path, flags: int) -> None:
    """All ids, the saved ones too, are the user's before the command is: file mode executes nothing that would take
    those away."""
    launch = start(build_spec(["true"], ["PATH=/bin"], user="33:44", flags=flags), root=root)
    try:
        assert launch.receive().kind == "R"
        status = Path(f"/proc/{launch.pid}/status").read_text().splitlines()
        ids = {line.split()[0]: line.split()[1:] for line in status if line[:4] in ("Uid:", "Gid:")}
        assert ids == {"Uid:": ["33"] * 4, "Gid:": ["44"] * 4}
    finally:
        launch.close()
        os.waitpid(launch.pid, 0)


def test_takes_no_relative_home(root: Path) -> None:
    """A home that is no absolute path becomes /."""
    (root / "etc/passwd").write_text("u:x:5:5::../x:/bin/sh\n")
    assert show(root, "u").stdout == b"5 5 5|/|u|u|/bin/sh\n"
