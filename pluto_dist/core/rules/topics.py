"""Hand-over (R14): which item a subscriber gets next, and when one is done; pure functions of its reader.

A label reads a topic alone, a group shares it among its members. Both are one `Reader`: what was given and is
not held by any process is done. An item whose holder is gone is given again, before any newer one; that is
the only way in which a member gets an item that is older than one it had.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from pluto_dist.core.values.topics import SHOWN_ITEMS, Holder, Item, ItemShown, Reader, Topic

SHOWN_CHARACTERS = 500
NOBODY = Holder("", 0)

Alive = Callable[[Holder], bool]


def published(topic: Topic, item: Item) -> Topic:
    """The topic with one item more; its number is `last`."""
    number = topic.last + 1
    text = bytes(item.payload).decode("utf-8", "replace")[:SHOWN_CHARACTERS]
    shown = ItemShown(number, item.at_ms, item.by, text)
    return msgspec.structs.replace(topic, last=number, latest=(*topic.latest, shown)[-SHOWN_ITEMS:])


def next_number(
    reader: Reader, last: int, member: Holder, alive: Alive, *, latest: bool = False
) -> int | None:
    """The item that a member gets now, None if there is none for it.

    Args:
        reader: how far its label or group is.
        last: number of the newest item.
        member: who asks; what it holds already it gets again.
        alive: whether a holder may still be at work.
        latest: only the newest item that no process has had.
    """
    own = [number for number, holder in reader.held.items() if holder == member]
    if own:
        return min(own)
    newest = last if last > reader.given else None
    left = [number for number, holder in reader.held.items() if not alive(holder)]
    if latest:
        return newest or max(left, default=None)
    return min(left) if left else (reader.given + 1 if newest else None)


def taken(reader: Reader, number: int, member: Holder, alive: Alive, *, latest: bool = False) -> Reader:
    """The reader once `member` has got this item; with `latest`, older ones are passed over."""
    held = {**reader.held, number: member}
    if latest:
        held = {each: holder for each, holder in held.items() if each >= number or alive(holder)}
    return msgspec.structs.replace(reader, given=max(reader.given, number), held=held)


def done(reader: Reader, number: int) -> Reader:
    """The reader once somebody is through with an item."""
    held = {each: holder for each, holder in reader.held.items() if each != number}
    return msgspec.structs.replace(reader, held=held)


def left(reader: Reader, member: Holder) -> Reader:
    """The reader once a loop was left: what it holds is nobody's, as after its death."""
    held = {each: NOBODY if holder == member else holder for each, holder in reader.held.items()}
    return msgspec.structs.replace(reader, held=held)


def over(reader: Reader, last: int) -> bool:
    """Whether every item is done."""
    return reader.given >= last and not reader.held
