"""Hand-over between the processes of a Run: topics, their items, and their readers (R14)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final

import msgspec

from pluto_dist.core.values.ids import Count

MAX_PAYLOAD: Final = 64 * 1024  # bytes of JSON; larger things are files, and their paths are handed over
TOPIC: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z"
CHECKPOINTS: Final = "checkpoints"  # the topic behind `run.checkpoint()`

SHOWN_ITEMS: Final = 5

TopicName = Annotated[str, msgspec.Meta(pattern=TOPIC)]
GroupName = Annotated[str, msgspec.Meta(max_length=100)]


class Item(msgspec.Struct, frozen=True):
    """One published item. It goes to the database and is not kept in memory.

    Attributes:
        payload: any JSON.
        at_ms: when it was published, epoch milliseconds.
        by: label of the process that did.
        host: of that process.
    """

    payload: msgspec.Raw
    at_ms: int
    by: str
    host: str = ""


class ItemShown(msgspec.Struct, frozen=True):
    """An item as people see it.

    Attributes:
        number: counted from 1 in each topic of a Run.
        at_ms: when it was published, epoch milliseconds.
        by: label of the process that did.
        payload: the start of its JSON.
    """

    number: int
    at_ms: int
    by: str
    payload: str


class Part(msgspec.Struct, frozen=True):
    """A range of items and the Run under which they are kept, in a Run that was two at first.

    Attributes:
        after: items behind this number, up to the next part.
        origin: key of the Run under which they were kept.
        shift: how much lower their numbers were there.
    """

    after: int
    origin: str
    shift: int


class Waiting(msgspec.Struct, frozen=True):
    """Items that were published on this node and have no number yet: the cluster store does not have them.

    Attributes:
        origin: key of the Run under which they were published.
        first, last: counted on this node.
    """

    origin: str
    first: Count
    last: Count


class Topic(msgspec.Struct, frozen=True, kw_only=True):
    """One topic of one Run.

    Attributes:
        run: key of the Run.
        name: of the topic.
        last: number of the newest item.
        gone: items up to this number are no longer kept.
        latest: the newest few.
        parts: where its items stand, () for under its own name.
        said: with a cluster store, how many items were published on this node.
        waiting: those of them that it does not have yet, in order.
    """

    run: str
    name: str
    last: Count = 0
    gone: Count = 0
    latest: tuple[ItemShown, ...] = ()
    parts: tuple[Part, ...] = ()
    said: Count = 0
    waiting: tuple[Waiting, ...] = ()

    @property
    def key(self) -> str:
        """Its place in the book."""
        return f"{self.run}/{self.name}"

    def followed_by(self, other: Topic) -> Topic:
        """This topic with the items of another one behind its own."""
        both = msgspec.structs.replace(self, waiting=(*self.waiting, *other.waiting))
        return both._with_numbers_of(other) if other.last else both

    def _with_numbers_of(self, other: Topic) -> Topic:
        behind = self.last
        own = self.parts or ((Part(0, self.run, 0),) if behind else ())
        parts = (
            Part(behind + part.after, part.origin, behind + part.shift)
            for part in other.parts or (Part(0, other.run, 0),)
        )
        latest = (msgspec.structs.replace(each, number=behind + each.number) for each in other.latest)
        return msgspec.structs.replace(
            self,
            last=behind + other.last,
            gone=self.gone if behind else other.gone,
            latest=(*self.latest, *latest)[-SHOWN_ITEMS:],
            parts=(*own, *parts),
        )

    def item_key(self, number: int) -> str:
        """The place of an item in the database."""
        part = next((each for each in reversed(self.parts) if each.after < number), Part(0, self.run, 0))
        return f"{part.origin}/{self.name}/{number - part.shift}"

    def waiting_keys(self) -> Iterator[str]:
        """The places in the database of the items that wait for a number."""
        for each in self.waiting:
            yield from (self.waiting_key(each.origin, own) for own in range(each.first, each.last + 1))

    def waiting_key(self, origin: str, own: int) -> str:
        """The place of one of them; `own` is counted on this node."""
        return f"{origin}/{self.name}/waiting/{own}"


class Holder(msgspec.Struct, frozen=True):
    """A loop of a process that has taken an item and not finished it."""

    lease_id: str
    member: Count


class Reader(msgspec.Struct, frozen=True, kw_only=True):
    """The progress of a label or a group in a topic. All items up to `given` that no process holds are done.

    Attributes:
        run: key of the Run.
        topic: name of the topic.
        name: of the participant or the group.
        group: whether it is a group.
        given: the highest number that was given or passed over.
        held: items that a process has taken and not finished; with a cluster store, processes of this node.
        shared: other nodes may go on with it.
        finished: with a cluster store, items that a process here is through with and the store does not know.
        elsewhere: items that other nodes have, and who it is there, for people.
    """

    run: str
    topic: str
    name: str
    group: bool
    given: Count = 0
    held: dict[int, Holder] = {}
    shared: bool = False
    finished: tuple[int, ...] = ()
    elsewhere: dict[int, str] = {}

    @property
    def through(self) -> int:
        """The number up to which every item is done."""
        return min((*self.held, *self.elsewhere), default=self.given + 1) - 1

    @property
    def key(self) -> str:
        """Its place in the book."""
        return f"{self.run}/{self.topic}/{'group' if self.group else 'label'}/{self.name}"


class Batch(msgspec.Struct, frozen=True):
    """Items as the cluster store has them, under the number of the first.

    Attributes:
        node, origin, first: who published them: by this the node knows its own again after a lost answer.
    """

    items: tuple[Item, ...]
    node: str
    origin: str
    first: Count


class Keeper(msgspec.Struct, frozen=True):
    """The node on which an item is held, "" for none; `who` is the process there, for people."""

    node: str = ""
    who: str = ""


class Position(msgspec.Struct, frozen=True):
    """The progress of a label or a group over all nodes, as the cluster store has it; see `Reader`."""

    given: Count = 0
    held: dict[int, Keeper] = {}
