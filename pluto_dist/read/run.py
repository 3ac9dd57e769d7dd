"""A Run as a notebook sees it: what is known of it, its points, its console and its files."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec

from pluto_dist.backend.local.files import relative_place
from pluto_dist.backend.local.reading import (
    SaidLine,
    Segment,
    SeriesPoint,
    read_lines,
    read_points_of,
    segments,
    shown,
    summarise,
)
from pluto_dist.backend.local.store import Store
from pluto_dist.core.rules.participants import speaker_shown
from pluto_dist.core.rules.series import FinalNames
from pluto_dist.core.rules.shipment import Shard
from pluto_dist.core.rules.together import origins
from pluto_dist.core.values.document import Document, LeaseShown, VerdictShown
from pluto_dist.core.values.records import Point, RunEvent
from pluto_dist.read.columns import Block, Chunk, ColumnFiles, column_of, gathered
from pluto_dist.read.lookup import Found, Lookup
from pluto_dist.read.series import Series, Wanted, corrected, is_together, no_points_of
from pluto_dist.read.settle import Situation, situation
from pluto_dist.read.streams import caught_up, last_lines
from pluto_dist.spool.file_lines import place_in, read_line

_log = logging.getLogger("pluto_dist")


class LoggedFile(msgspec.Struct, frozen=True):
    """A file that was logged.

    Attributes:
        name: final name under which it was logged.
        step: of the record.
        time: epoch milliseconds.
        file_name: its own name.
        path: where it is on this machine; None if it is on the server only.
        size: bytes when it was logged.
        kind: `FILE`, `IMAGE`, `AUDIO` and so on.
        caption: that the caller gave.
        lease_id: of its process.
        shard: a rank's or node's share of an artifact that all give; None for a whole one.
    """

    name: str
    step: int
    time: int
    file_name: str
    path: Path | None
    size: int
    kind: str
    caption: str | None
    lease_id: str
    shard: Shard | None = None


class Run:
    """One Run, as it was when it was looked up; `refresh()` looks again.

    What is on a server only is not here: of a Run with `mode == "pluto"` only what this machine still holds.

    Attributes:
        document: everything that is known, see the formats in the documentation.
        store: folder of the store that holds it.
        live: the coordinator of this node has it, so it is as of now.
    """

    def __init__(self, lookup: Lookup, found: Found) -> None:
        self._lookup = lookup
        self.document: Document = caught_up(found.document, lookup.spool)
        self.store: Path = found.store
        self.live: bool = found.live

    def __repr__(self) -> str:
        return (
            f"<Run {self.display_id or self.run_id} {self.name!r} ({self.project}): {self.situation.status}>"
        )

    def _repr_html_(self) -> str:
        return _card(self.document, self.situation)

    def refresh(self) -> Run:
        """The same Run as of now.

        Raises:
            RunNotFoundError: it is gone.
        """
        return Run(self._lookup, self._lookup.again(self.key, self.store))

    @property
    def key(self) -> str:
        """Name of its folder in the store; unique everywhere."""
        return self.document.key

    @property
    def id(self) -> int | None:
        """Numeric id, None while the server has not given one."""
        return self.document.id

    @property
    def display_id(self) -> str | None:
        """The id for people: `MMP-42`."""
        return self.document.display_id

    @property
    def run_id(self) -> str:
        """The caller's id, or a generated one."""
        return self.document.run_id

    @property
    def project(self) -> str:
        """Name of the project."""
        return self.document.project

    @property
    def name(self) -> str:
        """Name of the Run, for people."""
        return self.document.name

    @property
    def status(self) -> str:
        """The status as it was written last; `situation` says whether its processes live."""
        return self.document.status

    @property
    def situation(self) -> Situation:
        """Whether its processes live: `.standing`, and `.status` for people."""
        return situation(self.document, live=self.live, spool=self._lookup.spool)

    @property
    def verdict(self) -> VerdictShown | None:
        """The end and its reason, with the first failure; None while the Run has not ended."""
        return self.document.verdict

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags, in the order in which they came."""
        return self.document.tags

    @property
    def config(self) -> dict[str, Any]:
        """The merged config."""
        return msgspec.json.decode(self.document.config, type=dict[str, Any])

    @property
    def side_configs(self) -> dict[str, dict[str, Any]]:
        """Configs of sides by their label."""
        sides = self.document.side_configs.items()
        return {label: msgspec.json.decode(body, type=dict[str, Any]) for label, body in sides}

    @property
    def summary(self) -> Mapping[str, Point]:
        """Last value, its step, and the number of points of each series."""
        return self.document.summary

    @property
    def events(self) -> tuple[RunEvent, ...]:
        """Its history, oldest first."""
        return self.document.events

    @property
    def leases(self) -> tuple[LeaseShown, ...]:
        """Its processes, over all restarts."""
        return self.document.leases

    def series(
        self,
        names: str | Iterable[str] | None = None,
        *,
        since_step: int = 0,
        every_rank: bool = False,
        keep: bool = True,
    ) -> Series:
        """Points of series of numbers.

        A name of which there are none gets a warning with those that may be meant.

        Args:
            names: final names, in which `*`, `?` and `[…]` stand for others; None for all.
            since_step: this step and later ones.
            every_rank: also series of other participants under that name, `loss/rank3` for `loss`.
            keep: columns that had to be gathered are kept beside the Run for the next call, in `columns/`.
        """
        wanted = Wanted(names, every_rank=every_rank)
        found: list[Chunk] = []
        seen: set[str] = set()
        for chunk in self.chunks(wanted, keep=keep):
            seen.update((chunk.name, chunk.metric))
            part = chunk.since(since_step)
            if len(part.steps):
                found.append(part)
        for name in wanted.without(seen):
            _log.warning("%s", no_points_of(self.document, name))
        return Series(sorted(found, key=lambda chunk: chunk.name))

    def chunks(self, wanted: Wanted | None = None, *, keep: bool = True) -> Iterator[Chunk]:
        """Points lease by lease as they are read; memory is flat if chunks are not held on to."""
        names = FinalNames(self.document)
        files = ColumnFiles(Store(self.store).run(self.key), make=keep and self.document.mode == "local")

        def read(part: Sequence[Segment]) -> Iterator[Chunk]:
            for segment in part:
                for block in files.blocks(segment):
                    yield from chunks_of(segment, block, names, wanted)

        found = (segment for segment in segments(self.document, self.roots) if segment.kind == "metrics")
        for _, several in groupby(found, lambda segment: segment.lease_id):
            part = list(several)
            yield from corrected(partial(read, part)) if is_together(part[0].lease) else read(part)

    def texts(self, names: str | Iterable[str] | None = None) -> Iterator[SeriesPoint]:
        """Points of series of texts, histograms and tables (as JSON text); `names` as for `series`."""
        wanted = Wanted(names)
        for point in read_points_of(self.document, self.roots, ("data",)):
            if wanted.has(point.name, point.name):
                yield point

    def console(
        self, rank: int | None = None, *, label: str | None = None, last: int | None = None
    ) -> list[SaidLine]:
        """Console lines, merged by time.

        Args:
            rank: only of this rank.
            label: only of the processes with this label.
            last: only so many of the newest lines; what stands before them is not read.
        """
        leases = {
            lease.lease_id: lease
            for lease in self.leases
            if (rank is None or lease.rank == rank) and (label is None or lease.label == label)
        }
        if last is not None:
            document, roots = self.document, self.roots
            lines = [
                line
                for lease in leases.values()
                for line in last_lines(lease, roots, last, speaker_shown(lease, document))
            ]
            return sorted(lines, key=lambda line: line.time)[-last:] if last > 0 else []
        return [line for line in read_lines(self.document, self.roots, {}) if line.lease_id in leases]

    @property
    def files(self) -> list[LoggedFile]:
        """Files that were logged, lease by lease."""
        names = FinalNames(self.document)
        found = []
        for segment in segments(self.document, self.roots):
            if segment.kind == "files":
                for cut in segment.cuts():
                    who = segment.participant(cut.start)
                    found += [file for line in cut.lines if (file := self._file(segment, who, line, names))]
        return found

    @property
    def roots(self) -> list[Path]:
        """Folders with its streams: its own in the store, and this node's spool."""
        spool = self._lookup.spool
        streams = Store(self.store).streams_of(self.document.part_keys)
        return [*streams, *([spool] if spool is not None else [])]

    def _file(self, segment: Segment, who: str, line: bytes, names: FinalNames) -> LoggedFile | None:
        file = read_line(line)
        name = names.of(who, file.log_name, "FILE") if file is not None else None
        if file is None or name is None:
            return None
        places = [Store(self.store).run(key) / relative_place(file) for key in self.document.part_keys]
        if self._lookup.spool is not None:
            places.append(Path(place_in(str(self._lookup.spool / segment.lease_id), file) or "/dev/null"))
        return LoggedFile(
            name=name,
            step=file.step,
            time=file.time,
            file_name=file.file_name,
            path=next((place for place in places if place.is_file() or place.is_dir()), None),
            size=file.file_size,
            kind=file.log_type,
            caption=file.caption,
            lease_id=segment.lease_id,
            shard=file.shard,
        )


