"""Changes of tags and config (G9): config is merged deeply, as on the server, tags are an ordered set.

Arguments are never altered. The coordinator applies changes one after the other; a bad change raises and
leaves everything as it was.

In a Run of several nodes no node writes over another's change: each appends its own to the cluster store, and
the seat folds them, in the order of their numbers, into one state that all nodes read. Of a config that is
larger than the store takes the large values stay where they were set: that node tells the server itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import msgspec

from pluto_dist.core.values.cluster import Change, SharedState
from pluto_dist.core.values.ids import UNREADABLE
from pluto_dist.core.values.records import Run
from pluto_dist.errors import InvalidRecordError

MAX_TAGS = 50  # the server refuses more
GROUP_PREFIX = "group:"  # and more than one tag that starts so
LARGEST_CONFIG = 512 << 10  # bytes that the cluster store takes; etcd takes 1.5 MiB a request
NOTHING = b"{}"
NONE = b"null"

JsonObject = dict[str, object]

_to_json = msgspec.json.Encoder().encode
_to_object = msgspec.json.Decoder(JsonObject).decode
_to_values = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def deep_merge(base: JsonObject, patch: JsonObject) -> JsonObject:
    """The config after a patch, by the server's rules.

    Objects merge at any depth; arrays and scalars are replaced, null overwrites with null; no key is ever
    deleted. The result shares what did not change with its sources.
    """
    merged = dict(base)
    pending = [(merged, patch)]
    while pending:  # a stack of our own: configs may be nested deeper than Python recurses
        target, changes = pending.pop()
        for key, value in changes.items():
            old = target.get(key)
            if isinstance(old, dict) and isinstance(value, dict):
                inner = dict(old)
                target[key] = inner
                pending.append((inner, value))
            else:
                target[key] = value
    return merged


def merge_json(base: bytes, patch: bytes) -> bytes:
    """`deep_merge` of two JSON objects.

    Raises:
        InvalidRecordError: one of them is no strict JSON object, or is nested too deeply to be read.
    """
    try:
        return _to_json(deep_merge(_to_object(base), _to_object(patch)))
    except UNREADABLE as error:
        raise InvalidRecordError(
            f"the config or its patch is no JSON object of moderate depth: {error}; pass a dict"
        ) from error


def add_tags(current: Iterable[str], new: Iterable[str]) -> tuple[str, ...]:
    """The current tags and, behind them, those that are new.

    Args:
        current: what the Run has.
        new: tags to add; a single text is one tag.

    Raises:
        InvalidRecordError: a tag is no text or blank, there would be too many tags or two groups.
    """
    tags = tuple(dict.fromkeys((*current, *checked_tags(new))))
    groups = [tag for tag in tags if tag.startswith(GROUP_PREFIX)]
    if len(groups) > 1:
        raise InvalidRecordError(
            f"the tags {groups[0]!r} and {groups[1]!r} are both groups; a Run has one at most: remove one"
        )
    if len(tags) > MAX_TAGS:
        raise InvalidRecordError(
            f"the Run would have {len(tags)} tags, the last one {tags[-1]!r}; the limit is {MAX_TAGS}: "
            "remove some first, or put the values into the config"
        )
    return tags


def remove_tags(current: Iterable[str], old: Iterable[str]) -> tuple[str, ...]:
    """The current tags without the old ones; those it does not have are no error.

    Raises:
        InvalidRecordError: a tag is no text or blank.
    """
    gone = set(checked_tags(old))
    return tuple(tag for tag in dict.fromkeys(current) if tag not in gone)


def checked_tags(tags: Any) -> tuple[str, ...]:
    """One tag or several, as they were given.

    Raises:
        InvalidRecordError: a tag is no text or blank, or there is nothing that could be tags.
    """
    if issubclass(type(tags), str):
        return (_checked(tags),)
    try:
        return tuple(map(_checked, tags))
    except TypeError as error:
        raise InvalidRecordError(f"tags are of type {type(tags).__name__}; pass a list of texts") from error


def _checked(tag: Any) -> str:
    if not issubclass(type(tag), str):  # objects may say anything about themselves
        raise InvalidRecordError(f"a tag is of type {type(tag).__name__}; tags are texts: pass str(tag)")
    text = str.__str__(tag)  # of a subclass only the text
    if not text.strip():
        raise InvalidRecordError(f"the tag {text!r} is blank; leave it out")
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise InvalidRecordError(f"the tag {text!r} has a NUL or a lone surrogate; the server cannot hold it")
    return text


def merge_tags(
    there: Iterable[str], base: Iterable[str], wanted: Iterable[str], removed: Iterable[str] = ()
) -> tuple[str, ...]:
    """A three-way merge of tags: our changes since `base`, applied to what others have made of them.

    Args:
        there: the tags as they are now.
        base: as this node last knew them.
        wanted: as this node wants them; only what differs from `base` is done to `there`.
        removed: tags to remove that this node never knew.
    """
    now, known, gone = tuple(there), set(base), set(removed)
    ours = (tag for tag in wanted if tag in now or tag not in known)
    merged = dict.fromkeys((*ours, *(tag for tag in now if tag not in known)))
    return tuple(tag for tag in merged if tag not in gone)


def inherit_tags(parent: Iterable[str], own: Iterable[str]) -> tuple[str, ...]:
    """Tags of a fork, as the server makes them: the parent's, then its own, which win.

    A group of its own replaces the parent's. Of too many the parent's last ones are left out.
    """
    mine = tuple(dict.fromkeys(own))
    grouped = any(tag.startswith(GROUP_PREFIX) for tag in mine)
    taken = [
        tag
        for tag in dict.fromkeys(parent)
        if tag not in mine and not (grouped and tag.startswith(GROUP_PREFIX))
    ]
    return (*taken[: max(0, MAX_TAGS - len(mine))], *mine)


@lru_cache(maxsize=2)  # asked again with each event of the Run
def fitting(config: bytes) -> tuple[bytes, tuple[str, ...]]:
    """What of a config goes into the cluster store, the smaller ones of its values; names of the others."""
    if len(config) <= LARGEST_CONFIG:
        return config, ()
    values = _to_values(config)
    size, fits = len(NOTHING), set()
    for name in sorted(values, key=lambda name: (len(values[name]), name)):
        size += len(_to_json(name)) + len(bytes(values[name])) + 2
        if size > LARGEST_CONFIG:
            break
        fits.add(name)
    return _to_json({name: value for name, value in values.items() if name in fits}), tuple(
        sorted(values.keys() - fits)
    )


def too_large(patch: bytes) -> bytes:
    """What of a patch does not go into the cluster store, so its node tells the server; b"" if nothing."""
    left_out = fitting(patch)[1]
    return _to_json({name: _to_values(patch)[name] for name in left_out}) if left_out else b""


def pending(run: Run) -> Change | None:
    """What the others do not know of this node's changes and the store can take; None if nothing."""
    known = run.pushed_tags or ()
    gone = tuple(tag for tag in known if tag not in run.tags)
    change = Change(
        added=tuple(tag for tag in run.tags if tag not in known),
        removed=tuple(dict.fromkeys((*gone, *run.untagged))),
        config=msgspec.Raw(fitting(run.config_patch or NOTHING)[0]),
    )
    return change if change != Change() else None


