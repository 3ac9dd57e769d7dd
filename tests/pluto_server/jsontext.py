"""JSON as a JavaScript server with a Postgres `jsonb` column reads, merges and prints it."""

import json
from typing import Any, NoReturn, TypeAlias

Json: TypeAlias = Any  # what json.loads may return; checked by the schemas, not by types
JsonObject: TypeAlias = dict[str, Json]


def parse(text: str | bytes) -> Json:
    """Decode strict JSON; ValueError for anything else, bare NaN and Infinity included."""
    return json.loads(text, parse_constant=_refuse, parse_float=_number)


def dumps(value: Json) -> str:
    """Compact JSON text, non-ASCII characters as they are."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def deep_merge(base: Json, update: Json) -> Json:
    """Objects merge key by key at any depth; everything else, null included, is replaced by the update."""
    if not (isinstance(base, dict) and isinstance(update, dict)):
        return update
    merged = dict(base)
    for key, value in update.items():
        merged[key] = deep_merge(base[key], value) if key in base else value
    return merged


def jsonb(value: Json) -> Json:
    """The value with its keys in the order `jsonb` keeps them: shorter first, then by bytes."""
    if isinstance(value, list):
        return [jsonb(item) for item in value]
    if not isinstance(value, dict):
        return value
    keys = sorted(value, key=lambda key: (len(key.encode()), key.encode()))
    return {key: jsonb(value[key]) for key in keys}


def is_storable(value: Json) -> bool:
    """Whether Postgres takes it: no string or key with a NUL character or half of a surrogate pair."""
    if isinstance(value, str):
        return not any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in value)
    if isinstance(value, list):
        return all(map(is_storable, value))
    return not isinstance(value, dict) or all(is_storable(k) and is_storable(v) for k, v in value.items())


def _refuse(token: str) -> NoReturn:
    raise ValueError(f"{token} is not JSON")


def _number(text: str) -> int | float:
    number = float(text)
    # JavaScript knows one kind of number: 1.0 is 1.
    return int(number) if number.is_integer() and abs(number) < 2**53 else number
