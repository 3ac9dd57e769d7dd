"""`python -m tests.simulation.mutations`: deliberately broken variants, each of which must be caught.

A variant replaces one rule of the code under test while histories run. The table says which seed caught it;
a variant that no seed catches is a hole in the simulation.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from unittest import mock

import msgspec

from pluto_dist.backend.pluto import files
from pluto_dist.backend.pluto.files import Files, Upload
from pluto_dist.client.lease_files import RoomForRecords
from pluto_dist.coordinator.database import Database
from pluto_dist.coordinator.driver import Driver, GroupCommit
from pluto_dist.coordinator.reducer import _Open
from pluto_dist.coordinator.spools import LeaseFolders
from pluto_dist.coordinator.worker import Worker
from pluto_dist.core.machine import admission, control, delivery, folding, settle, topics
from pluto_dist.core.machine.beats import Beats
from pluto_dist.core.machine.context import Shared
from pluto_dist.core.machine.control import Controls
from pluto_dist.core.machine.delivery import Delivery
from pluto_dist.core.machine.folding import Folding
from pluto_dist.core.machine.lane import Lane
from pluto_dist.core.machine.ownership import Succession
from pluto_dist.core.machine.reducing import Reducing
from pluto_dist.core.machine.topics import Topics
from pluto_dist.core.rules import claims, kinship, participants, verdict  # fmt: skip
from pluto_dist.core.rules.series import SeriesNames
from pluto_dist.core.rules.shipment import Addressed, Shipment, Slot
from pluto_dist.core.rules.together import Gathering
from pluto_dist.core.rules.topics import done as rules_done
from pluto_dist.core.values.backend import Delivered, Retry, Unknown
from pluto_dist.core.values.book import Book
from pluto_dist.core.values.lifecycle import Closed, Finished
from pluto_dist.core.values.records import Verdict
from pluto_dist.spool.writer import StreamWriter
from tests.simulation.__main__ import attempt
from tests.simulation.coordinator import SimCoordinator
from tests.simulation.plan import FILES_SINCE, HAND_OVER_SINCE, REDUCE_SINCE, make_plan
from tests.simulation.test_simulation import LATER

Patch = tuple[object, str, Any]


def epoch_not_compared() -> Patch:
    """Evidence of earlier epochs counts."""
    real = verdict.members_of

    def broken(run: Any, leases: Any) -> Any:
        same = tuple(msgspec.structs.replace(lease, epoch=run.epoch) for lease in leases)
        found = {lease.lease_id for lease in real(run, same)}
        return tuple(lease for lease in leases if lease.lease_id in found)

    return verdict, "members_of", broken


def cursor_before_answer() -> Patch:
    """The cursor moves whatever the answer was."""
    real = Lane.answered

    def broken(self: Lane, event: Any) -> bool:
        return real(self, msgspec.structs.replace(event, outcome=Delivered()))

    return Lane, "answered", broken


def close_ends_the_run() -> Patch:
    """`close()` counts as `finish()`."""
    real = Folding._apply

    def broken(self: Folding, lease: Any, entry: Any) -> None:
        if isinstance(entry, Closed) and lease.role == "owner":
            entry = Finished(at=entry.at, wall_ms=entry.wall_ms)
        real(self, lease, entry)

    return Folding, "_apply", broken


def first_failure_ignored() -> Patch:
    """The verdict looks at nobody's evidence."""
    return verdict, "first_failure", lambda run, members: None


def tags_overwritten() -> Patch:
    """The last writer of tags wins."""

    def broken(self: Shared, run: str, tags: Any) -> None:
        self._change(run, lambda known: self._put_tags(known, tuple(tags)))

    return Shared, "add_tags", broken


def side_evidence_counts() -> Patch:
    """A side's failure is put down to the owner."""
    real = Folding._evidence

    def broken(self: Folding, lease: Any, run: Any, entry: Any) -> None:
        owner = self._book.leases.get(run.owner or "")
        if lease.role == "side" and owner is not None:
            self._context.change_lease(owner, evidence=(*owner.evidence, entry))
        real(self, lease, run, entry)

    return Folding, "_evidence", broken


def side_finish_ends() -> Patch:
    """A side that fails or closes ends the Run."""
    real = Folding._end

    def broken(self: Folding, lease: Any, run: Any, entry: Any) -> None:
        real(self, lease, run, entry)
        if lease.role == "side" and not run.ended:
            done = Verdict("COMPLETED", "a side has ended")
            self._context.change_run(self._book.runs[run.key], verdict=done, status="COMPLETED", ended_ms=1)

    return Folding, "_end", broken


