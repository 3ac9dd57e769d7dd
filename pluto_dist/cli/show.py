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

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec

from pluto_dist.backend.local.reading import SaidLine
from pluto_dist.backend.local.store import Store
from pluto_dist.cli.artifacts import Artifact, joined, lacking, listed_in
from pluto_dist.cli.console import clock, note, now_ms, print_json, print_table, printable, since, size, span
from pluto_dist.cli.options import Dir, Home, Json, Option, RunName, echo
from pluto_dist.cli.ps import HERE_ONLY, elsewhere, print_run_there, print_section
from pluto_dist.core.rules.verdict import server_differs
from pluto_dist.core.values.document import Document, ReaderShown, TopicShown
from pluto_dist.core.values.records import Failure, RunEvent
from pluto_dist.core.values.topics import CHECKPOINTS, ItemShown
from pluto_dist.errors import RunNotFoundError, UsageError
from pluto_dist.read.lookup import RUNNING, Lookup
from pluto_dist.read.nodes import RunThere
from pluto_dist.read.processes import (
    Group,
    failed_lease,
    first_failure,
    groups_of,
    how_it_ended,
    processes_of,
    ranks_among,
    shared_names,
    spans,
)
from pluto_dist.read.run import Run, summed_up
from pluto_dist.read.settle import Situation, remark_on, settle, situation
from pluto_dist.read.streams import caught_up, last_lines

if TYPE_CHECKING:
    from pluto_dist.cli.ps import Elsewhere
    from pluto_dist.read.lookup import Found

PLOT_HEIGHT = 16
OTHERS = 4  # names that are listed
LAST_LINES = 10


