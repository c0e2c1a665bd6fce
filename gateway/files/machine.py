"""Files of virtual machines: what their guest agents can do of what the launcher does, and how they fail.

The supervisor speaks the wire in a launcher's place there. What it cannot do it says as a Failure of Step.AGENT, whose
number is a Cause.
"""

from __future__ import annotations

from enum import IntEnum

from gateway.errors import DriverUnsupported, GatewayError, GuestAgentUnavailable
from gateway.errors_files import DirectoryTooLarge, GuestFilesFailed, GuestFilesStalled

MAX_WRITE = 64 << 20
"""Bytes of a file that is written: 64 KiB go with each command of the agent."""
MAX_NAMES = 100_000
"""Entries of a directory that is listed."""
MAX_ENDLESS = 512 << 10
"""Bytes of a file whose size its kernel does not tell (/proc)."""


class Cause(IntEnum):
    """Why an agent did not do it."""

    AWAY = 1
    DENIED = 2
    PROGRAMS = 3
    STALLED = 4
    CHANGED = 5
    NONSENSE = 6
    UNSURE = 7
    TAR = 8
    RECURSIVE = 9
    SIZE = 10
    ENDLESS = 11
    ENTRIES = 12
    LINK = 13


def explain(number: int) -> GatewayError:
    """The error that a Cause is. Whatever is none is a lie of a container's root."""
    if number in _UNSUPPORTED:
        word, why = _UNSUPPORTED[Cause(number)]
        return DriverUnsupported(
            f"the guest is a virtual machine, and by its guest agent this cannot be done: {why}", unsupported=[word]
        )
    if number in _UNAVAILABLE:
        return GuestAgentUnavailable(_UNAVAILABLE[Cause(number)])
    if number == Cause.STALLED:
        return GuestFilesStalled("the machine did not do it in time; look at it there")
    if number == Cause.ENTRIES:
        return DirectoryTooLarge(f"it has more than {MAX_NAMES} entries, or 4 MiB of names; list it with a command")
    return GuestFilesFailed(_FAILED.get(number, "our process in the guest answered what it never does"))


_UNSUPPORTED = {
    Cause.PROGRAMS: (
        "programs",
        "it takes Linux with sh and coreutils or busybox in the agent's PATH (docs/files.md has the list)",
    ),
    Cause.TAR: ("tar", "directories do not go as archives; run tar in it, and send or fetch the archive as a file"),
    Cause.RECURSIVE: ("recursive", "directories are not removed; run `rm -r` in it"),
    Cause.SIZE: ("size", f"a file of more than {MAX_WRITE >> 20} MiB is not written; have the machine fetch it"),
    Cause.ENDLESS: (
        "size",
        f"a file whose kernel tells no size is read up to {MAX_ENDLESS >> 10} KiB; read it with a command",
    ),
    Cause.LINK: ("link", "a link that leads to nothing is not written through; name what it leads to"),
}
_UNAVAILABLE = {
    Cause.AWAY: "the guest agent has stopped answering, or was started anew; send the request again",
    Cause.DENIED: "the guest agent starts no commands: is guest-exec filtered in its configuration?",
}
_FAILED: dict[int, str] = {
    Cause.CHANGED: "the file, or its directory, was changed meanwhile; send the request again",
    Cause.NONSENSE: "the guest agent answered what the commands never say; somebody in the machine interferes",
    Cause.UNSURE: "the file was given its place, but whether that is on disk is unknown; look at it",
}