def lifecycle_not_read_at_death() -> Patch:
    """A death is taken for what it looks like, without its last words."""
    return LeaseFolders, "died", lambda self, lease_id, now: iter(())


def suffix_forgotten() -> Patch:
    """A restarted coordinator does not know who has which name."""
    real = Book.load

    def broken(self: Book, table: str, key: str, value: Any) -> None:
        if table != "series":
            real(self, table, key, value)

    return Book, "load", broken


def no_suffix() -> Patch:
    """Everybody gets the plain name."""
    return SeriesNames, "_final", lambda self, run, series, participant, name: (name, False)


def intent_not_persisted() -> Patch:
    """Nobody remembers that a request may have been carried out."""
    real = Book.put_cursor

    def broken(self: Book, cursor: Any) -> Any:
        return real(self, msgspec.structs.replace(cursor, intent=None))

    return Book, "put_cursor", broken


def status_before_delivery() -> Patch:
    """The status does not wait for records."""
    real = Controls.advance

    def broken(self: Controls, run: Any, *, may_report: bool, lives: bool) -> None:
        real(self, run, may_report=True, lives=lives)

    return Controls, "advance", broken


def status_twice() -> Patch:
    """An accepted status is not noted."""
    real = Controls._done

    def broken(self: Controls, run: Any, request: Any, outcome: Any) -> None:
        real(self, run, request, outcome)
        self.again = getattr(self, "again", 0) + 1
        if request.operation == "status" and self.again < 60:
            self._context.change_run(self._book.runs[run.key], reported=False)

    return Controls, "_done", broken


def orphan_grace_ignored() -> Patch:
    """The owner's silence is its end, and a launcher's restart comes too late."""
    return verdict, "restarts_left", lambda run: False


def restart_is_failure() -> Patch:
    """A Run whose job was restarted has failed."""
    real = Succession.own

    def broken(self: Succession, lease: Any, run: Any) -> Any:
        run = real(self, lease, run)
        if not lease.opened.job.attempt:
            return run
        failed = Verdict("FAILED", "it was restarted")
        return self._context.change_run(run, verdict=failed, status="FAILED", ended_ms=1)

    return Succession, "own", broken


def finish_code_ignored() -> Patch:
    """`finish(code=…)` is like `finish()`."""
    return verdict, "status_of_code", lambda code: "COMPLETED"


def folder_removed_early() -> Patch:
    """A lease's folder goes with its process."""
    return Delivery, "complete", lambda self, lease: not lease.alive


def two_owners() -> Patch:
    """Nobody asks whether there is an owner."""
    real = claims._owned

    def broken(claim: Any, owner: Any, facts: Any, now: float) -> Any:
        return claims.Grant("owner", "why not") if claim.resume else real(claim, owner, facts, now)

    return claims, "_owned", broken


def verdict_not_frozen() -> Patch:
    """What is heard after the end changes the verdict."""
    real = settle.Settling._settle_run

    def broken(self: Any, run: Any) -> None:
        if run.verdict is not None and run.status == "COMPLETED" and run.reported:
            late = Verdict("TERMINATED", "on second thoughts")
            run = self._context.change_run(run, verdict=late, status=late.status, reported=False)
        real(self, run)

    return settle.Settling, "_settle_run", broken


def not_durable() -> Patch:
    """Effects leave although nothing was kept."""

    def broken(self: GroupCommit, now: float) -> bool:
        self._saves.clear()
        return True

    return GroupCommit, "keep", broken


def set_aside_lost() -> Patch:
    """A refused record is dropped."""
    return Worker, "_set_aside", lambda self, effect: None


def torn_write_continued() -> Patch:
    """After a short write the same segment goes on."""

    def broken(self: StreamWriter, frame: bytes, code: int | None) -> bool:
        if code is not None:
            return self_real(self, frame, code)
        self.written += 1
        return True

    self_real = StreamWriter._append_anew
    return StreamWriter, "_append_anew", broken


def death_unnoticed() -> Patch:
    """Nobody hears of deaths."""
    return Driver, "_deaths", lambda self, deaths, replaced=False: [None for _ in deaths] and None


def late_records_not_renamed() -> Patch:
    """What a superseded lease writes later has the name of its successor's."""
    return delivery, "_writer_at", lambda lane, segment: (lane.lease.participant, None)


