"""A Run's document as of now, made from the book and from what only the running coordinator knows."""

from __future__ import annotations

import msgspec

from pluto_dist.core.book import Book, Config, History
from pluto_dist.core.document import (
    FORMAT,
    Document,
    ForkShown,
    LeaseShown,
    Restore,
    VerdictShown,
)
from pluto_dist.core.records import Feed, Lease, Run, SeriesOwner, Verdict

_encoder = msgspec.json.Encoder()
_leases_decoder = msgspec.json.Decoder(tuple[LeaseShown, ...])


class Live(msgspec.Struct, frozen=True):
    """What only the running coordinator knows of a lease."""

    last_seen_ms: int | None
    last_logged_ms: int | None
    written: int
    last_step: int | None


def show(
    book: Book,
    run: Run,
    *,
    phase: str = "",
    pending: int = 0,
    trouble: str = "",
    live: dict[str, Live] | None = None,
    expected: Verdict | None = None,
) -> bytes:
    """The document as JSON."""
    return _encoder.encode(
        document(book, run, phase=phase, pending=pending, trouble=trouble, live=live or {}, expected=expected)
    )


def document(
    book: Book,
    run: Run,
    *,
    phase: str,
    pending: int,
    trouble: str,
    live: dict[str, Live],
    expected: Verdict | None = None,
) -> Document:
    """The document as a value."""
    leases = tuple(sorted(book.leases_of(run.key), key=lambda lease: (lease.granted_ms or 0, lease.lease_id)))
    config = book.configs.get(run.key) or Config()
    history = book.histories.get(run.key) or History()
    summary = book.points_of(run.key)
    shown = tuple(_lease(book, lease, live.get(lease.lease_id)) for lease in leases if lease.participant)
    series = _series(book, run)
    return Document(
        format=FORMAT,
        key=run.key,
        id=run.id,
        display_id=run.display_id,
        run_id=run.external_id,
        project=run.project,
        name=run.name,
        status=run.status,
        phase=phase,
        mode=run.target.mode,
        url=run.url,
        config=msgspec.Raw(config.body),
        side_configs={label: msgspec.Raw(body) for label, body in config.sides.items()},
        tags=run.tags,
        created_at=run.created_ms,
        ended_at=run.ended_ms,
        resumed=run.resumed,
        provisional=run.provisional,
        fork=ForkShown(run.fork_run_id, run.fork_step) if run.fork_run_id is not None else None,
        epoch=run.epoch,
        attempt=run.attempt,
        attempts=run.attempts,
        leases=_past_leases(history, shown) + shown,
        summary=summary,
        points=sum(point.count for point in summary.values()),
        verdict=_verdict(run.verdict),
        expected=_verdict(expected),
        reported=run.reported,
        relay=run.relay,
        pending=pending,
        rejected=run.rejected + sum(lease.rejected for lease in leases),
        first_reject=run.first_reject,
        repeats=run.repeats,
        dropped=sum(lease.dropped for lease in leases),
        trouble=trouble or run.open_trouble,
        series={name: dict(owner.others) for name, owner in series.items() if owner.others},
        events=history.events,
        restore=Restore(
            book.runs.get(run.key) or run,
            series,
            _steps(book, run, leases),
            {label: msgspec.Raw(body) for label, body in config.sides.items()},
        ),
    )


def _verdict(verdict: Verdict | None) -> VerdictShown | None:
    if verdict is None:
        return None
    return VerdictShown(verdict.status, verdict.reason, verdict.first_failure)


def _past_leases(history: History, shown: tuple[LeaseShown, ...]) -> tuple[LeaseShown, ...]:
    """Leases of earlier coordinators, without those that were found in the spool again."""
    found = {lease.lease_id for lease in shown}
    return tuple(past for past in _leases_decoder.decode(history.past_leases) if past.lease_id not in found)


def _series(book: Book, run: Run) -> dict[str, SeriesOwner]:
    return dict(book.series_of(run.key))


def _steps(book: Book, run: Run, leases: tuple[Lease, ...]) -> dict[str, int]:
    steps = dict(run.steps)
    for lease in leases:
        for feed in _feeds(book, lease):
            steps[lease.participant] = max(steps.get(lease.participant, 0), lease.next_step, feed.next_step)
    return steps


def _feeds(book: Book, lease: Lease) -> list[Feed]:
    return [book.feeds[key] for key in book.feed_keys(lease.lease_id)]


def _lease(book: Book, lease: Lease, live: Live | None) -> LeaseShown:
    feeds = _feeds(book, lease)
    delivered = sum(feed.delivered for feed in feeds)
    last_step = max((feed.next_step for feed in feeds), default=0) - 1
    seen_step = live.last_step if live is not None and live.last_step is not None else last_step
    return LeaseShown(
        lease_id=lease.lease_id,
        role=lease.role,
        label=lease.label,
        participant=lease.participant,
        rank=lease.rank,
        pid=lease.identity.pid,
        host=lease.identity.host,
        epoch=lease.epoch,
        attempt=lease.attempt,
        state=lease.state,
        granted_at=lease.granted_ms,
        last_seen_at=live.last_seen_ms if live is not None else lease.ended_ms,
        ended_at=lease.ended_ms,
        end_reason=lease.end_reason,
        delivered=delivered,
        written=max(delivered, live.written if live is not None else 0),
        last_step=seen_step if seen_step >= 0 else None,
        last_logged_at=live.last_logged_ms if live is not None else None,
        rejected=lease.rejected,
        dropped=lease.dropped,
        heartbeat_s=lease.opened.heartbeat_s,
        launcher=lease.opened.launcher,
        cursors={feed.stream: feed.offsets for feed in feeds},
        fences=lease.fences,
    )
