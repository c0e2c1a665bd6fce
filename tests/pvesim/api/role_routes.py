"""`/access/roles`, `/access/acl` and `/access/permissions` (pve-access-control, API2/Role.pm and ACL.pm)."""

from typing import Any

from tests.pvesim.api import users
from tests.pvesim.api.call import Call, Handler, split_list
from tests.pvesim.api.failure import die, forbid, refuse
from tests.pvesim.api.privileges import may, privileges_on
from tests.pvesim.api.roles import BUILTIN, EVERY_PRIVILEGE


def list_roles(_: Call) -> Any:
    return [
        {"roleid": name, "privs": ",".join(sorted(privileges)), "special": int(name in BUILTIN)}
        for name, privileges in sorted(users.read().roles.items())
    ]


def create_role(call: Call) -> Any:
    name, wanted = call["roleid"], split_list(call.get("privs"))
    unknown = sorted(set(wanted) - EVERY_PRIVILEGE)
    with users.changing() as lines:
        if name in users.read().roles:
            die(f"create role failed: role '{name}' already exists")
        if unknown:
            die(f"create role failed: invalid privilege '{unknown[0]}'")
        users.set_line(lines, "role", name, ",".join(wanted))


def remove_role(call: Call) -> Any:
    name = call["roleid"]
    if name in BUILTIN:
        die(f"auto-generated role '{name}' cannot be deleted")
    with users.changing() as lines:
        if name not in users.read().roles:
            die(f"delete role failed: role '{name}' does not exist")
        users.drop_line(lines, "role", name)


def list_entries(call: Call) -> Any:
    """Of the paths that the caller may change the access list of."""
    told = []
    for entry in users.read().entries:
        if may(call.user, entry.path, "Permissions.Modify") or may(call.user, "/access", "Sys.Audit"):
            kind = "group" if entry.who.startswith("@") else "token" if "!" in entry.who else "user"
            told.append({
                "path": entry.path, "type": kind, "ugid": entry.who.lstrip("@"), "roleid": entry.role,
                "propagate": int(entry.propagate),
            })  # fmt: skip
    return told


def change_entries(call: Call) -> Any:
    """Add or with `delete` remove roles of users, groups and tokens on a path."""
    path, roles = "/" + call["path"].strip("/"), split_list(call["roles"])
    names = [*split_list(call.get("users")), *split_list(call.get("tokens"))]
    whom = [*names, *(f"@{name}" for name in split_list(call.get("groups")))]
    if not whom:
        refuse(dict.fromkeys(("users", "groups", "tokens"), "either 'users', 'groups' or 'tokens' is required."))
    with users.changing() as lines:
        known = users.read()
        for role in roles:
            if role not in known.roles:
                die(f"ACL update failed: role '{role}' does not exist")
            held = privileges_on(call.user, path, known)
            if "Permissions.Modify" not in held and not known.roles[role] <= held:
                refuse({"role": f"Cannot add role '{role}' - requires 'Permissions.Modify' or superset of privileges."})
        for name in names:
            if name not in known.users and name not in known.tokens:
                die(f"ACL update failed: user '{name.partition('!')[0]}' does not exist")
        changed = {f"acl:{call.get('propagate', 1)}:{path}:{who}:{role}:" for who in whom for role in roles}
        same = {(path, who, role) for who in whom for role in roles}
        lines[:] = [line for line in lines if not (line[:4] == "acl:" and tuple(line.split(":")[2:5]) in same)]
        lines.extend([] if call.get("delete") else sorted(changed))


def show_permissions(call: Call) -> Any:
    """What a user or token may do, by path: of oneself, or with Sys.Audit on /access of anybody."""
    who = call.get("userid", call.user)
    if who != call.user and who.partition("!")[0] != call.user and not may(call.user, "/access", "Sys.Audit"):
        forbid("/access, Sys.Audit")
    paths = {"/", *(entry.path for entry in users.read().entries)}
    wanted = [call["path"]] if call.get("path") else sorted(paths)
    return {path: dict.fromkeys(sorted(privileges_on(who, path)), 1) for path in wanted}


ROUTES: dict[tuple[str, str], Handler] = {
    ("GET", "/access/roles"): list_roles,
    ("POST", "/access/roles"): create_role,
    ("DELETE", "/access/roles/{roleid}"): remove_role,
    ("GET", "/access/acl"): list_entries,
    ("PUT", "/access/acl"): change_entries,
    ("GET", "/access/permissions"): show_permissions,
}