def summed_up(document: Document, roots: Sequence[Path]) -> dict[str, Point]:
    """The summary counted anew from the streams: latest value, its step and the number of points.

    Args:
        document: says who wrote, under which names.
        roots: folders that hold one folder per lease.
    """
    names = FinalNames(document)
    found = summarise(read_points_of(document, roots, ("data", "files")))
    for segment in segments(document, roots):
        if segment.kind == "metrics":
            for block in gathered(segment):
                for chunk in chunks_of(segment, block, names, None):
                    found[chunk.name] = _joined(found.get(chunk.name), chunk)
    return found


def _joined(before: Point | None, chunk: Chunk) -> Point:
    """A summary with the points of one chunk more."""
    step = chunk.steps[-1] if chunk.ordered else max(chunk.steps)
    count = len(chunk.steps) + (before.count if before is not None else 0)
    if before is not None and before.step > step:
        return msgspec.structs.replace(before, count=count)
    last = len(chunk.steps) - 1
    while chunk.steps[last] != step:
        last -= 1
    return Point(shown(chunk.values[last]), step, count)


def chunks_of(segment: Segment, block: Block, names: FinalNames, wanted: Wanted | None) -> Iterator[Chunk]:
    """The wanted series of a block under their final names, without those that are left out (R7)."""
    who, lease = segment.participant(block.start), (segment.lease_id, segment.lease)
    made_of = origins(block.names) if is_together(segment.lease) else {}
    for index, logged in enumerate(block.names):
        name, origin = names.of(who, logged), made_of.get(logged, (logged, ""))
        if name is not None and (wanted is None or wanted.has(name, origin[0])):
            yield column_of(block, index, name, lease, origin)


