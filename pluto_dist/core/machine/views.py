"""Views: what a process gets to know of its lease and its Run, and whether it may leave (R11).

A `RunSituation` is the same for all leases of a Run and computed once for them; a `View` adds what is
the lease's own. A view is sent as the answer to a request, and unasked when something in it has changed that
the process should know. Numbers that change all the time (points, pending bytes) are only in answers.

`Questions` answers people and their scripts, and ends a Run for them (`finish --force`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import assert_never

import msgspec

from pluto_dist.core.machine.cluster import Clusters
from pluto_dist.core.machine.context import Context
from pluto_dist.core.machine.control import Controls
from pluto_dist.core.machine.delivery import Delivery
from pluto_dist.core.machine.store import DocumentWriter
from pluto_dist.core.machine.stragglers import Stragglers
from pluto_dist.core.rules.claims import sought
from pluto_dist.core.rules.participants import is_node, relieved_launchers
from pluto_dist.core.rules.verdict import Assessment, members_of, outlook
from pluto_dist.core.values.backend import Status
from pluto_dist.core.values.book import Config
from pluto_dist.core.values.document import Live, show
from pluto_dist.core.values.effects import Send
from pluto_dist.core.values.ids import classify_run_id
from pluto_dist.core.values.messages import (
    PROTOCOL,
    Answer,
    AskConfig,
    AskRun,
    AskRuns,
    AskStatus,
    ForceFinish,
    ForgetRun,
    HandOverKey,
    Question,
    Refusal,
    RunView,
    StopCoordinator,
    TakeItem,
    View,
)
from pluto_dist.core.values.records import Lease, Run, Verdict

FILES_MS = 10_000  # the status waits no longer for files than for anything else that is late (R10)
FOR_EVER_MS = 1 << 62
KEY_PROBLEM_S = 2.0  # a key that is refused for so long is a key problem
SPREAD_S = 0.25  # tags that many processes change one after the other reach all others together


class RunSituation(msgspec.Struct, frozen=True):
    """The part of a view that is the same for all leases of a Run.

    Attributes:
        members: owners and workers alive, whatever their epoch.
        safe: everything that ended participants wrote, tags and config are where they belong (R11).
        told: the final status has arrived too, or is not near, so that a process must not wait for it.
        asked: the last question before the status is answered, in a Run whose end waits for an exit code.
        relieved: leases of launchers that leave the console to processes below them.
    """

    run: RunView
    members: int
    safe: bool
    told: bool
    asked: bool
    relieved: frozenset[str]
    key_problem: str
    trouble: str
    stuck: str


class RunSituations:
    """Computes situations; keeps nothing."""

    def __init__(
        self,
        context: Context,
        delivery: Delivery,
        controls: Controls,
        document_writer: DocumentWriter,
        stragglers: Stragglers,
        clusters: Clusters,
    ) -> None:
        self._context = context
        self._book = context.book
        self._delivery = delivery
        self._controls = controls
        self._document_writer = document_writer
        self._stragglers = stragglers
        self._clusters = clusters

    def of(self, run: Run) -> RunSituation:
        """The situation of a Run now."""
        leases = self._book.leases_of(run.key)
        assessment = self._context.situation(run).assessment
        phase = assessment.phase
        # The status is waited for only where it is near: not while the launcher may restart the job, nor
        # for a Run that was closed and may be taken up again.
        told = run.reported if run.ended else phase not in ("finishing", "orphaned")
        told = told and (run.ended or not self._clusters.is_awaited(run))
        return RunSituation(
            run=self._run_view(run, assessment),
            members=len([lease for lease in leases if lease.role != "side" and lease.alive]),
            safe=self._all_delivered(run)
            and self._document_writer.safe(run)
            and self._controls.settled(run)
            and self._clusters.safe(run),
            told=told,
            asked=self._controls.asked(run),
            relieved=relieved_launchers(leases),
            key_problem=self._key_problem(run),
            trouble=self.trouble(run),
            stuck=self._stragglers.trouble(run.key),
        )

    def delivered(self, run: Run) -> bool:
        """Whether all records are delivered that the status waits for: of ended owners, workers and the node.

        A superseded lease may go on to write as long as its process lives; what it wrote so far counts. Files
        may be large, and storage is another service: they are waited for only for a while.
        """
        patient = self.files_by_ms(run) > self._context.now.wall_ms
        concerned = (lease for lease in self._book.left(run.key) if lease.role != "side" or is_node(lease))
        return all(
            self._passed(lease) or (not patient and self._delivery.only_files_left(lease))
            for lease in concerned
        )

    def files_by_ms(self, run: Run) -> int:
        """Until when the status waits for files, epoch milliseconds; for ever before there is a verdict."""
        return FOR_EVER_MS if run.decided_ms is None else run.decided_ms + FILES_MS

    def trouble(self, run: Run) -> str:
        """The reason why something does not go on, "" if all is well."""
        if run.target.mode == "pluto" and run.target.key_id not in self._context.keys:
            return "no API key in memory; any process of the Run hands it over"
        held_up = self._delivery.trouble(run.key) or self._clusters.trouble(run)
        return run.open_trouble or held_up or self._stragglers.trouble(run.key)

    def _key_problem(self, run: Run) -> str:
        """Why the server refuses the key; "" for a short refusal, which an overloaded server may give."""
        since, reason = self._context.key_problems.get(run.target.key_id, (0.0, ""))
        return reason if self._context.now.at >= since + KEY_PROBLEM_S else ""

    def _all_delivered(self, run: Run) -> bool:
        """Whether all ended leases are delivered, sides too: the last one out is their last chance (R11)."""
        return all(self._passed(lease) for lease in self._book.left(run.key) if lease.participant)

    def _passed(self, lease: Lease) -> bool:
        superseded = lease.end_reason == "superseded"
        return self._delivery.complete(lease) or (superseded and self._delivery.pending_bytes(lease) == 0)

    def _run_view(self, run: Run, assessment: Assessment) -> RunView:
        """A Run as its participants see it."""
        expected = assessment.expected if run.cluster is None else None  # others may know of a failure
        decided = run.verdict or expected
        return RunView(
            key=run.key,
            external_id=run.external_id,
            project=run.project,
            name=run.name,
            mode=run.target.mode,
            status=run.status,
            phase=assessment.phase,
            id=run.id,
            display_id=run.display_id,
            url=run.url,
            epoch=run.epoch,
            resumed=run.resumed,
            tags=run.tags,
            rejected=run.rejected + self._book.rejected(run.key),
            damaged=run.damaged,
            fork_run_id=run.fork_run_id,
            fork_step=run.fork_step,
            points=self._book.count_points(run.key),
            provisional=run.provisional,
            found_running=run.found_running,
            cancelled=run.cancelled,
            server_status=run.server_status,
            refusals=run.refusals,
            reason=decided.reason if decided is not None else "",
            expected=expected.status if expected is not None else None,
            owner=self._owner(run),
            relay=run.relay,
            hands_over=self._clusters.hands_over(run),
        )

    def _owner(self, run: Run) -> str:
        if run.relay:
            return "a process on another node"
        lease = self._book.leases.get(run.owner or "")
        if lease is None or not lease.alive:
            return ""
        return f"{lease.label!r}, pid {lease.identity.pid} on {lease.identity.host}"


class Views:
    """Sends views; keeps each lease's address and the view that it got last."""

    def __init__(
        self,
        context: Context,
        delivery: Delivery,
        run_situations: RunSituations,
        stragglers: Stragglers,
        generation: int,
    ) -> None:
        self._context = context
        self._book = context.book
        self._delivery = delivery
        self._run_situations = run_situations
        self._stragglers = stragglers
        self._generation = generation
        self._peers: dict[str, bytes] = {}
        self._told: dict[str, View] = {}
        self._seen_ms: dict[str, int] = {}
        self._pending: dict[str, int] = {}
        self._situations: dict[str, RunSituation] = {}
        self._spread_at: dict[str, float] = {}

    def note_message(self, lease_id: str, peer: bytes) -> None:
        """Notes a message of a process: its address, and that it is a sign of life."""
        self._peers[lease_id] = peer
        self._seen_ms[lease_id] = self._context.now.wall_ms

    def last_seen_ms(self, lease_id: str) -> int | None:
        """When the process last sent a message, epoch milliseconds."""
        return self._seen_ms.get(lease_id)

    def reply_later(self, lease_id: str, request: int) -> None:
        """Puts the answer to a request off until the entries that it announces have been read."""
        self._pending[lease_id] = request

    def answer(self, lease: Lease, request: int) -> None:
        """Answers a request with the lease's view."""
        run = self._book.runs.get(lease.run) if lease.run is not None else None
        self._send(self.view(lease, self._run_situations.of(run) if run is not None else None), request)

    def send_reply(self, lease_id: str, unopened: str) -> None:
        """Gives an answer that was put off, now that the entries have been read.

        Args:
            lease_id: whose entries.
            unopened: why they make no lease, "" if they do.
        """
        lease, peer = self._book.leases.get(lease_id), self._peers.get(lease_id)
        if lease is not None and lease_id in self._pending:
            self.answer(lease, self._pending.pop(lease_id))
        elif unopened and peer is not None and lease_id in self._pending:
            refusal = Refusal(
                request=self._pending.pop(lease_id), error="VersionMismatchError", message=unopened
            )
            self._context.emit(Send(peer=peer, reply=refusal))

    def tell(self, runs: Iterable[str], news: Iterable[str]) -> None:
        """Sends changed views: to leases with news, and to all of a Run whose situation has changed."""
        leases = dict.fromkeys(news)
        situations: dict[str, RunSituation] = {}
        for key in runs:
            run = self._book.runs.get(key)
            if run is not None:
                situations[key] = self._run_situations.of(run)
                leases.update(dict.fromkeys(self._concerned(key, situations[key])))
        for lease_id in leases:
            lease = self._book.leases.get(lease_id)
            if lease is not None and lease_id in self._told:
                self._tell(lease, situations)

    def due(self) -> list[str]:
        """Runs whose changed tags are to be sent now, after a pause in which more changes could come."""
        return [key for key, at in self._spread_at.items() if at <= self._context.now.at]

    def deadline(self) -> float | None:
        """When views that were put off are to be sent."""
        return min(self._spread_at.values(), default=None)

    def view(self, lease: Lease, situation: RunSituation | None) -> View:
        """The view of one lease, without the numbers that change all the time."""
        others = 0
        if situation is not None:
            others = situation.members - (1 if lease.alive and lease.role != "side" else 0)
        return View(
            generation=self._generation,
            lease_id=lease.lease_id,
            request=0,
            state=lease.state,
            folded=lease.folded,
            role=lease.role,
            label=lease.label,
            rank=lease.rank,
            participant=lease.participant,
            epoch=lease.epoch,
            attempt=lease.attempt,
            error=lease.error,
            joined=self._joined(lease),
            namesake=lease.namesake,
            given_id=lease.opened.job.given_id,
            left_over=lease.left_over,
            run=situation.run if situation is not None else None,
            last_out=situation is not None and others == 0,
            drained=situation is None or self._drained(lease, situation),
            key_wanted=self._key_wanted(lease),
            key_problem=situation.key_problem if situation is not None else "",
            trouble=situation.trouble if situation is not None else "",
            stuck=situation.stuck if situation is not None else "",
            refused=lease.refused,
            relieved=situation is not None and lease.lease_id in situation.relieved,
            topics=True,
        )

    def last_word(self, run: Run) -> bytes:
        """The Run's document for the store, which may be all that is left of this node in a moment.

        The last process out of a local Run is about to exit. Its exit code is not known yet, and never will
        be if everything is killed now. So the document has the status that follows without that code.
        """
        assessment = self._context.situation(run).assessment
        expected = assessment.expected or assessment.verdict  # not frozen yet: the members are being polled
        if run.ended or expected is None or run.target.mode != "local" or run.cluster is not None:
            return self.document(run)  # of several nodes none has a verdict of its own
        ended_ms = self._context.now.wall_ms
        return self.document(
            run,
            msgspec.structs.replace(run, status=expected.status, verdict=expected, ended_ms=ended_ms),
        )

    def document(self, run: Run, shown_as: Run | None = None) -> bytes:
        """The Run's document as of now."""
        leases, shown = self._book.leases_of(run.key), shown_as or run
        return show(
            self._book,
            shown,
            phase=self._context.situation(run).phase,
            pending=sum(self._delivery.pending_bytes(lease) for lease in leases),
            trouble=self._run_situations.trouble(run),
            live={
                lease.lease_id: Live(
                    self.last_seen_ms(lease.lease_id), self._stragglers.logged_ms(lease.lease_id), 0, None
                )
                for lease in leases
                if lease.lease_id in self._seen_ms
            },
            expected=outlook(shown, members_of(shown, leases)),
        )

    def config(self, lease: Lease) -> bytes:
        """The Run's merged config."""
        return (self._book.configs.get(lease.run or "") or Config()).body

    def lease_removed(self, lease_id: str) -> None:
        """Forgets a lease whose folder is gone."""
        for known in (self._peers, self._told, self._seen_ms, self._pending):
            known.pop(lease_id, None)

    def forget(self, run: str) -> None:
        self._situations.pop(run, None)
        self._spread_at.pop(run, None)

    def _concerned(self, key: str, situation: RunSituation) -> list[str]:
        """Leases whose view the situation may change: all, or only those that have ended and wait (R11)."""
        before = self._situations.get(key)
        to_tell = self._situations[key] = self._without_hurry(key, before, _lasting(situation))
        if before == to_tell:
            return []
        only_leaving = before is not None and _lively(before) == _lively(to_tell)
        leases = self._book.left(key) if only_leaving else self._book.leases_of(key)
        return [lease.lease_id for lease in leases if not lease.removed]

    def _without_hurry(self, key: str, before: RunSituation | None, situation: RunSituation) -> RunSituation:
        """The situation with the tags as last sent, briefly: n processes that tag would cost n² views."""
        if before is not None and before.run.tags != situation.run.tags:
            now = self._context.now.at
            if now < self._spread_at.setdefault(key, now + SPREAD_S):
                as_told = msgspec.structs.replace(situation.run, tags=before.run.tags)
                return msgspec.structs.replace(situation, run=as_told)
        self._spread_at.pop(key, None)
        return situation

    def _drained(self, lease: Lease, situation: RunSituation) -> bool:
        """Whether a leaving participant has nothing left to wait for (R11)."""
        waited_for = lease.code_awaited and situation.asked  # the verdict waits for this very process
        told = situation.told or waited_for
        return not lease.alive and told and situation.safe and self._delivery.complete(lease)

    def _send(self, view: View, request: int) -> None:
        lease, peer = self._book.leases[view.lease_id], self._peers.get(view.lease_id)
        if peer is None:
            return
        self._told[view.lease_id] = view
        reply = msgspec.structs.replace(
            view,
            request=request,
            next_step=self._delivery.next_step(
                lease.run or "", lease.participant, member=lease.role != "side"
            ),
            pending=self._delivery.pending_bytes(lease),
            passed=self._delivery.passed(lease),
        )
        self._context.emit(Send(peer=peer, reply=reply))

    def _tell(self, lease: Lease, situations: dict[str, RunSituation]) -> None:
        run = self._book.runs.get(lease.run) if lease.run is not None else None
        if run is not None and run.key not in situations:
            situations[run.key] = self._run_situations.of(run)
        view = self.view(lease, situations[run.key] if run is not None else None)
        if _matters(view) != _matters(self._told[lease.lease_id]):
            self._send(view, 0)

    def _joined(self, lease: Lease) -> int:
        parent = self._book.leases.get(lease.parent) if lease.first_child else None
        return parent.identity.pid if parent is not None else 0

    def _key_wanted(self, lease: Lease) -> bool:
        target = lease.opened.target
        return target.mode == "pluto" and target.key_id not in self._context.keys


