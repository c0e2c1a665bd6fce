"""Who asks for an exec: what the web tells the supervisor about the caller that it has authenticated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Ranges = tuple[tuple[int, int], ...]
"""Inclusive, sorted, disjoint ranges of vmids."""


@dataclass(frozen=True)
class Origin:
    """One verified caller and the guests it may reach, protected guests already taken out.

    `guests` are those in which it may run commands; `admin_guests` those in which it sees and ends every
    token's execs (`exec:admin`). Not a bool: a token may administer one guest and only use another.
    """

    token_id: str
    token_name: str
    guests: Ranges
    admin_guests: Ranges
    remote: str
    request_id: str

    def may_run(self, vmid: int) -> bool:
        """Whether this caller may run a command in guest `vmid`."""
        return within(vmid, self.guests)

    def sees(self, owner_token_id: str, vmid: int) -> bool:
        """Whether an exec of token `owner_token_id` in guest `vmid` exists for this caller.

        Its own, as long as its grant still reaches the guest; another's with `exec:admin` on that guest.
        """
        if within(vmid, self.admin_guests):
            return True
        return owner_token_id == self.token_id and within(vmid, self.guests)

    def to_wire(self) -> dict[str, Any]:
        """The form that crosses the supervisor's socket."""
        return {
            "token_id": self.token_id,
            "token_name": self.token_name,
            "guests": [list(pair) for pair in self.guests],
            "admin_guests": [list(pair) for pair in self.admin_guests],
            "remote": self.remote,
            "request_id": self.request_id,
        }

    @classmethod
    def from_wire(cls, data: object) -> Origin:
        """The origin that `to_wire` described. Raises ValueError for anything else."""
        if not isinstance(data, dict) or data.keys() != cls.__dataclass_fields__.keys():
            raise ValueError("an origin has exactly its six members")
        texts = {name: data[name] for name in ("token_id", "token_name", "remote", "request_id")}
        if not all(isinstance(text, str) and len(text) <= 256 for text in texts.values()):
            raise ValueError("an origin's names are short strings")
        guests, admin_guests = (_ranges_from_wire(data[name]) for name in ("guests", "admin_guests"))
        return cls(**texts, guests=guests, admin_guests=admin_guests)


def within(vmid: int, ranges: Ranges) -> bool:
    """Whether one of `ranges` holds `vmid`."""
    return any(low <= vmid <= high for low, high in ranges)


def _ranges_from_wire(data: object) -> Ranges:
    if not isinstance(data, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(type(end) is int for end in pair) for pair in data
    ):
        raise ValueError("ranges are pairs of whole numbers")
    return tuple((low, high) for low, high in data)
