"""C11: what node policy lets guests be given, against everything that only looks like it."""

from __future__ import annotations

import posixpath
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.config import PolicyConfig
from gateway.errors import PolicyRefused
from gateway.policy.change import GuestChange, describe_options
from gateway.policy.node import NodePolicy

NOTHING = NodePolicy(PolicyConfig())


@pytest.fixture
def share(tmp_path: Path) -> Path:
    """An allowed directory with a directory, a file, and links out of it."""
    share = tmp_path / "share"
    (share / "in").mkdir(parents=True)
    (share / "file").write_text("")
    (tmp_path / "share2").mkdir()
    (share / "root").symlink_to("/")
    (share / "etc").symlink_to("/etc")
    (share / "up").symlink_to("..")
    (share / "same").symlink_to("in")
    return share


def policy(**members: Any) -> NodePolicy:
    return NodePolicy(PolicyConfig.model_validate(members))


def test_what_is_of_another_node() -> None:
    """Nothing by path and nothing raw: what our configuration names is this node's. The rest is decided as here."""
    allowed = policy(bind_sources=["/srv"], devices=["/dev/null"], raw_keys=["args"], features=["fuse"])
    here = {"mounts": ("/srv", "local:8"), "devices": ("/dev/null",), "raw_keys": ("args",), "features": ("fuse",)}
    assert refusals(allowed, **here) == []
    assert refusals(allowed, **here, elsewhere="pve2") == [None, None, None]
    assert refusals(allowed, mounts=("local:8",), features=("fuse", "keyctl"), elsewhere="pve2") == ["policy.features"]
    assert refusals(NOTHING, privileged=True, devices=("/dev/sda",), elsewhere="pve2") == [None, "policy.privileged"]


def refusals(node: NodePolicy, **members: Any) -> list[str | None]:
    """The keys that a change is refused for; none when it is allowed."""
    try:
        node.require(GuestChange(vmid=101, **members))
    except PolicyRefused as error:
        assert error.status == 403 and error.evidence["refused"]
        return [item["key"] for item in error.evidence["refused"]]
    return []


@pytest.mark.parametrize(
    ("members", "key"),
    [
        ({"mounts": ("/srv",)}, "policy.bind_sources"),
        ({"mounts": ("/",)}, "policy.bind_sources"),
        ({"mounts": ("/dev/sda",)}, "policy.devices"),
        ({"devices": ("/dev/null",)}, "policy.devices"),
        ({"features": ("nesting",)}, "policy.features"),
        ({"privileged": True}, "policy.privileged"),
        ({"hookscript": "local:snippets/x.sh"}, "policy.hookscripts"),
        ({"raw_keys": ("lxc.apparmor.profile",)}, "policy.raw_keys"),
        ({"template": "/tmp/x.tar.zst"}, "policy.template_paths"),
    ],
)
def test_nothing_is_allowed_by_default(members: dict[str, Any], key: str) -> None:
    """Each thing that is root on the node is refused, with the key that could allow it."""
    assert refusals(NOTHING, **members) == [key]


def test_ordinary_guests_need_no_policy() -> None:
    """Volumes that are new or the guest's own, and templates of storages, are no business of the node's."""
    own = ("local-lvm:vm-101-disk-0", "zfs:subvol-101-disk-1", "local:101/vm-101-disk-0.raw")
    linked = "local:9000/base-9000-disk-0.raw/101/vm-101-disk-0.qcow2"
    mounts = ("local-lvm:8", "local:0.5", *own, linked, "zfs:basevol-9000-disk-0/subvol-101-disk-0")
    template = "local:vztmpl/debian-13-standard_13.1-2_amd64.tar.zst"
    assert refusals(NOTHING, mounts=mounts, template=template) == []
    assert refusals(NOTHING, template="pbs:backup/ct/101/2026-01-01T00:00:00Z") == ["policy.template_paths"]


@pytest.mark.parametrize("word", ["0", "off", "NO", "false", 0, False, "0\n", "No\n", "", " ", "2", "maybe", "1\n"])
def test_a_guest_is_unprivileged_only_for_certain(word: Any) -> None:
    """Whatever PVE might not take for on makes a privileged guest: PVE::JSONSchema's patterns let a newline follow."""
    assert describe_options(101, {"unprivileged": word}, whole=True).privileged
    assert describe_options(101, {"unprivileged": word}, whole=False).privileged


@pytest.mark.parametrize("word", ["1", "on", "Yes", "TRUE", 1, True])
def test_a_guest_that_is_unprivileged(word: Any) -> None:
    """PVE's words for it, in any case."""
    assert not describe_options(101, {"unprivileged": word}, whole=True).privileged


