"""Strays: requests derived from a route, with a canary in each place that it has, mostly a wrong one."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from gateway.api.route import Route
from tests.api.test_access import BODIES
from tests.canaries.words import Canaries, Sink

Schema = Mapping[str, Any]

# What a reply, or a record, may say again of a request: names of things, and what was asked to be made of them.
NAMED = (Sink.PROBLEM, Sink.AUDIT, Sink.REPLY, Sink.KEPT)
_SECRET = ("env.**", "stdin", "password", "ssh_public_keys.*")
_NEVER_READ = ("Cookie", "Proxy-Authorization", "X-Api-Key", "Referer", "User-Agent", "X-Request-Id", "From")
_ODD_BEARERS = (
    "Bearer {}", "bearer  {}", "Bearer pveg_{}", "Bearer pveg_tk_{}.1.{}", "Basic {}", "{}", "Token {}, Bearer {}",
    "PVEAPIToken=a@pve!b={}", "Bearer {token}{}", "Bearer {}{token}",
)  # fmt: skip
_ANYWHERE = ("Accept", "Prefer", "Idempotency-Key", "Origin", "Range")
_FIELDS = ("{}", 'x="{}"; {}', "bytes={}-{}", '"{}"')
_NOT_ANY = ("pattern", "enum", "const")


@dataclass
class Stray:
    """One request; `headers` go over those of a client with a token."""

    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None


class Strays:
    """Of one route after the other. `names` are what its path is filled with, `token` a valid one."""

    def __init__(self, canaries: Canaries, token: str, names: Mapping[str, str], queries: Mapping[str, str]) -> None:
        self._canaries = canaries
        self._token = token
        self._names = names
        self._queries = queries
        self._bearers = itertools.cycle(_ODD_BEARERS)
        self._wrongs = itertools.cycle(_WRONG.items())
        self._fields = itertools.cycle(_FIELDS)
        self._broken = itertools.cycle(_BROKEN.items())

    def of(self, route: Route) -> Iterator[Stray]:
        """All for this route; each canary is another."""
        yield from self._in_path(route)
        yield from self._in_query(route)
        yield from self._in_head(route)
        if route.body is not None:
            yield from self._in_body(route)

    def fill(self, route: Route, **names: str) -> str:
        """The route's path, with the query that it needs."""
        path = route.path + self._queries.get(route.operation_id, "")
        for name, value in {**self._names, **names}.items():
            path = path.replace(f"{{{name}}}", value)
        return path

    def _put(self, route: Route, carrier: str, *allowed: Sink) -> str:
        return self._canaries.put(route.operation_id, carrier, *allowed)

    def _with_body(self, route: Route, path: str, **headers: str) -> Stray:
        """What would do as it is, but for what a canary stands in."""
        body = None if route.body is None else json.dumps(BODIES[route.body]).encode()
        return Stray(route.method, path, headers, body)

    def _in_path(self, route: Route) -> Iterator[Stray]:
        for name in route.parameters:
            word = self._put(route, f"path {name}", *NAMED)
            yield self._with_body(route, self.fill(route, **{name: word}))
        word = self._put(route, "a path that is none", *NAMED)
        yield Stray(route.method, f"{self.fill(route).partition('?')[0]}/{word}")

    def _in_query(self, route: Route) -> Iterator[Stray]:
        path = self.fill(route)
        plain, _, query = path.partition("?")
        for name, member in route.query.model_fields.items():
            known = member.alias or name
            rest = "&".join(part for part in query.split("&") if part and part.partition("=")[0] != known)
            word = self._put(route, f"query {known}", *NAMED)
            yield Stray(route.method, f"{plain}?{rest}&{known}={word}")
        word = self._put(route, "a query parameter that is none")
        yield Stray(route.method, f"{plain}?{query}&nonsense={word}")
        word = self._put(route, "the name of a query parameter", Sink.PROBLEM)
        yield Stray(route.method, f"{plain}?{query}&{word}=1")
        word = self._put(route, "a query that is no UTF-8")
        yield Stray(route.method, f"{plain}?{query}&%ff{word}=%ff{word}")

    def _in_head(self, route: Route) -> Iterator[Stray]:
        path = self.fill(route)
        for form in islice(self._bearers, 3):
            word = self._put(route, f"Authorization: {form}")
            yield self._with_body(route, path, Authorization=form.format(word, word, token=self._token))
        never = {name: self._put(route, name) for name in _NEVER_READ}
        yield self._with_body(route, path, Authorization="", **never)
        for name in sorted({*route.asks, *_ANYWHERE}):
            for value in islice(self._fields, len(_FIELDS) if name in route.asks else 1):
                word = self._put(route, f"{name}: {value}")
                yield self._with_body(route, path, **{name: value.format(word, word)})

    def _in_body(self, route: Route) -> Iterator[Stray]:
        assert route.body is not None
        path = self.fill(route)
        good = BODIES[route.body]
        schema = route.body.model_json_schema()
        for place, text in sorted(set(_places(schema, schema.get("$defs", {})))):
            named = ".".join(place)
            allowed = NAMED if text and not named.endswith(_SECRET) else ()
            if text:
                word = self._put(route, f"body {named}", *allowed)
                yield self._json(route, path, _set(good, place, word))
            kind, value = next(self._wrongs)
            word = self._put(route, f"body {named} ({kind})", *allowed)
            yield self._json(route, path, _set(good, place, value(word)))
        word = self._put(route, "a member that is none")
        yield self._json(route, path, {**good, "nonsense": word})
        word = self._put(route, "the name of a member", Sink.PROBLEM)
        yield self._json(route, path, {**good, word: 1})
        for kind, raw in islice(self._broken, 4):
            word = self._put(route, f"a body ({kind})", *((Sink.PROBLEM,) if kind == "given twice" else ()))
            yield Stray(route.method, path, {}, raw.replace(b"{}", word.encode()))
        for name in ("Content-Type", "Content-Encoding"):
            word = self._put(route, name)
            yield self._with_body(route, path, **{name: word})
        word = self._put(route, "a body of another type")
        yield Stray(route.method, path, {"Content-Type": "text/plain"}, word.encode())

    def _json(self, route: Route, path: str, body: object) -> Stray:
        return Stray(route.method, path, {}, json.dumps(body).encode())


