"""The whole way, host mode, lxc-attach and guest mode, into real containers of a simulated node."""

import ctypes
import errno
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.launcher.harness import PATH, TTY, Nursery, bear, build_spec, finish
from tests.launcher.into_guests import Way, launched, run_in
from tests.pvesim import guests

UNPRIVILEGED = 104
_PR_CAPBSET_DROP, _CAP_SYS_PTRACE = 24, 19

pytestmark = pytest.mark.skipif(
    not Path("/etc/pve/.members").exists(), reason="runs inside a node of tests/pvesim, which has the containers"
)
UNPRIVILEGED = 104


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 1", 1), ("exit 126", 126), ("exit 127", 127), ("kill -9 $$", -9), ("kill -15 $$", -15)],
)
def test_sees_the_commands_own_end(vmid: int, script: str, code: int) -> None:
    """The command is our child when lxc-attach is gone, and its wait status is its own."""
    ended = run_in(vmid, build_spec(["sh", "-c", script]))
    assert (ended.last.kind, ended.code, ended.stdout, ended.stderr, ended.attach_stderr) == ("R", code, b"", b"", b"")


def test_tells_failures_apart(vmid: int) -> None:
    """A spawn that failed in the guest is told by its stage, and never by an exit code or a stream."""
    assert run_in(vmid, build_spec(["missing"])).failure == ("exec", errno.ENOENT)
    assert run_in(vmid, build_spec(["/etc/passwd"])).failure == ("exec", errno.EACCES)
    assert run_in(vmid, build_spec(["true"], cwd="/missing")).failure == ("cwd", errno.ENOENT)
    assert run_in(vmid, build_spec(["true"], user="nobody-here")).failure == ("user", errno.ENOENT)
    assert run_in(vmid, b"no spec").failure == ("spec", errno.EINVAL)


def test_tells_of_an_id_that_the_guest_does_not_map() -> None:
    """A uid past 65535 in an unprivileged guest is EINVAL in stage `user` or `groups`, with nothing run."""
    assert run_in(UNPRIVILEGED, build_spec(["true"], user="65536")).failure == ("groups", errno.EINVAL)
    assert run_in(UNPRIVILEGED, build_spec(["true"], user="65536:0")).failure == ("user", errno.EINVAL)


def test_a_number_goes_without_groups_that_the_guest_does_not_map() -> None:
    """One group of the guest's own file past its map keeps a name from running, and a number from its other groups."""

    def prepare(rootfs: Path) -> None:
        with (rootfs / "etc/group").open("a") as file:
            file.write("beyond:x:70000:www-data\n")

    guest = guests.create(982, unprivileged=True, prepare=prepare)
    try:
        assert run_in(guest.vmid, build_spec(["true"], user="www-data")).failure == ("groups", errno.EINVAL)
        assert run_in(guest.vmid, build_spec(["id", "-G"], user="33")).stdout == b"33\n"
    finally:
        guest.destroy()


def test_brings_nothing_of_the_host(vmid: int) -> None:
    """In the guest too the environment is the spec's and the account's, the umask 022, and 0, 1, 2 are all."""
    ended = run_in(vmid, build_spec(["env"], ["PATH=/bin:/usr/bin:/sbin:/usr/sbin", "LD_PRELOAD=/x.so"]))
    assert ended.stdout.splitlines()[:2] == [b"PATH=/bin:/usr/bin:/sbin:/usr/sbin", b"LD_PRELOAD=/x.so"]
    names = [line.split(b"=")[0] for line in ended.stdout.splitlines()[2:]]
    assert names == [b"HOME", b"USER", b"LOGNAME", b"SHELL"]
    ended = run_in(vmid, build_spec(["sh", "-c", "umask; exec ls /proc/$$/fd"]))
    assert ended.stdout.split() == [b"0022", b"0", b"1", b"2", b"3"]  # 3: the folder that ls reads


def test_lets_the_user_reopen_its_streams(vmid: int) -> None:
    """`> /dev/stdout` and `> /dev/stderr` work for a user who is not root, in unprivileged guests too."""
    script = "echo out > /proc/self/fd/1; echo err > /proc/self/fd/2"
    ended = run_in(vmid, build_spec(["sh", "-c", script], user="www-data"))
    assert (ended.code, ended.stdout, ended.stderr) == (0, b"out\n", b"err\n")


