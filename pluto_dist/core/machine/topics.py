"""Hand-over between processes of a Run: items are numbered, and given to the processes that ask (R14, G13).

Publishing an item and being done with one are lifecycle entries (R1); asking for an item is only a question,
which is repeated until it is answered. So each entry counts once, whatever becomes of messages and
coordinators, and an item that was given to a process that died is given to the next one that asks.
"""

from __future__ import annotations

from collections.abc import Container

import msgspec

from pluto_dist.core.machine.context import Context
from pluto_dist.core.rules.topics import done, left, next_number, over, published, taken
from pluto_dist.core.rules.verdict import assess, members_of
from pluto_dist.core.values.effects import GiveItem, Send
from pluto_dist.core.values.lifecycle import ItemDone, Published, Unsubscribed
from pluto_dist.core.values.messages import Answer, TakeItem
from pluto_dist.core.values.records import Lease, Run
from pluto_dist.core.values.topics import MAX_PAYLOAD, Holder, Item, Reader, Topic

MAX_TOPICS = 100  # of a Run; each is shown in its document

_encode = msgspec.json.Encoder().encode


class Question(msgspec.Struct, frozen=True):
    """A loop that waits for its next item."""

    peer: bytes
    asked: TakeItem

    @property
    def member(self) -> Holder:
        """The loop that asks."""
        return Holder(self.asked.lease_id, self.asked.member)


class Topics:
    """Questions that wait for an item; topics and readers are in the book."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._book = context.book
        self._waiting: dict[Holder, Question] = {}
        self._new: dict[Holder, None] = {}

    def publish(self, lease: Lease, run: Run, entry: Published) -> None:
        """Gives an item the next number of its topic; a refused one is noted in the history of the Run."""
        topics = self._book.topics_of(run.key)
        topic = topics.get(entry.topic) or Topic(run=run.key, name=entry.topic)
        why = _refused(topic, len(topics), len(bytes(entry.payload)))
        if why:
            self._context.note(run.key, "publish_refused", topic=entry.topic, label=lease.label, why=why)
            return
        item = Item(entry.payload, entry.wall_ms, lease.label)
        topic = self._book.put_topic(published(topic, item))
        self._book.items.put(topic.item_key(topic.last), item)

    def give_up(self, lease: Lease, run: Run, entry: ItemDone | Unsubscribed) -> None:
        """Frees what a loop holds: it is done with the item, or was left and others may have it."""
        reader = self._reader(run, entry.topic, lease, entry.group)
        if isinstance(entry, ItemDone):
            self._book.put_reader(done(reader, entry.number))
            return
        member = Holder(lease.lease_id, entry.member)
        self._waiting.pop(member, None)
        self._book.put_reader(left(reader, member))

    def take(self, peer: bytes, asked: TakeItem) -> None:
        """Takes a question for an item; it replaces the same process's earlier one."""
        question = Question(peer, asked)
        before = self._waiting.get(question.member)
        if before is None or before.asked.request <= asked.request:
            self._waiting[question.member] = question
            self._new[question.member] = None

    def serve(self, runs: Container[str]) -> None:
        """Answers the questions that can be answered now.

        Args:
            runs: Runs in which something has changed.
        """
        new, self._new = self._new, {}
        for member, question in tuple(self._waiting.items()):
            lease = self._book.leases.get(member.lease_id)
            if lease is None or not lease.alive:
                del self._waiting[member]  # it has ended, or asks again once it is known here
            elif member in new or lease.run in runs:
                self._answer(lease, question)

    def _answer(self, lease: Lease, question: Question) -> None:
        asked, member = question.asked, question.member
        run = self._book.runs.get(lease.run or "")
        if run is None or lease.state != "active" or lease.folded < asked.entries:
            return
        topic = self._book.topics_of(run.key).get(asked.topic) or Topic(run=run.key, name=asked.topic)
        reader = self._reader(run, asked.topic, lease, asked.group, topic.gone)
        number = next_number(reader, topic.last, member, self._alive, latest=asked.latest)
        if number is not None:
            self._give(reader, topic, question, number)
        elif self._ended(run) and over(reader, topic.last):
            del self._waiting[member]
            body = _encode({"ended": True, "status": run.status, "gone": topic.gone})
            self._context.emit(Send(peer=question.peer, reply=Answer(request=asked.request, body=body)))

    def _give(self, reader: Reader, topic: Topic, question: Question, number: int) -> None:
        asked, member = question.asked, question.member
        del self._waiting[member]
        self._book.put_reader(taken(reader, number, member, self._alive, latest=asked.latest))
        self._context.emit(
            GiveItem(
                peer=question.peer,
                request=asked.request,
                key=topic.item_key(number),
                number=number,
                last=topic.last,
            )
        )

    def _reader(self, run: Run, topic: str, lease: Lease, group: str, gone: int = 0) -> Reader:
        fresh = Reader(
            run=run.key, topic=topic, name=group or lease.participant, group=bool(group), given=gone
        )
        return self._book.readers.get(fresh.key) or fresh

    def _ended(self, run: Run) -> bool:
        """Whether nothing more is to come; a relay has no verdict, and gives what its own ranks hand over."""
        if not run.relay:
            return run.ended
        members = members_of(run, self._book.leases_of(run.key))
        nobody = assess(run, members, self._context.now.at).phase == "detached"
        return nobody or run.ended or run.status != "RUNNING"

    def _alive(self, holder: Holder) -> bool:
        lease = self._book.leases.get(holder.lease_id)
        return lease is not None and lease.alive


def _refused(topic: Topic, topics: int, size: int) -> str:
    """The reason why an item cannot be published, "" if it can; the client has checked before."""
    if size > MAX_PAYLOAD:
        return f"a payload of {size} bytes; the limit is {MAX_PAYLOAD}"
    if not topic.last and topics >= MAX_TOPICS:
        return f"the Run has {topics} topics already; the limit is {MAX_TOPICS}"
    return ""
