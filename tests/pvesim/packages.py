"""The Debian packages that a node needs on its host."""

import subprocess

_NEEDED = (
    "busybox-static",
    "debian-archive-keyring",
    "debootstrap",
    "gpgv",
    "iproute2",
    "lxc",
    "openssl",
    "uidmap",
    "util-linux",
    "zstd",
)


def missing_packages() -> list[str]:
    """The needed packages that are not installed; raises FileNotFoundError where there is no dpkg."""
    command = ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\\n", *_NEEDED]
    asked = subprocess.run(command, check=False, capture_output=True, text=True)  # fails for unknown ones
    return [package for package in _NEEDED if f"{package} installed" not in asked.stdout.splitlines()]
