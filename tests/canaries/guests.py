"""Acts of who makes guests: passwords, keys and options, taken, refused, and repeated by PVE."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from tests.canaries.acting import COPY, MADE, MADE_MACHINE, NEVER_MADE, TOLD, Acts
from tests.canaries.words import Sink
from tests.guests.made import TEMPLATE

_KEY = f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{{}}{'A' * 26} {{}}"


def make_guests(act: Acts) -> None:
    """Passwords and keys: of containers and machines, made, failed, refused by PVE, and impossible."""
    name = "createGuest"
    base = {"storage": "local-lvm", "name": "canary"}
    container = {**base, "vmid": MADE, "template": TEMPLATE, "disk": "1G", "memory": 64, "start": True}
    machine = {**base, "type": "qemu", "vmid": MADE_MACHINE, "disks": [{"size": "1G"}], "memory": 64, "user": "debian"}
    for wish in (container, machine):
        made = act.ask(name, "POST", "/guests?wait=60", {**wish, **_secrets_of_a_guest(act, "a guest")}, timeout=90)
        assert made.status == 201, made.body
    act.ask(name, "POST", "/guests?wait=60", {**container, **_secrets_of_a_guest(act, "a guest whose vmid is taken")})
    never = {**container, "vmid": NEVER_MADE}
    for why, fault, where, method, allowed in (
        ("PVE repeats", "status", "/nodes/.*/lxc", "POST", ()),
        ("its task repeats", "task", "vzcreate", ".*", (Sink.REPLY,)),  # PVE's list of tasks is PVE's
    ):
        secret = _secrets_of_a_guest(act, f"a guest that {why}", *allowed)
        said = f"cannot set '{secret['password']}' and {secret['ssh_public_keys'][0]}"
        act.pve.faults.add(fault, where, text=said, times=1, method=method)
        act.ask(name, "POST", "/guests?wait=60", {**never, **secret}, timeout=90)
        act.pve.faults.clear()
    root = {**never, "template": "/no/such/template.tar", **_secrets_of_a_guest(act, "a guest of a path")}
    act.ask(name, "POST", "/guests?wait=60", root)
    bad = act.put(name, "a password with a control character")
    act.ask(name, "POST", "/guests", {**never, "password": f"{bad}\t"})


def _secrets_of_a_guest(act: Acts, of: str, *allowed: Sink) -> dict[str, Any]:
    name = "createGuest"
    # A machine's configuration shows its keys to who may read it.
    key = _KEY.format(
        act.put(name, f"an ssh key of {of}", Sink.REPLY), act.put(name, f"an ssh key's comment, of {of}", *TOLD)
    )
    return {"password": act.put(name, f"the password of {of}", *allowed), "ssh_public_keys": [key]}


def edit_guests(act: Acts) -> None:
    """Options that are secrets, taken, refused by PVE, and impossible; notes stand in the log."""
    name = "editGuest"
    for vmid, option in ((MADE_MACHINE, "cipassword"), (MADE_MACHINE, "sshkeys"), (MADE, "env"), (MADE, "password")):
        word = act.put(name, f"option {option}", *((Sink.REPLY,) if option in ("env", "sshkeys") else ()))
        value = (
            quote(_KEY.format(word, "me"), safe="") if option == "sshkeys" else f"A={word}" if option == "env" else word
        )
        act.ask(name, "PATCH", f"/guests/{vmid}", {"options": {option: value}})
        act.ask("showGuest", "GET", f"/guests/{vmid}")
    notes = act.put(name, "notes", *TOLD)
    act.ask(name, "PATCH", f"/guests/{MADE}", {"notes": notes}, headers={"If-Match": act.put(name, "If-Match")})
    act.ask(name, "PATCH", f"/guests/{MADE}", {"notes": notes})
    word = act.put(name, "option cipassword that PVE repeats")
    act.pve.faults.add("status", ".*/config", text=f"invalid format - '{word}'", times=1, method="(PUT|POST)")
    act.ask(name, "PATCH", f"/guests/{MADE_MACHINE}", {"options": {"cipassword": word}})
    act.pve.faults.clear()


def copy_guests(act: Acts) -> None:
    """Its notes are told."""
    wish = {"vmid": COPY, "notes": act.put("cloneGuest", "notes", *TOLD), "full": True}
    act.ask("cloneGuest", "POST", f"/guests/{MADE_MACHINE}/clone?wait=60", wish, timeout=90)


def keep_guests(act: Acts) -> None:
    """The description of a snapshot and the notes of a backup, which are the guest's readers' to see."""
    said = {"name": "kept", "description": act.put("takeSnapshot", "description", *TOLD)}
    act.ask("takeSnapshot", "POST", f"/guests/{MADE}/snapshots?wait=60", said, timeout=90)
    act.ask("listSnapshots", "GET", f"/guests/{MADE}/snapshots")
    wish = {"storage": "local", "notes": act.put("makeBackup", "notes", *TOLD)}
    act.ask("makeBackup", "POST", f"/guests/{MADE_MACHINE}/backups?wait=60", wish, timeout=90)
    act.ask("listBackups", "GET", f"/guests/{MADE_MACHINE}/backups")
