"""Hand-over between processes of a Run: items are numbered, and given to the processes that ask (R14, G13).

Publishing an item and being done with one are lifecycle entries (R1); asking for an item is only a question,
which is repeated until it is answered. So each entry counts once, whatever becomes of messages and
coordinators, and an item that was given to a process that died is given to the next one that asks.
"""

from __future__ import annotations

from collections.abc import Container

import msgspec

from pluto_dist.core.machine.cluster import Clusters
from pluto_dist.core.machine.context import Context
from pluto_dist.core.machine.shared_topics import Loop, Question, SharedTopics
from pluto_dist.core.rules.topics import done, finished, left, next_number, over, published, taken, waits
from pluto_dist.core.rules.verdict import assess, members_of
from pluto_dist.core.values.effects import GiveItem, Send
from pluto_dist.core.values.lifecycle import ItemDone, Published, Unsubscribed
from pluto_dist.core.values.messages import Answer, TakeItem
from pluto_dist.core.values.records import Lease, Run
from pluto_dist.core.values.topics import MAX_PAYLOAD, Holder, Item, Reader, Topic

MAX_TOPICS = 100  # of a Run; each is shown in its document

_encode = msgspec.json.Encoder().encode


class Topics:
    """Questions that wait for an item; topics and readers are in the book."""

    def __init__(self, context: Context, clusters: Clusters) -> None:
        self._context = context
        self._clusters = clusters
        self._book = context.book
        self._waiting: dict[Holder, Question] = {}
        self._new: dict[Holder, None] = {}

    def publish(self, lease: Lease, run: Run, entry: Published) -> None:
        """Gives an item the next number of its topic; a refused one is noted in the history of the Run.

        With a cluster store the number is made there, and the item waits for it.
        """
        topics = self._book.topics_of(run.key)
        topic = topics.get(entry.topic) or Topic(run=run.key, name=entry.topic)
        why = _refused(topic, len(topics), len(bytes(entry.payload)))
        if why:
            self._context.note(run.key, "publish_refused", topic=entry.topic, label=lease.label, why=why)
            return
        item = Item(entry.payload, entry.wall_ms, lease.label, lease.identity.host)
        if self._clusters.hands_over(run):
            topic, key = waits(topic)
        else:
            topic = published(topic, item)
            key = topic.item_key(topic.last)
        self._book.put_topic(topic)
        self._book.items.put(key, item)

    def give_up(self, lease: Lease, run: Run, entry: ItemDone | Unsubscribed) -> None:
        """Frees what a loop holds: it is done with the item, or was left and others may have it."""
        reader = self._reader(run, entry.topic, lease, entry.group)
        if isinstance(entry, ItemDone):
            self._book.put_reader((finished if reader.shared else done)(reader, entry.number))
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
        by_run: dict[str, list[Question]] = {}
        for member, question in tuple(self._waiting.items()):
            lease = self._book.leases.get(member.lease_id)
            if lease is None or not lease.alive:
                del self._waiting[member]  # it has ended, or asks again once it is known here
            elif lease.run is not None:
                by_run.setdefault(lease.run, []).append(question)
        begun = self._clusters.with_hand_over
        for key in dict.fromkeys((*by_run, *self._book.with_topics, *begun)):
            run, asked = self._book.runs[key], by_run.get(key, [])
            asks_anew = any(question.member in new for question in asked)
            concerned = asked or key in begun or self._book.topics_of(key)
            topics = self._clusters.topics_of(run) if concerned else None
            if topics is not None and (asks_anew or topics.dirty or run.key in runs):
                asked = self._serve_from_the_store(topics, run, asked)
            for question in asked:
                if question.member in new or run.key in runs or topics is not None:
                    self._answer(run, question, topics)

    def _serve_from_the_store(self, topics: SharedTopics, run: Run, asked: list[Question]) -> list[Question]:
        """Lets the hand-over with other nodes go on; the questions that are this node's business are left."""
        loops, own = [], []
        for question in asked:
            lease = self._may_ask(run, question)
            if lease is not None and self._is_shared(run, lease, question.asked.group):
                loops.append(
                    Loop(question, self._reader(run, question.asked.topic, lease, question.asked.group))
                )
            elif lease is not None:
                own.append(question)
        followed = frozenset(question.asked.topic for question in asked)
        for given in self._clusters.advance_topics(topics, run, tuple(loops), followed):
            if given.number is None:
                self._tell_end(run, given.question)
            else:
                self._send(self._topic(run, given.question), given.question, given.number)
        return own

    def _may_ask(self, run: Run, question: Question) -> Lease | None:
        """The lease of a question that may be answered: what its process said before has taken effect."""
        lease = self._book.leases.get(question.member.lease_id)
        if lease is None or lease.run != run.key or lease.state != "active":
            return None
        return lease if lease.folded >= question.asked.entries else None

    def _answer(self, run: Run, question: Question, topics: SharedTopics | None) -> None:
        lease, asked = self._may_ask(run, question), question.asked
        if lease is None or self._is_shared(run, lease, asked.group):
            return
        topic = self._topic(run, question)
        reader = self._reader(run, asked.topic, lease, asked.group, topic.gone)
        number = next_number(reader, topic.last, question.member, self._alive, latest=asked.latest)
        ended = topics.is_over(run) if topics is not None else self._ended(run)
        if number is not None:
            self._book.put_reader(taken(reader, number, question.member, self._alive, latest=asked.latest))
            self._send(topic, question, number)
        elif ended and over(reader, topic.last):
            self._tell_end(run, question)

    def _send(self, topic: Topic, question: Question, number: int) -> None:
        del self._waiting[question.member]
        self._context.emit(
            GiveItem(
                peer=question.peer,
                request=question.asked.request,
                key=topic.item_key(number),
                number=number,
                last=topic.last,
            )
        )

    def _tell_end(self, run: Run, question: Question) -> None:
        del self._waiting[question.member]
        body = _encode({"ended": True, "status": run.status, "gone": self._topic(run, question).gone})
        self._context.emit(Send(peer=question.peer, reply=Answer(request=question.asked.request, body=body)))

    def _topic(self, run: Run, question: Question) -> Topic:
        name = question.asked.topic
        return self._book.topics_of(run.key).get(name) or Topic(run=run.key, name=name)

    def _reader(self, run: Run, topic: str, lease: Lease, group: str, gone: int = 0) -> Reader:
        fresh = Reader(
            run=run.key,
            topic=topic,
            name=group or lease.participant,
            group=bool(group),
            given=gone,
            shared=self._is_shared(run, lease, group),
        )
        return self._book.readers.get(fresh.key) or fresh

    def _is_shared(self, run: Run, lease: Lease, group: str) -> bool:
        """Whether other nodes go on with this progress: that of a group, of a rank, or of a given label.

        A process without a label has a name that others may have too, and begins anew each time.
        """
        named = (
            bool(group) or lease.opened.label is not None or lease.role == "owner" or lease.rank is not None
        )
        return named and self._clusters.hands_over(run)

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