def test_everything_refused_is_named_at_once() -> None:
    """One answer says all that would have to be allowed, and by which keys."""
    keys = refusals(NOTHING, mounts=("/srv",), features=("nesting", "fuse"), privileged=True)
    assert keys == ["policy.bind_sources", "policy.features", "policy.features", "policy.privileged"]


@pytest.mark.parametrize(
    "volume",
    ["local-lvm:vm-102-disk-0", "local:102/vm-102-disk-0.raw", "local:iso/x.iso", "local-lvm:vm-1010-disk-0", "x",
     "local:../vm-101-disk-0", "local:101/../102/vm-101-disk-0", "", "local:", "local:8 ", "local:8,mp=/",
     "volume=/etc", "local:basevol-101-disk-0/subvol-102-disk-0", "l\nxc:8",
     "local:102/vm-101-disk-0.raw", "local:101/vm-102-disk-0.raw",
     "local:/etc/vm-101-x", "relative/path", "./x", "~/x"],
)  # fmt: skip
def test_other_guests_volumes_are_refused(volume: str) -> None:
    """pvesh would mount any guest's disk into any other: only new volumes and the guest's own pass."""
    assert refusals(NOTHING, mounts=(volume,)) == [None]


def test_bind_sources_are_directories_below_what_is_allowed(share: Path) -> None:
    """The directory itself and what is below it pass."""
    node = policy(bind_sources=[str(share)])
    assert refusals(node, mounts=(str(share), f"{share}/in")) == []


@pytest.mark.parametrize(
    "tail",
    [
        "/..", "/../share2", "2", "/", "/in/", "//in", "/./in", "/in/..", "/in/../../share2", "/root", "/root/etc",
        "/etc", "/up", "/up/share2", "/same", "/file", "/missing", "/IN", "/in,mp=/x", "/in,ro=0", "/in\n", "/in\0",
        "/in ", "/*", "/in\\", "/in=", "/in;x", "/$(id)", "/in\u2028", "/\uff0e\uff0e", "/in%2f..", "\n/etc",
    ],
)  # fmt: skip
def test_what_only_looks_like_an_allowed_source(share: Path, tail: str) -> None:
    """Dots, slashes, neighbours, links, files, case, commas, newlines, globs: refused."""
    node = policy(bind_sources=[str(share)])
    assert refusals(node, mounts=(f"{share}{tail}",)) == ["policy.bind_sources"]
    assert refusals(node, mounts=(f"{share}{tail}".upper(),)) == ["policy.bind_sources"]


def test_a_link_in_the_allowed_path_is_the_administrators(tmp_path: Path, share: Path) -> None:
    """`/srv` may be a link to a disk, and may be allowed by that name."""
    (tmp_path / "srv").symlink_to(share)
    node = policy(bind_sources=[f"{tmp_path}/srv"])
    assert refusals(node, mounts=(f"{tmp_path}/srv/in",)) == []
    assert refusals(node, mounts=(f"{tmp_path}/srv/root",)) == ["policy.bind_sources"]
    assert refusals(node, mounts=(f"{share}/in",)) == ["policy.bind_sources"]


@settings(max_examples=500)
@given(
    st.lists(
        st.sampled_from(["in", "..", ".", "", "root", "etc", "up", "same", "share", "share2", "*", "a,b"]), max_size=6
    )
)
def test_whatever_passes_lies_below_the_allowed_source(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str]
) -> None:
    """Any walk over dots, slashes and links: what passes is really there, below, and written plainly."""
    top = _tree(tmp_path_factory)
    path = f"{top}/{'/'.join(parts)}" if parts else str(top)
    if not refusals(policy(bind_sources=[str(top)]), mounts=(path,)):
        assert Path(path).resolve() in (top, top / "in", top / "in" / "in")
        assert posixpath.normpath(path) == path


_TREES: list[Path] = []


def _tree(factory: pytest.TempPathFactory) -> Path:
    if not _TREES:
        top = factory.mktemp("policy").resolve() / "share"
        (top / "in" / "in").mkdir(parents=True)
        for name, target in {"root": "/", "etc": "/etc", "up": "..", "same": "in"}.items():
            (top / name).symlink_to(target)
            (top / "in" / name).symlink_to(target)
        _TREES.append(top)
    return _TREES[0]


