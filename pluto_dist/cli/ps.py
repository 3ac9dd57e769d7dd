"""`pluto-dist ps`: the processes that are attached to the Runs of this node, and of all nodes of their jobs.

JSON: an object of
    runtime       folder of the coordinator that was asked
    coordinator   its pid, null if none runs or it is in another pid namespace
    running       whether one runs; without one it is not known who is attached
    processes     a list, by Run, of `run` (key), `display_id`, `run_id`, `project`, `name`, `phase`,
                  `lease_id`, `role`, `label`, `rank`, `pid`, `host`, `epoch`, `attempt`, `state`, `suspect`,
                  `heartbeat_s`, `granted_at`, `last_seen_at`, `age_s`, `seen_s`, `last_step`,
                  `last_logged_at`, `logged_s`, `written`, `delivered`
    series        names that several participants use: key of the Run -> name -> participant -> final name
    cluster       address of the cluster store, null where PLUTO_DIST_CLUSTER is not set
    cluster_trouble  why it could not be read, "" if it could
    shared_runs   a list of the Runs there that have not ended, of any node: `project`, `run_id`, `id`,
                  `display_id`, `url`, `status`, `verdict`, `sent` (the server has it), `epoch` (of the seat),
                  `round` (start of the job), `attempt`, `nodes`, and `evidence`, a list of `node`, `label`,
                  `rank`, `pid`, `what`, `age_s`. A node has `node`, `name`, `host`, `present` (it holds a
                  lease), `seat`, `owner`, `current` (in this start of the job), `ended`, `attempt`, `said_s`
                  (since it told of itself; it does when something changes, else each minute), and
                  `processes`, a list of `lease_id`, `role`, `label`, `rank`, `pid`, `alive`, `step`, `age_s`

`suspect` means silent for three of its heartbeats: stopped, or busy without letting other threads run; not
dead.
Ages of other nodes are by their wall clocks and this one's.
`written` counts records in the spool, `delivered` those the backend has accepted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import msgspec

from pluto_dist.cli.console import note, now_ms, print_json, print_table, printable, span
from pluto_dist.cli.options import Home, Json, echo
from pluto_dist.errors import ClusterUnavailableError, PlacesError
from pluto_dist.host.settings import cluster_of
from pluto_dist.read.ask import listener
from pluto_dist.read.lookup import Lookup, reading_settings
from pluto_dist.read.processes import is_suspect, shared_names
from pluto_dist.read.settle import settle
from pluto_dist.read.streams import caught_up

if TYPE_CHECKING:
    from pathlib import Path

    from pluto_dist.core.values.document import Document, LeaseShown
    from pluto_dist.read.nodes import NodeThere, ProcessThere, RunThere


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """One attached process."""

    run: str
    display_id: str | None
    run_id: str
    project: str
    name: str
    phase: str
    lease_id: str
    role: str
    label: str
    rank: int | None
    pid: int
    host: str
    epoch: int
    attempt: int
    state: str
    suspect: bool
    heartbeat_s: float
    granted_at: int | None
    last_seen_at: int | None
    age_s: float | None
    seen_s: float | None
    last_step: int | None
    last_logged_at: int | None
    logged_s: float | None
    written: int
    delivered: int


class Attached(msgspec.Struct, frozen=True, kw_only=True):
    """The output of `ps`; see the module's docstring."""

    runtime: str
    coordinator: int | None
    running: bool
    processes: list[Process]
    series: dict[str, dict[str, dict[str, str]]]
    cluster: str | None = None
    cluster_trouble: str = ""
    shared_runs: list[RunThere] = []


def ps(home: Home = None, as_json: Json = False) -> None:
    """Lists the attached processes of all live Runs of this node, and all nodes in the cluster store."""
    lookup = Lookup(home)
    settle(lookup)
    there = elsewhere(home)
    found = msgspec.structs.replace(
        attached(lookup),
        cluster=there.cluster,
        cluster_trouble=there.trouble,
        shared_runs=[run for run in there.runs if run.verdict is None or not run.sent],
    )
    if as_json:
        print_json(found)
        return
    if not found.running:
        note(
            "no coordinator runs, so nobody knows who is attached; what processes log is kept for the next "
            f"one (pluto-dist coordinator start). Looked at: {lookup.where()}"
        )
    elif not found.processes:
        note(f"nothing is attached; looked at: {lookup.where()}")
    else:
        _print(found)
    _print_shared(found)


