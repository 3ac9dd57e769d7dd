"""When the end of a Run has come (R6, R10): the phases, and the instants at which they change."""

from __future__ import annotations

from typing import Any

import pytest

from pluto_dist.core.rules.verdict import (
    DETACHED_S,
    DRAIN_S,
    EXIT_S,
    LAUNCHER_GONE_S,
    ORPHAN_S,
    RESTART_WINDOW_S,
    Assessment,
    assess,
    members_of,
    outlook,
)
from pluto_dist.core.values.records import Lease, Prior, Verdict
from tests.core.builders import LAUNCHER, ended, killed, member, raised, run, signalled

T = 1000.0
ELASTIC: dict[str, Any] = {"launcher": LAUNCHER, "max_restarts": 1}


def at(now: float, *members: Lease, **fields: Any) -> Assessment:
    """The phase at a time."""
    return assess(run(**fields), members, now)


def test_no_owner_yet() -> None:
    """R6: nothing can be said, and nothing is decided, also while a new owner is awaited."""
    found = at(T, owner=None, epoch=0)
    assert (found.phase, found.verdict, found.deadline) == ("opening", None, None)
    assert at(T, owner=None, epoch=3).verdict is None


def test_owner_alive() -> None:
    """G1: whatever the workers do."""
    found = at(T, member(0), ended(member(1), T, "died", killed(T)))
    assert (found.phase, found.verdict) == ("running", None)


@pytest.mark.parametrize("reason", ["finished", "exited"])
def test_everybody_has_ended(reason: str) -> None:
    """R10: at once, because there is nobody left to hear."""
    found = at(T, ended(member(0), T, reason), ended(member(1), T - 1, "finished"))
    assert found.verdict is not None
    assert found.verdict.status == "COMPLETED"


def test_drain() -> None:
    """R10: workers may end for ten seconds after their owner."""
    members = (ended(member(0), T, "finished"), member(1))
    found = at(T, *members)
    assert (found.phase, found.deadline, found.verdict) == ("finishing", T + DRAIN_S, None)
    late = at(T + DRAIN_S, *members)
    assert late.verdict is not None
    assert late.verdict.status == "COMPLETED"


def test_orphaned() -> None:
    """R6: a dead owner's place is kept for two seconds."""
    owner = ended(member(0), T, "died", killed(T))
    found = at(T, owner)
    assert (found.phase, found.deadline, found.verdict) == ("orphaned", T + ORPHAN_S, None)
    late = at(T + ORPHAN_S, owner, member(1))
    assert late.verdict is not None
    assert late.verdict.status == "FAILED"


def test_exit_codes_are_awaited() -> None:
    """R9: the exit hook does not know the code; the kernel says it when the process is gone, or never."""
    owner = ended(member(0), T, "finished", code_awaited=True)
    assert at(T, owner).deadline == T + EXIT_S
    late = at(T + EXIT_S, owner)
    assert late.verdict is not None


def test_restarting_while_members_live() -> None:
    """R10: no verdict while the launcher has restarts left."""
    found = at(T + 1e6, ended(member(0), T, "died", killed(T)), member(1), **ELASTIC)
    assert (found.phase, found.verdict, found.deadline) == ("restarting", None, None)


def test_restart_window() -> None:
    """R6: two minutes after the last of them."""
    members = (ended(member(0), T, "died", killed(T)), ended(member(1), T + 5, "exited", signalled(T + 4)))
    found = at(T + 6, *members, **ELASTIC)
    assert (found.phase, found.deadline) == ("restarting", T + 5 + RESTART_WINDOW_S)
    late = at(T + 5 + RESTART_WINDOW_S, *members, **ELASTIC)
    assert late.verdict is not None
    assert late.verdict.status == "FAILED"


def test_the_outlook_is_what_the_evidence_says_when_all_have_ended() -> None:
    """G7: it stands in the document in case the node does not come back."""
    failed = (ended(member(0), T, "died", killed(T)), ended(member(1), T + 5, "exited", signalled(T + 4)))
    waits = run(**ELASTIC)
    found = outlook(waits, failed)
    assert found is not None
    assert found.status == "FAILED"
    assert outlook(waits, (failed[0], member(1))) is None
    assert outlook(waits, (ended(member(0), T, "closed"),)) is None
    done = outlook(waits, (ended(member(0), T, "finished", code_awaited=True),))
    assert done is not None
    assert done.status == "COMPLETED"


