"""Opening: Runs on their backend, created once, reopened only where a caller asked for that (R8, G8).

The book comes first: the backend is asked only for Runs that this coordinator does not know, or knows as
ended there. While the backend does not answer, the Run is provisional: granted, without ids. The request is
repeated with the same external id until there is an answer, so a lost answer makes no second Run.

`Opening` sends the requests; `OpeningAnswers` puts into the book what an opened Run has: ids, tags, config,
and for one that existed, what was known of it before. `Absences` ends the wait for a Run of another node that
no node makes. Where there is no server, the node that made the Run tells its ids in the cluster store (R12).
"""

from __future__ import annotations

from typing import assert_never

import msgspec

from pluto_dist.core.machine.cluster import Clusters
from pluto_dist.core.machine.context import Context, Shared
from pluto_dist.core.machine.ownership import Succession
from pluto_dist.core.rules.changes import merge_json
from pluto_dist.core.rules.claims import goes_on
from pluto_dist.core.rules.participants import first_line, line_behind, node_name, steps_reached
from pluto_dist.core.rules.states import NO_END
from pluto_dist.core.values.backend import (
    OpenRequest,
    Reached,
    Refused,
    RunOpened,
    Unavailable,
    Want,
    backoff_s,
    kind_of,
)
from pluto_dist.core.values.book import Config, cursor_key, past_key
from pluto_dist.core.values.document import LeaseShown, restore, show
from pluto_dist.core.values.effects import OpenRun
from pluto_dist.core.values.events import OpenEnded
from pluto_dist.core.values.ids import RunRef, Scheduled
from pluto_dist.core.values.lifecycle import Claim, Fork, Origin
from pluto_dist.core.values.records import Cursor, Lease, Prior, Run, Verdict

SEAT_WAIT_S = 0.5  # an answer of the cluster store wakes it before
KEY_WAIT_S = 1.0  # a key usually comes with the next message
REFUSED_RETRY_S = 30.0  # a Run that holds data already is offered again, in case the cause is mended
LONGEST_ID = 255  # characters the server takes


