"""Whether the demo kept what it promises: pure functions of what the store holds and what was logged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from pluto_dist.backend.local.reading import SeriesPoint
from pluto_dist.cli.demo.job.ledger import Entry
from pluto_dist.core.values.document import Document, LeaseShown
from pluto_dist.core.values.records import RunEvent

Key = tuple[str, str, int, float | str]  # lease, final name, step, value


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The remains of a demo whose processes have all ended.

    Attributes:
        document: of the Run, from the store.
        points: all that the store holds.
        ledger: all that the processes have logged by their own account.
        codes: exit codes of the processes by name; negative after a signal.
        killed_ms: epoch milliseconds of the SIGKILL.
        ranks: how many there were.
        shipped: checksums of the files in the store by step, as the uploader shortens them.
    """

    document: Document
    points: Sequence[SeriesPoint]
    ledger: Sequence[Entry]
    codes: Mapping[str, int | None]
    killed_ms: int
    ranks: int
    shipped: Mapping[int, str]


class Finding(msgspec.Struct, frozen=True):
    """A promise, in a sentence, or what differs from it."""

    kept: bool
    text: str


def findings(outcome: Outcome) -> list[Finding]:
    """All promises of the demo."""
    return [
        _completed(outcome),
        _accounted(outcome),
        _shipped(outcome),
        _closed(outcome),
        _crashed(outcome),
        _killed(outcome),
        _learned(outcome),
    ]


def settled(document: Document) -> bool:
    """Whether a Run has ended and everything of its processes is in."""
    ended = all(lease.state == "ended" for lease in document.leases)
    return document.status != "RUNNING" and document.reported and not document.pending and ended


def ranks_mean(points: Sequence[SeriesPoint], name: str) -> Iterator[tuple[int, float]]:
    """The mean over all ranks of a series at each step."""
    values: dict[int, list[float]] = {}
    for point in points:
        if (point.name == name or point.name.startswith(f"{name}/")) and not isinstance(point.value, str):
            values.setdefault(point.step, []).append(point.value)
    for step in sorted(values):
        yield step, sum(values[step]) / len(values[step])


def _completed(outcome: Outcome) -> Finding:
    document, code = outcome.document, outcome.codes["torchrun"]
    reason = document.verdict.reason if document.verdict is not None else "no verdict"
    roles = Counter(lease.role for lease in document.leases)
    text = (
        f"{_run(outcome)} is {document.status} ({reason}): one owner, {roles['worker']} workers and "
        f"{roles['side']} others wrote into one Run"
    )
    if code == 0 and roles["owner"] == 1 and roles["worker"] == outcome.ranks - 1 and _is_completed(outcome):
        return Finding(True, text)
    return Finding(False, f"{text}; the launcher's exit code is {code}, the owners are {roles['owner']}")


def _accounted(outcome: Outcome) -> Finding:
    logged, stored = Counter(_logged(outcome)), Counter(_stored(outcome))
    missing, extra = logged - stored, stored - logged
    document = outcome.document
    if _died_before_its_note(outcome, extra):
        extra = Counter()
    counts = {name: point.count for name, point in document.summary.items()}
    lost = {"rejected": document.rejected, "dropped": document.dropped, "repeats": document.repeats}
    troubles = [
        *(f"missing: {_shown(outcome, key)}" for key in missing),
        *(f"not logged by anybody: {_shown(outcome, key)}" for key in extra),
        *(f"{number} {name}" for name, number in lost.items() if number),
    ]
    if counts != Counter(point.name for point in outcome.points):
        troubles.append("the summary counts other points than the store has")
    text = f"{logged.total():,} points logged, {stored.total():,} points in the store"
    if not troubles and logged:
        return Finding(True, f"{text}: nothing lost, nothing doubled")
    more = f" and {len(troubles) - 5} more" if len(troubles) > 5 else ""
    return Finding(False, f"{text}: {'; '.join(troubles[:5])}{more}")


def _shipped(outcome: Outcome) -> Finding:
    logged = {entry.step: entry.value for entry in outcome.ledger if entry.name == "checkpoint/sha256"}
    if logged and logged == outcome.shipped:
        return Finding(True, f"{len(logged)} checkpoints are in the store, byte for byte")
    steps = sorted({*logged, *outcome.shipped})
    different = [step for step in steps if logged.get(step) != outcome.shipped.get(step)]
    return Finding(
        False, f"{len(logged)} checkpoints shipped; missing or different in the store: {different}"
    )