@pytest.mark.parametrize("fields", [{"attempt": 1}, {"launcher_gone_at": T}, {"launcher": None}])
def test_no_restarts_left(fields: dict[str, Any]) -> None:
    """R10: the last attempt, the launcher is gone, or there was none."""
    members = (ended(member(0), T, "exited", raised(T)), ended(member(1), T, "exited", signalled(T + 1)))
    found = at(T, *members, **{**ELASTIC, **fields})
    assert found.verdict is not None
    assert found.verdict.status == "FAILED"


def test_all_ended_cleanly_with_restarts_left() -> None:
    """R10"""
    found = at(T, ended(member(0), T, "finished"), ended(member(1), T, "finished"), **ELASTIC)
    assert found.verdict is not None
    assert found.verdict.status == "COMPLETED"
    waiting = at(T + 1e6, ended(member(0), T, "finished"), member(1), **ELASTIC)
    assert waiting.verdict is None


def test_launcher_gone_and_ranks_alive() -> None:
    """R10: 35 s, then FAILED."""
    members = (member(0), member(1))
    found = at(T + 1, *members, launcher=LAUNCHER, launcher_gone_at=T)
    assert (found.phase, found.deadline, found.verdict) == ("running", T + LAUNCHER_GONE_S, None)
    late = at(T + LAUNCHER_GONE_S, *members, launcher=LAUNCHER, launcher_gone_at=T)
    assert late.verdict is not None
    assert late.verdict.status == "FAILED"
    assert "launcher gone" in late.verdict.reason


def test_launcher_gone_after_a_sigterm() -> None:
    """R10: the evidence that there is speaks."""
    members = (member(0), ended(member(1), T, "exited", signalled(T + 1)))
    late = at(T + LAUNCHER_GONE_S, *members, launcher=LAUNCHER, launcher_gone_at=T)
    assert late.verdict is not None
    assert late.verdict.status == "TERMINATED"


def test_detached() -> None:
    """R6: an hour after the last owner or worker."""
    owner = ended(member(0), T, "closed")
    assert at(T + 1e6, owner, member(1)).verdict is None
    worker = ended(member(1), T + 10, "closed")
    assert at(T + 20, owner, worker).deadline == T + 10 + DETACHED_S
    late = at(T + 10 + DETACHED_S, owner, worker)
    assert late.verdict is not None
    assert (late.verdict.status, late.verdict.reason.split(":")[0]) == ("TERMINATED", "detached")


def test_detached_with_a_failure() -> None:
    """R6"""
    late = at(T + DETACHED_S + 10, ended(member(0), T, "closed"), ended(member(1), T, "died", killed(T)))
    assert late.verdict is not None
    assert late.verdict.status == "FAILED"


def test_closed_after_reopening_puts_the_old_outcome_back() -> None:
    """R6: at once."""
    before = Verdict("FAILED", "it was so")
    found = at(T, ended(member(0), T, "closed"), prior=Prior(before, 77))
    assert found.verdict is before


def test_an_init_that_was_given_up_ends_the_run_that_it_has_made() -> None:
    """R6: nobody takes it up; a Run that had ended before is what it was."""
    owner = ended(member(0), T, "gave_up", raised(T, "KeyboardInterrupt"))
    found = at(T, owner).verdict
    assert found is not None
    assert found.status == "TERMINATED"
    before = Verdict("COMPLETED", "it was so")
    assert at(T, owner, prior=Prior(before, 77)).verdict is before


def test_a_verdict_is_frozen() -> None:
    """R10"""
    before = Verdict("COMPLETED", "done")
    found = at(T, ended(member(0), T, "died", killed(T)), verdict=before)
    assert (found.phase, found.verdict) == ("ended", before)


def test_members_are_those_of_the_epoch() -> None:
    """G2: neither sides, nor older owners and their workers, nor whom a newer attempt has replaced."""
    counted = (member(0, epoch=2), member(1, epoch=2))
    others = (
        member(0, lease_id="old", epoch=1),
        member(2, epoch=2, role="side"),
        ended(member(3, epoch=2), T, "superseded"),
        member(4, epoch=2, state="waiting"),
        member(5, epoch=2, run="another"),
    )
    assert members_of(run(epoch=2), counted + others) == counted