def test_runs_lxc_attach_as_it_is_given(vmid: int) -> None:
    """From the sealed memfd lxc-attach goes on as that file; from its path it runs as a sealed copy that it made. By
    the library it is the nursery's own sealed memfd."""
    exes = {Way.LIBRARY: "nursery", Way.MEMFD: "attach", Way.PATH: "lxc-attach"}
    for way, exe in exes.items():
        with launched(vmid, build_spec(["true"]), way=way) as (launch, _):
            attach = launch.receive().sender
            assert launch.receive().kind == "R"
            assert os.readlink(f"/proc/{attach}/exe") == f"/memfd:{exe} (deleted)"
            named = Path(f"/proc/{attach}/cmdline").read_bytes()
            assert named.startswith(b"nursery\0" if way is Way.LIBRARY else b"lxc-attach\0-n\0")


@pytest.mark.parametrize("way", list(Way), ids=lambda way: way.value)
def test_lets_nothing_else_into_the_guest(vmid: int, way: Way) -> None:
    """Of what leaked out of the supervisor, its cgroup, its lxc-attach and the nursery's socket neither the guest nor
    lxc-attach holds anything."""

    def leak() -> None:
        stray = os.memfd_create("stray")
        for number in (8, 9, 30, 1000) if way is Way.PATH else (9, 30, 1000):
            os.dup2(stray, number, inheritable=True)

    with launched(vmid, build_spec(["true"]), way=way, prepare=leak) as (launch, cgroup):
        attach, command = launch.receive().sender, launch.receive().sender
        assert held(command).keys() == {0, 1, 2, 4, 6}
        of_lxc_attach = held(attach)
        assert of_lxc_attach.keys() >= set(range(7))
        own = [name for number, name in of_lxc_attach.items() if number > 6]
        assert not [name for name in own if "memfd" in name or cgroup.name in name or name in nursery_holds()]


def test_lets_nothing_of_a_terminal_into_the_guest_but_itself(vmid: int) -> None:
    """Who attaches has the terminal once, as 6."""
    with launched(vmid, build_spec(["true"], flags=TTY), terminal=True) as (launch, _):
        attach = launch.receive().sender
        assert launch.receive().kind == "R"
        assert [number for number, name in held(attach).items() if name.startswith("/dev/p")] == [6]


def test_cannot_be_traced_on_its_way() -> None:
    """Who attaches by the library can be traced only with the capability to do so on the node, not by who has its user
    and all of its capabilities: so an unprivileged guest's root cannot, either. He could trace lxc-attach."""

    def drop() -> None:
        assert ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, _CAP_SYS_PTRACE, 0, 0, 0) == 0

    for way, traceable in ((Way.LIBRARY, False), (Way.MEMFD, True)):
        with launched(UNPRIVILEGED, build_spec(["true"]), way=way, prepare=drop) as (launch, _):
            attach = launch.receive().sender
            assert launch.receive().kind == "R"
            look = ["setpriv", "--bounding-set=-sys_ptrace", "readlink", f"/proc/{attach}/exe"]
            done = subprocess.run(look, capture_output=True, check=False)
            assert (done.returncode == 0) == traceable, done.stderr


@pytest.mark.parametrize("way", list(Way), ids=lambda way: way.value)
def test_puts_it_where_lxc_attach_would(vmid: int, way: Way) -> None:
    """Namespaces, confinement, capabilities, seccomp and limits of what runs are the same by each way in."""
    script = "readlink /proc/$$/ns/*; grep -E '^(Cap|Seccomp|NoNewPrivs|Uid|Gid|Groups)' /proc/self/status; ulimit -a; "
    script += "cat /proc/self/attr/current /proc/self/oom_score_adj 2>&1; umask; pwd; env | sort"
    ended = run_in(vmid, build_spec(["sh", "-c", script], [PATH]), way=way)
    assert ended.code in (0, 1)
    assert ended.stdout == run_in(vmid, build_spec(["sh", "-c", script], [PATH]), way=Way.PATH).stdout


