"""The programs of a launch: sealed, not writable, one pair for all unprivileged guests, one each for the others."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from gateway.config import LxcConfig
from gateway.supervisor.launching.programs import Programs, sealed_memfd

ELF = b"\x7fELF and more"


@pytest.fixture
def files(tmp_path: Path) -> LxcConfig:
    attach, launcher = tmp_path / "lxc-attach", tmp_path / "launcher"
    attach.write_bytes(ELF)
    launcher.write_bytes(b"the launcher")
    return LxcConfig(attach=attach, launcher=launcher)


def test_memfd_has_the_seals_that_lxc_looks_for_and_no_others() -> None:
    """lxc-attach goes on from a memfd with exactly these seals, and copies itself from anything else."""
    fd = sealed_memfd("test", b"content")
    assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) == 0xF
    assert os.pread(fd, 100, 0) == b"content"
    with pytest.raises(PermissionError):
        os.write(fd, b"x")
    os.close(fd)


def test_memfd_cannot_be_opened_for_writing_by_others() -> None:
    """A file that somebody holds open for writing cannot be run (ETXTBSY), so nobody but its owner may."""
    fd = sealed_memfd("test", b"content")
    assert os.fstat(fd).st_mode & 0o777 == 0o555
    os.close(fd)


def test_unprivileged_guests_share_and_privileged_ones_do_not(files: LxcConfig) -> None:
    """The root of a privileged guest owns its images and may spoil them, so they are nobody else's."""
    programs = Programs(files)
    shared = programs.images("1.1", privileged=False)
    assert programs.images("2.1", privileged=False) is shared
    own, other = programs.images("3.1", privileged=True), programs.images("4.1", privileged=True)
    assert len({shared.launcher, own.launcher, other.launcher}) == 3
    assert programs.images("3.1", privileged=True) is own


def test_upgraded_lxc_takes_effect(files: LxcConfig) -> None:
    """A new lxc-attach on the disk is what the next exec runs, in guests that have run since before."""
    programs = Programs(files)
    for privileged in (True, False):
        files.attach.write_bytes(ELF)
        programs.images("1.1", privileged=privileged)
        files.attach.write_bytes(ELF + b", newer")
        attach = programs.images("1.1", privileged=privileged).attach
        assert attach is not None
        assert os.pread(attach, 100, 0) == ELF + b", newer"


def test_script_is_run_by_its_path(files: LxcConfig) -> None:
    """A wrapper script cannot be run from a descriptor that closes on exec, so it is not made a memfd."""
    files.attach.write_bytes(b"#!/bin/sh\n")
    assert Programs(files).images("1.1", privileged=False).attach is None


def test_images_of_an_ended_run_are_closed(files: LxcConfig) -> None:
    """A guest that was started a thousand times leaves no descriptors behind."""
    programs = Programs(files)
    before = len(os.listdir("/proc/self/fd"))
    programs.images("1.1", privileged=True)
    programs.forget("1.1")
    programs.forget("1.1")
    assert len(os.listdir("/proc/self/fd")) <= before  # what tests before this one left may go meanwhile
