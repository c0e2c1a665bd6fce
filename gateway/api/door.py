"""The door: who comes from where, how often, and what one of them may take of the threads that read bodies."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from gateway.api.headers import show_quota
from gateway.api.proxies import find_client
from gateway.api.shares import Shares
from gateway.auth.slowdown import Slowdown, network_of
from gateway.auth.tokens import Refusal, Refused
from gateway.config import WebConfig
from gateway.errors import RateLimited
from gateway.rates import Quota, Rates

_NO_GUESS = frozenset((Refusal.NO_TOKEN, Refusal.STORE_UNAVAILABLE))
_WAITED_BODY = 64 << 10
"""A body up to this size is here before the request is (web.connection)."""


class Door:
    """Made before the web's workers are forked: rates and bad logins are counted over all of them (`gateway.rates`).

    The threads that read bodies are each worker's own, and so are the shares of them.
    """

    def __init__(self, config: WebConfig, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._trusted = config.trusted_proxies
        self._address_rate = config.rate_per_address
        self._token_rate = config.rate_per_token
        self._addresses = Rates(monotonic=monotonic)
        self._tokens = Rates(monotonic=monotonic)
        self._logins = Slowdown(monotonic=monotonic)
        self._uploads = Shares("uploads", each=max(1, config.threads // 8))

    def let_in(self, environ: Mapping[str, Any]) -> str:
        """The client's address. Raises RateLimited where it asks too often."""
        address = find_client(environ, self._trusted)
        if self._address_rate is not None:
            _check(self._addresses.take(network_of(address, 32), self._address_rate), "address")
        return address

    def count(self, token_id: str, rate: float | None = None) -> dict[str, str]:
        """The header fields that tell a token how much it may still ask; `rate` is its own. Raises RateLimited."""
        rates = [bound for bound in (rate, self._token_rate) if bound is not None]
        if not rates:
            return {}
        quota = self._tokens.take(token_id, min(rates))
        _check(quota, "token")
        return show_quota(quota.limit, quota.remaining, quota.reset)

    def note_bad_login(self, address: str, refused: Refused) -> int:
        """How many seconds there is no more than "wait" for those from there; 0 for one that gets its answer."""
        return 0 if refused.reason in _NO_GUESS else self._logins.note(address)

    def admit_body(self, token_id: str, environ: Mapping[str, Any]) -> AbstractContextManager[None]:
        """To be held while a long body is read: a token has half of the threads that do. Or TooManyRequests."""
        length = str(environ.get("CONTENT_LENGTH") or "0")
        long = not length.isdecimal() or int(length) > _WAITED_BODY or "HTTP_TRANSFER_ENCODING" in environ
        return self._uploads.take(token_id) if long else nullcontext()


def _check(quota: Quota, whose: str) -> None:
    if quota.retry_after:
        raise RateLimited(
            f"this {whose} asks too often; wait {quota.retry_after} s",
            retry_after=quota.retry_after,
            limit=quota.limit,
            remaining=quota.remaining,
            reset=quota.reset,
        )
