"""Types as JSON Schema: pydantic models for what comes in, TypedDicts for what goes out."""

from __future__ import annotations

import re
import types
from enum import StrEnum
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    Required,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from pydantic import BaseModel, RootModel

Schema = dict[str, Any]

REF = "#/components/schemas/"
_WORDS = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    type(None): "null",
    dict: "object",
}


def model_schema(model: type[BaseModel], schemas: dict[str, Schema]) -> Schema:
    """A reference to a model, which is added to `schemas` with all that it needs."""
    if model.__name__ not in schemas:
        schemas[model.__name__] = expand_model(model, schemas)
    return {"$ref": REF + model.__name__}


def expand_model(model: type[BaseModel], schemas: dict[str, Schema]) -> Schema:
    """The model itself; what it needs is added to `schemas`."""
    schema = model.model_json_schema(ref_template=REF + "{model}")
    for name, needed in schema.pop("$defs", {}).items():
        _add(name, needed, schemas)
    return schema if issubclass(model, RootModel) else {"properties": {}, **schema}


def _add(name: str, schema: Schema, schemas: dict[str, Schema]) -> None:
    """Raises ValueError where another schema has that name: references would mean the wrong one."""
    if schemas.setdefault(name, schema) != schema:
        raise ValueError(f"two schemas are called {name}")


def type_schema(hint: Any, schemas: dict[str, Schema]) -> Schema:
    """The schema of a reply's type: TypedDicts, words, lists and what may be null."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (NotRequired, Required):
        return type_schema(arguments[0], schemas)
    if origin is Annotated:
        return _annotated(hint.__metadata__, arguments[0], schemas)
    if origin in (Union, types.UnionType):
        return _union(arguments, schemas)
    if origin is list:
        return {"type": "array", "items": type_schema(arguments[0], schemas)}
    if origin is dict:
        return {"type": "object", "additionalProperties": type_schema(arguments[1], schemas)}
    if origin is Literal:
        return {"type": "string", "enum": list(arguments)}
    if is_typeddict(hint):
        return _typed_dict(hint, schemas)
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return model_schema(hint, schemas)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return _words(hint, schemas)
    if hint is Any:
        return {}
    return {"type": _WORDS[hint]}


def _annotated(notes: tuple[Any, ...], hint: Any, schemas: dict[str, Schema]) -> Schema:
    """A note that is a StrEnum says which words the text can be; one that is text describes the member."""
    schema = type_schema(hint, schemas)
    for note in notes:
        if isinstance(note, type) and issubclass(note, StrEnum):
            schema = _words(note, schemas)
        elif isinstance(note, str):
            schema = {**schema, "description": note}
    return schema


def _union(kinds: tuple[Any, ...], schemas: dict[str, Schema]) -> Schema:
    """One of several TypedDicts is known by its `type`, where they have one."""
    choices = [type_schema(kind, schemas) for kind in kinds]
    if not all(is_typeddict(kind) and "type" in get_type_hints(kind) for kind in kinds):
        return {"anyOf": choices}
    mapping = {
        word: choice["$ref"]
        for kind, choice in zip(kinds, choices, strict=True)
        for word in get_args(get_type_hints(kind)["type"])
    }
    return {"oneOf": choices, "discriminator": {"propertyName": "type", "mapping": mapping}}


def _words(words: type[StrEnum], schemas: dict[str, Schema]) -> Schema:
    """As pydantic describes it, for it may be a part of models, too."""
    told = re.sub(r"\s+", " ", words.__doc__ or "")
    schema = {"description": told, "enum": [str(word) for word in words], "title": words.__name__, "type": "string"}
    _add(words.__name__, schema, schemas)
    return {"$ref": REF + words.__name__}


def _typed_dict(hint: Any, schemas: dict[str, Schema]) -> Schema:
    name = hint.__name__
    if name not in schemas:
        hints = get_type_hints(hint, include_extras=True)
        optional = {key for key, value in hints.items() if get_origin(value) is NotRequired}
        schemas[name] = {
            "type": "object",
            "description": re.sub(r"\s+", " ", hint.__doc__ or ""),
            "required": [key for key in hints if key not in optional],
            "properties": {key: type_schema(value, schemas) for key, value in hints.items()},
        }
    return {"$ref": REF + name}