@pytest.mark.parametrize(
    ("patterns", "path", "allowed"),
    [
        (["/dev/null"], "/dev/null", True),
        (["/dev/n*"], "/dev/null", True),
        (["/dev/*"], "/dev/null", True),
        (["/dev/*"], "/dev/pts/ptmx", False),
        (["/dev/*"], "/dev/../dev/null", False),
        (["/dev/*"], "/dev//null", False),
        (["/dev/*"], "/dev/null/", False),
        (["/dev/*"], "/dev/*", False),
        (["/dev/*"], "/dev/missing", False),
        (["/dev/*"], "/dev/fd", False),
        (["/dev/*"], "/dev/shm", False),
        (["/dev/*"], "/dev/null,mode=0666", False),
        (["/dev/*"], "/dev/null\n", False),
        (["/dev/*/*"], "/dev/../etc/shadow", False),
        (["/dev/null"], "/DEV/NULL", False),
        (["/dev/null"], "/dev/zero", False),
        (["/dev/nul"], "/dev/null", False),
        (["/dev/n.ll"], "/dev/null", False),
    ],
)
def test_devices(patterns: list[str], path: str, allowed: bool) -> None:
    """A device passes by its own plain name in a pattern, as a device and as a mount point alike."""
    node = policy(devices=patterns)
    assert (refusals(node, devices=(path,)) == []) is allowed
    if path.startswith("/dev/"):
        assert (refusals(node, mounts=(path,)) == []) is allowed


def test_a_link_that_anybody_made_is_no_device() -> None:
    """/dev/shm is everybody's: a link there to a disk is nothing of udev's."""
    link = Path("/dev/shm/pveg-test-null")
    link.unlink(missing_ok=True)
    link.symlink_to("/dev/null")
    try:
        assert refusals(policy(devices=["/dev/shm/*", "/dev/*/*"]), devices=(str(link),)) == ["policy.devices"]
    finally:
        link.unlink()


def test_words_pass_exactly() -> None:
    """Features, hookscripts and option names are compared as they are; privileged guests are one switch."""
    node = policy(
        features=["nesting", "mount=nfs"],
        hookscripts=["local:snippets/a.sh"],
        raw_keys=["lxc.apparmor.profile"],
        privileged=True,
    )
    given_all = {"features": ("nesting", "mount=nfs"), "hookscript": "local:snippets/a.sh", "privileged": True}
    assert refusals(node, **given_all, raw_keys=("lxc.apparmor.profile",)) == []
    for feature in ("keyctl", "Nesting", "nesting ", "nesting=1", "mount=nfs;cifs", "mount=cifs", "mount", ""):
        assert refusals(node, features=(feature,)) == ["policy.features"]
    for script in ("local:snippets/b.sh", "local:snippets/../a.sh", "local:snippets/a.sh ", ""):
        assert refusals(node, hookscript=script) == ["policy.hookscripts"]
    for key in (
        "lxc.apparmor",
        "lxc.apparmor.profile.x",
        "LXC.apparmor.profile",
        "lxc.apparmor.profile:",
        "lxc.hook.mount",
    ):
        assert refusals(node, raw_keys=(key,)) == ["policy.raw_keys"]


def test_templates(tmp_path: Path) -> None:
    """A file as a template passes below an allowed directory, as a regular file that is no link."""
    (tmp_path / "t.tar.zst").write_text("")
    (tmp_path / "link.tar").symlink_to("/etc/shadow")
    node = policy(template_paths=[str(tmp_path)])
    assert refusals(node, template=f"{tmp_path}/t.tar.zst") == []
    paths = (f"{tmp_path}/link.tar", f"{tmp_path}/../t.tar.zst", str(tmp_path), "/etc/shadow", "-", "t.tar.zst", "")
    volumes = ("local:vztmpl/../../../etc/shadow", "local:vztmpl//etc/x", "local:snippets/x", "local:vztmpl/a\nb")
    for path in (*paths, *volumes):
        assert refusals(node, template=path) == ["policy.template_paths"], path


