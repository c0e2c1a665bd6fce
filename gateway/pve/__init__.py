"""Proxmox VE's own facts and API; the only importer of proxmoxer.

| word | meaning |
|---|---|
| `service.Pve` | the API of one token, in rooms: `inventory`, `guests`, `snapshots`, `storages`, `tasks`, `watcher` |
| `guests.GuestMap` | which guest a vmid is, from the cluster's files; `GuestRef` is where it is, `ids` are its names |
| `client.PveApi` | one call: what it did, or whether it may have done it (PveUnreachable, PveRefused, PveSilent) |
| `problems` | the table from PVE's words to `gateway.errors_pve` |
| `root` | what only root@pam may do, by way of the supervisor |
| `access` | what `pve-exec-gateway setup` makes of PVE's access control |
"""
