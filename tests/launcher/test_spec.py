"""The launcher and specs that are none: stage `spec`, and nothing runs."""

import errno
import struct
from pathlib import Path

import pytest

from tests.launcher.harness import PATH, build_spec, run

WHOLE = build_spec(["/bin/touch", "/ran"], [PATH], cwd="/", user="0")


def with_field(offset: int, value: int) -> bytes:
    """WHOLE with another number in its header."""
    return WHOLE[:offset] + struct.pack("<I", value) + WHOLE[offset + 4 :]


BROKEN = {
    "empty": b"",
    "header only": WHOLE[:28],
    "half a header": WHOLE[:20],
    "another magic": b"pvegspeC" + WHOLE[8:],
    "version 0": with_field(8, 0),
    "version 2": with_field(8, 2),
    "unknown flag": with_field(12, 8),
    "no argument": with_field(16, 0),
    "an argument too many": with_field(16, 3),
    "an argument too few": with_field(16, 1),
    "arguments beyond counting": with_field(16, 0xFFFFFFFF),
    "variables beyond counting": with_field(20, 0xFFFFFFFF),
    "counts whose sum overflows": with_field(16, 0xFFFFFFFF)[:20] + struct.pack("<I", 3) + WHOLE[24:],
    "strings shorter than they are": with_field(24, len(WHOLE) - 29),
    "strings longer than they are": with_field(24, len(WHOLE) - 27),
    "last NUL missing": WHOLE[:-1],
    "last NUL missing, length right": with_field(24, len(WHOLE) - 29)[:-1],
    "bytes behind it": WHOLE + b"\0",
    "a string behind it": with_field(24, len(WHOLE) - 26) + b"x\0",
    "a variable without =": build_spec(["/bin/touch", "/ran"], ["PATH"]),
    "a variable without a name": build_spec(["/bin/touch", "/ran"], ["=value"]),
    "an empty variable": build_spec(["/bin/touch", "/ran"], [""]),
}


@pytest.mark.parametrize("spec", BROKEN.values(), ids=BROKEN.keys())
def test_refuses_a_broken_spec(root: Path, spec: bytes) -> None:
    """Any contradiction ends in stage `spec` with EINVAL, exit code 127, and no command."""
    ended = run(spec, root=root)
    assert ended.failure == ("spec", errno.EINVAL)
    assert ended.code == 127
    assert not (root / "ran").exists()


def test_refuses_a_spec_past_its_limit(root: Path) -> None:
    """A spec of more than 4 MiB is EFBIG, whatever it says."""
    assert run(build_spec(["/bin/true", "x" * (4 << 20)]), root=root).failure == ("spec", errno.EFBIG)


def test_runs_the_whole_one(root: Path) -> None:
    """The spec that the broken ones are made of does run."""
    assert run(WHOLE, root=root).code == 0
    assert (root / "ran").exists()


def test_passes_what_the_kernel_takes(root: Path) -> None:
    """A spec near its limit in count and size reaches execve; an argument of 128 KiB is the kernel's E2BIG."""
    many = run(build_spec(["/bin/true", *(["x"] * 100_000)]), root=root)
    assert many.code == 0
    assert run(build_spec(["/bin/true", "x" * (128 << 10)]), root=root).failure == ("exec", errno.E2BIG)
    assert run(build_spec(["/bin/true", "x" * ((128 << 10) - 1)]), root=root).code == 0
