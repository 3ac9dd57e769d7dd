"""Whole histories of several nodes on a cluster store: partitions, freezes, deaths, lost answers.

Every node has a coordinator, a clock with an offset and a drift, and two ranks of its own. What may happen to
any of them is in `TROUBLE`, and in each history there is one of `PLANS`: a node may lose the store, the
server or both, freeze, or be killed. At the end everything that can be mended is mended, and what the
server's readers see is compared with what the store holds and with what really happened. After each step
`ClusterWorld` looks for two seats in one epoch, two verdicts in one round, a seat that was taken from a node
that is there, and a status that was not stored.

    python -m tests.simulation.nodes --for 600      histories from a random seed on, for ten minutes
    python -m tests.simulation.nodes --seed 7 -v    one of them, told step by step
    python -m tests.simulation.nodes --local        the same without a server, each node with its own store
    python -m tests.simulation.node_mutations       broken variants, each of which must be caught
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable

import msgspec

from pluto_dist.core.rules.parts import grouped, together
from pluto_dist.core.values.document import Document, read
from tests.core.cluster_world import ClusterWorld
from tests.simulation.node_topics import Handed

VICTIM = {"what": "ConnectionResetError", "communication": True}
STEPS = 30
OUTLASTED_S = 3_700.0


def attempt(seed: int, plan: str = "", *, local: bool = False) -> str | None:
    """What went wrong in the history of a seed, None if nothing did; with this plan, if it is given."""
    try:
        (LocalHistory if local else History)(seed, plan=plan).run()
    except Exception as error:  # noqa: BLE001 # whatever it is, it belongs to this seed
        return f"{type(error).__name__}: {error}"
    return None


class History:
    """One history.

    Args:
        seed: decides everything.
        tell: gets a line for each step.
        plan: one of `PLANS`; by default the seed decides.
    """

    local = False

    def __init__(self, seed: int, tell: Callable[[str], None] = lambda _: None, plan: str = "") -> None:
        self.seed = seed
        self.dice = random.Random(seed)
        self.tell = tell
        self.world = ClusterWorld(self.dice.choice((2, 2, 3)), local=self.local)
        self.causes: list[int] = []
        self.lost: set[int] = set()
        self.seen_by_all = False
        self.told_before_the_loss = False
        self.ended_before = 0
        drawn = self.dice.choice(list(PLANS))
        self.plan = plan or drawn
        self.planned_at = self.dice.randrange(5, STEPS)
        self.written: dict[int, float] = {}
        self.changed: dict[int, set[str]] = {}
        self.handed = Handed(self)
        self._step = 0

    def run(self) -> None:
        """The whole of it.

        Raises:
            AssertionError: a guarantee was broken.
        """
        self._start()
        for self._step in range(STEPS):
            name = self.dice.choice(list(TROUBLE))
            self._say(name)
            TROUBLE[name](self)
            if name not in HARMLESS:
                self.handed.trouble()
            if self._step == self.planned_at:
                self._say(self.plan)
                (PLANS | ONLY_BY_NAME)[self.plan](self)
                self.handed.trouble()
            self.world.give_keys()
            self._log()
            self.handed.publish()
            self.handed.turn()
            self.world.wait(self.dice.choice((0.1, 0.5, 2, 5, 12, 20)))
        self._mend()
        self.handed.trouble()
        self.dice.choice((self._end, self._end_in_partition, self._end_without_store))()
        self.world.wait(40)
        self.handed.finish()
        self.world.wait(200)
        self.check()

    def check(self) -> None:
        """What must be true in the end."""
        world = self.world
        reports = world.statuses()[self.ended_before :]
        assert len(set(reports)) <= 1, f"two statuses were sent: {reports}"
        if not self.causes and not self.lost:
            assert world.run.status == "COMPLETED", f"a healthy Run is {world.run.status}: {world.reason()}"
        elif self.causes:
            assert world.run.status == "FAILED", f"{self.causes} failed, {self.lost} lost: {world.run.status}"
        self._check_reason()
        for stored in list(world.verdicts.values())[-1:]:
            assert world.run.status == stored.verdict.status, "the server has another end than the store"
        for number, node in enumerate(world.nodes):
            if number not in self.lost:
                assert node.core.at_rest, f"node {number} does not come to rest"
                assert node.run().status == world.run.status, f"node {number} believes {node.run().status}"
        self._check_changes()
        self.handed.check()
        for rank, value in self.written.items():
            if rank // 2 not in self.lost:
                assert any(value in world.run.values(name) for name in world.run.series), (
                    f"{value} of rank {rank} is lost"
                )

    def _check_changes(self) -> None:
        """G9: whatever a node that is left has added is at the server, in the config too."""
        config = self.world.run.config
        for rank, added in self.changed.items():
            if rank // 2 not in self.lost:
                missing = added - set(self.world.run.tags)
                assert not missing, f"tags {missing} of rank {rank} are lost: {self.world.run.tags}"
                assert added <= config.keys(), f"config {added - config.keys()} of rank {rank} is lost"

    def _check_reason(self) -> None:
        """R10: the rank that failed first is named, on whatever node, and no node that is well.

        Where all nodes were seen when it failed; else others may have had to decide without its word.
        """
        reason = self.reason()
        if self.told_before_the_loss:
            assert f"rank {self.causes[0]} (pid" in reason, reason
        if self.seen_by_all and not self.lost:
            assert f"rank {self.causes[0]} (pid" in reason, f"{self.causes} failed in this order: {reason}"
            assert " or " not in reason, f"{self.causes} failed a second apart: {reason}"
            assert "the node was lost" not in reason, reason

    def reason(self) -> str:
        """Why the Run ended, as people read it."""
        return self.world.reason()

    def check_first_end(self) -> None:
        """The Run has ended once."""
        assert self.world.statuses() == ["FAILED"], self.world.statuses()

    # --- what happens ---------------------------------------------------------------------------------------

    def alive(self) -> list[int]:
        """Ranks that live."""
        return [rank for rank, process in self.world.ranks.items() if process.alive]

    def cut(self) -> None:
        self.world.cut(self._node())

    def cut_server(self) -> None:
        self.world.nodes[self._node()].cut_off = True

    def isolate(self) -> None:
        number = self._node()
        self.world.cut(number)
        self.world.nodes[number].cut_off = True

    def mend_cuts(self) -> None:
        self.world.mend()

    def freeze(self) -> None:
        self.world.frozen.add(self._node())

    def thaw(self) -> None:
        self.world.frozen.clear()

    def lose_quorum(self) -> None:
        self.world.engine.lose_quorum()

    def regain_quorum(self) -> None:
        if not self.world.engine.quorum:
            self.world.engine.regain_quorum()

    def revoke(self) -> None:
        self.world.revoke()

    def change_leader(self) -> None:
        self.world.engine.change_leader()

    def lose_answers(self) -> None:
        self.world.engine.lost_answers = self.dice.randint(1, 3)

    def be_late(self) -> None:
        self.world.engine.late = True

    def confirm(self) -> None:
        """A leader that was cut off confirms a lease for a second and a half."""
        node = f"n{self._node()}"
        self.world.engine.confirming.add(node)
        self.world.engine.cut.add(node)
        self.world.wait(1.5)
        self.world.engine.confirming.discard(node)

    def blind(self) -> None:
        self.world.engine.blind.add(f"n{self._node()}")

    def see(self) -> None:
        self.world.engine.blind.clear()

    def compact(self) -> None:
        self.world.engine.compact()

    def fill(self) -> None:
        self.world.engine.full = not self.world.engine.full

    def server_down(self) -> None:
        self.world.server.down = not self.world.server.down

    def hold_status(self) -> None:
        """What a node sends to the server leaves late."""
        node = self.world.nodes[self._node()]
        if "Control" in node.hold:
            node.release("Control")
        else:
            node.hold.add("Control")

    def restart_coordinator(self) -> None:
        number = self._node()
        if number not in self.world.dead and number not in self.world.frozen:
            self._restart(number)
            self.world.give_keys()

    def _restart(self, number: int) -> None:
        """What a coordinator has read in the store dies with it, and with that a lost node's word."""
        self.told_before_the_loss = False
        self.world.nodes[number].restart()

    # --- what happens once ----------------------------------------------------------------------------------

    def go_on(self) -> None:
        """Nobody fails."""

    def fail_rank(self) -> None:
        """One rank dies, and its peers lose their connections."""
        rank = self._fails(calm=self.dice.random() < 0.7)
        if rank is not None:
            self.world.ranks[rank].kill()
            self._victims()

    def fail_two(self) -> None:
        """Two ranks raise on two nodes, a second apart: nobody may take the second for the first."""
        first = self._fails(calm=True)
        if first is None:
            return
        self.world.ranks[first].raises("FirstError")
        self.world.wait(1.0)
        others = [rank for rank in self._able() if rank // 2 != first // 2]
        if others:
            self.world.ranks[self.dice.choice(others)].raises("SecondError")
        self._victims()

    def fail_unseen(self) -> None:
        """A rank raises while another node does not reach the store: that node is not to blame."""
        self._mend()
        rank = self._fails(calm=False)
        if rank is None:
            return
        others = [n for n in range(len(self.world.nodes)) if n != rank // 2]
        self.world.cut(self.dice.choice(others))
        self.world.wait(25)
        self.seen_by_all = not self.lost
        self.world.ranks[rank].raises("OwnError")
        self._victims()
        self.world.wait(25)

    def lose_failed_node(self) -> None:
        """A rank raises, and a moment later its whole node dies: what it said stays."""
        rank = self._fails(calm=True)
        if rank is None:
            return
        number = rank // 2
        self.world.ranks[rank].raises("LastError")
        self.world.wait(2)
        self.told_before_the_loss = True
        self.lost.add(number)
        self.world.kill_node(number)
        self._victims()

    def lose_node(self) -> None:
        """A whole node dies."""
        number = self._node()
        if not [rank for rank in self.alive() if rank // 2 == number]:
            return
        self._say(f"node {number} is lost")
        self.lost.add(number)
        self.world.kill_node(number)
        self._victims()

    def restart_job(self) -> None:
        """A rank fails, and the launchers start all of them once more: that was no end."""
        self._mend()
        if not self.alive():
            return
        self.world.ranks[self.dice.choice(self.alive())].raises("OldError")
        self._victims()
        self.world.wait(self.dice.choice((1, 5)))
        self.world.start(*range(2 * len(self.world.nodes)), attempt=1, max_restarts=1)
        self.world.wait(self.dice.choice((1, 10)))

    def owner_comes_last(self) -> None:
        """As `take_up_again`, and node 0 starts when the others have been there for long."""
        self.take_up_again(late_s=12.0)
        waiting = [run.key for node in self.world.nodes for run in node.book.runs if run.opening]
        assert not waiting or not self.ended_before, f"all are well, and {waiting} wait to be opened"

    def take_up_again(self, late_s: float = 0.0) -> None:
        """The Run ends, and another launch goes on with it on the same nodes: its end is another one."""
        self._mend()
        if not self.alive() or self.lost:
            return
        self.world.ranks[self.dice.choice(self.alive())].raises("OldError")
        self._victims()
        self.world.wait(25)
        self.check_first_end()
        self.ended_before = 1
        ranks = range(2 * len(self.world.nodes))
        for late in (False, True) if late_s else ():
            self.world.start(*(rank for rank in ranks if late == (rank < 2)), key="again")
            self.world.wait(late_s)
        if not late_s:
            self.world.start(*ranks, key="again")
        self.world.wait(self.dice.choice((1, 10)))

    def _fails(self, *, calm: bool) -> int | None:
        """A rank that is about to fail; while all is well the verdict has to be exact."""
        if calm:
            self._mend()
        living = self._able()
        if not living:
            return None
        rank = self.dice.choice(living)
        self._say(f"rank {rank} fails")
        self.causes.append(rank)
        self.seen_by_all = calm
        return rank

    def _able(self) -> list[int]:
        """Ranks that live on nodes that are not frozen."""
        return [rank for rank in self.alive() if rank // 2 not in self.world.frozen]

    def change(self) -> None:
        """A rank adds a tag and a key of the config; it is another one each time."""
        for rank in self._able()[:3]:
            name = f"s{self._step}r{rank}"
            self.world.ranks[rank].add_tags(name).update_config(**{name: self._step})
            self.changed.setdefault(rank, set()).add(name)

    def speak_late(self) -> None:
        """The seat is cut off from the store, the others from the server, and its word leaves late."""
        seat = self.world.seat()
        number = int(seat.removeprefix("n")) if seat else -1
        if number < 0 or number in self.world.dead or number in self.world.frozen:
            return
        node = self.world.nodes[number]
        node.hold.add("Control")
        self._restart(number)
        self.world.give_keys()
        self.world.wait(3)
        self.world.cut(number)
        for other in self.world.nodes:
            other.cut_off = other is not node
        self.world.wait(25)
        node.release("Control")

    def kill_taker(self) -> None:
        self.handed.kill_one()

    def nothing(self) -> None:
        pass

    # --- beginning and end ----------------------------------------------------------------------------

    def _start(self) -> None:
        ranks = list(range(2 * len(self.world.nodes)))
        self.dice.shuffle(ranks)
        restarts = int(self.plan == "restart_job")
        for rank in ranks:
            given = {"tags": ("given",), "config": {"given": 1}} if self.local else {}
            self.world.start(rank, max_restarts=restarts, **given)
            self.world.wait(self.dice.choice((0.1, 0.1, 1.0)))
        self.world.wait(self.dice.choice((1, 10)))
        self.handed.start()

    def _mend(self) -> None:
        world = self.world
        self._say("everything is mended")
        world.frozen.clear()
        world.mend()
        world.engine.confirming.clear()
        world.engine.blind.clear()
        world.engine.full = False
        world.engine.lost_answers = 0
        world.engine.late = False
        self.regain_quorum()
        world.server.down = False
        for number, node in enumerate(world.nodes):
            if number not in self.lost:
                node.hold.clear()
                node.settle()
        world.wait(30)
        for number in {rank // 2 for rank in self.alive()} - self.lost:
            seen = world.nodes[number].run().ended or f"n{number}" in world.present()
            assert seen, f"node {number} is well, and nobody sees it"
        self.handed.mended()

    def _end(self) -> None:
        living = self.alive()
        self.dice.shuffle(living)
        for rank in living:
            self._say(f"rank {rank} finishes")
            self.world.ranks[rank].finish().exit()
            self.world.wait(self.dice.choice((0.1, 1.0)))

    def _end_in_partition(self) -> None:
        """A node does not reach the store when all end."""
        self.world.cut(self._node())
        self.world.wait(self.dice.choice((1, 30)))
        self._end()
        self.world.wait(40)
        self._mend()

    def _end_without_store(self) -> None:
        """Nobody reaches the store when all end, and the coordinators are started anew before it is back."""
        self.world.engine.lose_quorum()
        self._end()
        self.world.wait(40)
        for number, node in enumerate(self.world.nodes):
            if number not in self.lost:
                node.restart()
        self.world.give_keys()
        self.world.wait(5)
        self._mend()

    def _victims(self) -> None:
        for rank in self.alive():
            if rank // 2 not in self.world.frozen:
                self.world.ranks[rank].raises(**VICTIM)

    def _log(self) -> None:
        for rank in self.alive():
            if rank // 2 not in self.world.frozen:
                value = float(1000 * rank + self._step)
                self.world.ranks[rank].log(loss=value)
                self.written[rank] = value

    def _node(self) -> int:
        return self.dice.randrange(len(self.world.nodes))

    def _say(self, what: str) -> None:
        self.tell(f"{self.world.time - 1000:8.1f} s  {what}")


class LocalHistory(History):
    """The same without a server: each node has a part of the Run, and together they say what is true."""

    local = True

    def check(self) -> None:
        """What must be true in the end, of what is left in the stores of all nodes."""
        world, run = self.world, self.together()
        if self.lost and run.verdict is None:
            world.wait(OUTLASTED_S)  # those that are left presume then what became of the others
            run = self.together()
        wanted = "FAILED" if self.causes else None if self.lost else "COMPLETED"
        assert wanted in (None, run.status), f"{self.causes} failed, {self.lost} lost: {run.status}"
        judged = run.verdict is not None
        assert judged, f"the Run is {run.status} without a verdict"
        self._check_reason()
        for stored in list(world.verdicts.values())[-1:]:
            assert run.status == stored.verdict.status, "the parts have another end than the store"
        for number, part in self.parts().items():
            if number in self.lost:
                continue
            known = (part.status, part.ended_at, part.reported)
            assert known == (run.status, run.ended_at, judged), f"node {number} believes {known}"
            assert (part.id, part.part_of) == (run.id, run.part_of), f"node {number} has another Run"
            assert world.nodes[number].core.at_rest, f"node {number} does not come to rest"
            config = msgspec.json.decode(part.config)
            assert "given" in part.tags, f"node {number} does not know the owner's tags"
            assert "given" in config, f"node {number} does not know the owner's config"
            for added in (each for rank, each in self.changed.items() if rank // 2 not in self.lost):
                missing = added - set(part.tags), added - config.keys()
                assert missing == (set(), set()), f"{missing} are not in the part of node {number}"
        for rank, value in self.written.items():
            made = world.nodes[rank // 2].server.called("x")
            assert rank // 2 in self.lost or any(value in made.values(name) for name in made.series), (
                f"{value} of rank {rank} is lost"
            )

    def parts(self) -> dict[int, Document]:
        """What is in the store of each node."""
        runs = {number: node.run("x") for number, node in enumerate(self.world.nodes)}
        return {number: read(self.world.nodes[number].documents[run.key]) for number, run in runs.items()}

    def together(self) -> Document:
        """As a reader sees them who has all stores."""
        groups = grouped(self.parts().values())
        assert len(groups) == 1, f"{len(groups)} Runs"
        return together(groups[0])

    def reason(self) -> str:
        verdict = self.together().verdict
        return verdict.reason if verdict is not None else ""

    def check_first_end(self) -> None:
        assert self.together().status == "FAILED", self.together().status


TROUBLE: dict[str, Callable[[History], None]] = {
    name: getattr(History, name)
    for name in (
        "cut", "mend_cuts", "freeze", "thaw", "lose_quorum", "regain_quorum", "revoke", "change_leader",
        "lose_answers", "be_late", "confirm", "blind", "see", "compact", "fill", "server_down", "hold_status",
        "restart_coordinator", "nothing",
        "cut_server", "isolate", "change", "speak_late", "kill_taker",
    )
}  # fmt: skip


HARMLESS = (
    "mend_cuts",
    "thaw",
    "see",
    "server_down",
    "hold_status",
    "nothing",
    "cut_server",
    "change",
    "kill_taker",
)
"""What takes no lease from a node that lives."""

PLANS: dict[str, Callable[[History], None]] = {
    name: getattr(History, name)
    for name in (
        "go_on",
        "fail_rank",
        "fail_two",
        "fail_unseen",
        "lose_node",
        "lose_failed_node",
        "restart_job",
        "take_up_again",
    )
}


ONLY_BY_NAME = {"owner_comes_last": History.owner_comes_last}  # a seed must go on to mean the same history


def main(arguments: list[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="tests.simulation.nodes")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--for", type=float, default=60.0, dest="seconds")
    parser.add_argument("-v", action="store_true")
    parser.add_argument("--local", action="store_true", help="without a server")
    given = parser.parse_args(arguments)
    if given.seed is not None:
        kind = LocalHistory if given.local else History
        kind(given.seed, print if given.v else lambda _: None).run()
        print(f"seed {given.seed}: all is well")
        return 0
    seed, end, failed = random.randrange(1 << 30), time.monotonic() + given.seconds, 0
    count = 0
    while time.monotonic() < end:
        error = attempt(seed, local=given.local)
        if error is not None:
            failed += 1
            print(f"seed {seed}: {error}")
        seed += 1
        count += 1
    print(f"{count} histories, {failed} broken")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
