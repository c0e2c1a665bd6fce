"""Whether one token may give what another has: nobody gives more than they hold, in any respect."""

from __future__ import annotations

from gateway.auth.grants import covers
from gateway.auth.records import TokenRecord
from gateway.auth.terms import networks_within


def covers_grants(holder: TokenRecord, other: TokenRecord) -> bool:
    """Whether `holder` has all that the grants of `other` give, as they are written: protected guests and pools too."""
    return all(covers(holder.grants, grant) for grant in other.grants)


def exceeding(wanted: TokenRecord, holder: TokenRecord) -> list[str]:
    """The members in which `wanted` could do more than `holder`, from elsewhere, for longer or faster."""
    checks = {
        "grants": covers_grants(holder, wanted),
        "expires": holder.expires is None or (wanted.expires is not None and wanted.expires <= holder.expires),
        "networks": networks_within(wanted.networks, holder.networks),
        "limits": wanted.limits.within(holder.limits),
    }
    return [name for name, within in checks.items() if not within]
