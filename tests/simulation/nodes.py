"""Whole histories of several nodes on a cluster store: partitions, freezes, deaths, lost answers.

Every node has a coordinator, a clock and two ranks of its own. What may happen to any of them is in
`TROUBLE`. At the end everything that can be mended is mended, and what the server's readers see is compared
with what the store holds and with what really happened.

    python -m tests.simulation.nodes --for 600      histories from a random seed on, for ten minutes
    python -m tests.simulation.nodes --seed 7 -v    one of them, told step by step
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable

from tests.core.cluster_world import ClusterWorld

VICTIM = {"what": "ConnectionResetError", "communication": True}
STEPS = 30


class History:
    """One history.

    Args:
        seed: decides everything.
        tell: gets a line for each step.
    """

    def __init__(self, seed: int, tell: Callable[[str], None] = lambda _: None) -> None:
        self.seed = seed
        self.dice = random.Random(seed)
        self.tell = tell
        self.world = ClusterWorld(self.dice.choice((2, 2, 3)))
        self.causes: set[int] = set()
        self.lost: set[int] = set()
        self.written: dict[int, float] = {}
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
            self._log()
            self.world.wait(self.dice.choice((0.1, 0.5, 2, 5, 12, 20)))
        self._mend()
        self._end()
        self.world.wait(200)
        self.check()

    def check(self) -> None:
        """What must be true in the end."""
        world = self.world
        reports = world.statuses()
        assert len(set(reports)) <= 1, f"two statuses were sent: {reports}"
        if not self.causes and not self.lost:
            assert world.run.status == "COMPLETED", f"a healthy Run is {world.run.status}: {world.reason()}"
        elif self.causes or not self._owner_lost_in_silence():
            assert world.run.status == "FAILED", f"{self.causes} failed, {self.lost} lost: {world.run.status}"
        for stored in list(world.verdicts.values())[-1:]:
            assert world.run.status == stored.verdict.status, "the server has another end than the store"
        for number, node in enumerate(world.nodes):
            if number not in self.lost:
                assert node.core.at_rest, f"node {number} does not come to rest"
                assert node.run().status == world.run.status, f"node {number} believes {node.run().status}"
        for rank, value in self.written.items():
            if rank // 2 not in self.lost:
                assert any(value in world.run.values(name) for name in world.run.series), (
                    f"{value} of rank {rank} is lost"
                )

    # --- what happens ---------------------------------------------------------------------------------------

    def alive(self) -> list[int]:
        """Ranks that live."""
        return [rank for rank, process in self.world.ranks.items() if process.alive]

    def cut(self) -> None:
        self.world.cut(self._node())

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
        self.world.engine.revoke_all()

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
            self.world.nodes[number].restart()
            self.world.give_keys()

    def fail_rank(self) -> None:
        """One rank dies, and its peers lose their connections."""
        living = self.alive()
        if not living or self.dice.random() < 0.6:
            return
        rank = self.dice.choice(living)
        if rank // 2 in self.world.frozen:
            return
        self.causes.add(rank)
        self._say(f"rank {rank} fails")
        self.world.ranks[rank].kill()
        self._victims()

    def lose_node(self) -> None:
        """A whole node dies; rarely."""
        number = self._node()
        living = [rank for rank in self.alive() if rank // 2 == number]
        last = len(self.lost) + 1 >= len(self.world.nodes)
        if not living or last or self.dice.random() < 0.7:
            return
        self._say(f"node {number} is lost")
        self.lost.add(number)
        self.world.kill_node(number)
        self._victims()

    def nothing(self) -> None:
        pass

    # --- beginning and end ----------------------------------------------------------------------------

    def _start(self) -> None:
        ranks = list(range(2 * len(self.world.nodes)))
        self.dice.shuffle(ranks)
        for rank in ranks:
            self.world.start(rank)
            self.world.wait(self.dice.choice((0.1, 0.1, 1.0)))
        self.world.wait(self.dice.choice((1, 10)))

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

    def _end(self) -> None:
        living = self.alive()
        self.dice.shuffle(living)
        for rank in living:
            self._say(f"rank {rank} finishes")
            self.world.ranks[rank].finish().exit()
            self.world.wait(self.dice.choice((0.1, 1.0)))

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

    def _owner_lost_in_silence(self) -> bool:
        """Nobody failed but a node that was lost, and nobody was left whom that could hurt."""
        return not self.causes

    def _say(self, what: str) -> None:
        self.tell(f"{self.world.time - 1000:8.1f} s  {what}")


TROUBLE: dict[str, Callable[[History], None]] = {
    name: getattr(History, name)
    for name in (
        "cut", "mend_cuts", "freeze", "thaw", "lose_quorum", "regain_quorum", "revoke", "change_leader",
        "lose_answers", "be_late", "confirm", "blind", "see", "compact", "fill", "server_down", "hold_status",
        "restart_coordinator", "fail_rank", "lose_node", "nothing",
    )
}  # fmt: skip


def main(arguments: list[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="tests.simulation.nodes")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--for", type=float, default=60.0, dest="seconds")
    parser.add_argument("-v", action="store_true")
    given = parser.parse_args(arguments)
    if given.seed is not None:
        History(given.seed, print if given.v else lambda _: None).run()
        print(f"seed {given.seed}: all is well")
        return 0
    seed, end, failed = random.randrange(1 << 30), time.monotonic() + given.seconds, 0
    count = 0
    while time.monotonic() < end:
        try:
            History(seed).run()
        except Exception as error:  # noqa: BLE001 # whatever it is, it belongs to this seed
            failed += 1
            print(f"seed {seed}: {type(error).__name__}: {error}")
        seed += 1
        count += 1
    print(f"{count} histories, {failed} broken")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
