"""Schemas in the plain form that generators of clients read: each says what it did, by fewer words of JSON Schema."""

from __future__ import annotations

from gateway.api.schemas import Schema

_BOUNDS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}


def make_plain(schema: Schema) -> None:
    """Changes one schema; those within it are plain already.

    pydantic's titles go: they would name the classes of what stands within others. Numbers tell their width: without a
    format they become 32 bits in Go, Java and C#, and sizes and times do not fit in there.
    """
    if isinstance(schema.get("title"), str):
        del schema["title"]
    default = schema.get("default", ...)
    if default is None or isinstance(default, dict):  # an object's members have defaults of their own
        del schema["default"]
    if "const" in schema:
        schema["enum"] = [schema.pop("const")]
    _name_null(schema)
    _tell_keys(schema)
    _even_out(schema)
    kinds = schema.get("type")
    for kind, format_ in (("integer", "int64"), ("number", "double")):
        if kind == kinds or (isinstance(kinds, list) and kind in kinds):
            schema["format"] = format_


def _even_out(schema: Schema) -> None:
    """Whole bounds are said without a fraction, objects of no known members to be open: versions of pydantic differ
    there."""
    for bound in _BOUNDS & schema.keys():
        if isinstance(schema[bound], float) and schema[bound].is_integer():
            schema[bound] = int(schema[bound])
    if (
        schema.get("type") == "object"
        and "properties" not in schema
        and schema.get("additionalProperties", True) is True
    ):
        schema.pop("additionalProperties", None)  # it comes last
        schema["additionalProperties"] = True


def _name_null(schema: Schema) -> None:
    """Says null as a type where that is all that `anyOf` said."""
    choices = schema.get("anyOf")
    if not isinstance(choices, list) or {"type": "null"} not in choices:
        return
    rest = [choice for choice in choices if choice != {"type": "null"}]
    if any("$ref" in choice or not isinstance(choice.get("type"), str) for choice in rest):
        return
    if len(rest) == 1:
        del schema["anyOf"]
        schema.update({**rest[0], **schema, "type": [rest[0]["type"], "null"]})
        if "enum" in schema:
            schema["enum"] = [*schema["enum"], None]


def _tell_keys(schema: Schema) -> None:
    """A map whose keys have one pattern is a map; `patternProperties` is one to no generator."""
    patterns = schema.get("patternProperties", {})
    if len(patterns) == 1 and "additionalProperties" not in schema:
        ((pattern, values),) = schema.pop("patternProperties").items()
        schema |= {"propertyNames": {"pattern": pattern}, "additionalProperties": values}
