"""JSON Schemas, and the parts of an OpenAPI document made of them. Those of dataclasses and structs are made here."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from msgspec import Struct

Schema = dict[str, Any]

TEXT: Final[Schema] = {"type": "string"}
WHOLE: Final[Schema] = {"type": "integer", "minimum": 0}
NUMBER: Final[Schema] = {"type": "number"}
FLAG: Final[Schema] = {"type": "boolean"}
TIME: Final[Schema] = {"type": "string", "format": "date-time"}
ERROR: Final[Schema] = {
    "type": "object",
    "description": "What happened, and what to do; `problems` has a line for each member of a request that is wrong.",
    "properties": {"error": TEXT, "problems": {"type": "array", "items": TEXT}},
    "required": ["error"],
}
CLOSED: Final = "The daemon's secret, or the token of preheats, is missing or wrong"
NOTHING: Final[Schema] = {"type": "array", "maxItems": 0}
"""What a list is without the secret: a script that looks at no status sees none."""

_PLAIN: Final[Mapping[Any, Schema]] = {int: {"type": "integer"}, float: NUMBER, bool: FLAG, NoneType: {"type": "null"}}


def schema_of(kind: Any) -> Schema:
    """The schema of what `json.dumps` makes of values of a type. Raises TypeError for a type that is not known here."""
    if kind is Any:
        return {}
    if kind in _PLAIN:
        return _PLAIN[kind]
    if isinstance(kind, type) and (
        dataclasses.is_dataclass(kind) or issubclass(kind, Struct) or hasattr(kind, "_fields")
    ):
        told = {name: schema_of(hint) for name, hint in get_type_hints(kind).items()}
        return {"description": _first_paragraph(kind), **closed_object(told)}
    if isinstance(kind, type) and issubclass(kind, str):
        return TEXT
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return {"anyOf": [schema_of(each) for each in inner]}
    if origin is Literal:
        return {"enum": list(inner)}
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": schema_of(inner[1])}
    if origin is tuple and inner[-1] is not Ellipsis:
        kinds = [schema_of(each) for each in dict.fromkeys(inner)]
        return list_of({"anyOf": kinds}, minItems=len(inner), maxItems=len(inner))
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return list_of(schema_of(inner[0]))
    raise TypeError(kind)


def _first_paragraph(kind: type) -> str:
    return (inspect.getdoc(kind) or "").partition("\n\n")[0].replace("\n", " ")


def open_object(properties: Schema, *, may_lack: Iterable[str] = ()) -> Schema:
    """An object that may have more than these properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in set(may_lack)],
    }


def closed_object(properties: Schema) -> Schema:
    return {**open_object(properties), "additionalProperties": False}


def list_of(items: Schema, **more: object) -> Schema:
    return {"type": "array", "items": items, **more}


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def answer(description: str, schema: Schema, *, location: bool = False) -> Schema:
    """One of the `responses` of an operation."""
    headers = {"headers": {"Location": {"schema": TEXT}}} if location else {}
    return {"description": description, "content": {"application/json": {"schema": schema}}, **headers}


def refusals(told: Mapping[int, str], schema: Schema | None = None) -> Schema:
    """The responses that are errors, with why, by status."""
    return {str(status): answer(why, schema or ref("Error")) for status, why in told.items()}


def query(name: str, schema: Schema, description: str, *, required: bool = False) -> Schema:
    return {"name": name, "in": "query", "required": required, "schema": schema, "description": description}


def in_path(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": schema, "description": description}


def operation(
    name: str,
    summary: str,
    responses: Schema,
    *,
    parameters: Sequence[Schema] = (),
    body: Schema | None = None,
    example: Any = None,
    is_open: bool = False,
) -> Schema:
    """`example` is of the body. `is_open`: it needs no secret. Otherwise 403 is among its responses."""
    closed = {} if is_open else {"403": answer(CLOSED, {"anyOf": [ref("Error"), NOTHING]})}
    content = {"application/json": {"schema": body, **({} if example is None else {"example": example})}}
    return {
        "operationId": name,
        "summary": summary,
        **({"parameters": [*parameters]} if parameters else {}),
        **({} if body is None else {"requestBody": {"required": True, "content": content}}),
        "responses": {**closed, **responses},
        **({"security": []} if is_open else {}),
    }
