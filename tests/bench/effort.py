"""How much is measured: the whole run takes at most three minutes, the quick one half a minute."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Effort:
    """Sizes of all measurements.

    Attributes:
        rounds: short measurements of which the median counts.
        records: timed `log()` calls in a round.
        paced: calls at 1,000 a second.
        starts: of interpreters and coordinators.
        leases: numbers of idle leases to compare.
        idle_s: how long an idle coordinator is watched.
        backlog: records of each of eight writers.
        large_backlog_mb: that is to be delivered in constant memory.
        deaths: processes that are killed.
        last_records: that `finish()` has to deliver.
        light_s: seconds of light load.
    """

    rounds: int = 3
    records: int = 10_000
    paced: int = 2_000
    starts: int = 9
    leases: tuple[int, ...] = (64, 256)
    idle_s: float = 10.0
    backlog: int = 50_000
    large_backlog_mb: int = 1000
    deaths: int = 8
    last_records: int = 2000
    light_s: float = 5.0


FULL = Effort()
QUICK = Effort(
    rounds=1,
    records=5_000,
    paced=500,
    starts=3,
    leases=(32,),
    idle_s=3.0,
    backlog=10_000,
    large_backlog_mb=100,
    deaths=3,
    last_records=200,
    light_s=2.0,
)
