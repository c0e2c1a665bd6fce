"""What stands in a new container: an archive's content, its distribution, its name, password and keys (LXC/Setup)."""

import base64
import binascii
import contextlib
import itertools
import os
import re
import secrets
from pathlib import Path

from tests.pvesim import config
from tests.pvesim.api import archives, config_text, volumes
from tests.pvesim.api.call import Call
from tests.pvesim.api.config_text import GuestConfig
from tests.pvesim.api.failure import Failure, die
from tests.pvesim.api.lxc import pending, properties
from tests.pvesim.api.storages import Volume

_SYSTEMS = {"debian": "debian", "ubuntu": "ubuntu", "alpine": "alpine", "busybox": "unmanaged"}
# What sanitize_and_merge_config leaves to the request and to the new container.
_NOT_RESTORED = ("lock", "parent", "snapstate", "snaptime", "digest", "template")


def recover(guest: GuestConfig, mounts: dict[str, str], backup: Volume, *, storage: str, is_root: bool) -> None:
    """Take over what the request does not say from the configuration in a backup. Raises Failure."""
    if not backup.path.exists():
        die(f"ERROR: file '{backup.path}' does not exist")
    print(f"recovering backed-up configuration from '{backup.id}'")
    text = archives.read_member(backup.path, archives.CONFIG)
    if text is None:
        die("unable to find configuration in backup archive")
    old = config_text.parse(text)
    if not mounts:
        for point in properties.mount_points(old.values):
            if point.type == "volume":
                size = point.parts.pop("size", "4G").rstrip("G")
                mounts[point.key] = point.with_volume(f"{storage}:{size}")
            elif is_root:
                mounts[point.key] = old.values[point.key]
            else:
                die(f"restoring '{point.key}' to {point.type} mount is only possible for root")
    for key, value in old.values.items():
        if not properties.is_mount_key(key) and key not in _NOT_RESTORED and not key.startswith("unused"):
            guest.values.setdefault(key, value)
    if is_root:
        guest.raw = old.raw


def fill(guest: GuestConfig, archive: Volume, call: Call, *, is_restore: bool) -> None:
    """Unpack into the root volume and make the result this container's own."""
    point = next(iter(properties.mount_points(guest.values)))
    root, unprivileged = volumes.tree(point.volume), guest.get("unprivileged") == "1"
    if not archive.path.exists():
        die(f"volume '{archive.id}' does not exist")
    if is_restore:
        print(f"restoring '{archive.id}' now..")
    call.sim.faults.stall("unpack")
    if call.sim.faults.is_full(point.volume.partition(":")[0]):
        _fill_up(root)
    points = [one for one in properties.volumes(guest.values) if one.key != "rootfs"]
    mounts = {one.parts["mp"]: volumes.tree(one.volume) for one in points}
    archives.unpack(archive.path, root, unprivileged=unprivileged, mounts=mounts)
    if is_restore:
        print("merging backed-up and given configuration..")
        _remove_config(root)
        if call.get("unique"):
            give_new_addresses(guest)
    else:
        guest.values.setdefault("ostype", _detect(root))
        owner = config.UID_SHIFT if unprivileged else 0
        _write(root, "etc/hostname", f"{guest.get('hostname', f'CT{call.vmid}')}\n", owner)
        _set_password(root, call.get("password"), owner)
        if call.get("ssh-public-keys"):
            _write(root, "root/.ssh/authorized_keys", f"{call['ssh-public-keys'].strip()}\n", owner, 0o600)


def is_ssh_key(line: str) -> bool:
    """What `ssh-keygen -l` takes: the name of a kind of key, and a key that begins with the same name."""
    words = line.split()
    for kind, key in itertools.pairwise(words):
        with contextlib.suppress(binascii.Error, ValueError):
            if base64.b64decode(key, validate=True)[4:].startswith(kind.encode()) and re.match("ssh-|ecdsa-|sk-", kind):
                return True
    return False


def rename(guest: GuestConfig, vmid: int) -> None:
    """post_clone_hook: the new name, and an identity of its own."""
    root = volumes.tree(next(iter(properties.mount_points(guest.values))).volume)
    owner = config.UID_SHIFT if guest.get("unprivileged") == "1" else 0
    _write(root, "etc/hostname", f"{guest.get('hostname', f'CT{vmid}')}\n", owner)
    if (root / "etc/machine-id").is_file():
        _write(root, "etc/machine-id", f"{secrets.token_hex(16)}\n", owner)


def give_new_addresses(guest: GuestConfig) -> None:
    """Other MAC addresses, for a copy."""
    for number, net in properties.networks(guest.values).items():
        guest.values[f"net{number}"] = properties.print_parts({**net, "hwaddr": pending.random_mac()})


def _detect(root: Path) -> str:
    """The distribution by /etc/os-release; a busybox is `unmanaged` here, where PVE would ask for `ostype`."""
    try:
        text = (root / "etc/os-release").resolve().read_text() if (root / "etc/os-release").exists() else ""
    except OSError:
        text = ""
    found = re.search(r'^ID="?(\w+)"?$', text, re.MULTILINE)
    if found is None or found[1] not in _SYSTEMS:
        die("unable to detect OS distribution")
    return _SYSTEMS[found[1]]


def _fill_up(root: Path) -> None:
    print("tar: ./bin/busybox: Cannot write: No space left on device")
    raise Failure(500, f"command 'tar xpf - --totals --numeric-owner -C {root}' failed: exit code 2\n")


def _set_password(root: Path, password: str | None, owner: int) -> None:
    """Only that there is one: no hash of it is kept in a simulated guest."""
    if password is not None and not (root / "etc/shadow").exists():
        _write(root, "etc/shadow", f"root:$5$sim${secrets.token_hex(16)}:20000:0:99999:7:::\n", owner, 0o640)


def _write(root: Path, name: str, text: str, owner: int, mode: int = 0o644) -> None:
    """A file below a guest's root, whatever links the guest made of the way there."""
    directory = root
    for part in Path(name).parent.parts:
        directory /= part
        if directory.is_symlink():
            return
        if not directory.exists():
            directory.mkdir(mode=0o700)
            os.chown(directory, owner, owner)
    file = directory / Path(name).name
    file.unlink(missing_ok=True)
    file.write_text(text)
    file.chmod(mode)
    os.chown(file, owner, owner)


def _remove_config(root: Path) -> None:
    (root / archives.CONFIG).unlink(missing_ok=True)