def intent_not_awaited() -> Patch:
    """Requests leave although their intents could not be kept."""
    real = Book.take_changes

    def broken(self: Book) -> Any:
        commit = real(self)
        return msgspec.structs.replace(commit, awaited=commit.durable)

    return Book, "take_changes", broken


def tries_not_counted() -> Patch:
    """However often a request may have been carried out, it counts as one repeat."""
    real = Book.put_cursor

    def broken(self: Book, cursor: Any) -> Any:
        return real(self, msgspec.structs.replace(cursor, tries=min(cursor.tries, 2)))

    return Book, "put_cursor", broken


def records_before_the_opening() -> Patch:
    """Records are taken of a lease whose opening entry the disk has refused."""
    return RoomForRecords, "shortage", lambda self: self._space.shortage()


def workers_not_waited_for() -> Patch:
    """The verdict is made as soon as the owner has finished."""
    return verdict, "DRAIN_S", 0.0


def stop_is_a_failure() -> Patch:
    """Who was asked to stop has failed."""
    return verdict, "is_stop", lambda evidence: False


def lock_not_looked_at() -> Patch:
    """A coordinator whose lock was replaced goes on until the database tells."""
    return SimCoordinator, "is_intact", _blind


def _blind(self: SimCoordinator) -> bool:
    """For the driver and its threads; the check knows better."""
    caller = sys._getframe(1).f_code.co_name
    return caller != "do" or self.world.usurped is not self or self.world.lock_is_blind


def cancel_not_asked_for() -> Patch:
    """A status goes out without the last question."""
    return Beats, "asked_last", lambda self, run: True


def cancel_crosses_the_status() -> Patch:
    """An answer that was given before the status is believed after it."""
    real = Beats.answered

    def broken(self: Beats, run: Any, event: Any) -> bool:
        self._crossing.clear()
        return real(self, run, event)

    return Beats, "answered", broken


def generation_not_checked() -> Patch:
    """A coordinator that was replaced goes on to write."""
    return Database, "_check_generation", lambda self: None


def trials_melt() -> Patch:
    """A child is in its parent's Run whatever it asks for."""
    return kinship, "asks_for_another", lambda claim, parent, run: False


def next_start_is_a_late_rank() -> Patch:
    """The same rank in another process is taken for one of the first start."""
    return kinship, "predecessor", lambda claim, leases: None


def parents_will_counts() -> Patch:
    """A child that its parent has ended has failed."""
    return verdict, "_is_parents_will", lambda evidence, child, parent: False


def unlabelled_share_a_series() -> Patch:
    """The next process without a label goes on with the series of the one before."""

    def broken(lease: Any, others: Any, run: Any) -> set[str]:
        return {other.label for other in others if other.alive}

    return participants, "_ever_used", broken


def item_not_held() -> Patch:
    """What was given counts as done."""
    real = topics.taken

    def broken(reader: Any, number: int, *more: Any, **how: Any) -> Any:
        return rules_done(real(reader, number, *more, **how), number)

    return topics, "taken", broken


def holder_taken_for_dead() -> Patch:
    """An item is given to the next that asks, whoever has it."""
    return Topics, "_alive", lambda self, holder: False


def question_overtakes() -> Patch:
    """A question is answered before what was said before it has taken effect."""
    real = Topics.take

    def broken(self: Topics, peer: bytes, asked: Any) -> None:
        real(self, peer, msgspec.structs.replace(asked, entries=0))

    return Topics, "take", broken


def over_with_the_run() -> Patch:
    """A loop ends with the Run, whatever others still have."""
    return topics, "over", lambda reader, last: True


def numbers_forgotten() -> Patch:
    """The newest number is in memory only."""

    def broken(self: Book, topic: Any) -> Any:
        self._topics_of.setdefault(topic.run, {})[topic.name] = topic
        self.topics.load(topic.key, topic)
        return topic

    return Book, "put_topic", broken


def label_is_the_process() -> Patch:
    """Where a label stopped is forgotten with its process."""
    real = Topics._reader

    def broken(self: Topics, run: Any, topic: str, lease: Any, *more: Any) -> Any:
        return real(self, run, topic, msgspec.structs.replace(lease, participant=lease.lease_id), *more)

    return Topics, "_reader", broken


def left_is_done() -> Patch:
    """What a loop had when it was left is given to nobody."""

    def broken(reader: Any, member: Any) -> Any:
        held = {number: holder for number, holder in reader.held.items() if holder != member}
        return msgspec.structs.replace(reader, held=held)

    return topics, "left", broken


