"""Hand-over (R14): which item a subscriber gets next, and when one is done; pure functions of its reader.

A label reads a topic alone, a group shares it among its members. Both are one `Reader`: what was given and is
not held by any process is done. An item whose holder is gone is given again, before any newer one; that is
the only way in which a member gets an item that is older than one it had.

With a cluster store the progress is a `Position` there, which nodes change by compare-and-set. A node keeps
beside it what only it knows: which of its processes holds what, and what they are through with. From both
follows the `Reader` to which the same rules apply.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from pluto_dist.core.values.topics import (
    SHOWN_ITEMS,
    Batch,
    Holder,
    Item,
    ItemShown,
    Keeper,
    Position,
    Reader,
    Topic,
    Waiting,
)

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


# --- with a cluster store -------------------------------------------------------------------------------


def waits(topic: Topic) -> tuple[Topic, str]:
    """The topic with one item more that has no number yet, and the place of that item."""
    own, last = topic.said + 1, topic.waiting[-1] if topic.waiting else None
    if last is not None and last.origin == topic.run and last.last == topic.said:
        waiting = (*topic.waiting[:-1], msgspec.structs.replace(last, last=own))
    else:
        waiting = (*topic.waiting, Waiting(topic.run, own, own))
    return msgspec.structs.replace(topic, said=own, waiting=waiting), topic.waiting_key(topic.run, own)


def numbered(topic: Topic, batch: Batch) -> tuple[Topic, tuple[str, ...]]:
    """The topic once the store has a batch of this node, and the places of items that wait no longer."""
    end = batch.first + len(batch.items)
    waiting: list[Waiting] = []
    over: list[str] = []
    for each in topic.waiting:
        if each.origin != batch.origin or each.first >= end:
            waiting.append(each)
            continue
        over += [topic.waiting_key(each.origin, own) for own in range(each.first, min(each.last + 1, end))]
        if each.last >= end:
            waiting.append(msgspec.structs.replace(each, first=end))
    return msgspec.structs.replace(topic, waiting=tuple(waiting)), tuple(over)


def known_here(reader: Reader, node: str) -> Position:
    """The position as far as one node knows it, for a store that has none."""
    held = {**dict.fromkeys(reader.elsewhere, Keeper()), **dict.fromkeys(reader.held, Keeper(node))}
    return Position(reader.given, held)


def agreed(reader: Reader, position: Position, node: str) -> Reader:
    """What a node keeps beside a position: nothing that the position says otherwise."""
    kept = {number for number, keeper in position.held.items() if keeper.node == node}
    return msgspec.structs.replace(
        reader,
        given=position.given,
        held={number: holder for number, holder in reader.held.items() if number in kept},
        finished=tuple(number for number in reader.finished if number in position.held),
        elsewhere={
            number: keeper.who
            for number, keeper in position.held.items()
            if keeper.node not in ("", node) and number not in reader.finished
        },
    )


def everywhere(reader: Reader, position: Position, node: str) -> Reader:
    """The progress over all nodes; a holder elsewhere is its node, with the member 0.

    What the position gives to this node and the node knows nothing of is nobody's: the write that took it was
    given up, and applied later. To take it for done would lose it.
    """
    held = {
        number: reader.held.get(number, NOBODY) if keeper.node == node else Holder(keeper.node, 0)
        for number, keeper in position.held.items()
        if number not in reader.finished
    }
    return msgspec.structs.replace(reader, given=position.given, held=held)


def position_of(
    progress: Reader, before: Position, node: str, alive: Alive, who: Callable[[Holder], str]
) -> Position:
    """The position to be stored; what a dead process of this node holds is free for all nodes."""

    def keeper(number: int, holder: Holder) -> Keeper:
        if holder.member:
            return Keeper(node, who(holder)) if alive(holder) else Keeper()
        return before.held[number] if holder.lease_id else Keeper()

    return Position(
        progress.given, {number: keeper(number, holder) for number, holder in progress.held.items()}
    )


def finished(reader: Reader, number: int) -> Reader:
    """As `done`, until the store knows."""
    if number in reader.finished:
        return reader
    return msgspec.structs.replace(done(reader, number), finished=(*reader.finished, number))
