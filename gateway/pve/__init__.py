"""Proxmox VE's own facts and API: the guest map now, and the only importer of proxmoxer later."""
