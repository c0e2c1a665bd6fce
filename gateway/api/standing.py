"""Standing: whether a caller who was let in may go on, asked again while its request waits and before what waited is
done or shown."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from gateway.api.lease import CHECK_SECONDS, Leases
from gateway.auth.actor import Actor
from gateway.auth.tokens import Refused, TokenStore
from gateway.web.disconnect import Ready

Judge = Callable[[Actor | Refused, str | None], Actor]
"""The caller if what became of it may do this still, else raises why not, recorded, with the exec that it is about."""


class Client(Protocol):
    """One whose leaving can be waited for: a request's (web.disconnect.ClientConnection), or a WebSocket's."""

    def wait(self, fd: int | None, timeout: float | None) -> Ready: ...


class Standing:
    """That of one caller in one request."""

    def __init__(
        self,
        tokens: TokenStore,
        leases: Leases,
        actor: Actor,
        remote: str,
        judge: Judge,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tokens = tokens
        self._leases = leases
        self._actor = actor
        self._remote = remote
        self._judge = judge
        self._monotonic = monotonic
        self._judged_at = monotonic()

    @property
    def aged(self) -> bool:
        """Whether half a second has passed since the caller was last decided about."""
        return self._monotonic() - self._judged_at >= CHECK_SECONDS

    def current(self) -> Actor:
        """The caller; decided anew if that is half a second ago. Raises as `renew` does, but doubt ends nothing that is
        under way."""
        if self.aged:
            found = self._tokens.look_again(self._actor, self._remote)
            if found is not None:
                self._take(found)
        return self._actor

    def renew(self, exec_id: str | None = None) -> Actor:
        """The caller as its token is now, decided anew; `exec_id` is what is about to begin, for the record.

        Raises Unauthenticated, Forbidden, GuestNotFound; TokenStoreError where nobody can tell.
        """
        self._take(self._tokens.recall(self._actor.token_id, self._actor.secret, self._remote), exec_id)
        return self._actor

    def watch(self, client: Client) -> Watch:
        """Waits for an answer, `client`'s leaving, and the end of the caller's right to it, at once."""
        look_up = self._leases.follow(self._actor, self._remote)

        def check() -> None:
            found = look_up()
            if found is not None:
                self._take(found)

        return Watch(client, check, self._monotonic)

    def _take(self, found: Actor | Refused, exec_id: str | None = None) -> None:
        self._actor = self._judge(found, exec_id)
        self._judged_at = self._monotonic()


class Watch:
    """One who waits for the supervisor (a clientwatch.Watch)."""

    def __init__(self, client: Client, check: Callable[[], object], monotonic: Callable[[], float]) -> None:
        """`check` raises the GatewayError that ends the waiting."""
        self._client = client
        self._check = check
        self._monotonic = monotonic

    def wait(self, fd: int | None, timeout: float | None) -> Ready:
        """As ClientConnection.wait. Raises what `check` raises, within a second of its cause."""
        now = self._monotonic()
        deadline = None if timeout is None else now + timeout
        while True:
            most = CHECK_SECONDS if deadline is None else min(CHECK_SECONDS, max(0.0, deadline - now))
            seen = self._client.wait(fd, most)
            before, now = now, self._monotonic()
            early = now - before < most / 2  # for nothing: the server can wait no longer
            if seen.fd or seen.gone or early or (deadline is not None and now >= deadline):
                return seen
            self._check()
