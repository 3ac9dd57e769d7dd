"""The demo's last word: it says ok only if the promise was kept, and else what differs."""

from __future__ import annotations

import msgspec
import pytest

from pluto_dist.backend.local.reading import SeriesPoint, summarise
from pluto_dist.cli.demo.command import Outcome, findings, ranks_mean
from pluto_dist.cli.demo.job.ledger import Entry
from pluto_dist.core.values.document import Document
from pluto_dist.core.values.records import Failure, RunEvent, Verdict
from tests.adapters import documents

COMPLETED, ACCOUNTED, SHIPPED, CLOSED, CRASHED, KILLED, LEARNED = range(7)
SERIES = {
    "train/loss": {f"rank{n}": f"train/loss/rank{n}" for n in (1, 2, 3)},
    "eval/accuracy": {"eval-2": "eval/accuracy/eval-2"},
}
LOGGED = [
    *(Entry(who, "train/loss", step, 2.0 / (step + 1)) for step in (0, 1, 2) for who in ("owner", "rank1")),
    Entry("eval", "eval/accuracy", 1, 0.5),
    Entry("eval-2", "eval/accuracy", 1, 0.4),
    Entry("uploader", "checkpoint/bytes", 1, 19280),
    Entry("uploader", "checkpoint/sha256", 1, "abc"),
    Entry("profiler", "profiler/load", 0, 1.5),
]
CODES: dict[str, int | None] = {"torchrun": 0, "eval": 0, "eval-2": 1, "uploader": 0, "profiler": -9}


def point(entry: Entry) -> SeriesPoint:
    name = SERIES.get(entry.name, {}).get(entry.lease_id, entry.name)
    kind = "string" if isinstance(entry.value, str) else "metric"
    value = entry.value if isinstance(entry.value, str) else float(entry.value)
    return SeriesPoint(kind, name, entry.step, value, 5000, entry.lease_id)  # type: ignore[arg-type]


def ended_document(points: list[SeriesPoint]) -> Document:
    reasons = {"eval": "closed", "eval-2": "closed", "uploader": "closed", "profiler": "died"}
    leases = [
        documents.lease(who, who, state="ended", end_reason=reasons.get(who, "finished"), ended_at=3012)
        for who in ("owner", "rank1", "rank2", "rank3", *reasons)
    ]
    found = documents.document(
        *leases,
        summary=summarise(points),
        events=(
            RunEvent(
                2500, "side_failed", {"label": "eval-2", "kind": "exception", "what": "RuntimeError: boom"}
            ),
            RunEvent(3012, "side_died", {"label": "profiler", "signal": "SIGKILL"}),
        ),
        status="COMPLETED",
        verdict=Verdict("COMPLETED", "the owner ended and nobody failed"),
        reported=True,
    )
    return msgspec.structs.replace(found, series=SERIES)


def outcome(**changed: object) -> Outcome:
    """One in which all promises were kept, but for what is changed."""
    points = [point(entry) for entry in LOGGED]
    found = Outcome(
        document=ended_document(points),
        points=points,
        ledger=list(LOGGED),
        codes=dict(CODES),
        killed_ms=3000,
        ranks=4,
        shipped={1: "abc"},
    )
    return msgspec.structs.replace(found, **changed)


def with_document(**changed: object) -> Outcome:
    return outcome(document=msgspec.structs.replace(outcome().document, **changed))


def broken(found: Outcome) -> dict[int, str]:
    return {number: each.text for number, each in enumerate(findings(found)) if not each.kept}


def test_all_promises_kept() -> None:
    assert [finding.text for finding in findings(outcome())] == [
        "DEM-1 is COMPLETED (the owner ended and nobody failed): one owner, 3 workers and 4 others "
        "wrote into one Run",
        "11 points logged, 11 points in the store: nothing lost, nothing doubled",
        "1 checkpoints are in the store, byte for byte",
        "eval and uploader closed: that did not complete the Run, its owner did",
        "eval-2 crashed (RuntimeError): that did not fail the Run, its 1 points are there",
        "profiler was killed (SIGKILL): that did not end the Run and lost none of its 1 points; "
        "noticed after 12 ms",
        "3 steps took the loss from 2.00 to 1.22; eval: 50% of the test images read rightly",
    ]
    assert not broken(outcome())


def test_lost_point_is_named() -> None:
    """G3."""
    points = [point(entry) for entry in LOGGED[:2] + LOGGED[3:]]
    lost = outcome(points=points, document=ended_document(points))
    assert broken(lost) == {
        ACCOUNTED: "11 points logged, 10 points in the store: missing: owner train/loss@1 = 1.0"
    }


