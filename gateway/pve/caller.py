"""Calls that answer with the gateway's own errors: questions, and changes whose unknown end is looked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from gateway.errors import GatewayError
from gateway.errors_pve import OutcomeUnknown, PveNonsense
from gateway.pve.client import PveApi
from gateway.pve.failure import PveFailure
from gateway.pve.ids import NodeName, Upid, parse_upid
from gateway.pve.problems import Evidence, explain
from gateway.pve.scalars import Raw

Value = str | int | float | bool | None
Options = Mapping[str, Value]
"""PVE's parameters by PVE's names; None is left out, True and False become 1 and 0 (PVE takes nothing else)."""

MakeWay = Callable[[int], object]
"""Called with a guest's vmid before PVE is asked to change it, so that nothing of ours is in its way. Never raises."""

_NOTHING: Evidence = {}
_LOOK_SECONDS = 5.0
_CLOCK_SLACK = 2


def make_none(_: int) -> None:
    """For whoever has nothing that could stand in the way."""


class Caller:
    """The PVE API with its failures explained. Any thread may use it.

    `about` is what a call concerns, by the members of the problem that it may become: vmid, node, storage, ...
    """

    def __init__(self, api: PveApi, clock: Callable[[], float] = time.time, *, make_way: MakeWay = make_none) -> None:
        self._api = api
        self._clock = clock
        self._make_way = make_way

    def ask(self, *path: str | int, about: Evidence = _NOTHING, options: Options = _NOTHING) -> Any:
        """The `data` of a GET. Raises GatewayError."""
        try:
            return self._api.call("GET", path, encode(options))
        except PveFailure as exc:
            raise explain(exc, about, change=False) from exc

    def ask_object(self, *path: str | int, about: Evidence = _NOTHING, options: Options = _NOTHING) -> Raw:
        """The same, of an answer that is an object. Raises PveNonsense for another."""
        told = self.ask(*path, about=about, options=options)
        if not isinstance(told, dict):
            raise _nonsense(about)
        return told

    def ask_list(self, *path: str | int, about: Evidence = _NOTHING, options: Options = _NOTHING) -> list[Raw]:
        """The same, of an answer that is a list of objects; PVE's null is an empty one. Raises PveNonsense."""
        told = self.ask(*path, about=about, options=options)
        if told is None:
            return []
        if not isinstance(told, list) or not all(isinstance(item, dict) for item in told):
            raise _nonsense(about)
        return told

    def change(
        self, method: str, *path: str | int, about: Evidence = _NOTHING, options: Options = _NOTHING
    ) -> Upid | None:
        """Makes a change; the task that makes it, or None when it is made.

        Raises GatewayError; OutcomeUnknown when nobody can tell whether it was made, with the `upid` of its task if
        that can be found.
        """
        if "vmid" in about:
            self._make_way(about["vmid"])
        began = int(self._clock())
        try:
            told = self._api.call(method, path, encode(options))
        except PveFailure as exc:
            error = explain(exc, about, change=True)
            raise (self._name_task(error, began) if isinstance(error, OutcomeUnknown) else error) from exc
        if told is None or told == "":
            return None
        try:
            return parse_upid(told)
        except GatewayError as exc:
            raise OutcomeUnknown("PVE's answer names no task; look at the guest before asking again", **about) from exc

    def start_task(
        self, method: str, *path: str | int, about: Evidence = _NOTHING, options: Options = _NOTHING
    ) -> Upid:
        """The same, of a change that is always a task."""
        upid = self.change(method, *path, about=about, options=options)
        if upid is None:
            raise OutcomeUnknown("PVE's answer names no task; look at the guest before asking again", **about)
        return upid

    def start_unnamed_task(self, type_: str, method: str, *path: str | int, about: Evidence) -> Upid:
        """The same, of a change whose task PVE begins and does not name: it is looked for by its type."""
        began = int(self._clock())
        upid = self.change(method, *path, about=about) or self._find_task(about, began, type_)
        if upid is None:
            raise OutcomeUnknown("PVE has begun it, and its task cannot be found; look at the guest", **about)
        return upid

    def _name_task(self, error: OutcomeUnknown, began: int) -> OutcomeUnknown:
        """The error with the task that our token has begun for this guest since, if there is one and PVE tells."""
        found = self._find_task(error.evidence, began)
        if found is None:
            return error
        detail = f"{error.detail}; its task may be {found}: see GET /tasks/{{upid}}"
        return OutcomeUnknown(detail, **{**error.evidence, "upid": str(found)})

    def _find_task(self, about: Evidence, began: int, type_: str | None = None) -> Upid | None:
        """The last task that our token has begun for this guest since, if there is one and PVE tells."""
        vmid, node = about.get("vmid"), about.get("node")
        if vmid is None or node is None:
            return None
        options = {"source": "all", "vmid": vmid, "since": began - _CLOCK_SLACK, "limit": 20}
        try:
            tasks = self._api.call("GET", ("nodes", NodeName(node), "tasks"), options, timeout=_LOOK_SECONDS)
            ours = self._api.token_id
            upids = [parse_upid(task["upid"]) for task in tasks]
        except (PveFailure, GatewayError, TypeError, KeyError):
            return None
        fitting = (upid for upid in upids if upid.user == ours and type_ in (None, upid.type))
        return max(fitting, key=lambda upid: upid.start, default=None)


def encode(options: Options) -> dict[str, str | int | float]:
    """As PVE takes them."""
    return {
        name: int(value) if isinstance(value, bool) else value for name, value in options.items() if value is not None
    }


def _nonsense(about: Evidence) -> PveNonsense:
    return PveNonsense("PVE's answer is none that PVE gives; see the journal of pvedaemon on the node", **about)
