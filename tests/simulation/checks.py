"""What must be true, after every step and at the end; a failure names the guarantee."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from pluto_dist.core.machine.beats import KNOWN_S, LAST_S
from pluto_dist.core.rules.changes import MAX_TAGS
from pluto_dist.core.values.backend import StatusReport
from pluto_dist.core.values.book import Book
from pluto_dist.core.values.messages import View
from pluto_dist.core.values.records import Cursor, Lease, Run, Verdict
from pluto_dist.spool.frames import scan, segment_name
from tests.adapters.memory_backend import StoredRun
from tests.simulation.oracle import allowed_statuses
from tests.simulation.reduced import ReducedChecks, statistics_in_line
from tests.simulation.server import value_of
from tests.simulation.topics import TopicChecks

if TYPE_CHECKING:
    from tests.simulation.coordinator import SimCoordinator
    from tests.simulation.processes import Process
    from tests.simulation.world import World


class ViolationError(AssertionError):
    """A guarantee does not hold."""


@dataclass(frozen=True)
class Accepted:
    """A record that `append` has taken."""

    lease_id: str
    writer: str
    kind: str
    chain: str
    poison: bool
    at: float


class Checks:
    """Remembers what must not go back.

    Attributes:
        ledger: every accepted record by its value.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.ledger: dict[int, Accepted] = {}
        self.cancels: dict[int, float] = {}
        self.endings: dict[str, int] = defaultdict(int)
        self.ended_at: dict[str, float] = {}
        self._epochs: dict[str, int] = {}
        self._verdicts: dict[str, tuple[int, Verdict]] = {}
        self._read: dict[tuple[str, str, int], int] = {}
        self._chains: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        self._tags: list[tuple[Process, str]] = []
        self._configs: list[tuple[Process, str]] = []
        self._generation = 0
        self._fenced_at: dict[str, float] = {}
        self._views: dict[str, View] = {}
        self._runs: dict[str, Run] = {}
        self._keeps_since = float("-inf")
        self.topics = TopicChecks(world)
        self.reduced = ReducedChecks(world)

    def expect(self, truth: bool, what: str) -> None:
        """Raises if it is not true."""
        if not truth:
            self.world.say("VIOLATION", what)
            raise ViolationError(what)

    # --- the ledger ---------------------------------------------------------------------------------

    def accepted(self, lease_id: str, writer: str, value: int, kind: str, chain: str, poison: bool) -> None:
        """A record is in the kernel (G3)."""
        self.ledger[value] = Accepted(lease_id, writer, kind, chain, poison, self.world.now)
        self._chains[lease_id][chain].append(value)

    def shared(self, process: Process, what: str, name: str) -> None:
        """A change of tags or config."""
        (self._tags if what == "tag" else self._configs).append((process, name))

    def recount(self) -> None:
        """The power was off: what was not synced may be gone, and is owed no more.

        So are records of a lease whose opening entry is gone before anybody read it.
        """
        files = self.world.disk.files
        there = {value for path, file in files.items() for value in _values(path, file.data)}
        known = {key for table, key in self.world.database.state if table == "leases"}
        known |= {path.split("/")[-2] for path, file in files.items() if _opens(path, file.data)}
        self.ledger = {
            value: record
            for value, record in self.ledger.items()
            if (value in there and record.lease_id in known and record.kind != "files")
            or self._arrived(value)
        }

    def _arrived(self, value: int, *, or_spooled: bool = False) -> bool:
        world = self.world
        for book in self._books():
            record = self.ledger.get(value)
            if self.reduced.reduces(book, value):
                if record is not None and record.at > self._fenced_at.get(record.lease_id, float("inf")):
                    return True  # what a replaced rank goes on to write is left out
                return self.reduced.arrived(book, value, or_spooled=or_spooled)
        return bool(world.backend(world.plan.mode).arrived[value]) or value in world.set_aside

    # --- after every step ---------------------------------------------------------------------------

    def after_turn(self, coordinator: SimCoordinator) -> None:
        """The book, against what may be in it."""
        self.expect(coordinator.generation >= self._generation, "R3: the generation went back")
        self._generation = coordinator.generation
        self.expect(not self.world.server.order_broken, f"G6: {self.world.server.order_broken}")
        self.expect(not self.world.files.broken, self.world.files.broken)
        book = coordinator.book
        for run in book.runs:
            if self._runs.get(run.key) is run:
                continue
            self._runs[run.key] = run
            leases = book.leases_of(run.key)
            self._one_owner(run, leases)
            self.expect(run.epoch >= self._epochs.get(run.key, 0), f"epoch of {run.key} went back")
            self._epochs[run.key] = run.epoch
            self._verdict(run, leases)
        self.topics.after_turn(book)
        for cursor in book.cursors:
            self._cursor(coordinator, cursor)
        for lease in book.leases:
            if lease.end_reason == "superseded" and lease.fences is not None:
                self._fenced_at.setdefault(lease.lease_id, self.world.now)

    def _one_owner(self, run: Run, leases: tuple[Lease, ...]) -> None:
        owners = [lease for lease in leases if lease.role == "owner" and lease.alive]
        self.expect(len(owners) <= 1, f"G2: {run.key} has {len(owners)} live owners")
        newest = [lease for lease in leases if lease.role == "owner" and lease.epoch == run.epoch]
        self.expect(len(newest) <= 1, f"G2: two owners with epoch {run.epoch}")
        self.expect(all(lease.epoch <= run.epoch for lease in leases), "a lease is ahead of its Run")

    def _verdict(self, run: Run, leases: tuple[Lease, ...]) -> None:
        epoch, before = self._verdicts.get(run.key, (run.epoch, None))
        if epoch != run.epoch:  # it was taken up again, and has ended within the same turn
            before = None
        if run.verdict is None:
            self._verdicts.pop(run.key, None)
            self.expect(run.status == "RUNNING", f"{run.key} is {run.status} without a verdict")
            return
        self.expect(run.status == run.verdict.status, "status and verdict differ")
        if before is None or before != run.verdict:
            self.endings[run.key] += 1
            self.ended_at[run.key] = self.world.now
            self.world.say("verdict", f"{run.external_id}: {run.verdict.status}, {run.verdict.reason}")
        if before is None:
            self._may_end(run, leases)
        else:
            same = before == run.verdict or run.cancelled
            self.expect(same, f"R10: the verdict of {run.key} changed from {before} to {run.verdict}")
        self._verdicts[run.key] = run.epoch, run.verdict

    def _may_end(self, run: Run, leases: tuple[Lease, ...]) -> None:
        """G1, by what the owner's process has really done."""
        if run.cancelled or run.owner is None or run.launcher_gone_at is not None or self.world.powered_off:
            return
        owner = self.world.leases.get(run.owner)
        self.expect(owner is not None, f"G1: {run.key} is ended by nobody")
        assert owner is not None
        done = owner.truth.ended is not None or owner.truth.died is not None or owner.truth.execed is not None
        launcher = self.world.launchers.get(owner.actor.job)
        waits = launcher is not None and not launcher.gone and launcher.attempt < launcher.restarts
        early = waits and owner.job.launcher is not None and run.status != "COMPLETED"
        self.expect(not early, f"R10: {run.status} while the launcher has restarts left")
        self.expect(done, f"G1: {run.key} became {run.status} while its owner {owner.name} was at work")

    def _cursor(self, coordinator: SimCoordinator, cursor: Cursor) -> None:
        """G6: a cursor has passed only what is at its target or set aside."""
        if cursor.target != "run":
            return
        lease = coordinator.book.leases.get(cursor.lease_id)
        if lease is not None and cursor.kind == "metrics" and lease.rank_metrics == "reduce":
            return  # what it has passed is left out
        for segment, offset in cursor.offsets.items():
            key = cursor.lease_id, cursor.stream, segment
            known = self._read.get(key, 0)
            if offset <= known or lease is None:
                continue
            file = self.world.disk.files.get(f"{lease.folder}/{segment_name(cursor.stream, segment)}")
            if file is None:
                continue
            self._read[key] = offset
            for line in scan(bytes(file.data[known:offset]), final=True).lines:
                if statistics_in_line(line):
                    continue
                _, value = value_of(line)
                self.expect(self._arrived(value), f"G6: the cursor of {key} passed {value}, which is nowhere")

    def reported(self, stored: StoredRun, report: StatusReport) -> None:
        """The server is being told how a Run ended."""
        found = (
            (book, run) for book in self._books() for run in book.runs if run.id == stored.id and run.verdict
        )
        book, run = next(found, (None, None))
        if book is None or run is None or run.verdict is None:
            raise ViolationError(f"a status of Run {stored.id} is sent, and nobody has decided it")
        self.world.say("status", f"{run.external_id}: {report.status}")
        ended = self.ended_at.get(run.key, 0.0)
        server = self.world.server
        asked = any(at >= ended - KNOWN_S for at, _ in server.questions[stored.id])
        # An answer that was on its way for all of the last question's time kept it from being asked.
        hung = any(start <= ended and end > ended + LAST_S for start, end in server.hung[run.key])
        # Nothing leaves before it is on disk: one that was full has held up the question and the status.
        held = self.world.now < self._keeps_since + LAST_S
        self.expect(asked or hung or held, "R10: a status is sent, and nobody has asked for a cancel before")
        decided = run.cancelled or report.status == run.verdict.status  # a cancel may cross the report
        self.expect(decided, "another status than the verdict's is sent")
        for lease in book.leases_of(run.key):
            member = lease.role in ("owner", "worker") and lease.epoch == run.epoch
            # A worker may end while the status is on its way already.
            before = not lease.alive and (lease.ended_ms or 0) <= (run.ended_ms or 0)
            if member and lease.end_reason != "superseded" and before:
                self._delivered(lease, "G6: the status is sent before")

    def _delivered(self, lease: Lease, what: str) -> None:
        process = self.world.leases.get(lease.lease_id)
        for chain, values in self._chains[lease.lease_id].items():
            if "." in chain or chain == "files":  # of a forked child, which may outlive its parent; R10
                continue
            for value in reversed(values[-20:]):
                if value in self.ledger:
                    name = process.name if process else lease.lease_id
                    self.expect(self._arrived(value), f"{what} {value} of {name}/{chain} is delivered")

    def told(self, process: Process, view: View) -> None:
        """What a process was told."""
        if view.state == "active" and process.actor.verb == "attach":
            self.expect(view.role != "owner", "R5: attach() owns")

    def told_safe(self, process: Process, view: View) -> None:
        """R11: the last one out was told that everything is safe."""
        if view.last_out and view.drained and view.state == "ended" and process.lease is not None:
            for chain, values in self._chains[process.lease.lease_id].items():
                if "." not in chain:
                    for value in values:
                        self.expect(
                            self._arrived(value) or value not in self.ledger,
                            f"R11: {process.name} was told that all is safe, but {value} is not",
                        )

    def folder_goes(self, folder: str) -> None:
        """G3: a lease's folder goes only when everything in it has arrived."""
        lease_id = folder.rsplit("/", 1)[-1]
        process = self.world.leases.get(lease_id)
        refused = process is not None and process.lease is not None and self._refused(lease_id)
        for path, file in self.world.disk.files.items():
            if path.startswith(f"{folder}/") and not refused:
                for value in _values(path, file.data):
                    there = self._arrived(value, or_spooled=True)
                    self.expect(there, f"G3: {path} is removed with {value}, which is nowhere")

    def blobs_go(self, value: int) -> None:
        """G3: the content of a file goes when it has arrived, or is set aside."""
        gone = self.world.powered_off or self._arrived(value)
        self.expect(gone, f"G3: the content of file {value} is removed, which is nowhere")

    def _refused(self, lease_id: str) -> bool:
        leases = [book.leases.get(lease_id) for book in self._books()]
        return any(lease is not None and not lease.participant for lease in leases)

    def _books(self) -> list[Book]:
        """Of the coordinator, then of one beside it, which acts until the fence stops it."""
        both = (self.world.coordinator, self.world.usurped)
        return [coordinator.book for coordinator in both if coordinator is not None]

    def cancelled(self, run_id: int) -> None:
        """Somebody pressed stop on the server."""
        self.cancels.setdefault(run_id, self.world.now)

    def logged(self, event: str, fields: dict[str, str]) -> None:
        """A line of the coordinator's log."""
        self.world.say("log", f"{event} {fields}")
        if event == "keeps_again":
            self._keeps_since = self.world.now
        # A violation that was found while an effect was carried out comes back as this line, too.
        # Another coordinator may take a file away between this one's look at its lock and its reading.
        taken = self.world.usurped is not None and fields.get("error", "").startswith("FileNotFoundError")
        taken = taken or fields.get("error", "").startswith("DeadError")
        self.expect(event != "effect_failed" or taken, f"an effect failed: {fields}")

    # --- at the end ---------------------------------------------------------------------------------

    def unrest(self) -> str:
        """Why the coordinator does not come to rest."""
        coordinator = self.world.coordinator
        if coordinator is None:
            return "there is none"
        runs = [
            (run.external_id, run.status, run.reported, run.opening, run.open_trouble)
            for run in coordinator.book.runs
        ]
        leases = [
            (lease.lease_id[-3:], lease.state, lease.role, lease.removed) for lease in coordinator.book.leases
        ]
        alive = [process.name for process in self.world.processes if not process.gone]
        return f"runs {runs}, leases {leases}, alive {alive}"

    def at_the_end(self) -> None:
        """Faults are over, everybody is dead, the coordinator is at rest."""
        coordinator = self.world.coordinator
        if coordinator is None:
            raise ViolationError("there is no coordinator at the end")
        for value, record in self.ledger.items():
            if self._refused(record.lease_id):
                continue
            self._one_record(value, record)
        self._names_are_apart(coordinator)
        self._runs_are_apart(coordinator.book)
        self.topics.at_the_end(coordinator.book)
        if not self.world.powered_off:
            refused = {value for value, each in self.ledger.items() if self._refused(each.lease_id)}
            self.reduced.at_the_end(coordinator.book, self._fenced_at, refused)
        for run in coordinator.book.runs:
            self._one_run(coordinator, run)
        for lease in coordinator.book.leases:
            left = any(path.startswith(f"{lease.folder}/") for path in self.world.disk.files)
            self.expect(not left, f"the folder of lease {lease.lease_id} of {lease.label} is left behind")

    def _runs_are_apart(self, book: Book) -> None:
        """R4: a trial is not in its parent's Run, and the next start of a job not in one of the first."""
        if self.world.powered_off:
            return  # what the book knew of processes may be gone
        for process in self.world.processes:
            run = self._run_in(book, process)
            if run is None:
                continue
            for other in self.world.processes:
                its = self._run_in(book, other)
                parent = process.actor.asks and any(map(other.identity.same_process, process.parents))
                former = process.start > other.start > 0 and process.actor.run is None
                former = former and not self._cannot_be_told(book, process, other)
                if its is not None and (parent or former):
                    self.expect(its != run, f"R4: {process.name} is in the Run of {other.name}")

    def _cannot_be_told(self, book: Book, process: Process, other: Process) -> bool:
        """Whether nobody could know which start of a job one of the two belongs to (R4).

        A rank that the first start never had may be a late one of it, if it claims first. A claim that is
        read when its process is dead and the next start is under way may be one of that.
        """
        had = {each.actor.rank for each in self.world.processes if each.start == other.start}
        unseen = process.actor.rank not in had
        lease = book.leases.get(other.lease.lease_id) if other.lease is not None else None
        died = other.truth.died
        late = lease is not None and died is not None and (lease.granted_at or 0.0) > died[0]
        return unseen or late

    def _run_in(self, book: Book, process: Process) -> str | None:
        lease = book.leases.get(process.lease.lease_id) if process.lease is not None else None
        return lease.run if lease is not None else None

    def _one_record(self, value: int, record: Accepted) -> None:
        if any(self.reduced.reduces(book, value) for book in self._books()):
            return  # looked at with all others of its step
        arrived = self.world.backend(self.world.plan.mode).arrived[value]
        aside = value in self.world.set_aside
        what = f"{record.kind} record {value} of {record.writer}, accepted at {record.at - 1000:.2f}"
        if record.poison and self.world.plan.mode == "pluto":
            self.expect(aside and not arrived, f"G6: the refused {what} is not set aside")
            return
        self.expect(bool(arrived), f"G3: {what} is lost")
        again = record.kind == "files" and self.world.powered_off  # told before its copy was torn
        self.expect(not aside or again, f"G6: {what} is delivered and set aside")

    def _one_run(self, coordinator: SimCoordinator, run: Run) -> None:
        self.expect(run.ended and run.reported, f"{run.external_id} has no end: {run.status}")
        history = coordinator.book.histories.get(run.key)
        refused = (
            [event.detail for event in history.events if event.name == "illegal_move"] if history else []
        )
        self.expect(not refused, f"{run.external_id} was to make an illegal move: {refused}")
        allowed = allowed_statuses(self.world, coordinator.book, run)
        self.expect(
            run.status in allowed, f"G7: {run.external_id} is {run.status}, the oracle says {allowed}"
        )
        if run.target.mode == "local":
            return
        stored = self.world.server.runs[run.id or 0]
        # The server may have cancelled with a sign of life whose answer came to nobody, or too late.
        server = self.world.server
        late = any(
            start <= at < end for at in server.reports[stored.id] for start, end in server.hung[run.key]
        )
        unheard = stored.status == "CANCELLED" and (late or server.unheard_cancels[stored.id])
        self.expect(
            stored.status == run.status or unheard,
            f"the server has {stored.status} of a Run that is {run.status}",
        )
        sent, unknown = len(stored.reports), self.world.server.unknown_reports[stored.id]
        kills = self.world.counts["coordinator_killed"]
        self.expect(
            sent <= self.endings[run.key] + unknown + kills,
            f"R10: {sent} reports of {self.endings[run.key]} endings",
        )
        self._repeats(coordinator, run)
        self._merged(coordinator, run, stored)

    def _repeats(self, coordinator: SimCoordinator, run: Run) -> None:
        """G6: rows of data and console are there once, or counted."""
        extra = sum(
            self.world.server.arrived[value] - 1
            for value, record in self.ledger.items()
            if record.kind != "metrics"
            and self._run_of(coordinator, record) == run.key
            and self.world.server.arrived[value]
        )
        extra += sum(
            self.world.files.asked_again(value)
            for value, record in self.ledger.items()
            if record.kind == "files" and self._run_of(coordinator, record) == run.key
        )
        lost_count = self.world.powered_off
        self.expect(
            extra <= run.repeats or lost_count, f"G6: {extra} rows are there again, counted {run.repeats}"
        )

    def _run_of(self, coordinator: SimCoordinator, record: Accepted) -> str | None:
        lease = coordinator.book.leases.get(record.lease_id)
        return lease.run if lease is not None else None

    def _merged(self, coordinator: SimCoordinator, run: Run, stored: StoredRun) -> None:
        """G9: no change of tags or config is lost; tags beyond the limit are refused, with an event."""
        if self.world.powered_off:
            return
        config = msgspec.json.decode(msgspec.json.encode(stored.config))
        for changes, there, what in (
            (self._tags if len(stored.tags) < MAX_TAGS else [], set(stored.tags), "tag"),
            (self._configs, set(config), "config value"),
        ):
            for process, name in changes:
                lease = coordinator.book.leases.get(process.lease.lease_id) if process.lease else None
                told = process.lease is not None and not process.lease.unsaid
                if lease is None or lease.run != run.key or not told or lease.end_reason == "superseded":
                    continue
                self.expect(name in there, f"G9: the {what} {name} of {process.name} is lost")

    def _names_are_apart(self, coordinator: SimCoordinator) -> None:
        """G10: one series, one participant; R7: records of a superseded lease after its fence are apart."""
        writers: dict[str, str] = {}
        for value, series in self.world.server.series.items():
            record = self.ledger.get(value)
            lease = coordinator.book.leases.get(record.lease_id) if record is not None else None
            if record is None or lease is None or record.kind == "console":
                continue
            late = record.at > self._fenced_at.get(lease.lease_id, float("inf"))
            named = f"/attempt{lease.attempt}" in series
            self.expect(named or not late, f"R7: late record {value} of {lease.label} is in {series}")
            who = _writer(lease) + (" superseded" if lease.end_reason == "superseded" else "")
            known = writers.setdefault(series, who)
            self.expect(series not in self.reduced.names, f"G10: {series} is written by all ranks and {who}")
            apart = known.split()[0] == who.split()[0]
            self.expect(apart, f"G10: {series} is written by {known} and {who}")


def _writer(lease: Lease) -> str:
    """Whose series it is: a participant's, and without a label or rank that of one process."""
    named = lease.role == "owner" or lease.rank is not None or lease.opened.label is not None
    return lease.participant if named else f"{lease.participant}@{lease.identity.pid}-{lease.identity.start}"


def _opens(path: str, data: bytes | bytearray) -> bool:
    """Whether this is the beginning of a lifecycle stream."""
    return path.endswith(segment_name("lifecycle", 1)) and bool(scan(bytes(data), final=True).lines)


def _values(path: str, data: bytes | bytearray) -> list[int]:
    if "lifecycle" in path or "/blobs/" in path:
        return []
    lines = scan(bytes(data), final=True).lines
    return [value_of(line)[1] for line in lines if not statistics_in_line(line)]
