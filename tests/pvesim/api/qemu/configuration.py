"""Show and change a machine's configuration (qemu-server, API2/Qemu.pm): PUT at once, POST by a task."""

from typing import Any

from tests.pvesim.api import facts, tasks
from tests.pvesim.api.call import Call, split_list
from tests.pvesim.api.config_text import list_pending
from tests.pvesim.api.failure import die, refuse
from tests.pvesim.api.privileges import require, require_for_vm
from tests.pvesim.api.qemu import pending, process
from tests.pvesim.api.qemu.guest import store_of

_RULES = facts.load()["PUT", "/nodes/{node}/qemu/{vmid}/config"]["parameters"]
_NOT_CONFIG = ("node", "vmid", "digest", "skiplock", "force", "background_delay")
_PRIVILEGES = {
    "VM.Config.CPU": "affinity cores cpu cpulimit cpuunits numa smp sockets vcpus",
    "VM.Config.Memory": "memory balloon shares allow-ksm",
    "VM.Config.HWType": "acpi hotplug kvm machine scsihw smbios1 tablet vga watchdog audio0 rng0 vmgenid bios arch",
    "VM.Config.Options": "agent autostart bootdisk cipassword citype ciuser description keyboard localtime "
    "migrate_downtime migrate_speed name onboot ostype protection reboot startdate startup tdf template tags",
    "VM.Config.Disk": "boot bootdisk",
    "VM.Config.Cloudinit": "cicustom nameserver searchdomain sshkeys ciupgrade",
}
_PRIVILEGE_OF = {key: privilege for privilege, keys in _PRIVILEGES.items() for key in keys.split()}
_ONLY_ROOT = ("serial", "usb", "hostpci", "virtiofs", "parallel")


def show(call: Call) -> Any:
    guest = store_of(call).load()
    values = guest.snapshots.get(call.get("snapshot", "")) or (
        guest.values if call.get("current") else guest.with_pending()
    )
    if call.get("snapshot") and call["snapshot"] not in guest.snapshots:
        die(f"snapshot '{call['snapshot']}' does not exist")
    return {**typed(values), "digest": guest.digest}


def show_pending(call: Call) -> Any:
    """Each key with its `value`, what is `pending`, and whether it will be deleted."""
    return list_pending(store_of(call).load(), typed)


def change(call: Call) -> Any:
    """Null, when it has been done."""
    _prepare(call)
    _carry_out(call)


def change_by_task(call: Call) -> Any:
    _prepare(call)
    return tasks.fork_worker(call, "qmconfig", call.vmid, lambda: _carry_out(call))


def check_keys(call: Call, keys: list[str], pool: str | None = None) -> None:
    """check_vm_modify_config_perm; raises Failure(403), or a 500 for what only root@pam may set."""
    if call.is_root:
        return
    for key in keys:
        plain = key.rstrip("0123456789")
        if pending.DRIVE.fullmatch(key) or plain == "unused":
            require_for_vm(call.user, call.vmid, pool, "VM.Config.Disk")
        elif plain in _ONLY_ROOT and key != plain:
            die(f"only root can set '{key}' config")
        elif plain == "net":
            require_for_vm(call.user, call.vmid, pool, "VM.Config.Network")
        elif plain == "ipconfig":
            require_for_vm(call.user, call.vmid, pool, "VM.Config.Cloudinit")
        elif key in _PRIVILEGE_OF:
            require_for_vm(call.user, call.vmid, pool, _PRIVILEGE_OF[key])
        else:
            die(f"only root can set '{key}' config")


def typed(values: dict[str, str]) -> dict[str, Any]:
    return {
        key: facts.to_type(facts.find_rule(_RULES, key) or {}, value) if value.isdigit() else value
        for key, value in values.items()
    }


def _prepare(call: Call) -> None:
    """What is refused before anything is looked at."""
    if call.get("skiplock") and not call.is_root:
        refuse({"skiplock": "Only root may use this option."})
    changes = {key: value for key, value in call.parameters.items() if key not in _NOT_CONFIG}
    if not changes:
        die("no options specified")
    keys = [*(key for key in changes if key not in ("delete", "revert")), *split_list(call.get("delete"))]
    check_keys(call, [*keys, *split_list(call.get("revert"))])
    for key, value in changes.items():
        if pending.DRIVE.fullmatch(key) and ":" in str(value):
            require(call.user, f"/storage/{str(value).partition(':')[0]}", "Datastore.AllocateSpace")


def _carry_out(call: Call) -> None:
    changes = {key: value for key, value in call.parameters.items() if key not in _NOT_CONFIG}
    delete, revert = split_list(changes.pop("delete", "")), split_list(changes.pop("revert", ""))
    store = store_of(call)
    with store.locked():
        guest = store.load()
        if call.get("digest") and call["digest"] != guest.digest:
            die("detected modified configuration - file changed by other user? Try again.")
        if not call.get("skiplock"):
            store.check_lock(guest)
        touched = pending.queue(guest, changes, delete, revert)
        pending.apply(guest, call.vmid, touched, running=process.find_pid(store) is not None)
        store.write(guest)
