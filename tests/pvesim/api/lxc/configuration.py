"""Show and change a container's configuration, with digest, pending changes and PVE's refusals (API2/LXC/Config.pm)."""

from typing import Any

from tests.pvesim.api import facts
from tests.pvesim.api.call import Call, split_list
from tests.pvesim.api.config_text import Section, list_pending
from tests.pvesim.api.failure import die, refuse
from tests.pvesim.api.lxc import pending, permissions, runtime
from tests.pvesim.api.lxc.guest import store_of

_RULES = facts.load()["PUT", "/nodes/{node}/lxc/{vmid}/config"]["parameters"]


def show(call: Call) -> Any:
    """As it will be after the next start; with `current` as it is, with `snapshot` as it was."""
    guest = store_of(call).load()
    if call.get("snapshot"):
        if call["snapshot"] not in guest.snapshots:
            die(f"snapshot '{call['snapshot']}' does not exist")
        values = guest.snapshots[call["snapshot"]]
    else:
        values = guest.values if call.get("current") else guest.with_pending()
    told: dict[str, Any] = {**typed(values), "digest": guest.digest}
    if guest.raw:
        told["lxc"] = [list(pair) for pair in guest.raw]
    return told


def show_pending(call: Call) -> Any:
    """Each key with its `value`, what is `pending`, and whether it will be deleted."""
    return list_pending(store_of(call).load(), typed)


def change(call: Call) -> Any:
    """At once, without a task; null. Raises Failure: 500 for a wrong digest or a lock."""
    changes = {key: value for key, value in call.parameters.items() if key not in ("node", "vmid", "digest")}
    if not changes:
        die("no options specified")
    delete, revert = split_list(changes.pop("delete", "")), split_list(changes.pop("revert", ""))
    store = store_of(call)
    with store.locked():
        guest = store.load()
        store.check_lock(guest)
        if call.get("digest") and call["digest"] != guest.digest:
            die("detected modified configuration - file changed by other user? Try again.")
        unprivileged = guest.get("unprivileged") == "1"
        permissions.check_changes(call, guest, {}, [*delete, *revert], unprivileged=unprivileged)
        _check_keys(changes, delete, revert)
        permissions.check_changes(call, guest, changes, [], unprivileged=unprivileged)
        touched = pending.queue(store, guest, changes, delete, revert)
        pending.apply(guest, call.vmid, touched, running=runtime.is_running(call.vmid))
        store.write(guest)


def typed(values: Section) -> dict[str, Any]:
    """Integers and booleans as numbers, as check_type makes them when PVE reads the file."""
    return {
        key: facts.to_type(facts.find_rule(_RULES, key) or {}, value) if value.lstrip("-").isdigit() else value
        for key, value in values.items()
    }


def _check_keys(changes: dict[str, Any], delete: list[str], revert: list[str]) -> None:
    for name, keys in (("revert", revert), ("delete", delete)):
        for key in keys:
            if facts.find_rule(_RULES, key) is None:
                refuse({name: f"unknown option '{key}'"})
            if key in changes:
                refuse({name: f"you can't use '-{key}' and '-{name} {key}' at the same time"})
    both = set(delete) & set(revert)
    if both:
        key = min(both)
        refuse({"delete": f"you can't use '-delete {key}' and '-revert {key}' at the same time"})
