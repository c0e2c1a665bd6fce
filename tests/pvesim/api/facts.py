"""What PVE's schema says of a method's parameters, and the check of them that PVE::JSONSchema would do."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from tests.pvesim.api import formats
from tests.pvesim.api.failure import Failure as Failure
from tests.pvesim.api.failure import die, refuse

Facts = dict[str, Any]


@cache
def load() -> dict[tuple[str, str], Facts]:
    """The facts of every method that is simulated: `parameters` by name, `permissions`, `proxyto`."""
    table = json.loads(Path(__file__).with_name("schema.json").read_text())
    methods: dict[tuple[str, str], Facts] = {}
    for title, facts in table["methods"].items():
        verb, path = title.split(" ")
        shared = {name.partition("#")[0]: table["shared"][name] for name in facts.get("shared", ())}
        methods[verb, path] = {**facts, "parameters": {**shared, **facts.get("parameters", {})}}
    return methods


def find_rule(parameters: Facts, name: str) -> Facts | None:
    """The rule for a parameter; `net0` is one of `net[n]`."""
    rule: Facts | None = parameters.get(name) or parameters.get(re.sub(r"\d+$", "[n]", name))
    return rule


def check(facts: Facts, given: dict[str, Any]) -> dict[str, Any]:
    """The parameters as the method gets them. Raises Failure(400) that names each bad one."""
    rules: dict[str, Facts] = facts["parameters"]
    errors: dict[str, str] = {}
    taken: dict[str, Any] = {}
    for name, value in given.items():
        rule = find_rule(rules, name)
        if rule is None:
            errors[name] = "property is not defined in schema and the schema does not allow additional properties"
        elif value is not None:
            wanted = rule.get("type") == "array" and not isinstance(value, list)
            taken[rule.get("alias", name)] = [value] if wanted else value  # normalize_legacy_param_formats
    for name, value in taken.items():
        rule = find_rule(rules, name) or {}
        wrong = mistake(rule, value)
        if wrong:
            errors[name] = wrong
    for name, rule in rules.items():
        if name not in taken and not rule.get("optional") and "[n]" not in name:
            errors[name] = "property is missing and it is not optional"
    if errors:
        refuse(errors)
    return {name: to_type(find_rule(rules, name) or {}, value) for name, value in taken.items()}


def to_type(rule: Facts, value: Any) -> Any:
    """A checked text as JSON has it: integers and booleans are numbers, all else stays text."""
    if rule.get("type") in ("integer", "boolean"):
        return int(value)
    return value if isinstance(value, list) else str(value)


def mistake(rule: Facts, value: Any) -> str | None:
    """What is wrong with a value, as JSONSchema's check_prop says it."""
    kind = rule.get("type")
    if kind == "array":
        return next((wrong for wrong in (mistake(rule["items"], item) for item in value) if wrong), None)
    if isinstance(value, bool) and kind == "boolean":
        return None  # only as JSON: in a form `True` is a text like any other
    if isinstance(value, list | dict | bool):
        return f"type check ('{kind}') failed - got {'ARRAY' if isinstance(value, list) else 'HASH'}"
    text = str(value)
    wanted = {"integer": r"[+-]?\d+", "boolean": r"[01]", "number": r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?"}
    if kind in wanted and not re.fullmatch(wanted[kind], text):
        return f"type check ('{kind}') failed - got '{text}'"
    return _format_mistake(rule, text) or _range_mistake(rule, text)


def _format_mistake(rule: Facts, text: str) -> str | None:
    form = rule.get("format")
    if isinstance(form, dict):
        try:
            parse_properties(form, text)
        except Failure as failure:
            listed = "".join(f"{name}: {why}\n" for name, why in sorted(failure.errors.items()))
            return f"invalid format - {failure.message}{listed}"
    elif form:
        wrong = formats.mistake(form, text)
        if wrong:
            return f"invalid format - {wrong}"
    return None


def _range_mistake(rule: Facts, text: str) -> str | None:
    if "pattern" in rule and not re.search(f"^{rule['pattern']}$", text):
        return "value does not match the regex pattern"
    if len(text) > rule.get("maxLength", len(text)):
        return f"value may only be {rule['maxLength']} characters long"
    if len(text) < rule.get("minLength", 0):
        return f"value must be at least {rule['minLength']} characters long"
    if re.fullmatch(r"[+-]?\d+(\.\d+)?", text):
        if float(text) > rule.get("maximum", float(text)):
            return f"value must have a maximum value of {rule['maximum']}"
        if float(text) < rule.get("minimum", float(text)):
            return f"value must have a minimum value of {rule['minimum']}"
    if "enum" in rule and text not in rule["enum"]:
        return f"value '{text}' does not have a value in the enumeration '{', '.join(rule['enum'])}'"
    return None


def parse_properties(form: Facts, text: str) -> dict[str, str]:
    """PVE::JSONSchema::parse_property_string: `name=eth0,bridge=vmbr0`. Raises Failure, with `errors` by key."""
    found: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not part.strip():
            continue
        if not equals:
            name, value = next((key for key, rule in form.items() if rule.get("default_key")), ""), part
            if not name:
                die("value without key, but schema does not define a default key")
        rule = form.get(name)
        if rule and "keyAlias" in rule:  # `virtio=MAC` is the model, and its address
            found[rule["keyAlias"]] = name
        if rule and "alias" in rule:
            name, rule = rule["alias"], form.get(rule["alias"])
        if not rule or not value:
            die(f"invalid key in comma-separated list property: {name}")
        if name in found:
            die(f"duplicate key in comma-separated list property: {name}")
        if rule.get("type") == "boolean":
            value = re.sub("(?i)^(on|yes|true)$", "1", re.sub("(?i)^(off|no|false)$", "0", value))
        found[name] = value
    errors = {name: wrong for name, value in found.items() if (wrong := mistake(form[name], value))}
    missing = [name for name, rule in form.items() if name not in found and not rule.get("optional", "alias" in rule)]
    errors |= dict.fromkeys(missing, "property is missing and it is not optional")
    if errors:
        raise Failure(400, "format error\n", errors)
    return found
