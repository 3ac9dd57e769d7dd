"""Questions of people and their scripts, and `finish --force`: a person takes a Run over and ends it."""

from __future__ import annotations

from typing import assert_never

import msgspec

from pluto_dist.core.machine.context import Context
from pluto_dist.core.machine.views import Views
from pluto_dist.core.rules.claims import sought
from pluto_dist.core.values.backend import Status
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
    HandOverKey,
    Question,
    Refusal,
    StopCoordinator,
    TakeItem,
)
from pluto_dist.core.values.records import Lease, Run, Verdict

_encoder = msgspec.json.Encoder()


class Questions:
    """Answers are JSON documents."""

    def __init__(self, context: Context, views: Views, generation: int) -> None:
        self._context = context
        self._book = context.book
        self._views = views
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
