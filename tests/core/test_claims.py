"""Who gets which role: the table of R4 and R5, row by row, and the same through the coordinator."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pluto_dist.core.rules.claims import (
    OWNER_WAIT_S,
    RANK_ZERO_S,
    Create,
    Facts,
    Grant,
    Refuse,
    Verify,
    Wait,
    decide_claim,
)
from pluto_dist.core.values.ids import RunRef
from pluto_dist.core.values.records import Verdict
from tests.core.builders import claim, job, member, run
from tests.core.processes import LOCAL

X = RunRef(external_id="x")
DONE = Verdict("COMPLETED", "done")
OTHER = job(key="other")


def facts(phase: str = "running", **fields: Any) -> Facts:
    """A live Run with its owner, or what a test says."""
    owner = member() if phase == "running" else None
    given: dict[str, Any] = {
        "run": run(),
        "phase": phase,
        "owner": owner,
        "members": (owner,) if owner else (),
    }
    return Facts(**{**given, **fields})


def told(decision: object) -> str:
    """A decision in short."""
    match decision:
        case Grant(role=role):
            return role
        case Refuse(error=error):
            return error
        case Create(want=want):
            return f"create {want}"
        case Verify():
            return "verify"
        case Wait():
            return "wait"
    raise TypeError(decision)


ENDED = facts("ended", run=run(verdict=DONE, status="COMPLETED"))
NOBODY = Facts(run=None)
ROWS: list[tuple[str, dict[str, Any], Facts, str]] = [
    # init() of a Run that nobody knows
    ("init without an id", {}, NOBODY, "create create"),
    ("explicit id", {"run": X}, NOBODY, "create create"),
    ("explicit id with resume", {"run": X, "resume": True}, NOBODY, "create either"),
    ("numeric id", {"run": RunRef(id=7)}, NOBODY, "create resume"),
    ("display id", {"run": RunRef(display_id="MMP-7")}, NOBODY, "create resume"),
    ("id from the environment", {"run": X, "run_from_env": True}, NOBODY, "create either"),
    ("the same with resume", {"run": X, "run_from_env": True, "resume": True}, NOBODY, "create either"),
    ("a side waits for a Run", {"wanted": "side"}, NOBODY, "wait"),
    ("a worker waits for a Run", {"wanted": "worker"}, NOBODY, "wait"),
    # init() of a Run of another job
    ("explicit id, live", {"job": OTHER, "run": X}, facts(), "RunExistsError"),
    ("explicit id, ended", {"job": OTHER, "run": X}, ENDED, "RunExistsError"),
    ("resume, live: looked at first", {"job": OTHER, "run": X, "resume": True}, facts(), "verify"),
    ("resume, live", {"job": OTHER, "run": X, "resume": True}, facts(verified=True), "side"),
    ("resume, orphaned", {"job": OTHER, "run": X, "resume": True}, facts("orphaned"), "owner"),
    ("resume, detached", {"job": OTHER, "run": X, "resume": True}, facts("detached"), "owner"),
    ("resume, restarting", {"job": OTHER, "run": X, "resume": True}, facts("restarting"), "side"),
    ("resume, finishing", {"job": OTHER, "run": X, "resume": True}, facts("finishing"), "wait"),
    ("resume, opening", {"job": OTHER, "run": X, "resume": True}, facts("opening"), "wait"),
    ("resume, ended", {"job": OTHER, "run": X, "resume": True}, ENDED, "owner"),
    ("numeric id, ended", {"job": OTHER, "run": RunRef(id=1)}, ENDED, "owner"),
    ("display id, ended", {"job": OTHER, "run": RunRef(display_id="DEM-1")}, ENDED, "owner"),
    ("numeric id, live", {"job": OTHER, "run": RunRef(id=1)}, facts(verified=True), "side"),
    ("environment, live", {"job": OTHER, "run": X, "run_from_env": True}, facts(verified=True), "side"),
    ("environment, ended", {"job": OTHER, "run": X, "run_from_env": True}, ENDED, "owner"),
    (
        "owner insisted on, live",
        {"job": OTHER, "run": X, "resume": True, "wanted": "owner"},
        facts(verified=True),
        "OwnerExistsError",
    ),
    ("worker insisted on", {"job": OTHER, "run": X, "wanted": "worker"}, facts(), "worker"),
    ("side insisted on", {"job": OTHER, "run": X, "wanted": "side"}, facts(), "side"),
    # the same job
    ("its own process again", {"run": X}, facts(verified=True), "OwnerExistsError"),
    ("the environment, same attempt, ended", {"run": X, "run_from_env": True}, ENDED, "side"),
    # attach()
    ("attach, live", {"verb": "attach", "run": X, "job": OTHER}, facts(), "side"),
    ("attach, ended", {"verb": "attach", "run": X, "job": OTHER}, ENDED, "side"),
    ("attach as worker", {"verb": "attach", "run": X, "wanted": "worker"}, facts(), "worker"),
    ("attach as owner", {"verb": "attach", "run": X, "wanted": "owner"}, facts(), "OwnerExistsError"),
    ("attach, unknown", {"verb": "attach", "run": X}, NOBODY, "create join"),
    ("the same without a server", {"verb": "attach", "run": X, "target": LOCAL}, NOBODY, "create join"),
    ("attach, nothing is live", {"verb": "attach"}, NOBODY, "wait"),
    (
        "attach, two are live",
        {"verb": "attach"},
        Facts(run=None, choices=("A-1", "B-2")),
        "AmbiguousRunError",
    ),
    (
        "attach, two have the id",
        {"verb": "attach", "run": X},
        Facts(run=None, choices=("A-1", "B-2")),
        "AmbiguousRunError",
    ),
    (
        "attach, being opened",
        {"verb": "attach", "run": X},
        facts("opening", run=run(epoch=0, owner=None)),
        "wait",
    ),
    ("attach as worker, no owner yet", {"verb": "attach", "wanted": "worker"}, facts("opening"), "wait"),
]


@pytest.mark.parametrize(
    ("fields", "given", "expected"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS]
)
def test_plain_processes(fields: dict[str, Any], given: Facts, expected: str) -> None:
    """R5"""
    assert told(decide_claim(claim(**fields), given, 0.0)) == expected


RANKS: list[tuple[str, int, dict[str, Any], Facts, float, str]] = [
    ("rank 0 creates at once", 0, {}, NOBODY, 0.0, "create create"),
    ("rank 1 waits for rank 0", 1, {}, NOBODY, 0.0, "wait"),
    ("rank 1 alone, too late", 1, {}, Facts(run=None, waiting_ranks=(1, 2)), RANK_ZERO_S, "create create"),
    ("rank 2 leaves it to rank 1", 2, {}, Facts(run=None, waiting_ranks=(1, 2)), RANK_ZERO_S, "wait"),
    ("a rank that insists", 3, {"wanted": "owner"}, NOBODY, 0.0, "create create"),
    ("rank 1 beside its owner", 1, {}, facts(), 0.0, "worker"),
    ("late rank 0 beside rank 1", 0, {}, facts(owner=member(1, owns=True)), 0.0, "worker"),
    ("rank 1 after its owner", 1, {}, facts("orphaned"), 0.0, "worker"),
    ("rank 0 after a dead owner", 0, {}, facts("orphaned"), 0.0, "owner"),
    ("rank 0 of the next attempt", 0, {"job": job(0, attempt=1)}, facts("restarting"), 0.0, "owner"),
    ("the same, old owner still there", 0, {"job": job(0, attempt=1)}, facts(), 0.0, "owner"),
    ("rank 1 of the next attempt", 1, {"job": job(1, attempt=1)}, facts("restarting"), 0.0, "wait"),
    (
        "rank 1 of the next attempt, too late",
        1,
        {"job": job(1, attempt=1)},
        facts("restarting", waiting_ranks=(1,)),
        RANK_ZERO_S,
        "owner",
    ),
    ("the next attempt of an ended Run", 0, {"job": job(0, attempt=1)}, ENDED, 0.0, "owner"),
    ("a worker of the next attempt", 1, {"job": job(1, attempt=1), "wanted": "worker"}, facts(), 0.0, "wait"),
    ("an attempt that is over", 0, {}, facts(run=run(attempt=1)), 0.0, "StaleEpochError"),
    ("rank 1, ended in this attempt", 1, {}, ENDED, 0.0, "side"),
    (
        "while the end is being told",
        0,
        {"job": job(0, attempt=1)},
        msgspec.structs.replace(ENDED, reporting=True),
        0.0,
        "wait",
    ),
    ("rank 0 of another job waits", 0, {"job": job(0, key="other"), "resume": True}, facts(), 0.0, "wait"),
    (
        "and looks before it gives up",
        0,
        {"job": job(0, key="other"), "resume": True},
        facts(),
        OWNER_WAIT_S,
        "verify",
    ),
    (
        "and gives up",
        0,
        {"job": job(0, key="other"), "resume": True},
        facts(verified=True),
        OWNER_WAIT_S,
        "OwnerExistsError",
    ),
]


@pytest.mark.parametrize(
    ("rank", "fields", "given", "now", "expected"), [row[1:] for row in RANKS], ids=[row[0] for row in RANKS]
)
def test_ranks(rank: int, fields: dict[str, Any], given: Facts, now: float, expected: str) -> None:
    """R4, R5"""
    assert told(decide_claim(claim(rank, **fields), given, now)) == expected


def test_a_wait_for_rank_0_says_until_when() -> None:
    """R4"""
    decision = decide_claim(claim(1), Facts(run=None, asked_at=7.0), 8.0)
    assert isinstance(decision, Wait)
    assert decision.until == 7.0 + RANK_ZERO_S


def test_a_run_has_so_many_sides_at_a_time_as_its_owner_allows() -> None:
    """A sidecar that is started again and again; ranks are not counted, and not kept out."""
    attach = claim(verb="attach", run=X, job=OTHER)
    assert told(decide_claim(attach, facts(sides=1, sides_limit=2), 0.0)) == "side"
    refused = decide_claim(attach, facts(sides=2, sides_limit=2), 0.0)
    assert isinstance(refused, Refuse)
    assert "has 2 sides, and sides_limit allows 2" in refused.message
    assert "PLUTO_DIST_SIDES_LIMIT" in refused.message
    worker = claim(verb="attach", run=X, job=OTHER, wanted="worker")
    assert told(decide_claim(worker, facts(sides=2, sides_limit=2), 0.0)) == "worker"
    detached = facts(
        "detached", sides=5, sides_limit=None
    )  # its owner's word is gone, so the claim's own counts
    own = claim(verb="attach", run=X, job=OTHER, sides_limit=5)
    assert told(decide_claim(own, detached, 0.0)) == "ClaimError"


def test_a_refusal_names_the_owner() -> None:
    """R5: role, pid, host, since when"""
    refused = decide_claim(claim(run=X, resume=True, wanted="owner", job=OTHER), facts(verified=True), 0.0)
    assert isinstance(refused, Refuse)
    assert "owner" in refused.message
    assert "pid 100 on host" in refused.message
    assert "since" in refused.message
