"""When each token was last used on this node: to the minute, kept on its disk, never in the replicated store."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from gateway.auth.private import make_directory
from gateway.errors import TokenStoreError

COARSE_SECONDS = 60.0

log = logging.getLogger(__name__)


class LastUsed:
    """One empty file a token in `directory`: its mtime is when. Any number of processes may note and look.

    A use costs a look-up in memory; once a minute a token, an inode is touched. That it cannot be noted is logged
    once, and stops nobody.
    """

    def __init__(self, directory: Path, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._directory = directory
        self._monotonic = monotonic
        self._noted: dict[str, float] = {}
        self._lock = threading.Lock()
        self._swept = monotonic()
        self._broken = False

    def note(self, token_id: str) -> None:
        """The token is being used now."""
        now = self._monotonic()
        noted = self._noted.get(token_id)
        if noted is not None and now - noted < COARSE_SECONDS:
            return
        with self._lock:
            if self._noted.get(token_id) != noted:
                return
            self._noted[token_id] = now
            if now - self._swept >= COARSE_SECONDS:  # what is older tells nothing, and may be a token's that is gone
                self._noted = {known: at for known, at in list(self._noted.items()) if now - at < COARSE_SECONDS}
                self._swept = now
        try:
            self._touch(token_id)
            self._broken = False
        except (OSError, TokenStoreError) as exc:
            if not self._broken:
                log.warning("cannot note when tokens are used: %s", exc)
            self._broken = True

    def get(self, token_id: str) -> datetime | None:
        """When it was last used on this node, to the minute; None where that is not known."""
        try:
            moment = (self._directory / token_id).lstat().st_mtime
        except OSError:
            return None
        return datetime.fromtimestamp(moment - moment % 60, UTC)

    def forget(self, token_id: str) -> None:
        """Its record is gone."""
        self._noted.pop(token_id, None)
        try:
            (self._directory / token_id).unlink(missing_ok=True)
        except OSError as exc:
            log.warning("cannot forget when token %s was used: %s", token_id, exc)

    def known(self) -> list[str]:
        """The tokens of which something is noted here."""
        try:
            return os.listdir(self._directory)
        except OSError:
            return []

    def _touch(self, token_id: str) -> None:
        path = self._directory / token_id
        try:
            os.utime(path, follow_symlinks=False)
        except FileNotFoundError:
            make_directory(self._directory)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