class Opening:
    """Requests to open Runs, and their answers."""

    def __init__(self, context: Context, shared: Shared, clusters: Clusters) -> None:
        self._context = context
        self._book = context.book
        self._clusters = clusters
        self._answers = OpeningAnswers(context, shared)
        self._succession = Succession(context)
        self._absences = Absences(context)
        self._asked: set[str] = set()
        self._not_before: dict[str, float] = {}

    def create(self, lease: Lease, want: Want) -> Run:
        """Makes a Run for a claim in the book and asks the backend for it.

        For a Run that another node owns, this node gives no tags, config or lineage.
        """
        claim, joins = lease.opened, want == "join"
        key = claim.generated_id
        external = claim.run.external_id if claim.run is not None and claim.run.external_id else key
        if claim.target.mode == "local" and claim.job.node_rank > 0 and claim.cluster is None:
            external = f"{external}-{node_name(claim)}"  # a store does not tell nodes of one job apart
        run = self._book.runs.put(
            key,
            Run(
                key=key,
                target=claim.target,
                project=claim.project,
                name=claim.name or external,
                external_id=external,
                asked=(claim.run,) if claim.run is not None else (),
                want=want,
                job_key=claim.job.key,
                attempt=claim.job.attempt,
                created_ms=claim.wall_ms,
                boot_id=self._context.boot_id,
                tags=() if joins else claim.tags,
                fork=None if joins else claim.fork,
                opener=lease.lease_id,
                open_since=self._context.now.at,
                relay=node_name(claim) if joins else "",
                next_line=first_line(claim) if joins else 1,
                cluster=claim.cluster,
                topics_at=claim.topics_at,
                scheduled=claim.job.scheduled,
            ),
        )
        config = b"{}" if joins else bytes(claim.config)
        self._book.configs.put(key, Config(body=config, given=config))
        self._context.touch(key)
        return self._ask(run)

    def reopen(self, run: Run, lease: Lease) -> Run:
        """Takes an ended Run up again; the backend is asked if the end may have reached it."""
        assert run.verdict is not None  # noqa: S101 # only ended Runs are reopened
        asks = run.telling and run.target.mode == "pluto" and not run.opening
        job = lease.opened.job
        self._context.note(run.key, "reopened", was=run.status)
        run = self._context.change_run(
            run,
            **_unended(run),
            cluster=lease.opened.cluster,
            resumed=True,
            owner=None,
            job_key=job.key,
            attempt=job.attempt,
        )
        if not asks:
            return run
        run = self._context.change_run(
            run,
            opening=True,
            provisional=False,
            want="resume",
            opener=lease.lease_id,
            open_since=self._context.now.at,
            open_failures=0,
            asked_ms=0,
        )
        return self._ask(run)

    def take_over(self, run: Run, lease: Lease) -> Run:
        """Turns a relay's Run into this node's own, because the owner is here now; asks the backend again."""
        claim = lease.opened
        want: Want = "either" if goes_on(claim) else "create"
        if run.id is not None or (claim.run is not None and claim.run.external_id is None):
            want = "resume"
        self._context.note(run.key, "owned_here")
        tags = tuple(dict.fromkeys((*run.tags, *claim.tags))) if run.part_of else claim.tags
        if not run.part_of:  # the server has what the nodes before have set; a part has it itself
            self._book.configs.put(run.key, Config(body=bytes(claim.config), given=bytes(claim.config)))
        run = self._context.change_run(
            run,
            **_unended(run),
            tags=tags,
            relay="",
            cluster=claim.cluster,
            opening=True,
            provisional=False,
            want=want,
            fork=claim.fork,
            job_key=claim.job.key,
            attempt=claim.job.attempt,
            opener=lease.lease_id,
            open_since=self._context.now.at,
            open_failures=0,
            asked_ms=0,
        )
        return self._ask(run)

    def ended(self, event: OpenEnded) -> Refused | None:
        """Takes the backend's answer; a refusal is returned, and `withdraw` is to follow."""
        run = self._book.runs.get(event.run)
        self._asked.discard(event.run)
        if run is None or not run.opening:
            return None
        match event.result:
            case RunOpened() as opened:
                self._not_before.pop(event.run, None)
                self._answers.apply(run, opened)
            case Unavailable(reason=reason, after_s=after_s, absent=absent, untouched=untouched):
                if untouched:  # the next try is the first again, and need not look for traces of this one
                    run = self._context.change_run(run, asked_ms=0)
                if self._absences.left_alone(run, absent=absent):
                    self._ask(self._succession.alone(run))
                else:
                    self._unavailable(run, reason, after_s or 0.0)
            case Refused() as refused:
                return self._refused(run, refused)
            case _:
                assert_never(event.result)
        return None

    def withdraw(self, run: Run) -> None:
        """Undoes an opening that was refused: an ended Run is as it was before, a new one is deleted."""
        before = run.prior
        if before is None or run.id is None:
            self._book.delete_run(run.key)
            self.forget(run.key)
            return
        self._context.change_run(
            run,
            opening=False,
            status=before.verdict.status,
            verdict=before.verdict,
            ended_ms=before.ended_ms,
            job_key=before.job_key,
            attempt=before.attempt,
            telling=True,
            reported=True,
            prior=None,
        )

    def key_given(self, key_id: str) -> None:
        """Asks the backend again for Runs that waited for this key."""
        for run in self._book.runs.opening:
            if run.target.key_id == key_id and run.key not in self._asked:
                self._ask(run)

    def join_instead(self, run: Run, lease: Lease) -> None:
        """Turns the Run into one of another node's: the server is only asked for its ids."""
        if run.want == "join" or not run.opening:
            return
        self._book.configs.put(run.key, Config())
        changes: dict[str, object] = {
            "want": "join",
            "relay": node_name(lease.opened),
            "tags": (),
            "fork": None,
        }
        self._ask(self._context.change_run(run, **changes))

    def wake(self) -> None:
        """Repeats requests that are due, and makes Runs provisional that have waited long enough."""
        now = self._context.now.at
        for run in self._book.runs.opening:
            if not run.provisional and self._is_claimed(run) and now >= self._patience_ends(run):
                run = self._context.change_run(run, provisional=True)  # noqa: PLW2901 # the same Run
                self._context.note(run.key, "provisional", because=run.open_trouble)
            due = now >= self._not_before.get(run.key, 0.0) or (
                run.cluster is not None and run.open_failures == 0
            )
            if run.key not in self._asked and due:
                self._ask(run)

    def deadline(self) -> float | None:
        """When `wake` has something to do."""
        deadlines: list[float] = []
        for run in self._book.runs.opening:
            if not run.provisional and self._is_claimed(run):
                deadlines.append(self._patience_ends(run))
            if run.key not in self._asked:
                deadlines.append(self._not_before.get(run.key, 0.0))
        return min(deadlines, default=None)

    def forget(self, run: str) -> None:
        self._asked.discard(run)
        self._absences.forget(run)
        self._not_before.pop(run, None)

    def _patience_ends(self, run: Run) -> float:
        claim = self._claim(run)
        return run.open_since + (claim.wait_s if claim is not None else 0.0)

    def _is_claimed(self, run: Run) -> bool:
        """Whether a claim may own the Run, so that it becomes provisional; one that joins waits for a Run."""
        claim = self._claim(run)
        return claim is None or claim.verb == "init"

    def _claim(self, run: Run) -> Claim | None:
        lease = self._book.leases.get(run.opener)
        return lease.opened if lease is not None else None

    def _ask(self, run: Run) -> Run:
        """Asks the backend; the time of the first try is kept, since a repetition may meet its traces."""
        if not self._context.may_talk(run):
            self._not_before[run.key] = self._context.now.at + KEY_WAIT_S
            return run
        if not self._clusters.may_open(run):
            self._clusters.look(run)
            self._not_before[run.key] = self._context.now.at + SEAT_WAIT_S
            return run
        shared = run.target.mode == "local" and run.cluster is not None
        made = self._clusters.identity(run) if shared else None
        if shared and made is None and run.want == "join":
            return self._unmade(run)
        first = run.part_of or (made.key if made is not None else "")
        part_of = first if first != run.key else ""
        self._asked.add(run.key)
        now_ms = self._context.now.wall_ms
        asked_s = max(0, now_ms - run.asked_ms) / 1000 if run.asked_ms else None
        if asked_s is None:
            run = self._context.change_run(run, asked_ms=now_ms)
        exists = run.want in ("resume", "join")
        ref = run.asked[0] if exists and run.asked else RunRef()
        known_id = run.id if run.id is not None else ref.id
        if part_of and made is not None:
            known_id, ref = made.id, RunRef(display_id=made.display_id)
        external = known_id is None and ref.display_id is None
        fork = run.fork if not exists else None
        parent = self._parent(run, fork) if fork is not None else None
        config = self._book.configs.get(run.key) or Config()
        self._context.emit(
            OpenRun(
                run=run.key,
                request=OpenRequest(
                    key=run.key,
                    target=run.target,
                    want=run.want,
                    project=run.project,
                    name=(made.name or run.name) if part_of and made is not None else run.name,
                    external_id=run.external_id if external or part_of else None,
                    id=known_id,
                    display_id=ref.display_id if known_id is None or part_of else None,
                    tags=run.tags,
                    config=config.body,
                    parent=_known(fork.parent, parent) if fork is not None else None,
                    parent_record=show(self._book, parent) if parent is not None else b"",
                    fork_step=fork.step if fork is not None else None,
                    launch=self._launch(run),
                    scheduled=self._scheduled(run),
                    created_ms=run.created_ms,
                    given_id=self._given_id(run),
                    asked_s=asked_s,
                    shared=shared,
                    part_of=part_of,
                ),
                origin=self._origin(run) if not exists else None,
            )
        )
        return run

    def _unmade(self, run: Run) -> Run:
        """Waits for the node that makes the Run to say so in the cluster store; none waits for ever (R12)."""
        self._clusters.look(run)
        self._not_before[run.key] = self._context.now.at + SEAT_WAIT_S
        if not self._absences.left_alone(run, absent=True):
            return run
        run = self._succession.alone(run)
        if self._clusters.is_away(run):  # then it cannot be known whether another node has made it
            apart = f"{run.external_id}-{self._node_of(run)}"
            run = self._context.change_run(run, external_id=apart, want="create", cluster=None)
        return self._ask(run)

    def _node_of(self, run: Run) -> str:
        claim = self._claim(run)
        return node_name(claim) if claim is not None else ""

    def _origin(self, run: Run) -> Origin | None:
        claim = self._claim(run)
        return claim.origin if claim is not None and claim.verb == "init" else None

    def _given_id(self, run: Run) -> str:
        """The id that torchrun has kept from a launch which names no Run."""
        claim = self._claim(run)
        return claim.job.given_id if claim is not None and claim.run is None else ""

    def _launch(self, run: Run) -> str:
        claim = self._claim(run)
        return claim.job.launch if claim is not None and claim.verb == "init" else ""

    def _scheduled(self, run: Run) -> Scheduled | None:
        claim = self._claim(run)
        return claim.job.scheduled if claim is not None and claim.verb == "init" else None

    def _parent(self, run: Run, fork: Fork) -> Run | None:
        ref = fork.parent
        for other in self._book.runs:
            named = other.external_id == ref.external_id and other.project == run.project
            same = other.id == ref.id if ref.id is not None else other.display_id == ref.display_id
            if other.target == run.target and (named if ref.external_id is not None else same):
                return other
        return None

    def _unavailable(self, run: Run, reason: str, at_least_s: float) -> None:
        now = self._context.now
        self._not_before[run.key] = now.at + max(at_least_s, backoff_s(run.open_failures, now.jitter))
        self._context.change_run(run, open_failures=run.open_failures + 1, open_trouble=reason)

    def _refused(self, run: Run, refused: Refused) -> Refused | None:
        if not run.provisional:
            return refused
        if run.id is None and refused.error in ("RunExistsError", "RunNotFoundError"):
            # Training has gone on under this name meanwhile: the data is kept, under an id of its own.
            suffix = f"-{run.key[-6:]}"
            fresh = run.external_id[: LONGEST_ID - len(suffix)] + suffix
            self._context.change_run(run, external_id=fresh, want="create", asked_ms=0)
            self._context.note(run.key, "renamed", run_id=fresh, because=refused.message)
            self._not_before[run.key] = self._context.now.at
            self._ask(self._book.runs[run.key])
        else:
            self._unavailable(run, refused.message, REFUSED_RETRY_S)
        return None


