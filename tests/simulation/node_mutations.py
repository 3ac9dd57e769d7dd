"""`python -m tests.simulation.node_mutations`: broken variants of what several nodes do, all to be caught.

As `mutations.py`, with the histories of `nodes.py`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import msgspec

from pluto_dist.core.machine import other_nodes, shared_run, shared_topics
from pluto_dist.core.machine.changes import Changes
from pluto_dist.core.machine.cluster import Clusters
from pluto_dist.core.machine.settle import Settling
from pluto_dist.core.machine.shared_folder import Writer
from pluto_dist.core.machine.shared_run import SharedRun
from pluto_dist.core.machine.shared_topics import SharedTopics
from pluto_dist.core.machine.topics import Topics
from pluto_dist.core.rules import nodes, topics
from pluto_dist.core.rules.nodes import HERE
from pluto_dist.core.values.cluster import Judgement, StoredVerdict
from pluto_dist.core.values.engine import ANY, Unavailable, Written
from pluto_dist.core.values.records import Verdict
from tests.simulation.mutations import Patch, table
from tests.simulation.nodes import attempt


def seat_is_not_fenced() -> Patch:
    """A seat speaks whatever has become of its lease."""

    def broken(view: nodes.SeatView, now: float) -> float | None:
        document = view.document
        mine = document is not None and document.seat is not None and document.seat.node == view.node
        return now + 1_000 if mine else None

    return shared_run, "may_act", broken


def seat_is_taken_from_the_living() -> Patch:
    """Nobody looks whether the old seat's node is there."""
    real = nodes.plan

    def broken(view: nodes.SeatView, now: float) -> Any:
        return real(msgspec.structs.replace(view, present=False, gone_at=view.gone_at or now), now)

    return shared_run, "plan", broken


def claim_without_a_guard() -> Patch:
    """A claim does not say which node has to be absent, and believes what it saw last."""
    real = SharedRun._write_run

    def broken(self: SharedRun, document: Any, dead: str | None = None) -> bool:
        return real(self, document)

    return SharedRun, "_write_run", broken


def epoch_does_not_rise() -> Patch:
    """A new seat goes on with the epoch of the one before."""
    real = nodes.plan

    def broken(view: nodes.SeatView, now: float) -> Any:
        found = real(view, now)
        return nodes.Take(max(1, found.epoch - 1), found.dead) if isinstance(found, nodes.Take) else found

    return shared_run, "plan", broken


def sent_before_it_is_stored() -> Patch:
    """The seat sends what it thinks, and stores it later."""
    real = SharedRun.stored

    def broken(self: SharedRun) -> StoredVerdict | None:
        thought = self._judgement.verdict if self.mine else None
        if thought is None:
            return real(self)
        return StoredVerdict(verdict=thought, ended_ms=1, epoch=0, node=self._node, nonce="")

    return SharedRun, "stored", broken


def verdict_is_written_over() -> Patch:
    """The verdict of a round is not made once, but whenever somebody has one."""
    real = Writer.write

    def broken(self: Writer, name: str, value: Any, **conditions: Any) -> bool:
        if name.startswith("verdict/"):
            conditions |= {"expect": ANY, "while_": None}
            value = msgspec.structs.replace(value, verdict=Verdict("FAILED", f"as {self._node} sees it"))
        return real(self, name, value, **conditions)

    return Writer, "write", broken


def evidence_is_leased() -> Patch:
    """What a node has to say goes with it."""
    real = Writer.write

    def broken(self: Writer, name: str, value: Any, **conditions: Any) -> bool:
        leased = {"leased": True} if name.startswith(("ev/", "end/")) else {}
        return real(self, name, value, **{**conditions, **leased})

    return Writer, "write", broken


def clocks_are_taken_for_one() -> Patch:
    """Times of two nodes are compared as they are."""
    return nodes, "span", lambda offset, now: HERE


def clocks_are_not_measured() -> Patch:
    """Nobody keeps what messages tell of the other clock."""
    return other_nodes, "read_theirs", lambda offset, written_at, read_at: offset


def loss_makes_a_failure() -> Patch:
    """A node that cannot be seen has failed."""
    real = nodes._failures

    def broken(found: Any, owners: Any) -> Any:
        lost = [report for report in found if report.end is None and not report.present]
        return [*real(found, owners), *map(nodes._loss, lost)]

    return nodes, "_failures", broken