def _lasting(situation: RunSituation) -> RunSituation:
    """A situation without what changes all the time: that is only in answers."""
    run = msgspec.structs.replace(situation.run, points=0)
    return msgspec.structs.replace(situation, run=run, members=min(situation.members, 2))


def _lively(situation: RunSituation) -> RunSituation:
    """A situation without what matters only to processes that are leaving."""
    return msgspec.structs.replace(_lasting(situation), safe=False, told=False, asked=False)


def _matters(view: View) -> View:
    """A view without what changes all the time."""
    run = msgspec.structs.replace(view.run, points=0) if view.run is not None else None
    return msgspec.structs.replace(view, run=run)


_encoder = msgspec.json.Encoder()


class Questions:
    """Answers are JSON documents.

    Args:
        at_rest: whether nothing is left to do for a Run.
        drop: deletes a Run from the book, and the folders of its leases.
    """

    def __init__(
        self,
        context: Context,
        views: Views,
        generation: int,
        *,
        at_rest: Callable[[Run], bool],
        drop: Callable[[Run], None],
    ) -> None:
        self._context = context
        self._book = context.book
        self._views = views
        self._at_rest = at_rest
        self._drop = drop
        self._generation = generation

    def answer(self, peer: bytes, question: Question) -> bool:
        """Answers one question; True if the coordinator was asked to stop."""
        match question:
            case AskConfig(lease_id=lease_id):
                lease = self._book.leases.get(lease_id)
                self._say(peer, question, self._views.config(lease) if lease is not None else b"{}")
            case AskRuns():
                known = [run for run in self._book.runs if not sought(run)]
                documents = [msgspec.Raw(self._views.document(run)) for run in known]
                self._say(peer, question, _encoder.encode(documents))
            case AskRun(run=name):
                self._ask_run(peer, question, name)
            case AskStatus():
                self._say(peer, question, self._status())
            case HandOverKey():
                self._say(peer, question, _encoder.encode({"taken": True}))
            case ForceFinish():
                self._force(peer, question)
            case ForgetRun():
                self._forget(peer, question)
            case StopCoordinator():
                self._say(peer, question, _encoder.encode({"stopping": True, "generation": self._generation}))
                return True
            case TakeItem():
                raise TypeError("an item is given by Topics, when there is one")
            case _:
                assert_never(question)
        return False

    def _say(self, peer: bytes, question: Question, body: bytes) -> None:
        self._context.emit(Send(peer=peer, reply=Answer(request=question.request, body=body)))

    def _refuse(self, peer: bytes, question: Question, error: str, message: str) -> None:
        self._context.emit(
            Send(peer=peer, reply=Refusal(request=question.request, error=error, message=message))
        )

    def _ask_run(self, peer: bytes, question: AskRun, name: str) -> None:
        found = self._named(name)
        if len(found) == 1:
            self._say(peer, question, self._views.document(found[0]))
        else:
            self._refuse(peer, question, *_not_one(name, found))

    def _status(self) -> bytes:
        return _encoder.encode(
            {
                "generation": self._generation,
                "protocol": PROTOCOL,
                "runs": len(self._book.runs.all_keys()),
                "live_runs": sum(not sought(run) for run in self._book.runs.live),
                "leases": len(self._book.live_leases),
            }
        )

    def _force(self, peer: bytes, question: ForceFinish) -> None:
        if question.status == "RUNNING":
            self._refuse(peer, question, "UsageError", "a Run cannot end as RUNNING; name a final status")
            return
        found = self._named(question.run)
        if len(found) != 1:
            self._refuse(peer, question, *_not_one(question.run, found))
            return
        run = found[0]
        told = run.server_status is None
        if run.verdict is not None and run.verdict.status == question.status and told:
            self._say(peer, question, self._views.document(run))
            return
        if run.relay and not question.force:
            self._refuse(peer, question, "OwnerExistsError", _owned_elsewhere(run))
            return
        alive = [lease for lease in self._book.leases_of(run.key) if lease.alive and lease.role != "side"]
        if alive and not question.force:
            self._refuse(peer, question, "OwnerExistsError", _still_alive(run, alive))
            return
        if run.ended and not question.force:
            self._refuse(peer, question, "RunEndedError", _has_ended(run, question.status))
            return
        self._take_over(run, question)
        self._say(peer, question, self._views.document(self._book.runs[run.key]))

    def _forget(self, peer: bytes, question: ForgetRun) -> None:
        """Drops a Run for `pluto-dist rm`, with what its leases have in the spool."""
        found = self._named(question.run)
        if len(found) != 1:
            self._refuse(peer, question, *_not_one(question.run, found))
            return
        run = found[0]
        alive = [lease for lease in self._book.leases_of(run.key) if lease.alive and not is_node(lease)]
        if alive or not (run.ended or run.relay):
            self._refuse(peer, question, "OwnerExistsError", _goes_on(run, alive))
        elif not (question.force or self._at_rest(run)):
            self._refuse(peer, question, "OwnerExistsError", _undelivered(run))
        else:
            self._drop(run)
            self._say(peer, question, _encoder.encode({"forgotten": run.key}))

    def _take_over(self, run: Run, question: ForceFinish) -> None:
        """Ends a Run for a person, in a new epoch, so that no older owner can end it again."""
        verdict = Verdict(question.status, "ended by a person with finish --force")
        self._context.note(run.key, "taken_over", status=question.status)
        self._context.urgent.add(run.key)
        self._context.change_run(
            run,
            owner=None,
            relay="",
            epoch=run.epoch + 1,
            status=question.status,
            verdict=verdict,
            reported=False,
            forced=True,
            cancelled=False,
            server_status=None,
            ended_ms=self._context.now.wall_ms,
            found_ms=0,
        )

    def _named(self, name: str) -> list[Run]:
        """Runs by key, id, display id or the caller's id; an ambiguous display id gives several."""
        runs = [run for run in self._book.runs if not sought(run)]
        exact = [run for run in runs if run.key == name]
        if exact:
            return exact
        try:
            ref = classify_run_id(name)
        except ValueError:
            return []
        if ref.id is not None:
            return [run for run in runs if run.id == ref.id]
        return [run for run in runs if name in (run.display_id, run.external_id)]