def attached(lookup: Lookup) -> Attached:
    """The processes that are attached now."""
    if lookup.places is None:
        raise PlacesError(f"no place for a coordinator here; looked at: {lookup.where()}")
    listening = listener(lookup.places.socket)
    documents = lookup.documents() if listening is not None else []
    return Attached(
        runtime=str(lookup.places.runtime),
        coordinator=listening.pid if listening is not None else None,
        running=listening is not None,
        processes=[
            _process(document, lease)
            for document in (caught_up(found, lookup.spool) for found in documents)
            for lease in document.leases
            if lease.state in ("waiting", "active")
        ],
        series={found.key: found.series for found in documents if found.series and found.status == "RUNNING"},
    )


def _process(document: Document, lease: LeaseShown) -> Process:
    now = now_ms()
    seen_s = (now - lease.last_seen_at) / 1000 if lease.last_seen_at is not None else None
    return Process(
        run=document.key,
        display_id=document.display_id,
        run_id=document.run_id,
        project=document.project,
        name=document.name,
        phase=document.phase,
        lease_id=lease.lease_id,
        role=lease.role,
        label=lease.label,
        rank=lease.rank,
        pid=lease.pid,
        host=lease.host,
        epoch=lease.epoch,
        attempt=lease.attempt,
        state=lease.state,
        suspect=is_suspect(lease, now),
        heartbeat_s=lease.heartbeat_s,
        granted_at=lease.granted_at,
        last_seen_at=lease.last_seen_at,
        age_s=(now - lease.granted_at) / 1000 if lease.granted_at is not None else None,
        seen_s=seen_s,
        last_step=lease.last_step,
        last_logged_at=lease.last_logged_at,
        logged_s=(now - lease.last_logged_at) / 1000 if lease.last_logged_at is not None else None,
        written=lease.written,
        delivered=lease.delivered,
    )


COLUMNS = (
    *("RUN", "ROLE", "LABEL", "RANK", "PID", "EPOCH", "AGE", "SEEN", "STEP", "LOGGED"),
    *("WRITTEN", "DELIVERED", "STATE"),
)
NUMBERS = ("RANK", "PID", "EPOCH", "STEP", "WRITTEN", "DELIVERED")


def process_row(process: Process) -> tuple[object, ...]:
    """One process as a line of the table under `COLUMNS`."""
    return (
        process.display_id or process.run_id,
        process.role,
        process.label,
        process.rank,
        process.pid,
        process.epoch,
        span(process.age_s),
        span(process.seen_s),
        process.last_step,
        span(process.logged_s),
        process.written,
        process.delivered,
        "suspect" if process.suspect else process.state,
    )


def _print_shared(found: Attached) -> None:
    """All nodes of jobs that have not ended, where there is a cluster store."""
    if found.cluster_trouble:
        note(f"only this node is shown: {found.cluster_trouble}")
    elif found.shared_runs:
        echo(f"\nnodes in the cluster store {found.cluster}")
        print_nodes(found.shared_runs)
    elif found.cluster is not None:
        note(f"no Run is under way in the cluster store {found.cluster}")


def _print(found: Attached) -> None:
    print_table(COLUMNS, map(process_row, found.processes), right=NUMBERS)
    shown = {process.run: process.display_id or process.run_id for process in found.processes}
    for run, names in found.series.items():
        for line in shared_names(names):
            echo(printable(f"{shown.get(run, run)}: {line}"))
    pid = f" (pid {found.coordinator})" if found.coordinator else ""
    echo(f"\n{len(found.processes)} attached; coordinator{pid} in {found.runtime}")