_COLOURS = {"COMPLETED": "#2e7d32", "FAILED": "#c62828", "RUNNING": "#1565c0"}
_OTHER_COLOUR = "#8a6d00"
_CARD_SERIES = 8


def _card(run: Document, situation: Situation) -> str:
    """One element, without scripts and without anything from elsewhere; texts of users are escaped."""
    known = situation.status
    title = f"{run.display_id or run.run_id} · {run.name} · {run.project}"
    colour = _COLOURS.get(known, _OTHER_COLOUR)
    parts = [
        f'<div style="border:1px solid #8886;border-radius:6px;padding:.6em .8em;max-width:44em">'
        f'<b>{escape(title)}</b> <span style="color:{colour};font-weight:bold">{escape(known)}</span>',
        f"<div>{escape(_when(run))}</div>",
    ]
    if run.verdict is not None:
        parts.append(f"<div>{escape(run.verdict.reason)}</div>")
    if run.tags:
        parts.append(f"<div>tags: {escape(', '.join(run.tags))}</div>")
    if run.summary:
        parts.append(_table(run))
    return "".join((*parts, "</div>"))


def _when(run: Document) -> str:
    made = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.created_at / 1000))
    return f"since {made}, {len(run.leases)} processes, {run.points} points"


def _table(run: Document) -> str:
    """The names that were logged; behind them, as far as there is room, the series of other participants."""
    others = {final for names in run.series.values() for final in names.values()}
    listed = sorted(run.summary.items(), key=lambda item: (item[0] in others, item[0]))[:_CARD_SERIES]
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(_short(point.last))}</td><td>{point.step}</td></tr>"
        for name, point in listed
    )
    more = len(run.summary) - _CARD_SERIES
    rest = f"<div>… {more} more series</div>" if more > 0 else ""
    return f"<table><tr><th>series</th><th>last</th><th>step</th></tr>{rows}</table>{rest}"


def _short(value: float | str) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)[:60]
