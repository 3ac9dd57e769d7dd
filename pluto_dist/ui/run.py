"""One Run for the page: its state and why, processes, lanes of time, series, and all else it has logged.

Beside numbers that is console lines, files, texts, histograms and tables.
"""

from __future__ import annotations

import hashlib
import heapq
import mimetypes
import re
from collections import deque
from collections.abc import Iterable
from pathlib import Path

import msgspec

from pluto_dist.backend.local.reading import SaidLine, read_lines
from pluto_dist.core.rules.participants import speaker_shown
from pluto_dist.core.rules.together import origins
from pluto_dist.core.rules.verdict import server_differs
from pluto_dist.core.values.document import Document, ForkShown, LeaseShown, TopicShown, VerdictShown
from pluto_dist.core.values.records import AttemptEnd, Failure, Point, RunEvent
from pluto_dist.read.board import MachineUse, RunSeen
from pluto_dist.read.processes import (
    OPEN,
    Group,
    Process,
    Timeline,
    first_failure,
    groups_of,
    how_it_ended,
    timeline_of,
)
from pluto_dist.read.run import LoggedFile, Run
from pluto_dist.read.series import is_together
from pluto_dist.read.streams import last_lines

EVENTS = 300
WHOLE = 24  # so many processes have a row each; of more, those that are alike share one

BAND = ("mean", "min", "max")  # of what ranks say together, these are one chart

_LATE = re.compile(r"(?:.*/)?attempt\d+", re.DOTALL | re.ASCII)


class FailureSeen(msgspec.Struct, frozen=True):
    """The first failure.

    Attributes:
        failure: of which process, and when.
        how: for people.
        last_lines: what the process printed last.
    """

    failure: Failure
    how: str
    last_lines: tuple[SaidLine, ...]


class Row(msgspec.Struct, frozen=True):
    """One process, or several that are alike; numbers as in `read.processes.Group`."""

    who: str
    participants: tuple[str, ...]
    pids: tuple[int, ...]
    role: str
    host: str
    epoch: int
    attempt: int
    state: str
    health: str
    granted_at: int | None
    steps: str
    lag: int | None
    rate: float | None
    word_s: float | None
    written: int
    backlog: int
    cpu: float | None
    memory: int | None


class Metric(msgspec.Struct, frozen=True):
    """A name under which numbers were logged.

    Attributes:
        name: as it was logged.
        last, step: of the plain series, else of any.
        count: points of all series of this name.
        members: series of owner and workers.
        others: final names of sides' series and of what superseded leases wrote late.
        spread: it is no name that was logged, but how the ranks differ in one: deviation, count, which rank.
    """

    name: str
    last: float | str
    step: int
    count: int
    members: int
    others: tuple[str, ...]
    spread: bool = False