# The other nodes of a job, from the cluster store (`PLUTO_DIST_CLUSTER`); `show` tells of them too.
NODE_COLUMNS = (
    *("RUN", "NODE", "HOST", "LEASE", "SPEAKS", "SAID", "ROLE", "LABEL", "RANK", "PID", "AGE", "STEP"),
    "STATE",
)
NODE_NUMBERS = ("RANK", "PID", "STEP")
HERE_ONLY = "PLUTO_DIST_CLUSTER is not set here, so this is what this node knows"


class Elsewhere(msgspec.Struct, frozen=True, kw_only=True):
    """What the cluster store says.

    Attributes:
        cluster: its address, None where none is configured.
        trouble: why it could not be read, "" if it could.
        runs: all that it has.
    """

    cluster: str | None = None
    trouble: str = ""
    runs: tuple[RunThere, ...] = ()

    def find(self, run_id: str, project: str) -> RunThere | None:
        """The Run of an id in a project."""
        return next((run for run in self.runs if (run.run_id, run.project) == (run_id, project)), None)

    def named(self, name: str) -> RunThere | None:
        """The only Run that a person may mean by a name."""
        found = [run for run in self.runs if run.means(name)]
        return found[0] if len(found) == 1 else None


def elsewhere(home: Path | None) -> Elsewhere:
    """Asks the cluster store, if there is one.

    Raises:
        SettingError: its settings do not fit.
    """
    address = cluster_of(reading_settings(home))
    if address is None:
        return Elsewhere()
    from pluto_dist.read.nodes import runs_there

    try:
        return Elsewhere(cluster=str(address), runs=tuple(runs_there(address, now_ms())))
    except ClusterUnavailableError as error:
        return Elsewhere(cluster=str(address), trouble=error.message)


def print_nodes(runs: Iterable[RunThere]) -> None:
    """A line for each process, and for each node without any."""
    rows = [row for run in runs for node in run.nodes for row in _rows(run, node)]
    print_table(NODE_COLUMNS, rows, right=NODE_NUMBERS)


def _rows(run: RunThere, node: NodeThere) -> Iterator[tuple[object, ...]]:
    speaks = " ".join(word for word, said in (("seat", node.seat), ("owner", node.owner)) if said)
    ended = run.status != "RUNNING"
    lease = "held" if node.present else "-" if ended or node.ended else "gone"
    about = (run.display_id or run.run_id, node.name or node.node, node.host, lease, speaks)
    if not node.processes:
        yield (*about, f"{span(node.said_s)}", *[None] * 6, "ended" if node.ended else "")
    for process in node.processes:
        yield (*about, span(node.said_s), *_cells(process, known=node.present))


def _cells(process: ProcessThere, *, known: bool) -> tuple[object, ...]:
    state = "ended" if not process.alive else "active" if known else "not known"
    return (
        process.role,
        process.label,
        process.rank,
        process.pid,
        span(process.age_s),
        process.step,
        state,
    )


def print_run_there(run: RunThere) -> None:
    """A Run that this node knows only from the cluster store."""
    echo(printable(f"{run.display_id or run.run_id}  (project {run.project})"))
    told = "" if run.verdict is None or run.sent else " (the server does not have it yet)"
    echo(f"  status   {run.status}{told}")
    echo(printable(f"  run_id   {run.run_id}" + (f", id {run.id}" if run.id is not None else "")))
    if run.url:
        echo(printable(f"  where    {run.url}"))
    if run.verdict is not None:
        echo(printable(f"\nverdict: {run.verdict.status}: {run.verdict.reason}"))
    print_section(run)


def print_section(run: RunThere) -> None:
    """Nodes and evidence of one Run."""
    echo(f"\nnodes (start {run.round} of the job, seat's epoch {run.epoch})")
    print_nodes([run])
    for told in run.evidence:
        who = f"rank {told.rank}" if told.rank is not None else told.label
        line = f"  {span(told.age_s)} ago  {told.node}, {who} (pid {told.pid}): {told.what}"
        echo(printable(line))
