"""The stale-run monitor: one cycle over all RUNNING runs.

A run with a heartbeat row is judged by 150 s of silence, for ever; any other by 1800 s. The signs of life are
the heartbeat, the newest metric time that clients sent, and status changes; nothing else.
"""

from typing import Any

from .core import Core
from .runs import Run
from .status import mark

HEARTBEAT_GRACE_S = 150
STALE_GRACE_S = 1800
_IGNORED_GAP_S = 16384 * 86400
_OPERATORS = {
    "<": lambda value, limit: value < limit,
    "<=": lambda value, limit: value <= limit,
    ">": lambda value, limit: value > limit,
    ">=": lambda value, limit: value >= limit,
}


def cycle(core: Core) -> list[int]:
    """Judge every RUNNING run; the ids of those marked FAILED."""
    failed = []
    with core.state.lock:
        for run in list(core.state.book.runs.values()):
            if run.status != "RUNNING":
                continue
            if _crosses_threshold(core, run):
                mark(
                    core.state.book,
                    run,
                    "CANCELLED",
                    source="threshold-trigger",
                    metadata=None,
                    now_ms=core.state.now_ms(),
                )
            elif _reap(core, run):
                failed.append(run.id)
    return failed


def _reap(core: Core, run: Run) -> bool:
    now_ms = core.state.now_ms()
    newest = core.state.metrics.newest_time(run.id, now_ms)
    if run.last_seen_ms is not None:
        reason, grace_s, signs = "heartbeat-timeout", HEARTBEAT_GRACE_S, [run.last_seen_ms, newest]
    else:
        reason, grace_s, signs = "stale", STALE_GRACE_S, [run.updated_ms if newest is None else newest]
    last_ms = max(sign for sign in (*signs, run.status_updated_ms) if sign is not None)
    silent_s = (now_ms - last_ms) / 1000
    if not grace_s < silent_s <= _IGNORED_GAP_S:
        return False
    metadata = {
        "reason": reason,
        "grace_seconds": grace_s,
        "stale_for_seconds": round(silent_s),
        "last_update_time": last_ms,
    }
    mark(core.state.book, run, "FAILED", source="stale-monitor", metadata=metadata, now_ms=now_ms)
    return True


def _crosses_threshold(core: Core, run: Run) -> bool:
    settings = run.logger_settings
    rules: Any = settings.get("trigger") if isinstance(settings, dict) else None
    if not isinstance(rules, dict):
        return False
    key = (run.organization_id, run.project.name, run.id)
    series = core.state.metrics.series(key)
    return any(
        _OPERATORS[rule["operator"]](point.value, rule["threshold"])
        for name, rule in rules.items()
        if name in series
        for point in series[name].points(core.state.now_ms())
    )
