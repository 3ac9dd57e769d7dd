"""Free data beside a file, as the JSON text that the server keeps."""

from __future__ import annotations

import msgspec

from pluto_dist.errors import InvalidRecordError


def as_json(value: object, what: str) -> str:
    """The value as JSON text.

    Raises:
        InvalidRecordError: it holds something that JSON has no form for.
    """
    try:
        return msgspec.json.encode(value, enc_hook=_plain).decode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRecordError(f"{what} cannot be written as JSON: {error}; pass plain values") from error


def _plain(value: object) -> object:
    """numpy's and torch's numbers and arrays."""
    if hasattr(type(value), "tolist"):
        return value.tolist()  # type: ignore[attr-defined] # just looked
    raise TypeError(f"a value of type {type(value).__name__}")