def test_point_with_another_value_is_named_on_both_sides() -> None:
    points = [point(entry) for entry in LOGGED]
    points[6] = msgspec.structs.replace(points[6], value=0.75)
    changed = outcome(points=points, document=ended_document(points))
    text = broken(changed)[ACCOUNTED]
    assert "missing: eval eval/accuracy@1 = 0.5" in text
    assert "not logged by anybody: eval eval/accuracy@1 = 0.75" in text


@pytest.mark.parametrize("shipped", [{}, {1: "abd"}, {1: "abc", 2: "x"}])
def test_checkpoint_that_is_not_as_it_was_is_named(shipped: dict[int, str]) -> None:
    """G3."""
    text = broken(outcome(shipped=shipped))[SHIPPED]
    assert text.endswith("missing or different in the store: [2]" if 2 in shipped else "[1]")


def test_doubled_point_is_named() -> None:
    points = [point(entry) for entry in [*LOGGED, LOGGED[0]]]
    doubled = outcome(points=points, document=ended_document(points))
    assert "not logged by anybody: owner train/loss@0 = 2.0" in broken(doubled)[ACCOUNTED]


def test_last_point_of_the_killed_process_may_be_missing_in_its_ledger() -> None:
    """SIGKILL between `log()` and the note of it."""
    assert not broken(outcome(ledger=LOGGED[:-1]))


def test_many_differences_are_cut() -> None:
    text = broken(outcome(points=[]))[ACCOUNTED]
    assert text.count("missing:") == 5
    assert text.endswith("and 7 more")


@pytest.mark.parametrize("name", ["rejected", "dropped", "repeats"])
def test_drops_and_repeats_are_differences(name: str) -> None:
    assert f"3 {name}" in broken(with_document(**{name: 3}))[ACCOUNTED]


def test_summary_that_counts_otherwise_is_a_difference() -> None:
    assert "the summary counts other points" in broken(with_document(summary={}))[ACCOUNTED]


def test_failed_run_breaks_what_the_crash_and_the_kill_promise() -> None:
    """G1."""
    failed = with_document(status="FAILED")
    assert set(broken(failed)) == {COMPLETED, CRASHED, KILLED}


def test_blame_on_a_side_is_a_difference() -> None:
    """G1: a side's crash is no evidence."""
    failure = Failure(role="side", label="eval-2", rank=None, host="node", pid=1, attempt=0, kind="exception")
    verdict = msgspec.structs.replace(outcome().document.verdict, first_failure=failure)
    assert CRASHED in broken(with_document(verdict=verdict))


@pytest.mark.parametrize(
    ("name", "code", "promise"),
    [
        ("torchrun", 1, COMPLETED),
        ("eval", 1, CLOSED),
        ("uploader", -15, CLOSED),
        ("eval-2", 0, CRASHED),
        ("profiler", 0, KILLED),
    ],
)
def test_process_that_ended_otherwise_is_a_difference(name: str, code: int, promise: int) -> None:
    found = broken(outcome(codes={**CODES, name: code}))
    assert set(found) == {promise}
    assert str(code) in found[promise]


def test_death_that_nobody_noticed_is_a_difference() -> None:
    """G7."""
    leases = tuple(
        msgspec.structs.replace(lease, state="active", end_reason=None)
        if lease.label == "profiler"
        else lease
        for lease in outcome().document.leases
    )
    assert KILLED in broken(with_document(leases=leases))
    assert KILLED in broken(with_document(events=outcome().document.events[:1]))


def test_training_that_does_not_learn_is_a_difference() -> None:
    ledger = [entry._replace(value=2.0) if entry.name == "train/loss" else entry for entry in LOGGED]
    points = [point(entry) for entry in ledger]
    dull = outcome(points=points, ledger=ledger, document=ended_document(points))
    assert set(broken(dull)) == {LEARNED}


def test_mean_over_ranks_takes_all_their_series_and_no_others() -> None:
    points = [
        SeriesPoint("metric", "train/loss", 0, 1.0, 0, "a"),
        SeriesPoint("metric", "train/loss/rank1", 0, 2.0, 0, "b"),
        SeriesPoint("metric", "train/loss", 1, 4.0, 0, "a"),
        SeriesPoint("metric", "train/losses", 1, 9.0, 0, "a"),
    ]
    assert list(ranks_mean(points, "train/loss")) == [(0, 1.5), (1, 4.0)]