def test_tells_of_a_guest_that_does_not_run() -> None:
    """The library's words come on lxc-attach's stderr, and nothing else does."""
    nursery = Nursery.start()
    ended = finish(bear(nursery, ["/var/lib/lxc", "999"], build_spec(["true"]), library=True))
    assert nursery.end() == 0
    assert (ended.last.kind, ended.code) == ("H", 1)
    assert b"Failed to get init pid" in ended.attach_stderr


def nursery_holds() -> set[str]:
    """What stands behind the descriptors of the nursery that serves us: its socket."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    (nursery,) = (pid for pid in children if Path(f"/proc/{pid}/comm").read_text() == "pveg-nursery\n")
    (name,) = set(held(int(nursery)).values())
    return {name}


def held(pid: int) -> dict[int, str]:
    """The descriptors that a process holds and what stands behind each, as /proc names it."""
    names = {}
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since
            names[int(path.name)] = os.readlink(path)
    return names


def test_places_the_command_beside_the_guests_own(vmid: int) -> None:
    """The command is in the exec's cgroup from birth, and ends with it, lxc-attach long gone."""
    with launched(vmid, build_spec(["sleep", "1000"])) as (launch, cgroup):
        attach, command = launch.receive().sender, launch.receive().sender
        assert {attach, command} <= set(map(int, (cgroup / "cgroup.procs").read_text().split()))
        os.kill(attach, signal.SIGKILL)
        os.waitpid(attach, 0)
        launch.go()
        assert launch.receive().kind == ""
        (cgroup / "cgroup.kill").write_text("1")
        assert os.waitstatus_to_exitcode(os.waitpid(command, 0)[1]) == -signal.SIGKILL


def test_runs_nothing_for_a_dead_supervisor(vmid: int) -> None:
    """When the supervisor's end closes before 'G', the launcher ends and so does lxc-attach."""
    mark = f"/ran-{os.getpid()}"
    with launched(vmid, build_spec(["touch", mark])) as (launch, _):
        attach = launch.receive().sender
        assert launch.receive().kind == "R"
        launch.status.shutdown(socket.SHUT_RDWR)
        assert os.waitstatus_to_exitcode(os.waitpid(attach, 0)[1]) == 127
    assert not (guests.get(vmid).rootfs / mark.lstrip("/")).exists()


def spoil(make: Callable[[Path], object]) -> Callable[[Path], None]:
    """A guest without /bin/sh and /tmp, with something else for /etc/passwd, and a program to run."""

    def prepare(rootfs: Path) -> None:
        (rootfs / "etc/passwd").unlink()
        make(rootfs / "etc/passwd")
        (rootfs / "bin/sh").unlink()
        if (rootfs / "tmp").exists():
            (rootfs / "tmp").rmdir()

    return prepare


@pytest.mark.parametrize("unprivileged", [False, True], ids=["privileged", "unprivileged"])
@pytest.mark.parametrize(
    ("make", "error"),
    [
        (os.mkfifo, errno.EINVAL),
        (lambda path: path.symlink_to("shadow"), errno.ELOOP),
        (lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 1 << 30), errno.EFBIG),
    ],
    ids=["FIFO", "link", "1 GiB"],
)
def test_runs_in_a_hostile_guest(make: Callable[[Path], object], error: int, unprivileged: bool) -> None:
    """Root and numbers run in a guest with a bad passwd, no /bin/sh and no /tmp; a name is the file's error."""
    guest = guests.create(980 + unprivileged, unprivileged=unprivileged, prepare=spoil(make))
    try:
        assert run_in(guest.vmid, build_spec(["/bin/busybox", "true"])).code == 0
        assert run_in(guest.vmid, build_spec(["/bin/busybox", "pwd"], user="33")).stdout == b"/\n"
        assert run_in(guest.vmid, build_spec(["/bin/busybox", "true"], user="www-data")).failure == ("user", error)
        assert run_in(guest.vmid, build_spec(["sh"])).failure == ("exec", errno.ENOENT)
    finally:
        guest.destroy()