class Other(msgspec.Struct, frozen=True):
    """A series of texts, histograms, tables or files."""

    name: str
    kind: str
    last: float | str
    step: int
    count: int


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one Run but its points, console and files; instants are epoch milliseconds."""

    key: str
    display_id: str | None
    run_id: str
    id: int | None
    name: str
    project: str
    status: str
    standing: str
    phase: str
    live: bool
    why: str
    differs: str
    remark: str
    mode: str
    url: str
    store: str
    now: int
    created_at: int
    ended_at: int | None
    found_at: int | None
    tags: tuple[str, ...]
    fork: ForkShown | None
    attempt: int
    attempts: tuple[AttemptEnd, ...]
    verdict: VerdictShown | None
    reported: bool
    failure: FailureSeen | None
    rows: list[Row]
    processes: int
    step: int | None
    rate: float | None
    lag: int | None
    points: int
    pending: int
    rejected: int
    first_reject: str
    repeats: int
    dropped: int
    damaged: int
    trouble: str
    metrics: list[Metric]
    sampled: list[str]
    others: list[Other]
    machines: tuple[MachineUse, ...]
    timeline: Timeline
    topics: dict[str, TopicShown]
    events: tuple[RunEvent, ...]
    events_left_out: int
    config: msgspec.Raw
    side_configs: dict[str, msgspec.Raw]


def page_of(
    seen: RunSeen,
    now_ms: int,
    *,
    remark: str,
    last_lines: Iterable[SaidLine],
    sampled: Iterable[str] = (),
    whole: bool = False,
) -> Page:
    """The page's part of a Run.

    Args:
        seen: the Run.
        now_ms: epoch milliseconds.
        remark: on a Run that no coordinator looks after, "" if there is nothing to say.
        last_lines: what the process that failed first printed last.
        sampled: names of the nodes' own series.
        whole: each process has a row of its own.
    """
    document = seen.document
    failure = first_failure(document)
    people = [
        process for process in seen.processes if process.lease.pid
    ]  # a node's own metrics have no process
    return Page(
        key=document.key,
        display_id=document.display_id,
        run_id=document.run_id,
        id=document.id,
        name=document.name,
        project=document.project,
        status=seen.situation.status,
        standing=seen.situation.standing,
        phase=document.phase if seen.live else "",
        live=seen.live,
        why=_why(document),
        differs=server_differs(document.server_status, document.refusals),
        remark=remark,
        mode=document.mode,
        url=document.url,
        store=str(seen.store),
        now=now_ms,
        created_at=document.created_at,
        ended_at=document.ended_at,
        found_at=document.found_at,
        tags=document.tags,
        fork=document.fork,
        attempt=document.attempt,
        attempts=document.attempts,
        verdict=document.verdict,
        reported=document.reported,
        failure=FailureSeen(failure, how_it_ended(failure), tuple(last_lines))
        if failure is not None
        else None,
        rows=_rows(people, whole=whole),
        processes=len(people),
        step=seen.step,
        rate=seen.rate,
        lag=seen.lag,
        points=document.points,
        pending=document.pending,
        rejected=document.rejected,
        first_reject=document.first_reject,
        repeats=document.repeats,
        dropped=document.dropped,
        damaged=document.damaged,
        trouble=document.trouble,
        metrics=metrics_of(document),
        sampled=sorted(sampled),
        others=others_of(document),
        machines=seen.machines,
        timeline=timeline_of(document, now_ms),
        topics=document.topics,
        events=document.events[-EVENTS:],
        events_left_out=max(0, len(document.events) - EVENTS),
        config=document.config,
        side_configs=document.side_configs,
    )


def metrics_of(document: Document) -> list[Metric]:
    """Names of numbers, in the order of the alphabet."""
    nodes = {lease.participant for lease in document.leases if is_together(lease)}
    sides = {lease.participant for lease in document.leases if lease.role == "side"} - nodes
    logged = _writers(document)
    made_of = origins({metric for metric, participant in logged.values() if participant in nodes})
    writers = _reduced_writers(logged, nodes, made_of)
    apart = {name for name, (_, participant) in writers.items() if participant in sides}
    groups: dict[str, list[tuple[str, Point]]] = {}
    for name, point in document.summary.items():
        if kind_of(document, name, point) == "METRIC":
            metric, _ = writers.get(name, (name, ""))
            groups.setdefault(metric, []).append((name, point))
    spread = {name for name, (_, statistic) in made_of.items() if statistic and statistic not in BAND}
    return [_metric(name, series, apart, spread) for name, series in sorted(groups.items())]


def others_of(document: Document) -> list[Other]:
    """Series that are no numbers."""
    return [
        Other(name, kind, point.last, point.step, point.count)
        for name, point in sorted(document.summary.items())
        if (kind := kind_of(document, name, point)) != "METRIC"
    ]


def is_member(role: str | None, metric: str, name: str) -> bool:
    """Whether a series belongs into the band of the ranks: not a side's, and not what came late (R7)."""
    return role != "side" and not is_late(metric, name)


def is_late(metric: str, name: str) -> bool:
    """Whether a superseded lease wrote the series behind its fence (R7)."""
    return name != metric and _LATE.fullmatch(name.removeprefix(f"{metric}/")) is not None


def kind_of(document: Document, name: str, point: Point) -> str:
    """As the name was registered; METRIC or TEXT by its value where it was not."""
    owner = document.restore.series.get(name)
    if owner is not None:
        return owner.log_type
    numbers = not isinstance(point.last, str) or point.last in ("NaN", "Infinity", "-Infinity")
    return "METRIC" if numbers else "TEXT"


def _writers(document: Document) -> dict[str, tuple[str, str]]:
    """Final names -> the name that was logged, and by which participant."""
    found: dict[str, tuple[str, str]] = {}
    for name, owner in document.restore.series.items():
        if not owner.plain:
            found[name] = (name, owner.participant)
            found |= {final: (name, participant) for participant, final in owner.others.items()}
    return found


def _reduced_writers(
    writers: dict[str, tuple[str, str]], nodes: set[str], made_of: dict[str, tuple[str, str]]
) -> dict[str, tuple[str, str]]:
    """The same, with the extremes of what ranks say together under the name whose band they are."""
    found = dict(writers)
    for name, (metric, participant) in writers.items():
        origin, statistic = made_of.get(metric, (metric, ""))
        if participant in nodes and statistic in BAND:
            found[name] = (origin, participant)
    return found


def _metric(name: str, series: list[tuple[str, Point]], apart: set[str], spread: set[str]) -> Metric:
    plain = dict(series).get(name, series[0][1])
    others = tuple(final for final, _ in series if final in apart or is_late(name, final))
    return Metric(
        name=name,
        last=plain.last,
        step=plain.step,
        count=sum(point.count for _, point in series),
        members=len(series) - len(others),
        others=others,
        spread=name in spread,
    )


def _why(document: Document) -> str:
    if document.verdict is not None:
        return document.verdict.reason
    if document.attempts:
        end = document.attempts[-1]
        return f"attempt {end.attempt} ended {end.status}: {end.reason}"
    return ""