def without(run: Run, told: Change) -> dict[str, object]:
    """Fields of the Run once the others know of a change."""
    known = tuple(tag for tag in run.pushed_tags or () if tag not in told.removed)
    return {
        "pushed_tags": (*known, *(tag for tag in told.added if tag not in known)),
        "untagged": tuple(tag for tag in run.untagged if tag not in told.removed),
        "config_patch": untold(run.config_patch, bytes(told.config)),
    }


def untold(patch: bytes, told: bytes) -> bytes:
    """What is left of a patch once the others know of another one, an earlier state of it; b"" if nothing."""
    if patch in (b"", told):
        return b""
    known = _to_values(told)
    left = {name: value for name, value in _to_values(patch).items() if known.get(name) != value}
    return _to_json(left) if left else b""


def merged_tags(run: Run, state: SharedState) -> tuple[str, ...]:
    """The tags of all nodes, and what this one has changed since."""
    merged = merge_tags(state.tags, run.pushed_tags or (), run.tags, run.untagged)
    return state.tags if set(merged) == set(state.tags) else merged


def merged_config(run: Run, state: SharedState, own: bytes) -> bytes:
    """The config of all nodes, this one's changes since, and of `own` what the store has no room for."""
    if bytes(state.config) == NONE:  # of a version that kept a large config whole
        return own
    merged = merge_json(bytes(state.config), run.config_patch or NOTHING)
    left_out = {*state.left_out, *fitting(own)[1]} - _to_values(merged).keys()
    kept = {name: value for name, value in _to_values(own).items() if name in left_out} if left_out else {}
    return merge_json(merged, _to_json(kept)) if kept else merged


def state_of(run: Run, config: bytes) -> SharedState:
    """What the seat tells of the Run."""
    fits, left_out = fitting(config)
    return SharedState(
        tags=run.tags,
        config=msgspec.Raw(fits),
        left_out=left_out,
        folded=run.folded,
        base=run.pushed_tags,
        untagged=run.untagged,
        patch=msgspec.Raw(fitting(run.config_patch or NOTHING)[0]),
    )


def is_ahead(state: SharedState, run: Run) -> bool:
    """Whether another seat has folded what this node's Run does not have."""
    return any(number > run.folded.get(node, 0) for node, number in state.folded.items())