def loss_explains_everything() -> Patch:
    """A node that cannot be seen is the cause of whatever failed elsewhere."""
    real = nodes.likeliest

    def broken(pieces: Any) -> Any:
        causes = real(pieces)
        blind = [msgspec.structs.replace(piece.evidence, communication=True) for piece in causes]
        return tuple(
            msgspec.structs.replace(piece, evidence=evidence)
            for piece, evidence in zip(causes, blind, strict=True)
        )

    return nodes, "likeliest", broken


def nobody_is_waited_for() -> Patch:
    """The verdict is made as soon as the owner's node has ended."""
    real = nodes.judge

    def broken(found: Any, now: float, **about: Any) -> Judgement:
        owners = next((report for report in found if report.owner and report.end is not None), None)
        return real([owners], now, **about) if owners is not None else real(found, now, **about)

    return shared_run, "judge", broken


def other_nodes_do_not_count() -> Patch:
    """The seat decides by the evidence of its own node."""
    return other_nodes, "by_node", lambda values: {}


def lost_answers_are_yes() -> Patch:
    """A change without an answer is taken for made."""
    real = SharedRun.written

    def broken(self: SharedRun, event: Any) -> None:
        if isinstance(event.result, Unavailable):
            event = msgspec.structs.replace(event, result=Written(1))
        real(self, event)

    return SharedRun, "written", broken


def presence_is_not_renewed() -> Patch:
    """A node that got another lease does not say that it is there."""
    real = SharedRun._be_present

    def broken(self: SharedRun, run: Any, members: Any) -> bool:
        return False if self._writer._present_under else real(self, run, members)

    rest = [step for step in shared_run.STEPS if step is not real]
    return shared_run, "STEPS", (broken, *rest)


def end_without_its_evidence() -> Patch:
    """A node says that this was all before it has stored what there is."""
    return (
        shared_run,
        "STEPS",
        tuple(step for step in shared_run.STEPS if step is not SharedRun._store_pieces),
    )


def old_rounds_end_new_ones() -> Patch:
    """Whatever verdict is there ends the Run."""

    def broken(self: SharedRun, run: Any, document: Any) -> bool:
        return True

    return SharedRun, "_belongs", broken


def unanswered_changes_are_known() -> Patch:
    """A change of tags or config whose answer was lost is taken for told."""
    real = SharedRun.written

    def broken(self: SharedRun, event: Any) -> None:
        asked = self._writer.writing
        if asked is not None and isinstance(event.result, Unavailable):
            self._appended(asked, as_it_is=True)
        real(self, event)

    return SharedRun, "written", broken


def next_seat_believes_the_server_knows() -> Patch:
    """A node that gets the seat takes what it has told the seat before for told to the server."""

    def broken(self: Changes, run: Any, state: Any) -> None:
        self._context.change_run(run, speaks=True)

    return Changes, "speak", broken


def relays_keep_the_seat() -> Patch:
    """A node that cannot open the Run has the seat for as long as it is there."""
    real = nodes.plan

    def broken(view: nodes.SeatView, now: float) -> Any:
        return real(msgspec.structs.replace(view, opens=False), now)

    return shared_run, "plan", broken


def parts_have_keys_of_their_own() -> Patch:
    """Without a server: no node takes the ids that the Run has been given."""
    return Clusters, "identity", lambda self, run: None


def parts_keep_their_own_reason() -> Patch:
    """Without a server: a node that had decided alone takes only the status of all nodes."""
    real = Settling._as_stored

    def broken(self: Settling, run: Any, members: Any, stored: StoredVerdict, **about: Any) -> Any:
        same = run.ended and run.status == stored.verdict.status
        mine = msgspec.structs.replace(stored, verdict=run.verdict, ended_ms=run.ended_ms) if same else stored
        return real(self, run, members, mine, **about)

    return Settling, "_as_stored", broken


def changes_are_nobodys() -> Patch:
    """Without a server: the seat takes what was changed for known before the cluster store has it."""
    return SharedRun, "shares_changes", lambda self, run: True


def shared_state_is_written_on_change_only() -> Patch:
    """Without a server: tags and config of the owner are where they always were."""
    real = SharedRun._show_shared

    def broken(self: SharedRun, run: Any, members: Any) -> bool:
        return bool(run.folded) and real(self, run, members)

    steps = [broken if step is real else step for step in shared_run.STEPS]
    return shared_run, "STEPS", tuple(steps)