@pytest.mark.parametrize(
    ("options", "change"),
    [
        ({"hostname": "web", "memory": 512, "net0": "name=eth0,bridge=vmbr0", "rootfs": "local-lvm:8"},
         {"mounts": ("local-lvm:8",)}),
        ({"mp0": "/srv,mp=/mnt"}, {"mounts": ("/srv",)}),
        ({"mp0": "mp=/mnt,volume=/etc"}, {"mounts": ("/etc",)}),
        ({"mp255": "volume=/etc,mp=/mnt,ro=1"}, {"mounts": ("/etc",)}),
        ({"mp0": "/srv,mp=/mnt,idmap=passthrough"}, {"mounts": ("/srv",), "raw_keys": ("idmap",)}),
        ({"unused0": "local:vm-102-disk-0"}, {"mounts": ("local:vm-102-disk-0",)}),
        ({"dev0": "/dev/sda,mode=0660"}, {"devices": ("/dev/sda",)}),
        ({"dev12": "mode=0660,path=/dev/sda"}, {"devices": ("/dev/sda",)}),
        ({"features": "nesting=1,keyctl=0,mount=nfs;cifs"}, {"features": ("nesting", "mount=nfs", "mount=cifs")}),
        ({"hookscript": "local:snippets/x"}, {"hookscript": "local:snippets/x"}),
        ({"ostemplate": "/x.tar"}, {"template": "/x.tar"}),
        ({"lxc.mount.entry": "/ mnt none bind", "args": "-s"}, {"raw_keys": ("lxc.mount.entry", "args")}),
        ({"hostpci0": "01:00", "virtfs": "x", "Hostname": "x"}, {"raw_keys": ("hostpci0", "virtfs", "Hostname")}),
        ({"unprivileged": 0}, {"privileged": True}),
        ({"unprivileged": "0"}, {"privileged": True}),
        ({"unprivileged": False}, {"privileged": True}),
        ({"unprivileged": 1}, {}),
    ],
)  # fmt: skip
def test_options_are_read_as_pve_reads_them(options: dict[str, Any], change: dict[str, Any]) -> None:
    """What PVE would take out of its options and property strings is what policy decides about."""
    assert describe_options(101, options, whole=False) == GuestChange(vmid=101, **change)


@pytest.mark.parametrize(
    "options",
    [
        {"mp0": "/srv,/etc,mp=/x"},
        {"mp0": "/srv,volume=/etc,mp=/x"},
        {"mp0": "/srv,mp=/x,mp=/y"},
        {"mp0": "mp=/x"},
        {"mp0": "/srv,file=/etc"},
        {"mp0": "/srv,mp=/x\nlxc.hook.mount: /bin/sh"},
        {"mp0": "/srv=1,mp=/x"},
        {"mp0": ""},
        {"mp0": "/srv,,mp=/x"},
        {"mp0": "/srv,Volume=/etc"},
        {"dev0": "/dev/null,path=/dev/sda"},
        {"dev0": ""},
        {"features": "nesting"},
        {"features": "nesting=1,nesting=0"},
        {"features": "all=1"},
    ],
)
def test_what_cannot_be_read_for_certain_is_refused(options: dict[str, Any]) -> None:
    """A second source, a doubled key, a line more: nobody guesses which one PVE would take."""
    with pytest.raises(PolicyRefused):
        describe_options(101, options, whole=False)


def test_a_whole_guest_is_privileged_unless_it_says_not() -> None:
    """In a configuration, a backup's too, no `unprivileged` is a privileged guest."""
    assert describe_options(101, {}, whole=True).privileged
    assert not describe_options(101, {"unprivileged": "1"}, whole=True).privileged
    assert not describe_options(101, {}, whole=False).privileged


@settings(max_examples=500)
@given(
    st.dictionaries(
        st.sampled_from(["mp0", "dev0", "rootfs", "features", "hookscript", "ostemplate", "lxc.x", "memory"]), st.text()
    )
)
def test_no_option_text_gets_past_an_empty_policy(options: dict[str, str]) -> None:
    """Whatever is written in them, what passes has no host path, device, feature, script or raw key in it."""
    try:
        change = describe_options(101, options, whole=False)
        NOTHING.require(change)
    except PolicyRefused:
        return
    assert not change.devices and not change.features and change.hookscript is None and not change.raw_keys
    assert all(":" in source and not source.startswith("/") for source in change.mounts)


@pytest.mark.parametrize(
    "members",
    [
        {"bind_sources": ["/"]},
        {"bind_sources": ["//"]},
        {"bind_sources": ["srv"]},
        {"bind_sources": ["/srv/"]},
        {"bind_sources": ["/srv/../etc"]},
        {"devices": ["/dev"]},
        {"devices": ["/dev/../etc/*"]},
        {"devices": ["*"]},
        {"devices": ["/etc/*"]},
        {"devices": ["/dev/[n]ull"]},
        {"devices": ["/dev/n?ll"]},
        {"features": ["all"]},
        {"features": ["mount=nfs;cifs"]},
        {"hookscripts": ["/root/x.sh"]},
        {"raw_keys": ["*"]},
        {"privileged": "yes"},
        {"mounts": []},
    ],
)
def test_the_configuration_takes_nothing_doubtful(members: dict[str, Any]) -> None:
    """An entry that would allow more than it seems is an error at start."""
    with pytest.raises(ValidationError):
        PolicyConfig.model_validate(members)
