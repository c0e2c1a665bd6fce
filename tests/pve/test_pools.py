"""Pools out of PVE's user.cfg: who is a member, and that a change is seen."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from gateway.pve.pools import PoolFile, parse_pools

# As pve-access-control 9 writes it.
USER_CFG = """user:root@pam:1:0:::root@example.com:::
token:root@pam!gateway:0:0::

group:admins:root@pam:people:

pool:web:The web servers%3A all:101,102:local,local-lvm:
pool:web/staging::103 104;105::
pool:empty::::
pool:db:doubled:102,200:local:
pool:odd::0,99,0101,abc,1000000000,-1,201::

acl:1:/pool/web:joe@pve:PVEVMAdmin:
"""


def test_reads_user_cfg() -> None:
    """Members by pool; a guest listed twice is in the first pool alone, and nested pools are pools of their own."""
    assert parse_pools(USER_CFG) == {
        "web": {101, 102},
        "web/staging": {103, 104, 105},
        "empty": set(),
        "db": {200},
        "odd": {201},
    }


@given(st.text())
def test_no_text_breaks_it(text: str) -> None:
    """Any file gives vmids or nothing."""
    for members in parse_pools(f"pool:{text}\npool:a:b:{text}:").values():
        assert all(100 <= vmid <= 999_999_999 for vmid in members)


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    """Replaced by rename it is read anew; the same file gives the same object; without it nobody is in a pool."""
    path = tmp_path / "user.cfg"
    pools = PoolFile(path)
    assert pools.read() == {} and pools.read() is pools.read()
    path.write_text("pool:web::101::\n")
    before = pools.read()
    assert before == {"web": {101}} and pools.read() is before
    new = tmp_path / "new"
    new.write_text("pool:web::102::\n")
    os.utime(new, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    new.rename(path)
    assert pools.read() == {"web": {102}}, "the inode tells, where size and time do not"
    path.unlink()
    assert pools.read() == {}
    path.mkdir()
    assert pools.read() == {}