def latest_takes_from_others() -> Patch:
    """What is superseded is passed over although somebody works at it."""
    real = topics.taken

    def broken(reader: Any, number: int, member: Any, alive: Any, *, latest: bool = False) -> Any:
        return real(reader, number, member, lambda holder: False, latest=latest)

    return topics, "taken", broken


def positions_forgotten() -> Patch:
    """Where labels and groups are is in memory only."""

    def broken(self: Book, reader: Any) -> Any:
        self._readers_of.setdefault(f"{reader.run}/{reader.topic}", {})[reader.key] = reader
        self.readers.load(reader.key, reader)
        return reader

    return Book, "put_reader", broken


def alert_sent_again() -> Patch:
    """An alert of which it is not known whether people were told is sent again."""
    real = Controls.answered

    def broken(self: Controls, event: Any) -> bool:
        if event.operation == "alert" and isinstance(event.outcome, Unknown):
            event = msgspec.structs.replace(event, outcome=Retry(event.outcome.reason))
        return real(self, event)

    return Controls, "answered", broken


def held_is_lost() -> Patch:
    """A new coordinator goes on behind what its predecessor has read, without the values that it held."""

    def broken(self: _Open, member: Any, state: Any, now: float) -> None:
        self.read[member.lease_id] = {
            stream: dict(ends) for stream, ends in state.read.get(member.lease_id, {}).items()
        }

    return _Open, "_read_again", broken


def said_is_forgotten() -> Patch:
    """A new coordinator does not know what had gone out, nor when."""
    return _Open, "_take_said", lambda self, out: None


def given_back_early() -> Patch:
    """A rank's segments go although a step in them may still be corrected."""
    real = Lane._not_reduced

    def broken(self: Lane, positions: Any) -> Any:
        return real(self, lambda state: state.read)

    return Lane, "_not_reduced", broken


def late_values_left_out() -> Patch:
    """What comes for a step that has gone out changes nothing."""
    real = Gathering._lines

    def broken(self: Gathering, going: Any) -> Any:
        return real(self, [(track, unit) for track, unit in going if unit.said is None])

    return Gathering, "_lines", broken


def correction_as_old() -> Patch:
    """A correction has the time of what it corrects."""
    real = Gathering._lines

    def broken(self: Gathering, going: Any) -> Any:
        units = list(going)
        for _, unit in units:
            unit.said_ms = -1
        return real(self, units)

    return Gathering, "_lines", broken


def starts_melt() -> Patch:
    """The next start of a job is reduced with the one before."""
    return Reducing, "_missing", _one_for_all


def _one_for_all(self: Reducing, run: Any, epochs: list[int], ranks: list[Any]) -> list[int]:
    return [0] if ranks and not epochs and any(self._lanes(rank) for rank in ranks) else []


def stored_not_noted() -> Patch:
    """That an object is stored is in memory only."""
    return Upload, "note", _noting(lambda slot: not slot.done)


def address_not_noted() -> Patch:
    """An upload address is in memory only."""
    return Upload, "note", _noting(lambda slot: not slot.url)


def _noting(which: Callable[[Slot], bool]) -> Any:
    real = Upload.note

    def broken(self: Upload, note: Any) -> None:
        if isinstance(note, Addressed) and not which(note.slot):
            self.shipment.take(note)
        else:
            real(self, note)

    return broken


def manifest_beside_the_files() -> Patch:
    """The manifest goes with the other objects of a folder."""
    return Shipment, "_next", lambda self: self.left[::-1]


def stored_before_it_is_sent() -> Patch:
    """An object counts as stored when its upload begins."""
    real = Files._send

    def broken(self: Files, upload: Any, each: Any, rate: int) -> Any:
        slot = upload.shipment.slot(each.number)
        upload.note(Addressed(each.number, Slot(done=True)))
        upload.shipment.take(Addressed(each.number, slot))
        return real(self, upload, each, rate)

    return Files, "_send", broken


def content_goes_with_the_request() -> Patch:
    """Contents of files are removed whatever the answer was."""
    real = Lane.answered

    def broken(self: Lane, event: Any) -> bool:
        self._give_back_blobs(event.segment, event.start, self._sent_size)
        return real(self, event)

    return Lane, "answered", broken


def file_list_before_storage() -> Patch:
    """A file is listed as uploaded before it is."""
    real = Files._all_of

    def broken(self: Files, run: Any, uploads: Any, rate: int) -> Any:
        files._list(run, uploads, "")
        return real(self, run, uploads, rate)

    return Files, "_all_of", broken


