"""`pluto-dist show RUN`: everything about one Run.

JSON: the Run's document (`core.values.document.Document`), without the part that is for the next coordinator
(`restore`), and with

    store    folder of the store that holds the Run
    live     the coordinator of this node has it, so all of this is as of now
    remark   what people should know about a Run that is not live, "" if nothing
    standing `ended`, `running` (a process of it lives), `detached`, `gone` (its processes are dead, and it is
             not judged yet) or `unknown`; for the last two `status` is only what was written last

With a cluster store (PLUTO_DIST_CLUSTER) there is also `shared`, the Run as all its nodes know it, as in
`ps`, null if the store does not have it, and `cluster_trouble`. A Run that only the store knows, of other
nodes, has `run_id`, `project`, `status`, `shared` and nothing else.

A Run whose processes died together with the coordinator is settled first: a coordinator is started, which
judges it within seconds, unless it was stopped on purpose.

`leases[].written` and `last_step` of a process of this node are read from its spool. For a Run that runs but
has no live coordinator, `summary` and `points` are counted anew from its streams.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pluto_dist.cli import options
from pluto_dist.cli.options import Option, echo

if TYPE_CHECKING:
    from pathlib import Path

    from pluto_dist.backend.local.reading import SaidLine
    from pluto_dist.cli.nodes import Elsewhere
    from pluto_dist.core.values.document import Document
    from pluto_dist.read.lookup import Found, Lookup

PLOT_HEIGHT = 16
OTHERS = 4  # names that are listed
LAST_LINES = 10


def show(
    run: options.RunName,
    plot: Annotated[str | None, Option(metavar="METRIC", help="A chart of this series.")] = None,
    whole: Annotated[bool, Option("--all", help="Fold nothing.")] = False,
    home: options.Home = None,
    folder: options.Dir = None,
    as_json: options.Json = False,
) -> None:
    """Shows one Run: status and why, first failure with its last lines, processes, checkpoints, the rest."""
    from pluto_dist.cli import report
    from pluto_dist.cli.console import print_json
    from pluto_dist.cli.nodes import elsewhere
    from pluto_dist.errors import RunNotFoundError, UsageError
    from pluto_dist.read.lookup import Lookup
    from pluto_dist.read.settle import remark_on, settle, situation

    if plot is not None and as_json:
        raise UsageError("--plot draws and --json prints; for the points as JSON: pluto-dist export RUN")
    lookup = Lookup(home, folder)
    unsettled = settle(lookup)
    there = elsewhere(home)
    try:
        found = lookup.find(run)
    except RunNotFoundError:
        if plot is not None or not _show_shared(there, run, as_json=as_json):
            raise
        return
    document = current(found, lookup.spool)
    known = situation(document, live=found.live, spool=lookup.spool)
    remark = remark_on(document, lookup, known, unsettled, live=found.live)
    if as_json:
        shown = public(document, str(found.store), live=found.live, remark=remark)
        shared = there.find(document.run_id, document.project)
        told = {"shared": shared, "cluster_trouble": there.trouble} if there.cluster is not None else {}
        print_json({**shown, "standing": known.standing, **told})
    elif plot is not None:
        _plot(lookup, found, document, plot)
    else:
        lines = _last_lines(document, roots(found, lookup.spool))
        shared = there.find(document.run_id, document.project)
        report.print_run(
            report.Shown(
                document=document,
                shared=shared,
                trouble=_why_alone(document, there),
                store=str(found.store),
                situation=known,
                remark=remark,
                last_lines=lines,
                whole=whole,
            )
        )


def _why_alone(document: Document, there: Elsewhere) -> str:
    """Why no other node of a Run of several is shown."""
    from pluto_dist.cli.nodes import HERE_ONLY

    if there.cluster is not None:
        return there.trouble
    return HERE_ONLY if document.restore.run.cluster is not None else ""


def _show_shared(there: Elsewhere, name: str, *, as_json: bool) -> bool:
    """Shows a Run that only other nodes have; False where the cluster store does not have it either."""
    from pluto_dist.cli.console import note, print_json
    from pluto_dist.cli.nodes import print_run_there

    shared = there.named(name)
    if shared is None:
        if there.trouble:
            note(there.trouble)
        return False
    if as_json:
        about = {"run_id": shared.run_id, "project": shared.project, "status": shared.status}
        print_json({**about, "shared": shared})
    else:
        print_run_there(shared)
    return True


def _last_lines(document: Document, folders: list[Path]) -> tuple[SaidLine, ...]:
    """The last console lines of the process that failed first."""
    from pluto_dist.read.console import last_lines
    from pluto_dist.read.processes import failed_lease

    lease = failed_lease(document)
    return tuple(last_lines(lease, folders, LAST_LINES)) if lease is not None else ()


def roots(found: Found, spool: Path | None) -> list[Path]:
    """Folders with the Run's streams: its own in the store, and this node's spool."""
    from pluto_dist.backend.local.store import Store

    streams = Store(found.store).streams_of(found.document.part_keys)
    return [*streams, *([spool] if spool is not None else [])]


def current(found: Found, spool: Path | None) -> Document:
    """The document, with what only the streams know as of now."""
    import msgspec

    from pluto_dist.read.lookup import RUNNING
    from pluto_dist.read.run import summed_up
    from pluto_dist.read.spooled import caught_up

    document = caught_up(found.document, spool)
    if found.live or document.status != RUNNING:
        return document
    summary = summed_up(document, roots(found, spool))
    points = sum(point.count for point in summary.values())
    if document.mode != "local" and points < document.points:  # the server has what is no longer here
        return document
    return msgspec.structs.replace(document, summary=summary, points=points)


def public(document: Document, store: str, *, live: bool, remark: str) -> dict[str, object]:
    """The document's public keys and those of this command."""
    import msgspec

    plain = msgspec.json.decode(msgspec.json.encode(document), type=dict[str, msgspec.Raw])
    shown: dict[str, object] = {key: value for key, value in plain.items() if key != "restore"}
    return {**shown, "store": store, "live": live, "remark": remark}


