"""Show and change a machine's configuration (qemu-server, API2/Qemu.pm): PUT at once, POST by a task."""

import re
from typing import Any

from tests.pvesim.api import facts, storages, tasks
from tests.pvesim.api.call import Call, split_list
from tests.pvesim.api.config_text import list_pending
from tests.pvesim.api.failure import die, refuse
from tests.pvesim.api.lxc.permissions import check_volume_access
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
_HIDDEN = {"cipassword": "**********"}
_ONLY_ROOT = ("usb", "hostpci", "virtiofs", "parallel")


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
        if pending.DRIVE.fullmatch(key) or plain in ("unused", "serial"):
            continue  # check_values
        if plain in _ONLY_ROOT and key != plain:
            die(f"only root can set '{key}' config")
        elif plain == "net":
            require_for_vm(call.user, call.vmid, pool, "VM.Config.Network")
        elif plain == "ipconfig":
            require_for_vm(call.user, call.vmid, pool, "VM.Config.Cloudinit")
        elif key in _PRIVILEGE_OF:
            require_for_vm(call.user, call.vmid, pool, _PRIVILEGE_OF[key])
        else:
            die(f"only root can set '{key}' config")


def check_values(call: Call, values: dict[str, str], pool: str | None = None) -> None:
    """What a drive or a serial port may be depends on its value (check_storage_access, check_drive_param,
    check_vm_create_serial_perm, check_bridge_access). Raises Failure."""
    for key, value in values.items():
        if pending.DRIVE.fullmatch(key):
            _check_drive(call, key, value, pool)
        elif re.fullmatch(r"serial\d+", key) and value == "socket":
            require_for_vm(call.user, call.vmid, pool, "VM.Config.HWType")
        elif re.fullmatch(r"serial\d+", key) and not call.is_root:
            die(f"only root can set '{key}' config for real devices")
        elif re.fullmatch(r"net\d+", key) and (bridge := re.search(r"(?:^|,)bridge=([^,]+)", value)):
            require(call.user, f"/sdn/zones/localnetwork/{bridge[1]}", "SDN.Use")


def _check_drive(call: Call, key: str, value: str, pool: str | None) -> None:
    file, *rest = value.split(",")
    parts = dict(part.partition("=")[::2] for part in rest)
    file = parts.get("file") or parts.get("volume") or file.partition("=")[2] or file
    is_cd = parts.get("media") == "cdrom" or file.endswith(":cloudinit")
    require_for_vm(call.user, call.vmid, pool, "VM.Config.CDROM" if is_cd else "VM.Config.Disk")
    new = pending.NEW_DISK.fullmatch(file)
    source = parts.get("import-from")
    if source is not None:
        if new is None or new[2] != "0":
            special = "'import-from' requires special syntax - use <storage ID>:0,import-from=<source>"
            refuse({key: special})
        owner = storages.parse(source).owner if ":" in source else None
        if owner is not None:
            require(call.user, f"/vms/{owner}", "VM.Clone")
        else:
            check_volume_access(call, source, "import")
    if new is not None:
        require(call.user, f"/storage/{new[1]}", "Datastore.AllocateSpace")
    elif file != "none":
        check_volume_access(call, file, "iso" if is_cd and ":iso/" in file else "images")


def typed(values: dict[str, str]) -> dict[str, Any]:
    return {
        key: _HIDDEN.get(key, facts.to_type(facts.find_rule(_RULES, key) or {}, value) if value.isdigit() else value)
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
    for key in split_list(call.get("delete")):
        if pending.DRIVE.fullmatch(key):
            require_for_vm(call.user, call.vmid, None, "VM.Config.Disk")
    check_values(call, {key: str(value) for key, value in changes.items() if key not in ("delete", "revert")})


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