def _not_one(name: str, found: list[Run]) -> tuple[str, str]:
    if not found:
        return "RunNotFoundError", f"this coordinator knows no Run {name!r}"
    listed = ", ".join(f"{run.project}/{run.display_id or run.external_id} (key {run.key})" for run in found)
    return "AmbiguousRunError", f"{name!r} means {len(found)} Runs: {listed}; use the key"


def _owned_elsewhere(run: Run) -> str:
    named = run.display_id or run.key
    return f"Run {named} is owned on another node; end it there, or use --force to take it over"


def _goes_on(run: Run, alive: list[Lease]) -> str:
    named = run.display_id or run.key
    if not alive:
        return f"Run {named} has not ended; `pluto-dist finish {named} --status …` ends it"
    who = ", ".join(f"{lease.label} (pid {lease.identity.pid})" for lease in alive[:5])
    return f"Run {named} has live processes: {who}; it can be deleted when they have ended"


def _undelivered(run: Run) -> str:
    where = "its server" if run.target.mode == "pluto" else "its store"
    return (
        f"Run {run.display_id or run.key} has records that {where} has not taken yet; wait for them, or "
        "delete them too with --force"
    )


def _still_alive(run: Run, alive: list[Lease]) -> str:
    who = ", ".join(f"{lease.label} (pid {lease.identity.pid})" for lease in alive[:5])
    return (
        f"Run {run.display_id or run.key} has live members: {who}; "
        "they end it themselves, or use --force to take it over"
    )


def _has_ended(run: Run, wanted: Status) -> str:
    why = f" ({run.verdict.reason})" if run.verdict is not None else ""
    return (
        f"Run {run.display_id or run.key} has ended as {run.status}{why}; --force makes it {wanted} instead"
    )
