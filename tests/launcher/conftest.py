"""A root file system for guest mode that needs no container (busybox, its users, no /tmp), and the guests of a node."""

import os
import shutil
from pathlib import Path

import pytest

from tests.pvesim import guests

APPLETS = ("sh", "env", "cat", "pwd", "true", "echo", "ls", "touch")
PASSWD = """\
# a comment
+nis::::::
broken:x:1
root:x:0:0:root:/root:/bin/sh
www-data:x:33:33:www-data:/srv/www:/usr/sbin/nologin
www-data:x:34:34:a second entry of that name:/:/bin/false
bare:x:50:60:::
maker:x:1000:1001:,,,:/home/maker:/bin/sh
"""
GROUP = """\
root:x:0:
disk:x:6:root
www-data:x:33:
video:x:44:maker,www-data,other
render:x:108:www-data
near:x:109:www-data2,xwww-data,www
bad:x:4294967295:www-data
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small root with PASSWD and GROUP, and /srv/www, in which everything may be spoiled."""
    for folder in ("bin", "etc", "proc", "root", "srv/www"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy("/bin/busybox", tmp_path / "bin/busybox")
    for applet in APPLETS:
        os.symlink("busybox", tmp_path / "bin" / applet)
    (tmp_path / "etc/passwd").write_text(PASSWD)
    (tmp_path / "etc/group").write_text(GROUP)
    tmp_path.chmod(0o755)
    return tmp_path


GUESTS = {101: "busybox, privileged", 104: "busybox", 201: "Debian", 202: "Debian, privileged"}


@pytest.fixture(scope="module", params=list(GUESTS), ids=list(GUESTS.values()))
def vmid(request: pytest.FixtureRequest) -> int:
    """A running guest of the node's own."""
    number: int = request.param
    try:
        guests.get(number)
    except guests.GuestError:
        pytest.skip("this node was started without the Debian guests")
    return number
