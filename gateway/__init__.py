"""The exec API that Proxmox VE never had: run commands in guests over REST, with grants and an audit log."""

import os

__version__ = "0.1.0"

# No package that happens to be installed may hook itself into a process that runs as root; not looking for such
# plugins also saves 20 ms at each start.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")
