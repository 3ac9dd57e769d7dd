"""The config as it is at `init()`, as strict JSON of bounded size."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from pluto_dist.client.jsonable import Conversion, Json
from pluto_dist.errors import InvalidRecordError

MAX_BYTES = 4 * 2**20

_to_json = msgspec.json.Encoder().encode


class Snapshot(msgspec.Struct, frozen=True):
    """A config at one instant.

    Attributes:
        json: a JSON object without NUL, NaN or infinities.
        cut: names of values that are replaced by a note, because they or the whole are too large.
    """

    json: bytes
    cut: tuple[str, ...] = ()


class _Leaf(msgspec.Struct, frozen=True):
    """A value that can be replaced by a note: a text, a number, a list as a whole."""

    size: int
    path: str
    parent: dict[str, Json]
    key: str


def snapshot(config: object, *, limit: int = MAX_BYTES) -> Snapshot:
    """Takes a config as JSON.

    Dicts, namespaces, dataclasses, attrs, pydantic and OmegaConf objects become JSON objects; what has no
    JSON form becomes a text. Above the limit the largest values are replaced by notes.

    Raises:
        InvalidRecordError: the config is no collection of named values, or has too many names for the limit.
    """
    conversion = Conversion()
    plain = conversion.json({} if config is None else config, "")
    if not isinstance(plain, dict):
        raise InvalidRecordError(
            f"config is of type {type(config).__name__}; pass named values: a dict, a dataclass, vars(args)"
        )
    cut = _cut_to(plain, limit)
    return Snapshot(_to_json(plain), (*conversion.left_out, *cut))


def _cut_to(plain: dict[str, Json], limit: int) -> list[str]:
    size, cut = len(_to_json(plain)), list[str]()
    if size <= limit:
        return cut
    for leaf in sorted(_leaves(plain, ""), key=lambda leaf: leaf.size, reverse=True):
        note = f"<cut: {leaf.size} bytes>"
        saved = leaf.size - len(_to_json(note))
        if size <= limit or saved <= 0:
            break
        leaf.parent[leaf.key] = note
        size -= saved
        cut.append(leaf.path)
    if size > limit:
        raise InvalidRecordError(
            f"config has {size} bytes of JSON even without its large values; the limit is {limit}: pass less"
        )
    return cut


def _leaves(parent: dict[str, Json], path: str) -> Iterator[_Leaf]:
    for key, value in parent.items():
        name = f"{path}/{key}" if path else key
        if isinstance(value, dict):
            yield from _leaves(value, name)
        else:
            yield _Leaf(len(_to_json(value)), name, parent, key)
