"""The privileges there are and the roles that every PVE has (pve-access-control, AccessControl.pm)."""

# category: who gets them; `root` is in Administrator alone.
_PRIVILEGES: dict[str, dict[str, str]] = {
    "VM": {
        "admin": "VM.Config.Disk VM.Config.CPU VM.Config.Memory VM.Config.Network VM.Config.HWType VM.Config.Options "
        "VM.Allocate VM.Clone VM.GuestAgent.Unrestricted VM.Migrate VM.Replicate VM.Snapshot VM.Snapshot.Rollback",
        "user": "VM.Config.CDROM VM.Config.Cloudinit VM.Console VM.Backup VM.GuestAgent.FileRead "
        "VM.GuestAgent.FileSystemMgmt VM.GuestAgent.FileWrite VM.PowerMgmt",
        "audit": "VM.Audit VM.GuestAgent.Audit",
    },
    "Sys": {
        "root": "Sys.PowerMgmt Sys.Modify Sys.Incoming Sys.AccessNetwork",
        "admin": "Sys.Console Sys.Syslog",
        "audit": "Sys.Audit",
    },
    "Datastore": {
        "admin": "Datastore.Allocate Datastore.AllocateTemplate",
        "user": "Datastore.AllocateSpace",
        "audit": "Datastore.Audit",
    },
    "SDN": {"admin": "SDN.Allocate SDN.Audit", "user": "SDN.Use", "audit": "SDN.Audit"},
    "User": {"root": "Realm.Allocate", "admin": "User.Modify Group.Allocate Realm.AllocateUser"},
    "Pool": {"admin": "Pool.Allocate", "user": "Pool.Audit", "audit": "Pool.Audit"},
    "Mapping": {"admin": "Mapping.Modify", "user": "Mapping.Use", "audit": "Mapping.Audit"},
}


def _of(*levels: str, category: str | None = None) -> frozenset[str]:
    chosen = [_PRIVILEGES[category]] if category else list(_PRIVILEGES.values())
    return frozenset(name for groups in chosen for level in levels for name in groups.get(level, "").split())


EVERY_PRIVILEGE = _of("root", "admin", "user", "audit") | {"Permissions.Modify"}

BUILTIN: dict[str, frozenset[str]] = {
    "Administrator": EVERY_PRIVILEGE,
    "NoAccess": frozenset(),
    "PVEAdmin": _of("admin", "user", "audit"),
    "PVEAuditor": _of("audit"),
    "PVETemplateUser": frozenset({"VM.Audit", "VM.Clone"}),
    **{f"PVE{name}Admin": _of("admin", "user", "audit", category=name) for name in _PRIVILEGES},
    **{
        f"PVE{name}User": _of("user", "audit", category=name)
        for name, groups in _PRIVILEGES.items()
        if "user" in groups
    },
}
