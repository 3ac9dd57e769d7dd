"""Hostile values: for each type of a schema what another program might put there."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec import inspect

any_text = st.text(st.characters(codec=None, exclude_categories=()), max_size=12)  # NUL and surrogates too
utf8 = st.text(max_size=12)
hostile_text = st.sampled_from(
    [
        "",
        " ",
        "\0",
        "a\0b",
        "../../etc/passwd",
        "/",
        "..",
        "x" * 70_000,
        "é" * 300,
        "-1",
        "1",
        "9" * 40,
        "DEM-1",
        "rank3",
        "owner",
        "group:a",
        "group:b",
        "\r\n",
        "%s%n{}",
        "constructor",
        "NaN",
        "<contains itself>",
    ]
)
texts = hostile_text | utf8
hostile_integers = st.sampled_from(
    [-1, 0, 1, 2, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**40]
)
integers = hostile_integers | st.integers(-3, 200)
floats = st.sampled_from([-1.0, 0.0, -0.0, 1e-300, 1e308, -1e308, 1e18, 0.5]) | st.floats(
    allow_nan=False, allow_infinity=False
)
plain_json = st.recursive(
    st.none() | st.booleans() | integers | floats | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


def deep(levels: int) -> Any:
    """Lists inside lists."""
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def wire(kind: Any, **fixed: Any) -> st.SearchStrategy[Any]:
    """JSON-like values of the form that a type has on the wire; `fixed` fields are as given."""
    info = inspect.type_info(kind)
    return st.deferred(lambda: _of(info, fixed))  # hypothesis would print all of it


def as_json(value: Any) -> bytes:
    """One line, as a foreign encoder might write it: any integer, any text."""
    return json.dumps(value).encode() + b"\n"


def _of(info: inspect.Type, fixed: dict[str, Any] | None = None) -> st.SearchStrategy[Any]:  # noqa: PLR0912
    match info:
        case inspect.IntType():
            return integers
        case inspect.FloatType():
            return floats
        case inspect.StrType():
            return texts
        case inspect.BoolType():
            return st.booleans()
        case inspect.BytesType():
            return st.binary(max_size=20)
        case inspect.NoneType():
            return st.none()
        case inspect.RawType() | inspect.AnyType():
            return plain_json
        case inspect.LiteralType(values=values):
            return st.sampled_from(sorted(values, key=str))
        case inspect.UnionType(types=types):
            return st.one_of([_of(each) for each in types])
        case inspect.VarTupleType(item_type=item) | inspect.ListType(item_type=item):
            return st.lists(_of(item), max_size=3)
        case inspect.TupleType(item_types=items):
            return st.tuples(*map(_of, items)).map(list)
        case inspect.DictType(key_type=key, value_type=value):
            return st.dictionaries(_of(key), _of(value), max_size=3)
        case inspect.Metadata(type=inner):
            return _of(inner)
        case inspect.StructType():
            return _struct(info, fixed or {})
        case _:
            raise NotImplementedError(f"no values for {info}")


def _struct(info: inspect.StructType, fixed: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    tag = {info.tag_field: st.just(info.tag)} if info.tag_field else {}
    needed = {
        field.encode_name: _of(field.type)
        for field in info.fields
        if field.required and field.encode_name not in fixed
    }
    free = {
        field.encode_name: _of(field.type)
        for field in info.fields
        if not field.required and field.encode_name not in fixed
    }
    given = {
        name: value if isinstance(value, st.SearchStrategy) else st.just(value)
        for name, value in fixed.items()
    }
    return st.fixed_dictionaries({**tag, **needed, **given}, optional=free)


def kinds_of(union: Any) -> list[type[msgspec.Struct]]:
    """Members of a union of structs."""
    return list(union.__args__)
