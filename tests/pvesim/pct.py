#!/usr/bin/env -S python3 -I
"""The node's `pct`: `exec`, `mount`, `unmount`, with the real one's exit codes, words and traps (PVE.md, "pct exec").

Like the real one it is a script that loads the configuration, looks whether the container runs and becomes
lxc-attach. Files in /run/pvesim make it as slow as the real one (`pct.seconds` holds a number), or pmxcfs as good
as down (`pmxcfs.down`). Standard library only; what mounts is `tests.pvesim.api.lxc.mounting`.
"""

import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import NoReturn

PVE = Path("/etc/pve")
SECONDS = Path("/run/pvesim/pct.seconds")
PMXCFS_DOWN = Path("/run/pvesim/pmxcfs.down")
_PATH = b"/sbin:/bin:/usr/sbin:/usr/bin"
_BY_SIGNAL = (signal.SIGPIPE, signal.SIGXFSZ)  # Python ignores them; Perl does not, and exec would hand it on


def main() -> None:
    """Become lxc-attach, or leave as Perl's `die` does: with whatever errno was left behind."""
    for number in _BY_SIGNAL:
        signal.signal(number, signal.SIG_DFL)
    if SECONDS.exists():
        time.sleep(float(SECONDS.read_text()))
    if os.geteuid() != 0:
        _die("please run as root", 255)
    if PMXCFS_DOWN.exists():
        _die("ipcc_send_rec[1] failed: Connection refused\n" * 3 + "Unable to load access control list", 111)
    if sys.argv[1:2] in (["mount"], ["unmount"]):
        _mount(sys.argv[1], _checked(sys.argv[2]))
        return
    vmid, keep, command = _parse(sys.argv[1:])
    config = f"nodes/{socket.gethostname()}/lxc/{vmid}.conf"
    if not (PVE / config).exists():
        _die(f"Configuration file '{config}' does not exist", 2)
    if not _runs(vmid):
        _die(f"container '{vmid}' not running!", 255)
    environment = {name: value for name, value in _environment().items() if not name.startswith(b"SSL_CERT_")}
    environment[b"PATH"] = _PATH
    words = ["lxc-attach", "-n", vmid, "--keep-env" if keep else "--clear-env", "--", *command]
    os.execve("/usr/bin/lxc-attach", [_as_perl_has_it(word) for word in words], environment)


def _parse(arguments: list[str]) -> tuple[str, bool, list[str]]:
    if arguments[:1] != ["exec"]:
        _die(f"ERROR: unknown command 'pct {' '.join(arguments[:1])}'", 255)
    head, _, command = (list(part) for part in _split(arguments[1:]))
    keep = True
    if "--keep-env" in head:
        at = head.index("--keep-env")
        keep = head[at + 1] != "0"
        del head[at : at + 2]
    vmid, *more = head
    return _checked(vmid), keep, [*more, *command]


def _checked(vmid: str) -> str:
    if not vmid.isascii() or not vmid.isdigit() or int(vmid) < 100:
        _die(f"400 Parameter verification failed.\nvmid: type check ('integer') failed - got '{vmid}'", 255)
    return vmid


def _mount(verb: str, vmid: str) -> None:
    sys.path.insert(0, str(Path(__file__).parents[2]))  # -I leaves it out
    from tests.pvesim.api.failure import Failure
    from tests.pvesim.api.lxc import mounting

    try:
        if verb == "mount":
            mounting.mount(int(vmid))
            print(f"mounted CT {vmid} in '/var/lib/lxc/{vmid}/rootfs'")
        else:
            mounting.unmount(int(vmid))
    except Failure as failure:
        _die(str(failure).rstrip(), 255)


def _split(arguments: list[str]) -> tuple[list[str], list[str], list[str]]:
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:at], arguments[at : at + 1], arguments[at + 1 :]


def _as_perl_has_it(word: str) -> bytes:
    """An argument as it is; in a locale without UTF-8 each byte of another character becomes U+FFFD."""
    raw = os.fsencode(word)
    given = _environment()
    locale = next((given[name] for name in (b"LC_ALL", b"LC_CTYPE", b"LANG") if given.get(name)), b"C")
    if b"utf" in locale.lower():
        return raw
    return b"".join(bytes([byte]) if byte < 0x80 else "\ufffd".encode() for byte in raw)


def _environment() -> dict[bytes, bytes]:
    """The variables as they were given: Python makes a locale of its own where there is none (PEP 538)."""
    pairs = (entry.partition(b"=") for entry in Path("/proc/self/environ").read_bytes().split(b"\0") if entry)
    return {name: value for name, _, value in pairs}


def _runs(vmid: str) -> bool:
    """As PVE::LXC::check_running."""
    name = f" @/var/lib/lxc/{vmid}/command".encode()
    return any(line.endswith(name) for line in Path("/proc/net/unix").read_bytes().split(b"\n"))


def _die(words: str, code: int) -> NoReturn:
    print(words, file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
