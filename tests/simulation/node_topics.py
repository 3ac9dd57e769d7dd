"""Hand-over in the histories of several nodes: who publishes, who takes, and what must be true of it (R14).

Ranks publish numbers. On each node an eval with a label of its own takes all of them, and a member of one
group takes a share. They work, are killed and come again, also on another node; the label that wanders has
one position wherever it is.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from tests.core.processes import Process
    from tests.simulation.nodes import History

GROUP = "share"
WANDERER = "wanderer"
ROUNDS = 800


class Taker:
    """A process that takes items, one after the other; `name` is its label, `group` "" for none."""

    def __init__(self, history: History, node: int, name: str, group: str = "") -> None:
        self.history = history
        self.node = node
        self.name = name
        self.group = group
        self.start(node)

    @property
    def reader(self) -> str:
        return self.group or self.name

    @property
    def able(self) -> bool:
        """Whether it lives and its coordinator does something."""
        world = self.history.world
        return self.process.alive and self.node not in world.frozen | world.dead

    def start(self, node: int) -> None:
        """A new process with this label."""
        self.node = node
        self.process: Process = self.history.world.side(node, self.name)
        self.seen = 0
        self.holding: int | None = None
        self.over = False

    def turn(self) -> None:
        """Looks at what it has got, is done with it or not, and asks again."""
        if not self.able or self.process.role != "side":
            return
        answers = self.process.world.answers.get(self.process.spool.lease_id.encode(), [])
        for answer in answers[self.seen :]:
            self._take(msgspec.json.decode(answer.body))  # type: ignore[union-attr] # no question is refused
        self.seen = len(answers)
        if self.over:
            return
        if self.holding is not None and self.history.dice.random() < self.history.handed.diligence:
            self.process.done(self.holding, group=self.group)
            self.history.handed.done(self, self.holding)
            self.holding = None
        if self.holding is None:
            self.process.take(group=self.group)

    def _take(self, answer: dict[str, Any]) -> None:
        if answer.get("ended"):
            self.over = True
            self.history.handed.ended(self)
            return
        number = answer["number"]
        if number == self.holding:
            return  # a question that was put twice
        self.history.handed.given(self, number, answer["item"]["payload"])
        self.holding = number

    def kill(self) -> None:
        self.process.kill()
        self.holding = None


class Handed:
    """What was published, given and done in one history."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.diligence = 0.6
        self.published: dict[int, int] = {}
        self.contents: dict[int, int] = {}
        self.done_by: dict[str, dict[int, int]] = defaultdict(dict)
        self.first_given: dict[str, list[int]] = defaultdict(list)
        self.at_work: dict[str, dict[int, Taker]] = defaultdict(dict)
        self.calm = True
        self.takers: list[Taker] = []
        self._next = 0

    def start(self) -> None:
        """Everybody attaches, before anything is published."""
        for node in range(len(self.history.world.nodes)):
            self.takers.append(Taker(self.history, node, f"eval{node}"))
            self.takers.append(Taker(self.history, node, f"member{node}", GROUP))
        self.takers.append(Taker(self.history, 0, WANDERER))

    # --- what happens -----------------------------------------------------------------------------------

    def publish(self) -> None:
        """Some ranks publish, and the wanderer may go elsewhere."""
        history = self.history
        self.wander()
        for rank in history.alive():
            if rank // 2 not in history.world.frozen and history.dice.random() < 0.3:
                self._next += 1
                history.world.ranks[rank].publish(payload=self._next)
                self.published[self._next] = rank // 2

    def turn(self) -> None:
        for taker in self.takers:
            taker.turn()

    def trouble(self) -> None:
        """Nodes may be taken for lost from now on: two may be at one item."""
        self.calm = False

    def mended(self) -> None:
        """All nodes are there: from now on, an item is one taker's."""
        self.turn()
        self.at_work.clear()
        self.calm = True

    def kill_one(self) -> None:
        """A taker is killed, and comes again; the wanderer somewhere else."""
        history = self.history
        able = [taker for taker in self.takers if taker.able]
        if not able:
            return
        self._begins_anew(history.dice.choice(able))

    def wander(self) -> None:
        """The wanderer is killed with an item in its hands, and comes again elsewhere."""
        wanderer = self.takers[-1]
        if wanderer.able and wanderer.holding is not None and self.history.dice.random() < 0.3:
            self._begins_anew(wanderer)

    def _begins_anew(self, taker: Taker) -> None:
        taker.kill()
        nodes = [n for n in range(len(self.history.world.nodes)) if n not in self.history.world.dead]
        taker.start(self.history.dice.choice(nodes) if taker.name == WANDERER else taker.node)

    # --- what must be true ------------------------------------------------------------------------------

    def given(self, taker: Taker, number: int, value: int) -> None:
        assert self.contents.setdefault(number, value) == value, (
            f"G13: item {number} is {value} here and {self.contents[number]} elsewhere"
        )
        holder = self.at_work[taker.reader].get(number)
        if self.calm and holder is not None and holder is not taker:
            has = holder.process.alive and holder.holding == number
            assert not has, f"R14: {number} is given to {taker.name}, and {holder.name} has it"
        node = self.done_by[taker.reader].get(number)
        again = self.calm and node is not None and node not in self.history.world.dead
        assert not again, f"G13: {number} is given to {taker.name} although {taker.reader} has done it"
        self.at_work[taker.reader][number] = taker
        first = self.first_given[taker.name]
        if not taker.group and number not in first:
            assert number == len(first) + 1, f"G13: {taker.name} gets {number} after {first[-1:]}"
            first.append(number)

    def done(self, taker: Taker, number: int) -> None:
        self.done_by[taker.reader][number] = taker.node

    def ended(self, taker: Taker) -> None:
        """Nobody is told the end while an item that has a number is not done."""
        known = range(1, max(self.contents, default=0) + 1)
        missing = [n for n in known if n not in self.done_by[taker.reader]]
        assert not missing, f"G13: {taker.name} is told the end, and nobody has done {missing}"

    def finish(self) -> None:
        """All is mended and the Run has ended: every reader works off what is left, and is told the end."""
        world = self.history.world
        self.diligence = 1.0
        for taker in self.takers:
            if taker.node in world.dead:
                taker.start(min(n for n in range(len(world.nodes)) if n not in world.dead))
            elif not taker.process.alive or taker.over:  # a Run that was taken up again has ended before
                if taker.process.alive:
                    taker.process.close().exit()
                taker.start(taker.node)
        for _ in range(ROUNDS):
            if all(taker.over for taker in self.takers):
                break
            self.turn()
            world.wait(0.5)
            world.give_keys()
        late = [taker.name for taker in self.takers if not taker.over]
        assert not late, f"G13: {late} are not told the end"
        for taker in self.takers:
            taker.process.close().exit()

    def check(self) -> None:
        """Every item of a node that is left has one number; every reader has done each number."""
        values = list(self.contents.values())
        assert len(values) == len(set(values)), "G13: an item has two numbers"
        assert sorted(self.contents) == list(range(1, len(values) + 1)), "G13: numbers have gaps"
        lost = [value for value, node in self.published.items() if node not in self.history.lost]
        missing = [value for value in lost if value not in values]
        assert not missing, f"G13: {missing} have no number"
        for reader, done in self.done_by.items():
            missing = sorted(self.contents.keys() - done.keys())
            assert not missing, f"G13: {reader} has not done {missing}"
