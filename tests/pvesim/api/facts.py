"""What PVE's schema says of a method's parameters, and the check of them that PVE::JSONSchema would do."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

Facts = dict[str, Any]

_FORMATS = {
    "pve-node": re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?"),
    "pve-vmid": re.compile(r"[1-9][0-9]{2,8}"),
}


class Failure(Exception):
    """An answer that is no success: PVE's status, its message, and for a bad parameter what is wrong with which."""

    def __init__(self, status: int, message: str, errors: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.errors = errors or {}


@cache
def load() -> dict[str, dict[str, Facts]]:
    """The facts of every path that is simulated, by path and method."""
    paths: dict[str, dict[str, Facts]] = json.loads(Path(__file__).with_name("schema.json").read_text())["paths"]
    return paths


def check(facts: Facts, given: dict[str, Any]) -> dict[str, Any]:
    """The parameters as the method gets them. Raises Failure(400) that names each bad one."""
    known: dict[str, Facts] = facts["parameters"].get("properties", {})
    errors: dict[str, str] = {}
    taken: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            errors[name] = "property is not defined in schema and the schema does not allow additional properties"
        elif value is not None:
            wanted = known[name].get("type") == "array" and not isinstance(value, list)
            taken[name] = [value] if wanted else value  # normalize_legacy_param_formats
    for name, rule in known.items():
        if name in taken:
            wrong = _mistake(rule, taken[name])
            if wrong:
                errors[name] = wrong
        elif not rule.get("optional"):
            errors[name] = "property is missing and it is not optional"
    if errors:
        raise Failure(400, "Parameter verification failed.\n", errors)
    return {name: int(value) if known[name].get("type") == "integer" else value for name, value in taken.items()}


def _mistake(rule: Facts, value: Any) -> str | None:
    kind = rule.get("type")
    if kind == "array":
        return next((wrong for wrong in (_mistake(rule["items"], item) for item in value) if wrong), None)
    if isinstance(value, list | dict | bool):
        return f"type check ('{kind}') failed"
    text = str(value)
    if kind == "integer" and not re.fullmatch(r"[+-]?\d+", text):
        return f"type check ('integer') failed - got '{text}'"
    if kind == "boolean" and text not in ("0", "1"):
        return f"type check ('boolean') failed - got '{text}'"
    if "format" in rule and not _FORMATS[rule["format"]].fullmatch(text):
        return f"invalid format - value does not look like a valid {rule['format']}"
    if "maxLength" in rule and len(text) > rule["maxLength"]:
        return f"value may only be {rule['maxLength']} characters long"
    if kind == "integer" and not rule.get("minimum", int(text)) <= int(text) <= rule.get("maximum", int(text)):
        return f"value must have a minimum value of {rule.get('minimum')} and a maximum of {rule.get('maximum')}"
    return None
