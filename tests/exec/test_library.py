"""LXC's library, by which containers are entered: whether it is there is told while the supervisor runs, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.config import Config, load
from gateway.supervisor import readiness
from gateway.supervisor.launching.library import Library, LookedAt, look_at_library
from tests.exec.api import Api
from tests.exec.gateways import Gateway
from tests.exec.waiting import until

LOST = "#!/bin/sh\necho 'liblxc.so.1: cannot open shared object file' >&2; exit 1\n"


@pytest.fixture
def config(gateway: Gateway, tmp_path: Path) -> Config:
    """A node's with a nursery of its own, in a file that may be written."""
    config = load(gateway.services.config)
    nursery = tmp_path / "nursery"
    nursery.write_bytes(config.lxc.nursery.read_bytes())
    nursery.chmod(0o755)
    return config.model_copy(update={"lxc": config.lxc.model_copy(update={"nursery": nursery})})


def test_ready_names_what_is_used(api: Api) -> None:
    """The library with its version, and no lxc-attach, which nothing is entered by."""

    def found() -> Any:
        checks = {check["name"]: check for check in api.get("/health/ready").json()["checks"]}
        assert "lxc_attach" not in checks
        return checks["liblxc"] if checks["liblxc"]["detail"] else None

    check = until(found, why="it has looked")
    assert check["ok"] and check["detail"].startswith("LXC ")


def test_a_library_that_goes_is_noticed(config: Config) -> None:
    """At the first question behind the ten seconds, by nobody who waits; and so is one that comes back."""
    now = 100.0
    library = LookedAt(config, lambda: now)
    assert library.find() == (True, "")
    until(lambda: library.find() == look_at_library(config))
    image = config.lxc.nursery.read_bytes()
    config.lxc.nursery.write_text(LOST)
    assert _of(library).ok
    now += 10
    until(lambda: not _of(library).ok)
    assert "install lxc, or set exec.driver: lxc-attach" in _of(library).detail
    (check,) = (one for one in readiness.checks(config, library.find()) if one["name"] == "liblxc")
    assert (check["ok"], "liblxc.so.1: cannot open" in check["detail"]) == (False, True)
    config.lxc.nursery.write_bytes(image)
    now += 10
    until(lambda: _of(library).ok)


def test_a_nursery_that_cannot_be_read(config: Config) -> None:
    """Nobody knows then: it is no library, and which file it is about is told."""
    config.lxc.nursery.unlink()
    found = look_at_library(config)
    assert found is not None and not found.ok and str(config.lxc.nursery) in found.detail


@pytest.mark.parametrize(("driver", "name"), [("lxc-attach", "lxc_attach"), ("pct", "pct")])
def test_other_ways_in_need_no_library(config: Config, driver: str, name: str) -> None:
    """Then their program is looked for, and no process started."""
    other = config.model_copy(update={"exec": config.exec.model_copy(update={"driver": driver})})
    assert look_at_library(other) is None and LookedAt(other).find() is None
    assert name in {check["name"] for check in readiness.checks(other)}


def _of(library: LookedAt) -> Library:
    found = library.find()
    assert found is not None
    return found