LOCAL = (
    parts_have_keys_of_their_own, parts_keep_their_own_reason, changes_are_nobodys,
    shared_state_is_written_on_change_only,
)  # fmt: skip


def numbers_are_not_agreed_on() -> Patch:
    """An item that has a number is taken for one that waits still."""
    return shared_topics, "numbered", lambda topic, batch: (topic, ())


def positions_are_written_over() -> Patch:
    """A node changes a position whatever another has made of it meanwhile."""
    real = Writer.write

    def broken(self: Writer, name: str, value: Any, **conditions: Any) -> bool:
        anyhow = {"expect": ANY} if name.startswith("at/") else {}
        return real(self, name, value, **{**conditions, **anyhow})

    return Writer, "write", broken


def labels_end_at_the_node() -> Patch:
    """Each node has a position of its own for a label."""
    return Topics, "_is_shared", lambda self, run, lease, group: bool(group)


def other_nodes_are_never_there() -> Patch:
    """What a node elsewhere has is taken from it."""
    real = SharedTopics._alive

    def broken(self: SharedTopics, holder: Any) -> bool:
        return bool(holder.member) and real(self, holder)

    return SharedTopics, "_alive", broken


def lost_nodes_keep_what_they_have() -> Patch:
    """A node that is gone counts as at work."""
    real = SharedTopics._alive

    def broken(self: SharedTopics, holder: Any) -> bool:
        return not holder.member or real(self, holder)

    return SharedTopics, "_alive", broken


def dead_processes_keep_what_they_have() -> Patch:
    """Other nodes are not told that a process here is dead."""
    real = topics.position_of

    def broken(progress: Any, before: Any, node: str, alive: Any, who: Any) -> Any:
        return real(progress, before, node, lambda holder: True, who)

    return shared_topics, "position_of", broken


def what_is_given_is_done() -> Patch:
    """A position moves when an item is given, and not when it is done."""
    real = topics.position_of

    def broken(*arguments: Any) -> Any:
        return msgspec.structs.replace(real(*arguments), held={})

    return shared_topics, "position_of", broken


MUTATIONS: tuple[Callable[[], Patch], ...] = (
    seat_is_not_fenced, seat_is_taken_from_the_living, claim_without_a_guard, epoch_does_not_rise,
    sent_before_it_is_stored, verdict_is_written_over, evidence_is_leased, clocks_are_taken_for_one,
    clocks_are_not_measured, loss_makes_a_failure, loss_explains_everything, nobody_is_waited_for,
    other_nodes_do_not_count, lost_answers_are_yes, presence_is_not_renewed,
    end_without_its_evidence, old_rounds_end_new_ones,
    unanswered_changes_are_known,
    next_seat_believes_the_server_knows, relays_keep_the_seat,
    numbers_are_not_agreed_on, positions_are_written_over, labels_end_at_the_node,
    other_nodes_are_never_there, lost_nodes_keep_what_they_have, dead_processes_keep_what_they_have,
    what_is_given_is_done,
    *LOCAL,
)  # fmt: skip


PLAN_OF = {  # the others show in any history
    evidence_is_leased: "lose_failed_node", clocks_are_taken_for_one: "fail_two",
    clocks_are_not_measured: "fail_two", loss_explains_everything: "fail_unseen",
    other_nodes_do_not_count: "fail_rank", old_rounds_end_new_ones: "take_up_again",
    lost_nodes_keep_what_they_have: "lose_node",
    relays_keep_the_seat: "owner_comes_last", parts_keep_their_own_reason: "fail_unseen",
}  # fmt: skip


def catch(mutation: Callable[[], Patch], first: int, seconds: float) -> tuple[int | None, str]:
    """The first seed that fails, and with what."""
    where, name, what = mutation()
    deadline, seed = time.monotonic() + seconds, first
    with mock.patch.object(where, name, what):
        while time.monotonic() < deadline:
            error = attempt(seed, PLAN_OF.get(mutation, ""), local=mutation in LOCAL)
            if error is not None:
                return seed, error
            seed += 1
    return None, "NOT CAUGHT"


def main() -> int:
    """Prints the table; 1 if a variant was not caught."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.node_mutations")
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each variant")
    parser.add_argument("--only", default="", help="variants whose name has this in it")
    options = parser.parse_args()
    return table(MUTATIONS, options.only, lambda mutation: catch(mutation, options.first, options.seconds))


if __name__ == "__main__":
    sys.exit(main())
