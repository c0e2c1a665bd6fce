"""The collection as a package: it builds and installs without a network, and says what its options are."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import yaml

from tests.ansible.plays import COLLECTION, PROGRAMS
from tests.pvesim.services import REPOSITORY

README = (COLLECTION / "README.md").read_text()


def run(home: Path, program: str, *arguments: str) -> str:
    """What one of Ansible's programs prints; it has nothing of ours but the path."""
    environment = {
        "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
        "HOME": str(home),
        "LC_ALL": "C.UTF-8",
        "ANSIBLE_COLLECTIONS_PATH": str(home / "here"),
        "ANSIBLE_GALAXY_SERVER": "http://127.0.0.1:9/",
    }
    done = subprocess.run(
        [str(PROGRAMS / program), *arguments], cwd=home, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_builds_and_installs(tmp_path: Path) -> None:
    """From the directory to a tarball, and from that to plugins that are found; of this version, with nothing in it
    that Python has left. What the README's table lists is what there is."""
    galaxy = yaml.safe_load((COLLECTION / "galaxy.yml").read_text())
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert galaxy["version"] == project["version"]
    run(tmp_path, "ansible-galaxy", "collection", "build", str(COLLECTION))
    tarball = tmp_path / f"pve_exec-gateway-{galaxy['version']}.tar.gz"
    with tarfile.open(tarball) as archive:
        names = {name for name in archive.getnames() if name.endswith((".py", ".md", ".yml"))}
    ours = {str(path.relative_to(COLLECTION)) for path in COLLECTION.rglob("*.[mpy]*") if path.suffix != ".pyc"}
    assert names == {name for name in ours if "." in name} - {"galaxy.yml"}
    run(tmp_path, "ansible-galaxy", "collection", "install", "--offline", str(tarball), "-p", "here")
    options: dict[str, Any] = {}
    for kind, name in (("connection", "pve_exec.gateway.exec"), ("become", "pve_exec.gateway.user")):
        told = json.loads(run(tmp_path, "ansible-doc", "-t", kind, "--json", name))[name]
        assert told["doc"]["short_description"]
        options |= told["doc"]["options"] if kind == "connection" else {}
    variables = {one["name"] for option in options.values() for one in option.get("vars", ())}
    assert {"ansible_pve_exec_url", "ansible_pve_exec_token", "ansible_pve_exec_vmid", "ansible_user"} <= variables
    assert set(re.findall("ansible_pve_exec_[a-z_]+", README)) == {
        name for name in variables if name.startswith("ansible_pve_exec_") and name != "ansible_pve_exec_user"
    }
    assert not options["token"].get("ini"), "a token does not belong into ansible.cfg"


def test_installs_from_the_directory(tmp_path: Path) -> None:
    """As the README says first."""
    run(tmp_path, "ansible-galaxy", "collection", "install", "--offline", str(COLLECTION), "-p", "here")
    assert (tmp_path / "here/ansible_collections/pve_exec/gateway/plugins/connection/exec.py").exists()


def test_stands_alone() -> None:
    """Its plugins import each other, ansible-core and the standard library: nothing to install beside it."""
    for path in (COLLECTION / "plugins").rglob("*.py"):
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), path
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            else:
                continue
            for name in names:
                top = name.split(".")[0]
                assert top == "ansible" or top in sys.stdlib_module_names, f"{path} imports {name}"