OF_FILES: tuple[Callable[[], Patch], ...] = (
    stored_not_noted, address_not_noted, manifest_beside_the_files,
    stored_before_it_is_sent, content_goes_with_the_request, file_list_before_storage,
)  # fmt: skip
OF_RANKS: tuple[Callable[[], Patch], ...] = (
    held_is_lost, said_is_forgotten, given_back_early, late_values_left_out,
    correction_as_old, starts_melt,
)  # fmt: skip
OF_TOPICS: tuple[Callable[[], Patch], ...] = (
    item_not_held, holder_taken_for_dead, question_overtakes, over_with_the_run, numbers_forgotten,
    label_is_the_process, left_is_done, latest_takes_from_others, positions_forgotten, alert_sent_again,
)  # fmt: skip
SINCE = {OF_TOPICS: HAND_OVER_SINCE, OF_RANKS: REDUCE_SINCE, OF_FILES: FILES_SINCE}
MUTATIONS: tuple[Callable[[], Patch], ...] = (
    epoch_not_compared, cursor_before_answer, close_ends_the_run, first_failure_ignored, tags_overwritten,
    side_evidence_counts, side_finish_ends, lifecycle_not_read_at_death, suffix_forgotten, no_suffix,
    intent_not_persisted, status_before_delivery, status_twice, orphan_grace_ignored, restart_is_failure,
    finish_code_ignored, folder_removed_early, two_owners, verdict_not_frozen, not_durable, set_aside_lost,
    torn_write_continued, death_unnoticed, late_records_not_renamed, intent_not_awaited, tries_not_counted,
    records_before_the_opening, workers_not_waited_for, stop_is_a_failure,
    generation_not_checked, lock_not_looked_at, trials_melt, next_start_is_a_late_rank,
    unlabelled_share_a_series, parents_will_counts, cancel_not_asked_for, cancel_crosses_the_status,
    *OF_TOPICS, *OF_RANKS, *OF_FILES,
)  # fmt: skip


@contextlib.contextmanager
def broken(mutation: Callable[[], Patch]) -> Iterator[None]:
    """The variant is in force; a function that others have imported is replaced there too."""
    where, name, what = mutation()
    real = getattr(where, name)
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(where, name, what))
        for module in (admission, claims, control, delivery, admission, folding, verdict, settle, verdict):
            if module is not where and getattr(module, name, None) is real and not isinstance(where, type):
                stack.enter_context(mock.patch.object(module, name, what))
        yield


def catch(mutation: Callable[[], Patch], seeds: Iterable[int], seconds: float) -> tuple[int | None, str]:
    """The first seed that fails, and with what."""
    deadline = time.monotonic() + seconds
    for seed in seeds:
        if time.monotonic() > deadline:
            break
        with broken(mutation):
            _, error = attempt(make_plan(seed))
        if error is not None:
            return seed, error.strip().splitlines()[-1].rpartition("ViolationError: ")[2]
    return None, "NOT CAUGHT"


def table(
    mutations: Iterable[Callable[[], Patch]],
    only: str,
    caught: Callable[[Callable[[], Patch]], tuple[int | None, str]],
) -> int:
    """Prints which seed caught each variant that has `only` in its name; 1 if one was not caught."""
    missed, tried = 0, 0
    for mutation in mutations:
        if only not in mutation.__name__:
            continue
        seed, how = caught(mutation)
        missed, tried = missed + (seed is None), tried + 1
        told = "missed" if seed is None else f"seed {seed}"
        print(f"{mutation.__name__:34s} {told:10s} {' '.join(how.split())[:100]}", flush=True)
    print(f"{tried} variants, {missed} missed")
    return int(missed > 0)


def main() -> int:
    """Prints the table; 1 if a variant was not caught."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.mutations")
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=2000, help="how many to try for each variant")
    parser.add_argument("--seconds", type=float, default=180.0, help="for each variant")
    parser.add_argument("--only", default="", help="variants whose name has this in it")
    options = parser.parse_args()

    def caught(mutation: Callable[[], Patch]) -> tuple[int | None, str]:
        since = next((since for found, since in SINCE.items() if mutation in found), 0)
        first = options.first + since
        able = (seed for seed in LATER if seed >= since)  # earlier histories have nothing of the kind
        return catch(mutation, (*able, *range(first, first + options.seeds)), options.seconds)

    return table(MUTATIONS, options.only, caught)


if __name__ == "__main__":
    sys.exit(main())
