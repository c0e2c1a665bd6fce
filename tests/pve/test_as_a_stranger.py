"""The tests against a PVE node that its URL names, run as a stranger would: another process, an environment, a file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.pve.nodes import TAG, VMIDS, simulated_node
from tests.pvesim import pmxcfs
from tests.pvesim.api import storages
from tests.pvesim.api.process import running_api
from tests.pvesim.services import REPOSITORY

TESTS, CHOSEN = Path(__file__).with_name("test_real_node.py"), "what_there_is or machine"


def test_url_token_and_ca_are_enough(node: None, tmp_path: Path) -> None:
    """They pass against the node at the URL, and leave there what they found: no guest, no volume, no backup."""
    ca, token = tmp_path / "ca.pem", tmp_path / "pve.token"
    shutil.copy(pmxcfs.ROOT / "pve-root-ca.pem", ca)
    with running_api() as api, simulated_node(api, token):
        said = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-p",
                "no:cacheprovider",
                f"--basetemp={tmp_path}/own",
                TESTS,
                "-k",
                CHOSEN,
            ],
            check=False,
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            env={
                "PATH": os.environ["PATH"],
                "PVE_TEST_URL": api.url,
                "PVE_TEST_TOKEN": token.read_text().strip(),
                "PVE_TEST_CA": str(ca),
            },
            timeout=120,
        )
    assert said.returncode == 0 and "2 passed" in said.stdout and "skipped" not in said.stdout, said.stdout[-3000:]
    assert token.read_text().strip().partition("=")[2] not in said.stdout + said.stderr
    left = [file for file in (pmxcfs.ROOT / "nodes").glob("*/*/*.conf") if TAG in file.read_text()]
    assert left == []
    assert [path for vmid in VMIDS for path in storages.ROOT.glob(f"*/*/*-{vmid}-*")] == []
