"""pvex, the command line of pve-exec-gateway: a client of its API alone, for any machine."""

__version__ = "0.1.0"
