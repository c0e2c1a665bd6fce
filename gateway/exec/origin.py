"""Who asks for an exec: what the web tells the supervisor about the caller that it has authenticated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gateway.errors import CommandNotGranted, GuestNotFound
from gateway.exec.permit import Permit, Ranges, find_permit, ranges_from_wire, within

if TYPE_CHECKING:
    from gateway.exec.spec import ExecSpec

_ALWAYS = frozenset({"token_id", "token_name", "permits", "admin_guests", "remote", "request_id"})
"""What every version has told."""
_RIGHT = "_guests"
"""How the names of rights end, and of nothing else: ranges of guests, none of which is no right."""


@dataclass(frozen=True)
class Origin:
    """One verified caller and the guests it may reach, protected guests already taken out.

    `permits` say in which it may run which commands (`exec:run`), `terminal_permits` in which it may begin and type
    into which terminals (`exec:terminal`); `admin_guests` are those in which it sees and ends every token's execs
    (`exec:admin`). Not a bool: a token may administer one guest and only use another.
    `max_running` bounds its execs at one time, below what the configuration lets any token have.
    """

    token_id: str
    token_name: str
    permits: tuple[Permit, ...]
    admin_guests: Ranges
    remote: str
    request_id: str
    max_running: int | None = None
    root_guests: Ranges = ()
    """Those whose configuration it may change as root@pam (`guest:root-config`)."""
    power_guests: Ranges = ()
    """Those that it may pause (`guest:power`)."""
    read_guests: Ranges = ()
    """Those whose files it may read (`file:read`)."""
    write_guests: Ranges = ()
    """Those whose files it may write (`file:write`)."""
    terminal_permits: tuple[Permit, ...] = ()

    def require_permit(self, vmid: int, spec: ExecSpec, *, terminal: bool = False) -> Permit:
        """The permit to run `spec` in guest `vmid`; `terminal`: as a terminal. Raises GuestNotFound,
        CommandNotGranted."""
        permits = self.terminal_permits if terminal else self.permits
        if not any(within(vmid, permit.guests) for permit in permits):
            raise GuestNotFound.for_vmid(vmid)
        found = find_permit(permits, vmid, spec)
        if isinstance(found, str):
            hidden = 0 in spec.redact and not isinstance(spec.command, str)
            shown = {} if hidden else {"program": spec.argv()[0][:256]}
            raise CommandNotGranted.for_field(found, vmid, **shown)
        return found

    def may_feed(self, vmid: int, mark: str, *, terminal: bool = False) -> bool:
        """Whether it may give input to a command that was begun on the terms with this mark.

        On those terms still, or on none: a token that has been limited since must not type into a shell of before.
        """
        return any(
            within(vmid, permit.guests) and permit.mark in ("", mark) for permit in self._permits_for_own(terminal)
        )

    def sees(self, owner_token_id: str, vmid: int, *, terminal: bool = False) -> bool:
        """Whether an exec of token `owner_token_id` in guest `vmid` exists for this caller; `terminal`: one that was
        begun as a terminal.

        Its own, as long as its grant still reaches the guest; another's with `exec:admin` on that guest.
        """
        return within(vmid, self.admin_guests) or self.reaches_own(owner_token_id, vmid, terminal=terminal)

    def reaches_own(self, owner_token_id: str, vmid: int, *, terminal: bool = False) -> bool:
        """Whether that exec is its own, and its grant still reaches the guest.

        `exec:run` reaches all that the token has begun there, `exec:terminal` alone the terminals.
        """
        return owner_token_id == self.token_id and any(
            within(vmid, permit.guests) for permit in self._permits_for_own(terminal)
        )

    def _permits_for_own(self, terminal: bool) -> tuple[Permit, ...]:
        return (*self.permits, *self.terminal_permits) if terminal else self.permits

    def to_wire(self) -> dict[str, Any]:
        """The form that crosses the supervisor's socket. What a supervisor of before does not know stands where it
        says something, alone: then that one refuses it."""
        terminals = [permit.to_wire() for permit in self.terminal_permits]
        return {
            "token_id": self.token_id,
            "token_name": self.token_name,
            "permits": [permit.to_wire() for permit in self.permits],
            "admin_guests": [list(pair) for pair in self.admin_guests],
            "remote": self.remote,
            "request_id": self.request_id,
            "max_running": self.max_running,
            "root_guests": [list(pair) for pair in self.root_guests],
            "power_guests": [list(pair) for pair in self.power_guests],
            "read_guests": [list(pair) for pair in self.read_guests],
            "write_guests": [list(pair) for pair in self.write_guests],
            **({"terminal_permits": terminals} if terminals else {}),
        }

    @classmethod
    def from_wire(cls, data: object) -> Origin:
        """The origin that `to_wire` described, this version's or another's. Raises ValueError for anything else.

        What an older web does not tell of gives no right. Of a newer one a right that is unknown here is left out, as
        one that nobody has asked for; any other member might be a limit, and is refused, as it is in a permit.
        """
        if not isinstance(data, dict) or not data.keys() >= _ALWAYS:
            raise ValueError("an origin says who it is, what it may run and where it administers")
        if not all(name in cls.__dataclass_fields__ or str(name).endswith(_RIGHT) for name in data):
            raise ValueError("an origin has no other members")
        texts = {name: data[name] for name in ("token_id", "token_name", "remote", "request_id")}
        if not all(isinstance(text, str) and len(text) <= 256 for text in texts.values()):
            raise ValueError("an origin's names are short strings")
        permits, terminals = data["permits"], data.get("terminal_permits", [])
        if not isinstance(permits, list) or not isinstance(terminals, list):
            raise ValueError("an origin's permits are lists")
        max_running = data.get("max_running")
        if max_running is not None and not (type(max_running) is int and max_running > 0):
            raise ValueError("max_running is a whole number above 0")
        return cls(
            **texts,
            permits=tuple(Permit.from_wire(permit) for permit in permits),
            admin_guests=ranges_from_wire(data["admin_guests"]),
            max_running=max_running,
            root_guests=ranges_from_wire(data.get("root_guests", [])),
            power_guests=ranges_from_wire(data.get("power_guests", [])),
            read_guests=ranges_from_wire(data.get("read_guests", [])),
            write_guests=ranges_from_wire(data.get("write_guests", [])),
            terminal_permits=tuple(Permit.from_wire(permit) for permit in terminals),
        )
