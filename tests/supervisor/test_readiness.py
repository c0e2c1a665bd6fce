"""What a node lacks is named, one thing at a time, and what to do about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import Config
from gateway.errors import ConfigError
from gateway.supervisor.readiness import checks, require_pure_v2

PURE = [
    "24 1 0:22 / {cgroup} rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot"
]
UNDELEGATED = ["24 1 0:22 / {cgroup} rw,relatime - cgroup2 cgroup2 rw,memory_recursiveprot"]
HYBRID = [
    "24 1 0:22 / {cgroup} ro,nosuid - tmpfs tmpfs ro,mode=755",
    "25 24 0:23 / {cgroup}/unified rw,nosuid - cgroup2 cgroup2 rw,nsdelegate",
    "26 24 0:24 / {cgroup}/memory rw,nosuid - cgroup cgroup rw,memory",
]
ELSEWHERE = [
    "23 1 0:21 / /proc rw shared:5 - proc proc rw",
    "40 1 0:30 / {cgroup}-of-another rw - cgroup cgroup rw,memory",
    "41 1 8:1 / /mnt/a\\040-\\040b rw - ext4 /dev/sda1 rw",
]


def make_node(directory: Path, mounts: list[str], driver: str = "liblxc") -> Config:
    """The configuration of a node that has everything, with these mounts."""
    (directory / "proc/self").mkdir(parents=True)
    (directory / "spool").mkdir()
    lines = [line.replace("{cgroup}", f"{directory}/cgroup") for line in [*ELSEWHERE, *mounts]]
    (directory / "proc/self/mountinfo").write_text("\n".join(lines) + "\n")
    programs = {name: str(directory / name) for name in ("attach", "pct", "launcher", "nursery")}
    for path in programs.values():
        Path(path).touch(0o755)
    lxc = {**programs, "proc": str(directory / "proc"), "cgroup": str(directory / "cgroup")}
    spool = {"directory": str(directory / "spool")}
    return Config.model_validate({"node": "pve1", "lxc": lxc, "spool": spool, "exec": {"driver": driver}})


def failing(config: Config) -> dict[str, str]:
    """What is missing, and the words about it."""
    return {check["name"]: check["detail"] for check in checks(config) if not check["ok"]}


@pytest.mark.parametrize("driver", ["liblxc", "lxc-attach", "pct"])
def test_node_that_has_everything(tmp_path: Path, driver: str) -> None:
    """Nothing is missing, and nothing is said."""
    found = checks(make_node(tmp_path, PURE, driver))
    assert [check["detail"] for check in found if check["ok"]] == [""] * len(found)


@pytest.mark.parametrize(
    ("mounts", "missing"),
    [
        (UNDELEGATED, {"nsdelegate"}),
        (HYBRID, {"cgroup_v2", "nsdelegate"}),
        ([*PURE, HYBRID[2]], {"cgroup_v2", "nsdelegate"}),
        ([*PURE, "27 24 0:22 / {cgroup}/lxc rw - cgroup2 cgroup2 rw"], {"nsdelegate"}),
        ([], {"cgroup_v2", "nsdelegate"}),
    ],
    ids=["undelegated", "hybrid", "v1 beside v2", "undelegated below", "no cgroups"],
)
def test_cgroups_that_are_not_pure_v2(tmp_path: Path, mounts: list[str], missing: set[str]) -> None:
    """A hybrid layout, v1 beside v2, and a mount without nsdelegate are named, with what to do; v1 keeps it from
    starting."""
    config = make_node(tmp_path, mounts)
    found = failing(config)
    assert found.keys() == missing
    assert f"mount -o remount,nsdelegate {tmp_path}/cgroup" in found["nsdelegate"]
    if "cgroup_v2" in missing:
        with pytest.raises(ConfigError, match="unified_cgroup_hierarchy"):
            require_pure_v2(config.lxc)
    else:
        require_pure_v2(config.lxc)


@pytest.mark.parametrize(
    ("driver", "file", "name"),
    [
        ("liblxc", "launcher", "launcher"),
        ("liblxc", "nursery", "nursery"),
        ("lxc-attach", "attach", "lxc_attach"),
        ("pct", "pct", "pct"),
    ],
)
def test_program_that_is_missing_or_no_program(tmp_path: Path, driver: str, file: str, name: str) -> None:
    """Each program that is needed is looked for, and for its right to run; what the driver does not need is not."""
    config = make_node(tmp_path, PURE, driver)
    (tmp_path / file).chmod(0o644)
    assert f"{tmp_path / file} cannot be run" in failing(config)[name]
    (tmp_path / file).unlink()
    assert failing(config).keys() == {name}
    for other in {"attach", "pct"} - {file}:
        (tmp_path / other).unlink()
    assert failing(config).keys() == {name}


def test_spool_that_is_missing(tmp_path: Path) -> None:
    """Without its directory nothing could be remembered of a command."""
    config = make_node(tmp_path, PURE)
    (tmp_path / "spool").rmdir()
    assert failing(config) == {"spool": f"{tmp_path / 'spool'} cannot be written"}
