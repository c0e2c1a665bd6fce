"""ACTS: what people do who have secrets to hand over, by the operation that is handed one."""

from __future__ import annotations

from collections.abc import Callable

from tests.canaries import commands, guests, keeping
from tests.canaries.acting import Acts

ACTS: dict[str, Callable[[Acts], None]] = {
    "createGuest": guests.make_guests,
    "editGuest": guests.edit_guests,
    "cloneGuest": guests.copy_guests,
    "takeSnapshot": guests.keep_guests,
    "makeBackup": guests.keep_guests,
    "runExec": commands.run_commands,
    "openTerminal": commands.open_terminals,
    "attachExec": commands.attach,
    "putStdin": commands.feed,
    "askOwnToken": commands.ask_what_may_be,
    "createToken": keeping.make_tokens,
    "rotateToken": keeping.make_tokens,
    "writeFile": keeping.write_files,
}
"""By the operation that is handed a secret, in the order in which they can be done."""
NOTHING_SECRET = frozenset(
    {
        "sendSignal",
        "resizeTerminal",
        "makeTicket",
        "editToken",
        "resizeGuestDisk",
        "migrateGuest",
        "downloadTemplate",
        "giveDevices",
        "giveMount",
    }
)
"""Operations with a body of names, numbers and choices alone."""
