"""How much is measured: the whole run takes at most three minutes, the quick one half a minute."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Effort:
    """Sizes of all measurements.

    Attributes:
        rounds: short measurements of which the median counts.
        records: timed `log()` calls in a round.
        peer_records: the same of other clients, which may be slow.
        paced: calls at 1,000 a second.
        starts: of interpreters and coordinators.
        leases: numbers of idle leases to compare.
        idle_s: how long an idle coordinator is watched.
        backlog: records of each of eight writers.
        ranks: numbers of ranks whose series become one.
        large_backlog_mb: that is to be delivered in constant memory; 0 for none.
        deaths, large_deaths: processes that are killed, small ones and of 1 GB.
        killed_backlog_mb: that a killed coordinator leaves behind.
        last_records: that `finish()` has to deliver.
        light_s: seconds of light load.
        sweep: Runs one after the other in one process.
        writers, crowd_s: that log at a steady pace, and for how long.
        looked_runs, looked_records: Runs of a store, and records of ten values of its longest one.
        read_records: of ten values, of which one series is read beside other readers.
        file_mb: of the largest file that is logged and uploaded.
        handed, handed_before: checkpoints that are timed, and others before the last of them.
        cluster_nodes: nodes for which one process asks the cluster store.
        compactions: of its database that are awaited.
        peers: whether other clients are measured, too, where they are installed, and what no earlier
            version could do.
        crowd_of_peers: eight processes of them at once.
    """

    rounds: int = 3
    records: int = 10_000
    peer_records: int = 3_000
    paced: int = 2_000
    starts: int = 5
    leases: tuple[int, ...] = (16, 256)
    idle_s: float = 8.0
    backlog: int = 50_000
    ranks: tuple[int, ...] = (8, 64)
    large_backlog_mb: int = 1000
    deaths: int = 8
    large_deaths: int = 3
    killed_backlog_mb: int = 1000
    last_records: int = 2000
    light_s: float = 5.0
    sweep: int = 400
    writers: int = 256
    crowd_s: int = 15
    looked_runs: int = 1000
    looked_records: int = 300_000
    read_records: int = 20_000
    file_mb: int = 4096
    handed: int = 200
    handed_before: int = 10_000
    cluster_nodes: int = 1000
    compactions: int = 8
    peers: bool = True
    crowd_of_peers: bool = True


FULL = Effort()
QUICK = Effort(
    rounds=1,
    records=5_000,
    peer_records=500,
    paced=500,
    starts=3,
    leases=(),
    idle_s=2.0,
    backlog=20_000,
    ranks=(8,),
    large_backlog_mb=0,
    deaths=3,
    large_deaths=1,
    killed_backlog_mb=20,
    last_records=100,
    light_s=2.0,
    sweep=50,
    writers=64,
    crowd_s=5,
    looked_runs=100,
    looked_records=30_000,
    read_records=5_000,
    file_mb=256,
    handed=40,
    handed_before=1_000,
    cluster_nodes=200,
    compactions=4,
    crowd_of_peers=False,
)
