"""The exec API that Proxmox VE never had: run commands in guests over REST, with grants and an audit log."""

__version__ = "0.1.0"
