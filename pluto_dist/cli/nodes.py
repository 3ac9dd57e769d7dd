"""What `ps` and `show` tell of the other nodes of a job, from the cluster store (`PLUTO_DIST_CLUSTER`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import msgspec

from pluto_dist.cli.console import now_ms, print_table, printable, span
from pluto_dist.cli.options import echo
from pluto_dist.errors import ClusterUnavailableError
from pluto_dist.host.settings import cluster_of
from pluto_dist.read.lookup import reading_settings

if TYPE_CHECKING:
    from pathlib import Path

    from pluto_dist.read.nodes import NodeThere, ProcessThere, RunThere

COLUMNS = (
    *("RUN", "NODE", "HOST", "LEASE", "SPEAKS", "SAID", "ROLE", "LABEL", "RANK", "PID", "AGE", "STEP"),
    "STATE",
)
NUMBERS = ("RANK", "PID", "STEP")
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
    print_table(COLUMNS, rows, right=NUMBERS)


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