_BROKEN = {
    "cut": b'{"a": "{}',
    "no JSON": b"{}",
    "a text": b'"{}"',
    "a list": b'["{}"]',
    "no UTF-8": b'{"a": "\xff{}"}',
    "a lone surrogate": b'{"a": "\\ud800{}"}',
    "something behind it": b'{"a": 1} {}',
    "given twice": b'{"{}": 1, "{}": 2}',
    "no number": b'{"a": 1{}}',
    "too deep": b"[" * 300 + b'"{}"' + b"]" * 300,
}


def _places(schema: Schema, known: Schema, path: tuple[str, ...] = (), depth: int = 0) -> Iterator[tuple[Any, bool]]:
    """Where a value may stand, and whether any text may: `grants.*.users.*`. A `*` is a list's item, `**` a member."""
    if "$ref" in schema:
        schema = known[schema["$ref"].rpartition("/")[2]]
    if depth > 8:
        return
    choices = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    if not choices and path:
        yield path, schema.get("type") == "string" and not any(word in schema for word in _NOT_ANY)
    for choice in choices:
        yield from _places(choice, known, path, depth + 1)
    for name, member in schema.get("properties", {}).items():
        yield from _places(member, known, (*path, name), depth + 1)
    members = [schema.get("additionalProperties"), *schema.get("patternProperties", {}).values()]
    for member in members:
        if isinstance(member, dict):
            yield from _places(member, known, (*path, "**"), depth + 1)
    if isinstance(schema.get("items"), dict):
        yield from _places(schema["items"], known, (*path, "*"), depth + 1)


_WRONG: dict[str, Callable[[str], object]] = {
    "a text, perhaps of another pattern": lambda word: f"{word}!",
    "an object": lambda word: {"a": word},
    "a list": lambda word: [word, [word]],
    "control characters": lambda word: f"{word}\x00\n{word}",
    "a lone surrogate": lambda word: f"{word}\ud800",
}


def _set(body: Any, place: tuple[str, ...], value: object) -> Any:
    """`body` with `value` at that place."""
    if not place:
        return value
    step, rest = place[0], place[1:]
    if step == "*":
        return [_set({}, rest, value)]
    if step == "**":
        return {"name": _set({}, rest, value)}
    inner = body if isinstance(body, dict) else {}
    return {**inner, step: _set(inner.get(step, {}), rest, value)}