def _unended(run: Run) -> dict[str, object]:
    """Fields of a Run that is taken up again, from its end; a relay has one only where all nodes made it."""
    before = Prior(run.verdict, run.ended_ms, run.job_key, run.attempt) if run.verdict is not None else None
    return {**NO_END, "prior": before}


def _known(ref: RunRef, parent: Run | None) -> RunRef:
    """The parent by its number, if known: the server cannot look up another id without touching the Run."""
    return ref if parent is None or parent.id is None else RunRef(id=parent.id)


class OpeningAnswers:
    """Takes over opened Runs: keeps what the backend has, and what was changed here since the request."""

    def __init__(self, context: Context, shared: Shared) -> None:
        self._context = context
        self._book = context.book
        self._shared = shared

    def apply(self, run: Run, opened: RunOpened) -> None:
        """Takes over a Run that the backend has opened."""
        twin = self._twin(run, opened)
        if twin is not None and run.epoch == 0:
            self._context.change_run(twin, asked=(*twin.asked, *run.asked))
            self._book.delete_run(run.key)
            return
        known = run.prior is not None
        if opened.record and not known:
            run = self._taken_over(run, opened.record)
        prior = run.prior
        goes_on = prior is None and not run.relay and not run.ended and opened.resumed
        if goes_on and opened.was_status not in (None, "RUNNING"):
            prior = Prior(Verdict(opened.was_status, "as it was before it was reopened"))
        found_running = goes_on and opened.was_status == "RUNNING" and run.cluster is None
        run = self._context.change_run(
            run,
            opening=False,
            provisional=False,
            found_running=found_running,
            id=opened.id,
            display_id=opened.display_id,
            project=opened.project,
            url=opened.url,
            name=opened.name or run.name,
            resumed=run.resumed or opened.resumed,
            prior=prior,
            fork_run_id=opened.fork_run_id if opened.fork_run_id is not None else run.fork_run_id,
            fork_step=opened.fork_step if opened.fork_run_id is not None else run.fork_step,
            created_ms=opened.created_ms or run.created_ms,
            open_trouble="",
            asked_ms=0,
            status=opened.was_status if run.relay and opened.was_status else run.status,
            part_of=opened.part_of or run.part_of,
        )
        if opened.namesake and run.opener in self._book.leases:
            self._context.change_lease(self._book.leases[run.opener], namesake=opened.namesake)
        if opened.resumed:
            self._join(self._behind(run, opened.reached), opened, known=known)
        else:
            self._inherit(run, opened)
        self._context.note(run.key, "opened", id=str(opened.id), resumed=str(opened.resumed).lower())

    def _behind(self, run: Run, reached: Reached) -> Run:
        """Sets automatic steps and console lines behind those that the Run has, so that none is overwritten.

        A node that joins another's Run goes on behind its own series only: the job has just begun there.
        """
        opener = self._book.leases.get(run.opener)
        side = opener is not None and (opener.opened.verb == "attach" or opener.opened.wanted == "side")
        label = opener.opened.label if opener is not None and side else None
        behind, of_series = steps_reached(reached.series, label)
        known = (run.steps, of_series, reached.participants)
        steps = {name: max(each.get(name, 0) for each in known) for each in known for name in each}
        first = first_line(opener.opened) if opener is not None and run.relay else 1
        return self._context.change_run(
            run,
            steps=steps,
            behind=run.behind if run.relay else max(run.behind, behind),
            next_line=max(run.next_line, line_behind(reached, first)),
        )

    def _twin(self, run: Run, opened: RunOpened) -> Run | None:
        """The record of the same Run that was opened under another id.

        A number in the store is not enough for parts of Runs: it is another store that has given it.
        """
        same = self._book.runs.numbered(opened.part_of or opened.id)
        others = (other for other in same if other.key != run.key and other.target == run.target)
        if opened.part_of:
            return next((other for other in others if other.part_of == opened.part_of), None)
        return next((other for other in others if other.id == opened.id and not other.part_of), None)

    def _taken_over(self, run: Run, record: bytes) -> Run:
        """Restores a local Run from its document in the store, under its old key."""
        papers = restore(record)
        old = papers.run
        config = self._book.configs.get(run.key) or Config()
        alone = run.topics_at is None  # else the store has numbers, items and progress
        for topic in papers.topics if alone else ():  # numbers go on behind what only an older database had
            if topic.name not in self._book.topics_of(old.key):
                self._book.put_topic(msgspec.structs.replace(topic, gone=topic.last, parts=()))
        for reader in papers.readers if alone else ():
            if reader.key not in self._book.readers:
                self._book.put_reader(msgspec.structs.replace(reader, held={}))
        self._book.move_leases(run.key, old.key, old.epoch)
        if old.key != run.key:  # the same after the loss of a database
            self._book.delete_run(run.key)
        self._book.configs.put(old.key, msgspec.structs.replace(config, sides=papers.sides))
        self._book.histories.put(old.key, papers.history)
        self._book.put_points(past_key(old.key), papers.points)
        for name, series in papers.series.items():
            self._book.put_series(old.key, name, series)
        for lease in papers.leases:
            self._resume_cursors(lease)
        return msgspec.structs.replace(
            run,
            key=old.key,
            external_id=old.external_id,
            asked=(*old.asked, *run.asked),
            epoch=old.epoch + run.epoch,
            **(_as_it_ended(old) if run.want == "join" else _reopened(old)),
            steps=papers.steps,
            attempts=old.attempts,
            fork_run_id=old.fork_run_id,
            fork_step=old.fork_step,
            next_line=old.next_line,
            rejected=old.rejected,
            first_reject=old.first_reject,
            repeats=old.repeats,
            damaged=old.damaged,
            part_of=old.part_of,
            round=old.round,
        )

    def _resume_cursors(self, shown: LeaseShown) -> None:
        """Restores the cursors of a lease that is still in the spool from the document."""
        if shown.lease_id not in self._book.leases:
            return
        counted = shown.delivered
        for stream, offsets in shown.cursors.items():
            kind = kind_of(stream)
            if kind is not None and cursor_key(shown.lease_id, "run", stream) not in self._book.cursors:
                cursor = Cursor(
                    lease_id=shown.lease_id, target="run", stream=stream, kind=kind, offsets=offsets
                )
                self._book.put_cursor(msgspec.structs.replace(cursor, delivered=counted, passed=counted))
                counted = 0

    def _join(self, run: Run, opened: RunOpened, *, known: bool) -> None:
        """Puts the claim's tags and config over those of a Run that existed."""
        config = self._book.configs.get(run.key) or Config()
        wanted = run.tags
        if opened.tags is not None:
            run = self._context.change_run(run, tags=opened.tags, pushed_tags=opened.tags)
            self._shared.add_tags(run.key, wanted)
        mine = b"{}" if known else config.given
        self._shared.rebase_config(run.key, opened.config or config.body, mine)

    def _inherit(self, run: Run, opened: RunOpened) -> None:
        """Puts the parent's config and, if asked for, its tags below those of a fork."""
        wanted = run.tags
        run = self._context.change_run(run, pushed_tags=opened.tags if opened.tags is not None else wanted)
        fork = run.fork
        if fork is None:
            return
        if fork.inherit_tags:
            self._shared.inherit_tags(run.key, opened.parent_tags)
        if fork.inherit_config and opened.parent_config != b"{}":
            config = self._book.configs.get(run.key) or Config()
            # The backend has only what the caller gave: it inherits nothing by itself.
            mine = merge_json(opened.parent_config, config.body)
            self._shared.rebase_config(run.key, b"{}", mine)


def _reopened(old: Run) -> dict[str, object]:
    return {"prior": Prior(old.verdict, old.ended_ms) if old.verdict is not None else None}


def _as_it_ended(old: Run) -> dict[str, object]:
    """Changes that keep a Run ended for a claim that only joins it (G8)."""
    over = ("status", "verdict", "ended_ms", "job_key", "attempt", "telling", "reported", "cancelled")
    return {"relay": old.relay, **{name: getattr(old, name) for name in over}}


OWNER_COMES_S = 30.0  # a node whose ranks have ended waits this long for the owner's node to make the Run


class Absences:
    """Since when the server answers that it has no such Run; an outage does not count."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._since: dict[str, float] = {}

    def left_alone(self, run: Run, *, absent: bool) -> bool:
        """Whether all ranks here have ended and, for long enough, no other node has made the Run."""
        now = self._context.now.at
        if not absent or not run.relay:
            self._since.pop(run.key, None)
            return False
        since = self._since.setdefault(run.key, now)
        members = self._context.situation(run).members
        if not members or any(member.alive for member in members):
            return False
        return now >= max(since, *(member.ended_at or 0.0 for member in members)) + OWNER_COMES_S

    def forget(self, run: str) -> None:
        self._since.pop(run, None)
