"""Hand-over in the simulation: who publishes, loops that take, and what must be true of it (R14, G13)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec

from pluto_dist.client.topics import Item
from pluto_dist.core.values.book import Book
from pluto_dist.core.values.effects import Save
from pluto_dist.core.values.lifecycle import Unsubscribed
from pluto_dist.core.values.messages import Answer, Refusal, TakeItem
from pluto_dist.core.values.topics import Holder, Reader, Topic

if TYPE_CHECKING:
    from tests.simulation.processes import Process
    from tests.simulation.world import World

TOPIC = "t"
ALERTS = 0.1
Place = tuple[str, int]  # key of a reader, number of an item


class Publisher:
    """A process that hands something over now and then."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._random = Random(f"publisher {process.world.plan.seed} {process.name}")
        self._again()

    def _again(self) -> None:
        self._process.after(self._random.choice((0.01, 0.3, 0.3, 1.5)), self._publish)

    def _publish(self) -> None:
        process = self._process
        if process.leaving or process.lease is None:
            return
        value = process.world.number()
        process.handle.publish(TOPIC, value)
        process.world.checks.topics.published(process, value)
        if self._random.random() < ALERTS:
            process.handle.alert("as said", title=f"alert {process.world.number()}")
        self._again()


class Loop:
    """What `Subscription` does, without blocking: one question, which is repeated with each heartbeat."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._random = Random(f"loop {process.world.plan.seed} {process.name}")
        self.member = 1
        self._request = 0
        self._question: TakeItem | None = None
        self._newest: dict[int, int] = {}
        process.after(0.01, self._ask)

    @property
    def group(self) -> str:
        """For which it takes items; "" for its own label."""
        return "g" if self._process.actor.reads == "group" else ""

    def _ask(self) -> None:
        process, lease = self._process, self._process.lease
        if process.leaving or lease is None:
            return
        if lease.unsaid:  # it would get again what it has done
            process.after(0.5, self._ask)
            return
        self._request += 1
        self._question = TakeItem(
            request=self._request,
            lease_id=lease.lease_id,
            topic=TOPIC,
            member=self.member,
            entries=lease.lifecycle.written,
            group=self.group,
            latest=process.actor.latest,
        )
        process.session.speak(process.world.now)
        process.speak()

    def repeat(self) -> None:
        """The process speaks: so does whoever waits in it."""
        if self._question is not None:
            peer = self._question.lease_id.encode()
            self._process.world.to_coordinator(peer, self._question)

    def hear(self, answer: Answer | Refusal) -> None:
        """An item, or the end; what was not asked for now is an echo."""
        process, question = self._process, self._question
        checks = process.world.checks.topics
        if question is None or question.request != answer.request or process.leaving:
            return
        assert isinstance(answer, Answer), answer
        self._question = None
        found: dict[str, Any] = msgspec.json.decode(answer.body)
        if found.get("ended"):
            checks.ended(process, self.group)
            process.world.say(process.name, "is told that the topic is over")
            process.end()
            return
        number = found["number"]
        newest = self._newest.get(self.member, 0)
        checks.given(process, self, number, found["item"]["payload"], newest)
        self._newest[self.member] = max(newest, number)
        process.after(self._random.choice((0.001, 0.05, 0.4, 2.0)), lambda: self._worked(number))

    def _worked(self, number: int) -> None:
        process = self._process
        if process.leaving or process.lease is None:
            return
        if self._random.random() < 0.1:
            process.held.say(
                Unsubscribed(**process.held.stamp(), topic=TOPIC, member=self.member, group=self.group)
            )
            process.world.checks.topics.left(process, self, number)
            self.member += 1
        else:
            held: Any = process.held
            Item(TOPIC, number, None, 0.0, "", held, self.group).done()
            process.world.checks.topics.done(process, self, number)
        process.after(self._random.choice((0.0, 0.0, 0.7)), self._ask)


class TopicChecks:
    """Remembers what was published, given and done."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._published: dict[int, str] = {}
        self._items: dict[int, str] = {}
        self._known: dict[str, Topic] = {}
        self._numbered_ms: dict[tuple[str, int], int] = {}
        self._cancelled_ms: dict[str, int] = {}
        self._held: dict[Place, set[Holder]] = defaultdict(set)
        self._holding: dict[Place, tuple[Process, int]] = {}
        self._done: set[Place] = set()
        self._maybe_done: set[Place] = set()

    # --- what happens -----------------------------------------------------------------------------

    def published(self, process: Process, value: int) -> None:
        """`publish()` has returned; what the disk has not taken yet is owed to nobody."""
        assert process.lease is not None
        self._world.count("published")
        if not process.lease.unsaid:
            self._published[value] = process.lease.lease_id

    def kept(self, saves: Iterable[Save]) -> None:
        """A transaction: who holds what from now on."""
        for save in saves:
            if isinstance(save.value, Reader):
                for number, holder in save.value.held.items():
                    self._held[save.key, number].add(holder)

    def given(self, process: Process, loop: Loop, number: int, value: int, newest: int) -> None:
        """A process has got an item; `newest` is the highest number that this loop has had before."""
        world, place = self._world, (self._reader(process, loop.group), number)
        world.count("given")
        if world.powered_off:
            return
        book = self._book()
        self.after_turn(book)  # of a coordinator that was killed while it told what it had kept
        run = book.leases[loop_lease(process)].run or ""
        topic = book.topics_of(run).get(TOPIC)
        same = topic is not None and self._items.get(value) == topic.item_key(number)
        world.checks.expect(same, f"G13: item {number} has another content, or is not known any more")
        world.checks.expect(place not in self._done, f"G13: {place} is given again although it is done")
        holder = self._holding.get(place)
        if holder is not None and holder != (process, loop.member):
            world.checks.expect(
                not self._at_work(holder), f"R14: {place} is given, and {holder[0].name} has it"
            )
        if number < newest:
            others = self._held[place] - {Holder(loop_lease(process), loop.member)}
            world.checks.expect(bool(others), f"G13: {process.name} gets {number} behind {newest}")
        self._holding[place] = (process, loop.member)

    def done(self, process: Process, loop: Loop, number: int) -> None:
        """An entry says so; one that a full disk did not take at once may come later, or never."""
        assert process.lease is not None
        place = (self._reader(process, loop.group), number)
        self._holding.pop(place, None)
        (self._maybe_done if process.lease.unsaid else self._done).add(place)

    def left(self, process: Process, loop: Loop, number: int) -> None:
        """A loop was left with an item in its hands."""
        self._holding.pop((self._reader(process, loop.group), number), None)

    def ended(self, process: Process, group: str) -> None:
        """A process was told that nothing more comes."""
        self._world.count("topic_over")
        if self._world.powered_off:
            return
        reader = self._reader(process, group)
        topic = self._book().topics_of(reader.partition("/")[0]).get(TOPIC)
        last = topic.last if topic is not None else 0
        numbers, done = [*range(1, last + 1)], self._done | self._maybe_done
        ended_ms = self._cancelled_ms.get(topic.run) if topic is not None else None
        if topic is not None and ended_ms is not None:
            # A rank may live on after a cancel, and publish while the answer is on its way.
            numbers = [n for n in numbers if self._numbered_ms.get((topic.key, n), 0) <= ended_ms]
        if process.actor.latest:  # others are passed over, but not what somebody works at
            at_work = [
                place[1] for place, by in self._holding.items() if place[0] == reader and self._at_work(by)
            ]
            newer = range(numbers[-1], last + 1) if numbers else ()
            numbers = [*at_work, *([] if any((reader, n) in done for n in newer) else numbers[-1:])]
        missing = [number for number in numbers if (reader, number) not in done]
        self._world.checks.expect(
            not missing, f"G13: {reader} is told the end, and nobody has done {missing}"
        )

    # --- what must be true ------------------------------------------------------------------------

    def after_turn(self, book: Book) -> None:
        """Numbers have no gaps, and each item is there once."""
        state = self._world.database.state
        for topic in book.topics:
            run = book.runs.get(topic.run)
            if run is not None and run.cancelled and run.ended_ms is not None:
                self._cancelled_ms[run.key] = run.ended_ms
            known = self._known.get(topic.key)
            if known is topic:
                continue
            first = known.last + 1 if known is not None else 1
            self._world.checks.expect(topic.last >= first - 1, f"G13: numbers of {topic.key} went back")
            for number in range(max(first, topic.gone + 1), topic.last + 1):
                key = topic.item_key(number)
                body = state.get(("items", key))
                self._world.checks.expect(body is not None, f"G13: there is no item {number} in {topic.key}")
                value = msgspec.json.decode(body or b"{}")["payload"]
                self._numbered_ms[topic.key, number] = self._world.wall_ms
                before = self._items.setdefault(value, key)
                self._world.checks.expect(before == key, f"G13: {value} is {before} and {key}")
            self._known[topic.key] = topic

    def at_the_end(self, book: Book) -> None:
        """Everything that was published has a number; no alert was mailed twice."""
        for run in self._world.server.runs.values():
            titles = [alert.title for alert in run.alerts]
            self._world.count("mailed", len(titles))
            self._world.checks.expect(len(titles) == len(set(titles)), f"an alert is mailed twice: {titles}")
        if self._world.powered_off:
            return
        for value, lease_id in self._published.items():
            lease = book.leases.get(lease_id)
            if lease is None or lease.run is None or lease.end_reason in ("superseded", "refused"):
                continue
            self._world.checks.expect(value in self._items, f"G13: {value} of {lease.label} has no number")

    def _reader(self, process: Process, group: str) -> str:
        lease = self._book().leases[loop_lease(process)]
        name = group or lease.participant
        return Reader(run=lease.run or "", topic=TOPIC, name=name, group=bool(group)).key

    def _at_work(self, holder: tuple[Process, int]) -> bool:
        process, member = holder
        loop = process.loop
        return not process.gone and not process.leaving and loop is not None and loop.member == member

    def _book(self) -> Book:
        """As it is kept; the coordinator that decided may be dead by now."""
        coordinator = self._world.coordinator
        return coordinator.book if coordinator is not None else self._world.database.load()


def loop_lease(process: Process) -> str:
    """Id of a process's lease."""
    assert process.lease is not None
    return process.lease.lease_id