def _plot(lookup: Lookup, found: Found, document: Document, name: str) -> None:
    import shutil

    from pluto_dist.cli.chart import Curve, draw
    from pluto_dist.cli.console import printable
    from pluto_dist.read.run import Run

    curve = Curve()
    for series in Run(lookup, found).series([name]).curves():
        curve.extend(series.steps, series.values)
    if not curve.steps and not curve.skipped:
        raise _no_such_series(document, name)
    width = shutil.get_terminal_size().columns
    skipped = f", {curve.skipped} not finite and left out" if curve.skipped else ""
    title = f"{printable(name)} of {document.display_id or document.key}: {len(curve.steps)} points{skipped}"
    for line in (title, *draw(curve, width, PLOT_HEIGHT)):
        echo(line)
    others = sorted(document.series.get(name, {}).values())
    if others:
        more = f" and {len(others) - OTHERS} more" if len(others) > OTHERS else ""
        echo(printable(f"other processes log it too, as {', '.join(others[:OTHERS])}{more}"))


def _no_such_series(document: Document, name: str) -> Exception:
    import difflib

    from pluto_dist.errors import UsageError

    if name in document.summary:
        return UsageError(
            f"the points of {name!r} are on the server, {document.url}; what was delivered is not kept here"
        )
    near = difflib.get_close_matches(name, document.summary, n=3)
    listed = ", ".join(sorted(document.summary)[:20])
    known = (
        f"did you mean {' or '.join(near)}?"
        if near
        else f"it has: {listed}"
        if listed
        else "it has no points yet"
    )
    return UsageError(
        f"Run {document.display_id or document.key} has no points of a metric {name!r} here; {known}"
    )