def _closed(outcome: Outcome) -> Finding:
    leases = [_lease(outcome, label) for label in ("eval", "uploader")]
    kept = all(
        lease is not None and lease.end_reason == "closed" and outcome.codes[lease.label] == 0
        for lease in leases
    )
    if kept:
        return Finding(True, "eval and uploader closed: that did not complete the Run, its owner did")
    return Finding(False, f"eval or uploader did not close: {_codes(outcome)}")


def _crashed(outcome: Outcome) -> Finding:
    event, logged = _event(outcome, "side_failed", "eval-2"), len(_points_of(outcome, "eval-2"))
    if event is None or outcome.codes["eval-2"] != 1 or not _is_completed(outcome):
        return Finding(False, f"eval-2 did not crash as it should: {_codes(outcome)}, event {event}")
    kind = event.detail.get("what", "?").partition(":")[0]
    return Finding(
        True,
        f"eval-2 crashed ({kind}): that did not fail the Run, its {logged} points are there",
    )


def _killed(outcome: Outcome) -> Finding:
    lease, event = _lease(outcome, "profiler"), _event(outcome, "side_died", "profiler")
    died = lease is not None and lease.end_reason == "died" and lease.ended_at is not None
    if not died or event is None or outcome.codes["profiler"] != -9 or not _is_completed(outcome):
        return Finding(False, f"profiler was not killed as it should: {_codes(outcome)}, event {event}")
    assert lease is not None and lease.ended_at is not None  # noqa: S101, PT018 # `died` says so
    noticed_ms, logged = max(0, lease.ended_at - outcome.killed_ms), len(_points_of(outcome, "profiler"))
    return Finding(
        True,
        "profiler was killed (SIGKILL): that did not end the Run and lost none of its "
        f"{logged} points; noticed after {noticed_ms} ms",
    )


def _learned(outcome: Outcome) -> Finding:
    losses = [loss for _, loss in ranks_mean(outcome.points, "train/loss")]
    tests = [value for name, value in _points_of(outcome, "eval") if name.startswith("eval/accuracy")]
    if not losses or not tests:
        return Finding(False, f"{len(losses)} losses of the training and {len(tests)} results of the eval")
    before, after = losses[0], sum(losses[-10:]) / len(losses[-10:])
    text = f"{len(losses):,} steps took the loss from {before:.2f} to {after:.2f}"
    return Finding(after < before * 0.8, f"{text}; eval: {tests[-1]:.0%} of the test images read rightly")


def _is_completed(outcome: Outcome) -> bool:
    document = outcome.document
    failure = document.verdict.first_failure if document.verdict is not None else None
    return document.status == "COMPLETED" and settled(document) and failure is None


def _logged(outcome: Outcome) -> Iterator[Key]:
    """Points of the ledger under the names that they have in the end."""
    participants = {lease.lease_id: lease.participant for lease in outcome.document.leases}
    for entry in outcome.ledger:
        others = outcome.document.series.get(entry.name, {})
        name = others.get(participants.get(entry.lease_id, ""), entry.name)
        value = entry.value if isinstance(entry.value, str) else float(entry.value)
        yield entry.lease_id, name, entry.step, value


def _stored(outcome: Outcome) -> Iterator[Key]:
    for point in outcome.points:
        if point.kind != "file":  # `_shipped` looks at these
            yield point.lease_id, point.name, point.step, point.value


def _died_before_its_note(outcome: Outcome, extra: Counter[Key]) -> bool:
    """Whether the only extra point is the killed process's last: logged, and not yet in the ledger."""
    killed = _lease(outcome, "profiler")
    return extra.total() == 1 and killed is not None and all(key[0] == killed.lease_id for key in extra)


def _shown(outcome: Outcome, key: Key) -> str:
    lease_id, name, step, value = key
    labels = {lease.lease_id: lease.label for lease in outcome.document.leases}
    return f"{labels.get(lease_id, lease_id)} {name}@{step} = {value}"


def _points_of(outcome: Outcome, label: str) -> list[tuple[str, float | str]]:
    lease = _lease(outcome, label)
    return [
        (point.name, point.value)
        for point in outcome.points
        if lease is not None and point.lease_id == lease.lease_id
    ]


def _lease(outcome: Outcome, label: str) -> LeaseShown | None:
    return next((lease for lease in outcome.document.leases if lease.label == label), None)


def _event(outcome: Outcome, name: str, label: str) -> RunEvent | None:
    events = (event for event in outcome.document.events if event.name == name)
    return next((event for event in events if event.detail.get("label") == label), None)


def _codes(outcome: Outcome) -> str:
    return "exit codes " + ", ".join(f"{name} {code}" for name, code in outcome.codes.items())


def _run(outcome: Outcome) -> str:
    return outcome.document.display_id or outcome.document.run_id