def _rows(people: list[Process], *, whole: bool) -> list[Row]:
    return [_row(group) for group in groups_of(people, whole=whole or len(people) <= WHOLE)]


def _row(group: Group) -> Row:
    first = group.first
    return Row(
        who=group.who,
        participants=tuple(dict.fromkeys(process.lease.participant for process in group.processes)),
        pids=tuple(process.lease.pid for process in group.processes),
        role=first.lease.role,
        host=first.lease.host,
        epoch=first.lease.epoch,
        attempt=first.lease.attempt,
        state=first.state,
        health=first.health,
        granted_at=group.oldest("granted_at"),
        steps=group.steps,
        lag=group.lag,
        rate=group.rate,
        word_s=group.word_s if first.lease.state in OPEN else None,
        written=group.written,
        backlog=group.backlog,
        cpu=group.cpu,
        memory=group.memory,
    )


FILES = 2000
POINTS = 200  # of a series of texts, histograms or tables
# A logged file may come from a stranger: only pictures, sounds and films are shown in place, and never what
# may hold a script (SVG, HTML); everything else is a download.
SHOWN = {
    *("image/png", "image/jpeg", "image/gif", "image/webp", "image/bmp", "image/avif"),
    *("audio/mpeg", "audio/wav", "audio/x-wav", "audio/ogg", "audio/flac", "audio/x-flac", "audio/mp4"),
    *("video/mp4", "video/webm", "video/ogg"),
}
MOST = 5000


class FileSeen(msgspec.Struct, frozen=True):
    """A file for the page.

    Attributes:
        file_id: names it in addresses.
        kind: as it was logged.
        media: its type if it may be shown in place, "" for a download.
        here: this machine has it.
    """

    file_id: str
    name: str
    step: int
    time: int
    file_name: str
    size: int
    kind: str
    caption: str | None
    media: str
    here: bool


class Said(msgspec.Struct, frozen=True):
    """One text, histogram or table (JSON) of a series."""

    step: int
    time: int
    kind: str
    value: str


def files_of(run: Run) -> list[FileSeen]:
    """Files that were logged, the newest `FILES` of them."""
    return [_seen(file) for file in run.files[-FILES:]]


def file_of(run: Run, file_id: str) -> LoggedFile | None:
    """The file that an address names; None if there is none, or this machine does not have it."""
    return next((file for file in run.files if _file_id(file) == file_id and file.path is not None), None)


def said_of(run: Run, name: str) -> list[Said]:
    """The newest values of a series that is no number."""
    points = deque(run.texts([name]), maxlen=POINTS)
    return [Said(point.step, point.time, point.kind, str(point.value)) for point in points]


def media_type(name: str) -> str:
    """The type under which a file may be shown in place, "" if it may not."""
    found, _ = mimetypes.guess_type(name)
    return found if found in SHOWN else ""


def _seen(file: LoggedFile) -> FileSeen:
    return FileSeen(
        file_id=_file_id(file),
        name=file.name,
        step=file.step,
        time=file.time,
        file_name=file.file_name,
        size=file.size,
        kind=file.kind,
        caption=file.caption,
        media=media_type(file.file_name),
        here=file.path is not None,
    )


def _file_id(file: LoggedFile) -> str:
    said = "\0".join((file.lease_id, file.name, str(file.step), file.file_name))
    return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def download_name(path: Path, file: LoggedFile) -> str:
    """What the browser calls it."""
    return Path(file.file_name).name or path.name


class Lines(msgspec.Struct, frozen=True):
    """Lines, oldest first.

    Attributes:
        found: how many hold the text, None if none was asked for.
        cut: there are more before the first one.
    """

    lines: list[SaidLine]
    found: int | None
    cut: bool


def lines_of(run: Run, participants: Iterable[str], text: str, count: int) -> Lines:
    """The newest lines.

    Args:
        run: whose.
        participants: of these; none means all.
        text: only lines that hold it, in whatever case; "" for all. What is searched is read from its start.
        count: at most so many, `MOST` at the most.
    """
    wanted = set(participants)
    leases = [lease for lease in run.leases if not wanted or lease.participant in wanted]
    count = max(1, min(count, MOST))
    return _searched(run, leases, text, count) if text else _newest(run, leases, count)


def _newest(run: Run, leases: list[LeaseShown], count: int) -> Lines:
    found = [last_lines(lease, run.roots, count + 1, speaker_shown(lease, run.document)) for lease in leases]
    lines = list(heapq.merge(*found, key=lambda line: line.time))
    return Lines(lines[-count:], None, len(lines) > count)


def _searched(run: Run, leases: list[LeaseShown], text: str, count: int) -> Lines:
    wanted, sought = {lease.lease_id for lease in leases}, text.casefold()
    kept: deque[SaidLine] = deque(maxlen=count)
    found = 0
    for line in read_lines(run.document, run.roots, {}):
        if line.lease_id in wanted and sought in line.message.casefold():
            kept.append(line)
            found += 1
    return Lines(list(kept), found, found > count)