def show(
    run: RunName,
    plot: Annotated[str | None, Option(metavar="METRIC", help="A chart of this series.")] = None,
    whole: Annotated[bool, Option("--all", help="Fold nothing.")] = False,
    home: Home = None,
    folder: Dir = None,
    as_json: Json = False,
) -> None:
    """Shows one Run: status and why, first failure with its last lines, processes, checkpoints, rest."""
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
        print_run(
            Shown(
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
    if there.cluster is not None:
        return there.trouble
    return HERE_ONLY if document.restore.run.cluster is not None else ""


def _show_shared(there: Elsewhere, name: str, *, as_json: bool) -> bool:
    """Shows a Run that only other nodes have; False where the cluster store does not have it either."""
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
    lease = failed_lease(document)
    return tuple(last_lines(lease, folders, LAST_LINES)) if lease is not None else ()


def roots(found: Found, spool: Path | None) -> list[Path]:
    """Folders with the Run's streams: its own in the store, and this node's spool."""
    streams = Store(found.store).streams_of(found.document.part_keys)
    return [*streams, *([spool] if spool is not None else [])]


def current(found: Found, spool: Path | None) -> Document:
    """The document, with what only the streams know as of now."""
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
    plain = msgspec.json.decode(msgspec.json.encode(document), type=dict[str, msgspec.Raw])
    shown: dict[str, object] = {key: value for key, value in plain.items() if key != "restore"}
    return {**shown, "store": store, "live": live, "remark": remark}


def _plot(lookup: Lookup, found: Found, document: Document, name: str) -> None:
    import shutil

    from pluto_dist.cli.chart import Curve, draw
    from pluto_dist.read.series import Wanted, no_points_of

    curve = Curve()
    for chunk in Run(lookup, found).chunks(Wanted([name])):
        curve.extend(chunk.steps, chunk.values)
    if not curve.steps and not curve.skipped:
        raise UsageError(no_points_of(document, name))
    width = shutil.get_terminal_size().columns
    skipped = f", {curve.skipped} not finite and left out" if curve.skipped else ""
    title = f"{printable(name)} of {document.display_id or document.key}: {len(curve.steps)} points{skipped}"
    for line in (title, *draw(curve, width, PLOT_HEIGHT)):
        echo(line)
    others = sorted(document.series.get(name, {}).values())
    if others:
        more = f" and {len(others) - OTHERS} more" if len(others) > OTHERS else ""
        echo(printable(f"other processes log it too, as {', '.join(others[:OTHERS])}{more}"))


# A Run's document for people: status and why, first failure with its last lines, processes, then the rest.
# Long lists are folded.
EVENTS = 20
CONFIG_LINES = 40
SERIES = 30
SAID = ("series_renamed",)  # stands above, by its series
ROWS = 20
TRACEBACK_LINES = 12
COLUMNS = (
    *("ROLE", "WHO", "PID", "HOST", "EPOCH", "ATTEMPT", "AGE", "SEEN", "STEP", "WRITTEN"),
    *("DELIVERED", "STATE"),
)
NUMBERS = ("PID", "EPOCH", "ATTEMPT", "STEP", "WRITTEN", "DELIVERED", "COUNT", "LAST")
_TOPIC_NUMBERS = ("NUMBER", "STEP", "DONE", "BEHIND")
READERS = 10


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """The facts that are printed about one Run.

    Attributes:
        document: of the Run.
        store: folder of the store.
        situation: whether its processes live.
        remark: what a person should know about a Run without a live coordinator, "" if nothing.
        last_lines: what the process that failed first printed last.
        whole: nothing is folded.
        shared: the Run as the cluster store has it, for all nodes; None without one.
        trouble: why the nodes of a Run of several are not shown, "" if they are.
    """

    document: Document
    store: str
    situation: Situation
    remark: str = ""
    last_lines: tuple[SaidLine, ...] = ()
    whole: bool = False
    shared: RunThere | None = None
    trouble: str = ""


def print_run(shown: Shown) -> None:
    """Prints the whole report."""
    document = shown.document
    _section(_header(shown))
    if shown.remark:
        echo(f"\nnote: {shown.remark}")
    _section(verdict_lines(shown))
    echo("\nprocesses" if document.leases else "\nno process has attached yet")
    _processes(shown, now_ms())
    if shown.shared is not None:
        print_section(shown.shared)
    elif shown.trouble:
        echo(f"\nnote: {printable(shown.trouble)}")
    echo("\nsummary" if document.summary else "\nno points yet")
    _summary(shown)
    _print_topics(document.topics, whole=shown.whole)
    _section(shared_names(document.series))
    _section(_counts(document))
    _section(_events(document.events, whole=shown.whole))
    _section(earlier_lines(document))
    _section(_config(document, whole=shown.whole))
    _section(_files(document, shown.store))


def failure_lines(failure: Failure) -> Iterator[str]:
    """The process that failed first, and how."""
    rank = (
        f", rank {failure.rank}"
        if failure.rank is not None and failure.label != f"rank{failure.rank}"
        else ""
    )
    yield (
        f"first failure: {failure.label} ({failure.role}{rank}, pid {failure.pid} on {failure.host}, "
        f"attempt {failure.attempt}) {_when(failure)}"
    )
    yield f"  {how_it_ended(failure)}"
    lines = failure.traceback.rstrip().splitlines()
    yield from (f"  {line}" for line in lines[-TRACEBACK_LINES:])


def _when(failure: Failure) -> str:
    if failure.found_at is None:
        return f"at {clock(failure.at)}"
    return f"last known to live at {clock(failure.at)}, found at {clock(failure.found_at)}"


def _section(lines: Iterator[str]) -> None:
    found = [printable(line) for line in lines]
    if found:
        echo("\n" + "\n".join(found))


def _header(shown: Shown) -> Iterator[str]:
    document, store = shown.document, shown.store
    yield f"{document.display_id or document.run_id}  {document.name}  (project {document.project})"
    yield f"  status   {_status(shown)}"
    differs = server_differs(document.server_status, document.refusals)
    if differs:
        yield f"  but      {differs}"
    yield f"  since    {clock(document.created_at)}{_until(document)}"
    yield f"  run_id   {document.run_id}" + (f", id {document.id}" if document.id is not None else "")
    yield f"  where    {f'{document.mode}, {document.url}' if document.url else f'{document.mode}, {store}'}"
    if document.fork is not None:
        yield f"  fork of  {document.fork.run_id} from step {document.fork.step}"
    if document.attempts:
        yield f"  attempt  {document.attempt} (after {len(document.attempts)} that ended)"
    if document.tags:
        yield f"  tags     {', '.join(document.tags)}"
    if document.provisional:
        yield "  the server has not answered yet; everything is kept on disk"


def _status(shown: Shown) -> str:
    """Never RUNNING unless a process is known to live, or all have left on purpose (G7)."""
    document = shown.document
    if shown.situation.standing == "gone":
        return f"its processes are {shown.situation.status}"
    if shown.situation.standing == "unknown":
        return "not known: its processes cannot be seen from here, and it has not ended"
    phase = document.phase if document.phase not in ("", "ended", document.status.lower()) else ""
    return f"{document.status} ({phase})" if phase else document.status


def _until(document: Document) -> str:
    if document.ended_at is None:
        return f" ({since(document.created_at, now_ms())})"
    lasted = span((document.ended_at - document.created_at) / 1000)
    found = f"; found at {clock(document.found_at)}" if document.found_at is not None else ""
    return f", until {clock(document.ended_at)} ({lasted}){found}"


def verdict_lines(shown: Shown) -> Iterator[str]:
    """The end of the Run, or of its last attempt, with the first failure and its last console lines."""
    document = shown.document
    if document.verdict is not None:
        yield f"verdict: {document.verdict.status}: {document.verdict.reason}"
    elif document.attempts:
        end = document.attempts[-1]
        yield f"attempt {end.attempt} ended: {end.status}: {end.reason}"
    failure = first_failure(document)
    if failure is not None:
        yield from failure_lines(failure)
        if shown.last_lines:
            yield "  the last lines of its console:"
            yield from (f"  | {line.message}" for line in shown.last_lines)


def earlier_lines(document: Document) -> Iterator[str]:
    """The ends of earlier attempts."""
    ended = document.attempts if document.verdict is not None else document.attempts[:-1]
    for end in ended:
        yield f"attempt {end.attempt}: {end.status}: {end.reason}"
        if end.first_failure is not None:
            yield from failure_lines(end.first_failure)


def _processes(shown: Shown, at_ms: int) -> None:
    alive = shown.situation.standing in ("running", "detached")
    rows = groups_of(processes_of(shown.document, at_ms, known=alive), whole=shown.whole)
    listed = rows if shown.whole else rows[:ROWS]
    if rows:
        print_table(COLUMNS, [_cells(row, at_ms) for row in listed], right=NUMBERS)
    if len(listed) < len(rows):
        more = sum(len(row.processes) for row in rows[len(listed) :])
        echo(f"… {more} more; --all has them")


def _cells(row: Group, at_ms: int) -> tuple[object, ...]:
    first = row.first.lease
    return (
        first.role,
        row.who,
        first.pid if len(row.processes) == 1 else f"{len(row.processes)} pids",
        first.host,
        first.epoch,
        first.attempt,
        since(row.oldest("granted_at"), at_ms),
        since(row.oldest("last_seen_at"), at_ms),
        row.steps,
        row.written,
        row.delivered,
        row.first.state,
    )


def _summary(shown: Shown) -> None:
    summary = sorted(shown.document.summary.items())
    plain = [(name, point.last, point.step, point.count) for name, point in summary]
    series = plain if shown.whole else _folded(shown.document)
    listed = series if shown.whole else series[:SERIES]
    if listed:
        print_table(("SERIES", "LAST", "STEP", "COUNT"), listed, right=NUMBERS)
    if len(listed) < len(series):
        echo(f"… {len(series) - len(listed)} more series; --all has them")


def _folded(document: Document) -> list[tuple[str, object, object, int]]:
    """A row for each series; one for those of many ranks, from their lowest last value to the highest."""
    summary = dict(document.summary)
    rows: list[tuple[str, object, object, int]] = []
    for name, others in document.series.items():
        ranks = [rank for rank in ranks_among(others) if others[f"rank{rank}"] in summary]
        points = [summary.pop(others[f"rank{rank}"]) for rank in ranks]
        if points:
            last = _span([point.last for point in points])
            count = sum(point.count for point in points)
            rows.append(
                (f"{name}/rank[{spans(ranks)}]", last, _span([point.step for point in points]), count)
            )
    rows += [(name, point.last, point.step, point.count) for name, point in summary.items()]
    return sorted(rows, key=lambda row: row[0])


def _span(values: Sequence[float | str]) -> str:
    """`0.5 … 0.7, NaN`: numbers from the lowest to the highest, and what is none."""
    numbers = [value for value in values if not isinstance(value, str)]
    ends = dict.fromkeys(f"{end:.6g}" for end in (min(numbers), max(numbers))) if numbers else {}
    others = dict.fromkeys(value for value in values if isinstance(value, str))
    return ", ".join(filter(None, (" … ".join(ends), *list(others)[:2])))


def _config(document: Document, *, whole: bool) -> Iterator[str]:
    if bytes(document.config) != b"{}":
        yield "config"
        yield from _object(document.config, whole=whole)
    for label, config in document.side_configs.items():
        yield f"config of {label}"
        yield from _object(config, whole=whole)


def _object(body: msgspec.Raw, *, whole: bool) -> Iterator[str]:
    lines = msgspec.json.format(bytes(body), indent=2).decode().splitlines()[1:-1]
    limit = len(lines) if whole else CONFIG_LINES
    yield from lines[:limit]
    if len(lines) > limit:
        yield f"  … {len(lines) - limit} more lines; --all has them"


def _events(events: tuple[RunEvent, ...], *, whole: bool) -> Iterator[str]:
    listed = events if whole else tuple(each for each in events if each.name not in SAID)[-EVENTS:]
    if events:
        some = len(listed) < len(events)
        yield f"events (last {len(listed)} of {len(events)}); --all has them" if some else "events"
    for event in listed:
        yield f"  {clock(event.at_ms)}  {event.name}{_detail(event.detail)}"


def _detail(detail: Mapping[str, str]) -> str:
    return "".join(f"  {key}={value}" for key, value in detail.items())


def _files(document: Document, store: str) -> Iterator[str]:
    runs = [Store(Path(store)).run(key) for key in document.part_keys]
    newest: dict[str, list[Artifact]] = {}
    for each in joined(each for run in runs for each in listed_in(run)):
        newest.setdefault(each.name, []).append(each)
    for name, found in sorted(newest.items()):
        last = max(found, key=lambda each: (each.step, each.time))
        what = f"{size(last.size)}, {lacking(last) or f'sha256 {last.sha256[:12]}'}"
        yield f"artifact {name}: {len(found)}, the last of step {last.step}, {what}"
    if newest:
        yield f"  all of them: pluto-dist artifacts {document.display_id or document.key}"
    yield from (f"files in {run / 'files'}" for run in runs if (run / "files").is_dir())


def _counts(document: Document) -> Iterator[str]:
    yield (
        f"{document.points} points; pending {document.pending} bytes, rejected {document.rejected}, "
        f"repeats {document.repeats}, dropped {document.dropped}, damaged {document.damaged}"
    )
    if document.first_reject:
        yield f"first rejected: {document.first_reject}"
    if document.trouble:
        yield f"trouble: {document.trouble}"
    if document.verdict is not None and not document.reported:
        yield "the final status has not been accepted yet"


class _Checkpoint(msgspec.Struct):
    step: int
    path: str
    info: msgspec.Raw = msgspec.Raw(b"")


def _print_topics(topics: dict[str, TopicShown], *, whole: bool) -> None:
    """Prints topics, checkpoints first: the newest items of each, and its readers."""
    for name in sorted(topics, key=lambda name: (name != CHECKPOINTS, name)):
        topic = topics[name]
        fold = f", the newest {len(topic.latest)}" if len(topic.latest) < topic.last else ""
        echo(f"\n{name if name == CHECKPOINTS else f'topic {name}'}: {topic.last}{fold}")
        if name == CHECKPOINTS:
            print_table(
                ("NUMBER", "AT", "STEP", "PATH", "INFO"), map(_checkpoint, topic.latest), right=_TOPIC_NUMBERS
            )
        else:
            print_table(("NUMBER", "AT", "BY", "PAYLOAD"), map(_item, topic.latest), right=_TOPIC_NUMBERS)
        _print_readers(topic.readers, whole=whole)


def _print_readers(readers: tuple[ReaderShown, ...], *, whole: bool) -> None:
    """Prints the readers of a topic, those that are behind first."""
    if not readers:
        echo("no process has taken any yet")
        return
    listed = sorted(readers, key=lambda reader: -reader.behind)[: None if whole else READERS]
    print_table(("WHO LOOKS", "DONE", "BEHIND", "AT WORK"), map(_reader, listed), right=_TOPIC_NUMBERS)
    if len(listed) < len(readers):
        echo(f"… {len(readers) - len(listed)} more; --all has them")


def _item(item: ItemShown) -> Sequence[object]:
    return item.number, clock(item.at_ms), item.by, item.payload


def _checkpoint(item: ItemShown) -> Sequence[object]:
    """A checkpoint as cells; one whose payload is cut in the document is shown as text."""
    try:
        found = msgspec.json.decode(item.payload, type=_Checkpoint)
    except msgspec.MsgspecError:
        return item.number, clock(item.at_ms), None, item.payload, None
    return item.number, clock(item.at_ms), found.step, found.path, bytes(found.info).decode()


def _reader(reader: ReaderShown) -> Sequence[object]:
    at_work = (f"{number} by {label}" for number, label in reader.at_work.items())
    who = f"{reader.name} (group)" if reader.group else reader.name
    return who, reader.done, reader.behind, ", ".join(at_work)
