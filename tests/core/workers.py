"""What the coordinator's worker threads do: they ask the server, cut batches, write to the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pluto_dist.core.values import effects as do
from pluto_dist.core.values import events as on
from pluto_dist.core.values.backend import Delivered, Retry
from tests.core.reducer import MemoryReducer
from tests.core.spool import Spool

if TYPE_CHECKING:
    from tests.core.driver import Driver

Slow = (
    do.OpenRun
    | do.Ship
    | do.Control
    | do.BeatRun
    | do.WriteDocument
    | do.SetAside
    | do.KeepCopies
    | do.DropCopies
    | do.ReduceRanks
    | do.AtCluster
)


def answer_to(driver: Driver, effect: Slow) -> on.Event | None:
    """What became of a slow effect; a node that is cut off from the server finds it down."""
    server, down = driver.server, driver.server.down
    server.down = down or driver.cut_off
    try:
        return _answer_to(driver, effect)
    finally:
        server.down = down


def _answer_to(driver: Driver, effect: Slow) -> on.Event | None:  # noqa: PLR0912 # one case for each effect
    match effect:
        case do.OpenRun(run=run):
            return on.OpenEnded(run=run, result=driver.server.open(effect.request))
        case do.Control():
            answer = driver.worker.do(effect)
            if isinstance(answer, on.Controlled) and not isinstance(answer.outcome, Retry):
                driver.said_to_server(effect)
            return answer
        case do.WriteDocument(run=key, revision=revision, body=body):
            if driver.store_broken:
                return on.DocumentWritten(run=key, revision=revision, error="disk full")
            driver.documents[key] = body
            return on.DocumentWritten(run=key, revision=revision)
        case do.SetAside():
            error = "disk full" if driver.store_broken else ""
            if not error:
                driver.set_aside.add((effect.lease_id, effect.stream, effect.segment, effect.start))
            return on.RecordSetAside(
                target=effect.target, lease_id=effect.lease_id, stream=effect.stream, error=error
            )
        case do.KeepCopies():
            return _keep(driver, effect)
        case do.DropCopies(run=key, lease_id=lease_id, segments=segments):
            if driver.store_broken:
                return on.CopiesDropped(run=key, lease_id=lease_id, segments=())
            driver.invariants.copies_dropped(effect)
            for stream, segment in segments:
                driver.copies.pop((lease_id, stream, segment), None)
            return on.CopiesDropped(run=key, lease_id=lease_id, segments=segments)
        case do.Ship():
            return _ship(driver, effect)
        case do.ReduceRanks(lease_id=lease_id):
            if driver.spool_broken:
                driver.reducers.pop(lease_id, None)
                return on.RanksReduced(lease_id=lease_id, state=effect.state, error="disk full")
            if lease_id not in driver.reducers:
                driver.reducers[lease_id] = MemoryReducer(driver.spools, effect)
            return driver.reducers[lease_id].reduce(effect)
        case _:
            return driver.worker.do(effect)


def _keep(driver: Driver, effect: do.KeepCopies) -> on.Event:
    if driver.store_broken:
        return on.CopiesKept(run=effect.run, lease_id=effect.lease_id, copies=(), error="disk full")
    for copy in effect.copies:
        driver.copies[effect.lease_id, copy.stream, copy.segment] = copy.end
    return on.CopiesKept(run=effect.run, lease_id=effect.lease_id, copies=effect.copies)


def _ship(driver: Driver, effect: do.Ship) -> on.Event:
    spool = driver.spools.get(effect.lease_id) or Spool(effect.lease_id, effect.folder, "")
    cut = spool.cut(effect)
    names = {name for record in cut.records for name in record.values}
    unknown = sorted(names - effect.known.keys())
    if unknown:
        return on.NamesFound(
            target=effect.target,
            lease_id=effect.lease_id,
            stream=effect.stream,
            names=dict.fromkeys(unknown, "METRIC"),
        )
    counts = {name: sum(name in record.values for record in cut.records) for name in names}
    last = {name: record for record in cut.records for name in record.values}
    return on.Shipped(
        target=effect.target,
        lease_id=effect.lease_id,
        stream=effect.stream,
        segment=effect.segment,
        start=effect.start,
        end=cut.end,
        lines=len(cut.records),
        skipped=cut.damaged,
        outcome=driver.server.ship(effect, cut.records) if cut.records else Delivered(),
        summary={
            name: on.PointSummary(record.values[name], record.step, counts[name])
            for name, record in last.items()
        },
        max_step=max((record.step for record in cut.records), default=-1),
    )
