"""What the processes of a Run hand over to each other on several nodes, through the cluster store (R14, G13).

Nobody has to speak for the others, so hand-over goes on where the seat is lost, and after the end of the
Run. All that nodes have to agree on is made by compare-and-set. An item gets its number by a key that is
made once: who finds the next number taken has learned an item, and tries the one behind. The progress of a
label or group is one key. What a node holds goes to others when it is silent.

A node copies all items of a topic that it publishes to or reads, in order, into its own database, and gives
them from there. An item that was published here waits there for its number; a position that is changed is
kept here first, so a restart or a lost answer repeats an item at worst, and loses none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from pluto_dist.core.machine.context import Context
from pluto_dist.core.machine.shared_folder import (
    KEEP_S,
    KEEPS_TRYING_S,
    QUIET_S,
    Lookout,
    Memberships,
    NodeLease,
    Writer,
)
from pluto_dist.core.rules.nodes import decoded
from pluto_dist.core.rules.topics import (
    agreed,
    everywhere,
    known_here,
    next_number,
    numbered,
    over,
    position_of,
    published,
    taken,
)
from pluto_dist.core.values.cluster import RunDocument, key_part, run_folder, topics_folder
from pluto_dist.core.values.effects import ExpireCluster, StoreItems, WriteCluster
from pluto_dist.core.values.engine import ABSENT, GuardFailed, Refused, Unavailable, Written
from pluto_dist.core.values.events import ClusterListed, ClusterSeen, ClusterWritten
from pluto_dist.core.values.messages import TakeItem
from pluto_dist.core.values.records import Run
from pluto_dist.core.values.topics import Batch, Holder, Position, Reader, Topic

SUFFIX: Final = "/topics"  # behind the Run's key in events that are for this part
HUNDRED: Final = 100  # items are listed by so many
BATCH: Final = 8  # items in one value: 512 KiB, and etcd takes 1.5 MiB
GIVES_UP_S: Final = 15.0  # below the 20 s for which the last participant waits
SILENT_S: Final = 150.0  # after which the server's monitor ends a Run without a sign of life


class Question(msgspec.Struct, frozen=True):
    """A loop that waits for its next item."""

    peer: bytes
    asked: TakeItem

    @property
    def member(self) -> Holder:
        """The loop that asks."""
        return Holder(self.asked.lease_id, self.asked.member)


class Loop(msgspec.Struct, frozen=True):
    """A question, and the progress that it is about as this node keeps it."""

    question: Question
    reader: Reader


class Given(msgspec.Struct, frozen=True):
    """The answer to a question: an item that the store has as given to this node, None for the end."""

    question: Question
    number: int | None


class SharedTopics:
    """This node's part in the hand-over of one Run.

    Args:
        context: of the coordinator.
        run: that was opened, with a store for its topics.
        memberships: this node's leases.
        node, generation: of this coordinator.

    Attributes:
        address: of the store.
        dirty: something was learned since the last `advance`.
        due_at: when there is something to do if nothing happens.
    """

    def __init__(
        self, context: Context, run: Run, memberships: Memberships, node: str, generation: int
    ) -> None:
        assert run.topics_at is not None  # noqa: S101 # asked for Runs with a store only
        self._context = context
        self._book = context.book
        self._run = run.key
        self.address = run.topics_at
        self._memberships = memberships
        self._node = node
        key, name = run.key + SUFFIX, (run.topics_at.prefix, run.project, run.external_id)
        self._folder = topics_folder(*name)
        self._lookout = Lookout(context, key, run.topics_at, self._folder, one_watch=True)
        self._end = Lookout(context, key, run.topics_at, run_folder(*name))
        self._writer = Writer(context, self._lookout, memberships, node, generation)
        self._loops: tuple[Loop, ...] = ()
        self._followed: frozenset[str] = frozenset()
        self._asked_the_end = False
        self._silent_since: float | None = None
        self.due_at: float | None = None
        self._restored: dict[str, int] = {}
        self._published_last = False
        self.dirty = True

    # --- answers ------------------------------------------------------------------------------------------

    def listed(self, event: ClusterListed) -> None:
        """Takes the answer to a list; a store that was emptied gets again what is known here."""
        emptied = self._lookout.emptied
        found = self._lookout_of(event.prefix).listed(event)
        if self._lookout.emptied > emptied:
            topics = self._book.topics_of(self._run)
            self._restored = {name: 0 for name, topic in topics.items() if topic.last}
        if isinstance(found, str):
            self._memberships.silent(self.address, found)
        else:
            self._memberships.reached(self.address)
        self._heard()

    def seen(self, event: ClusterSeen) -> None:
        """Takes what a watch reports."""
        self._lookout_of(event.prefix).seen(event)
        self._heard()

    def written(self, event: ClusterWritten) -> None:
        """Takes the answer to a change; an uncertain one is read back before anything else is written."""
        asked = self._writer.written(event)
        if asked is None:
            return
        if isinstance(event.result, Written):
            self._expire(asked.key)
        back = isinstance(event.result, Written) and asked.key == self._writer.presence
        if back or isinstance(event.result, GuardFailed):
            self._lookout.again()  # another node may have taken this one, or this one another, for lost
        if not isinstance(event.result, Unavailable | Refused):
            self._restores(asked)
        self._heard()

    def _lookout_of(self, prefix: str) -> Lookout:
        return self._lookout if prefix.startswith(self._folder) else self._end

    def _heard(self) -> None:
        """Learns items, and what other nodes have done."""
        self.dirty = True
        for name in {*self._book.topics_of(self._run), *self._followed}:
            self._learn(self._topic(name))

    def _learn(self, topic: Topic) -> None:
        """Copies the items behind the last one that is known here."""
        while (found := self._lookout.get(_item_name(topic.name, topic.last + 1))) is not None:
            batch = decoded(found.value, Batch) or Batch((), "", "", 0)
            if batch.node == self._node:
                topic, over_here = numbered(topic, batch)
                for key in over_here:
                    self._book.items.delete(key)
            for item in batch.items:
                topic = published(topic, item)
                self._book.items.put(topic.item_key(topic.last), item)
            if not batch.items:  # cannot be read; who takes it passes it over
                topic = msgspec.structs.replace(topic, last=topic.last + 1)
            self._book.put_topic(topic)

    def _restores(self, asked: WriteCluster | StoreItems) -> None:
        """Notes that an item that an emptied store had lost is there again."""
        for name, number in tuple(self._restored.items()):
            if asked.key == self._folder + _item_name(name, number + 1):
                found = self._lookout.items.get(asked.key)
                batch = decoded(found.value, Batch) if found is not None else None
                self._restored[name] = number + max(1, len(batch.items) if batch is not None else 1)
                if self._restored[name] >= self._book.topics_of(self._run)[name].last:
                    del self._restored[name]

    def _expire(self, key: str) -> None:
        """What is written after the end of the Run has the engine delete it with the rest."""
        run = self._book.runs.get(self._run)
        if run is not None and key != self._writer.presence and self.has_ended(run):
            self._context.emit(
                ExpireCluster(run=self._run + SUFFIX, address=self.address, keys=(key,), after_s=KEEP_S)
            )

    # --- questions ----------------------------------------------------------------------------------------

    @property
    def lease(self) -> NodeLease:
        """This node's lease at the store."""
        return self._writer.lease

    @property
    def is_active(self) -> bool:
        """Whether the node takes part now, so that it needs a lease."""
        return bool(self._followed) or self.unsent() or any(self._kept())

    def owes(self) -> bool:
        """Whether other nodes do not know something yet, and there is hope that they will."""
        return self._owes() and not self._away_for(KEEPS_TRYING_S)

    def safe(self) -> bool:
        """Whether a process that leaves need not wait for the store to have what was published here."""
        return not self.unsent() or self._away_for(GIVES_UP_S)

    def unsent(self) -> bool:
        """Whether items wait for their numbers."""
        return any(topic.waiting for topic in self._book.topics_of(self._run).values())

    def has_ended(self, run: Run) -> bool:
        """Whether the Run is over: by its verdict, or on a node without ranks by that of the others.

        Where no node is at work any more and none has said how the Run ended, the server ends it after as
        long. A Run whose trainer knows no store has no document there: then the rule for one node holds.
        """
        if run.ended or not run.relay:
            return run.ended
        if self._document is not None:
            silent = self._silent_since is not None and self._context.now.at >= self._silent_since + SILENT_S
            return self._document.ended is not None or (silent and self._nobody_here(run))
        return self._end.knows("run") and (run.status != "RUNNING" or self._nobody_here(run))

    @property
    def _document(self) -> RunDocument | None:
        found = self._end.get("run")
        return decoded(found.value, RunDocument) if found is not None else None

    def _look_for_the_end(self) -> None:
        """Follows the Run's document, and whether a node is there that has still to end."""
        self._end.look("run", "node/", "end/", quiet_s=QUIET_S)
        document = self._document
        if document is None or self._end.behind:
            return
        ended = {name.rpartition("/")[2] for name in self._end.below(f"end/{document.round}/")}
        if self._end.below("node/").keys() & document.nodes.keys() - ended:
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = self._context.now.at

    def is_over(self, run: Run) -> bool:
        """Whether the Run is over, and all that was published before is known here."""
        return self._asked_the_end and self.has_ended(run) and not self._lookout.behind

    def deadline(self) -> float | None:
        """When `advance` may have something to do if nothing happens."""
        looks = [self._lookout.deadline(), self._end.deadline(), self._writer.not_before]
        if self._silent_since is not None:
            looks.append(self._silent_since + SILENT_S)
        if self.unsent() and self.lease.away_since is not None:
            looks.append(self.lease.away_since + GIVES_UP_S)
        return min((at for at in looks if at is not None and at > self._context.now.at), default=None)

    def is_due(self) -> bool:
        """Whether a deadline has passed since the last `advance`."""
        return self.due_at is not None and self._context.now.at >= self.due_at

    def _away_for(self, seconds: float) -> bool:
        away_since = self.lease.away_since
        return away_since is not None and self._context.now.at >= away_since + seconds

    def _owes(self) -> bool:
        kept = self._kept()
        return self.unsent() or any(
            reader.finished or not all(map(self._alive, reader.held.values())) for reader in kept
        )

    def _kept(self) -> Iterator[Reader]:
        """Progress in which processes here have items, or had some that the store does not know of."""
        for topic in self._book.topics_of(self._run).values():
            for reader in self._book.readers_of(topic):
                if reader.shared and (reader.held or reader.finished):
                    yield reader

    def _nobody_here(self, run: Run) -> bool:
        return self._context.situation(run).assessment.phase == "detached"

    def _alive(self, holder: Holder) -> bool:
        """Whether a holder may be at work: a process here, or a node that is present."""
        if not holder.member:
            return self._lookout.get(f"node/{holder.lease_id}") is not None
        lease = self._book.leases.get(holder.lease_id)
        return lease is not None and lease.alive

    def _who(self, holder: Holder) -> str:
        lease = self._book.leases.get(holder.lease_id)
        return f"{lease.label} on {lease.identity.host}" if lease is not None else ""

    # --- what to do ---------------------------------------------------------------------------------------

    def advance(self, run: Run, loops: tuple[Loop, ...], followed: frozenset[str]) -> list[Given]:
        """Answers what can be answered, and writes the next thing that the store does not have.

        Args:
            run: as it is now.
            loops: that wait for an item.
            followed: topics of which items are wanted here.
        """
        self.dirty, self._loops, self._followed = False, loops, followed
        answers = self._advance(run) if self.is_active else []
        self.due_at = self.deadline()
        return answers

    def _advance(self, run: Run) -> list[Given]:
        lease = self.lease
        if run.opening or lease.answered_at is None:
            return []  # under which id it will be is not certain before; nor is there a store
        readers = {loop.reader.key: loop.reader for loop in self._loops}
        readers |= {reader.key: reader for reader in self._kept() if reader.key not in readers}
        topics = self._book.topics_of(self._run)
        names = {name for name, topic in topics.items() if topic.waiting} | self._followed
        if run.relay and self._followed:
            self._look_for_the_end()
        if self.has_ended(run) != self._asked_the_end:
            self._asked_the_end = not self._asked_the_end
            self._lookout.again()  # what came before the end is known before the end is told
        self._lookout.look(
            *(_part_name(self._topic(name)) for name in sorted(names)),
            *(_place_name(reader) for reader in readers.values()),
            *(["node/"] if readers else []),
            quiet_s=QUIET_S,
        )
        if not self._writer.is_free or (readers and not self._is_present()):
            return []
        self._find_lost(names)
        if not self._published_last:  # in turn: neither may wait for ever for the other
            self._publish()
        answers = self._hand_over(readers.values())
        if self._writer.writing is None:
            self._publish()
        self._published_last = isinstance(self._writer.writing, StoreItems)
        return answers

    def _find_lost(self, names: Iterable[str]) -> None:
        """Finds items that are known here and gone from the store: it was emptied, and gets them again."""
        for name in names:
            topic = self._topic(name)
            there = topic.last % HUNDRED < BATCH or self._lookout.below(_part_name(topic))
            if not there and name not in self._restored:
                self._restored[name] = 0

    def _topic(self, name: str) -> Topic:
        return self._book.topics_of(self._run).get(name) or Topic(run=self._run, name=name)

    def _is_present(self) -> bool:
        """Whether the other nodes can see this one; else it is made so."""
        self._writer.notice_absence()
        if self.lease.valid_until is None or self._writer.be_present():
            return False
        return self._lookout.get(f"node/{self._node}") is not None

    def _publish(self) -> None:
        """Gives the next number of a topic to what waits for one."""
        for name, topic in sorted(self._book.topics_of(self._run).items()):
            lost = self._restored.get(name)
            if lost is not None:
                numbers = range(lost + 1, min(topic.last, lost + BATCH) + 1)
                keys = tuple(topic.item_key(number) for number in numbers)
                self._writer.store(_item_name(name, lost + 1), keys, node="", origin="", first=0)
            elif topic.waiting:
                each = topic.waiting[0]
                numbers = range(each.first, min(each.last, each.first + BATCH - 1) + 1)
                keys = tuple(topic.waiting_key(each.origin, own) for own in numbers)
                node = self._node if each.origin else ""
                place = _item_name(name, topic.last + 1)
                self._writer.store(place, keys, node=node, origin=each.origin, first=each.first)
            else:
                continue
            return

    def _hand_over(self, readers: Iterable[Reader]) -> list[Given]:
        """Answers questions by what the store has; writes the first position that has to change."""
        answers: list[Given] = []
        for reader in readers:
            found = self._lookout.get(_place_name(reader))
            position = (decoded(found.value, Position) if found is not None else None) or known_here(
                reader, self._node
            )
            kept = agreed(reader, position, self._node)
            progress, topic = everywhere(kept, position, self._node), self._topic(reader.topic)
            last, all_numbered = topic.last, not topic.waiting
            granted: list[Given] = []
            for question in [loop.question for loop in self._loops if loop.reader.key == reader.key]:
                member, latest = question.member, question.asked.latest
                number = next_number(progress, last, member, self._alive, latest=latest)
                if number is not None:
                    granted.append(Given(question, number))
                    progress = taken(progress, number, member, self._alive, latest=latest)
                elif self._asked_the_end and all_numbered and over(progress, last):
                    answers.append(Given(question, None))
            changed = position_of(progress, position, self._node, self._alive, self._who)
            own = {number: holder for number, holder in progress.held.items() if self._is_here(holder)}
            if changed == position:  # the store has it so; which process here it is, is this node's business
                kept = msgspec.structs.replace(kept, held=own)
                answers += granted
            elif self._writer.writing is None:
                # What the dead had stays noted until the store has given it back.
                ours = {number: holder for number, holder in progress.held.items() if holder.member}
                kept = msgspec.structs.replace(kept, held=ours)
                expect = found.version if found is not None else ABSENT
                dead = self._taken_from(position, changed)
                self._writer.write(_place_name(reader), changed, expect=expect, dead=dead)
            if kept != reader:
                self._book.put_reader(kept)
        return answers

    def _taken_from(self, before: Position, after: Position) -> str | None:
        """The presence that a lost node must not have by then: one that is back works on what it held."""
        lost = [
            keeper.node
            for number, keeper in before.held.items()
            if keeper.node not in ("", self._node) and after.held.get(number, keeper) != keeper
        ]
        return f"{self._folder}node/{lost[0]}" if lost else None

    def _is_here(self, holder: Holder) -> bool:
        return bool(holder.member) and self._alive(holder)


def _hundred(number: int) -> str:
    return f"{(number - 1) // HUNDRED:08}"


def _item_name(topic: str, number: int) -> str:
    return f"item/{topic}/{_hundred(number)}/{number:010}"


def _part_name(topic: Topic) -> str:
    """The part of the folder that gets the topic's next item."""
    return f"item/{topic.name}/{_hundred(topic.last + 1)}/"


def _place_name(reader: Reader) -> str:
    return f"at/{reader.topic}/{'group' if reader.group else 'label'}/{key_part(reader.name)}"
