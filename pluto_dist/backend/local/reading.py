"""Reading of a Run's records from store and spool: points under their final names, and console lines.

A lease's segments are in the store (copies, as far as they were delivered), in the spool (what is not
delivered yet, and the newest delivered ones), or in both. Both hold the same bytes of a segment from its
start, so the longer one is read, and a cursor into one is a cursor into both. Memory is constant: one piece
of a segment at a time. Points come lease by lease, stream by stream, in the order of the file; console lines
of several chains are merged by time.

Names are final by the document's series (R7). A name that was logged but is not settled yet gets the name
that it would get by the series known so far. What a superseded lease wrote behind its fence belongs to the
participant `attempt<n>`.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, Literal

import msgspec

from pluto_dist.backend.local.files import relative_place
from pluto_dist.core.rules.participants import late_participant, speaker_shown
from pluto_dist.core.rules.series import FinalNames
from pluto_dist.core.values.backend import LogType
from pluto_dist.core.values.document import Document, LeaseShown
from pluto_dist.core.values.ids import UNREADABLE
from pluto_dist.core.values.records import Point
from pluto_dist.spool.file_lines import read_line
from pluto_dist.spool.frames import Cut, parse_segment, scan, stream_kind
from pluto_dist.spool.reader import list_streams, read_cut

PIECE_BYTES = 1 << 20


Kind = Literal["metric", "string", "histogram", "table", "file"]


class SeriesPoint(msgspec.Struct, frozen=True):
    """One point of one series.

    `time` is in epoch milliseconds. A string series has text values, a histogram or table its JSON text, and
    a file its path below the Run's folder in the store, where it is if the store has it.
    """

    kind: Kind
    name: str
    step: int
    value: float | str
    time: int
    lease_id: str


class _Metrics(msgspec.Struct):
    time: int
    step: int
    data: dict[str, float]


class _Text(msgspec.Struct):
    time: int
    step: int
    data: str
    logName: str  # noqa: N815 # the server's name
    dataType: str = ""  # noqa: N815 # the server's name


_DATA_KINDS: dict[str, Kind] = {"histogram": "histogram", "table": "table"}

_metrics = msgspec.json.Decoder(_Metrics)
_text = msgspec.json.Decoder(_Text)


def read_points(document: Document, roots: Sequence[Path]) -> Iterator[SeriesPoint]:
    """All points of a Run that are in reach.

    Args:
        document: has the Run's leases and series.
        roots: folders that hold one folder per lease: `<store>/runs/<key>/streams`, `<spool>/leases`. The
            first one is the Run's own: a lease folder there counts even if the document does not know it yet.
    """
    return read_points_of(document, roots, ("metrics", "data", "files"))


_LOG_TYPES: Final[dict[str, LogType]] = {"metrics": "METRIC", "data": "DATA", "files": "FILE"}


def read_points_of(
    document: Document, roots: Sequence[Path], kinds: tuple[str, ...]
) -> Iterator[SeriesPoint]:
    """As `read_points`, of some kinds of streams: `metrics`, `data` (texts, histograms, tables), `files`."""
    names = FinalNames(document)
    for segment in (found for found in segments(document, roots) if found.kind in kinds):
        for cut in segment.cuts():
            final = partial(names.of, segment.participant(cut.start), log_type=_LOG_TYPES[segment.kind])
            for line in cut.lines:
                yield from _points_of(segment.stream, line, segment.lease_id, final)


class Segment(msgspec.Struct, frozen=True):
    """One segment of a stream with points, wherever its bytes are.

    Attributes:
        lease_id: the lease that wrote it.
        lease: that lease in the document, None if it is not there yet.
        stream, number: the segment's name.
        paths: files that hold its bytes from the start, the longest first.
    """

    lease_id: str
    lease: LeaseShown | None
    stream: str
    number: int
    paths: tuple[Path, ...]

    @property
    def kind(self) -> str:
        """`metrics`, `data` or `files`."""
        return stream_kind(self.stream)

    @property
    def fence(self) -> int:
        """Offset from which records of a superseded lease are late (R7); 0 without a fence in the segment."""
        fence = _fence(self.lease, self.stream)
        return fence[1] if fence is not None and fence[0] == self.number else 0

    def participant(self, offset: int) -> str:
        """The participant whose records begin at this offset."""
        if self.lease is None:
            return ""
        fence = _fence(self.lease, self.stream)
        if fence is not None and (self.number, offset) >= fence:
            return late_participant(self.lease.participant, self.lease.attempt)
        return self.lease.participant

    def cuts(self, start: int = 0) -> Iterator[Cut]:
        """Whole frames from an offset on; no cut reaches over the fence."""
        return _read(self.paths, self.fence, start)


def segments(document: Document, roots: Sequence[Path]) -> Iterator[Segment]:
    """Segments with points, lease by lease, stream by stream; arguments as for `read_points`."""
    leases = {lease.lease_id: lease for lease in document.leases}
    for lease_id in dict.fromkeys((*leases, *_folders(roots[0]))):
        for stream, found in sorted(_streams([root / lease_id for root in roots]).items()):
            for number, paths in sorted(found.items()):
                yield Segment(lease_id, leases.get(lease_id), stream, number, tuple(paths))


def summarise(points: Iterable[SeriesPoint]) -> dict[str, Point]:
    """Latest value, its step and the number of points of each series, as in the document."""
    summary: dict[str, tuple[float | str, int, int]] = {}
    for point in points:
        last, step, count = summary.get(point.name, ("", -1, 0))
        if point.step >= step:
            last, step = _short(point), point.step
        summary[point.name] = (last, step, count + 1)
    return {name: Point(shown(last), step, count) for name, (last, step, count) in summary.items()}


def _short(point: SeriesPoint) -> float | str:
    """The value as the coordinator's summary has it; see `spool.batches`."""
    if point.kind == "file":
        return str(point.value).rpartition("/")[2]
    return point.kind if point.kind in ("histogram", "table") else point.value


def shown(value: float | str) -> float | str:
    """A value as JSON can hold it: what is not finite becomes "NaN", "Infinity" or "-Infinity"."""
    if isinstance(value, str) or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


def _fence(lease: LeaseShown | None, stream: str) -> tuple[int, int] | None:
    if lease is None or lease.fences is None:
        return None
    return lease.fences.get(stream, (0, 0))


def _points_of(
    stream: str, line: bytes, lease_id: str, final: Callable[[str], str | None]
) -> Iterator[SeriesPoint]:
    """The points of one record; none of a line that cannot be read, which `sync` or the backend refuses."""
    for point in _logged(stream, line, lease_id):
        name = final(point.name)
        if name == point.name:
            yield point
        elif name is not None:
            yield msgspec.structs.replace(point, name=name)


def _logged(stream: str, line: bytes, lease_id: str) -> Iterator[SeriesPoint]:
    """The points under the names under which they were logged."""
    try:
        if stream_kind(stream) == "data":
            text = _text.decode(line)
            kind = _DATA_KINDS.get(text.dataType, "string")
            yield SeriesPoint(kind, text.logName, text.step, text.data, text.time, lease_id)
            return
        if stream_kind(stream) == "files":
            yield from _file(line, lease_id)
            return
        record = read_metrics(line)
    except UNREADABLE:
        return
    for name, value in record.data.items():
        yield SeriesPoint("metric", name, record.step, value, record.time, lease_id)


def _file(line: bytes, lease_id: str) -> Iterator[SeriesPoint]:
    file = read_line(line)
    if file is not None:
        yield SeriesPoint("file", file.log_name, file.step, relative_place(file), file.time, lease_id)


def read_metrics(line: bytes) -> _Metrics:
    """One record of a metrics stream, values that are not finite included.

    Raises:
        ValueError: it is none, or one of `UNREADABLE`.
    """
    try:
        return _metrics.decode(line)
    except UNREADABLE:  # NaN and infinities are no JSON
        return msgspec.convert(json.loads(line), _Metrics)


def _folders(root: Path) -> list[str]:
    return sorted(path.name for path in _entries(root))


def _entries(folder: Path) -> list[Path]:
    """Entries of a folder now; none of one that its coordinator has just emptied and removed."""
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _streams(folders: Iterable[Path]) -> dict[str, dict[int, list[Path]]]:
    """Files of each segment of the record streams with points, the longest first."""
    found: dict[str, dict[int, list[tuple[int, Path]]]] = {}
    for folder in folders:
        for path in _entries(folder):
            segment = parse_segment(path.name)
            if segment is not None and stream_kind(segment[0]) in ("metrics", "data", "files"):
                with contextlib.suppress(FileNotFoundError):  # delivered and removed in this instant
                    known = found.setdefault(segment[0], {}).setdefault(segment[1], [])
                    known.append((path.stat().st_size, path))
    return {
        stream: {number: [path for _, path in sorted(files, reverse=True)] for number, files in each.items()}
        for stream, each in found.items()
    }


def _read(paths: Iterable[Path], fence: int, start: int) -> Iterator[Cut]:
    """Cuts of the first file that can be opened; a spool segment may have been delivered and removed."""
    for path in paths:
        try:
            file = path.open("rb")
        except FileNotFoundError:
            continue
        with file:
            yield from _cuts(file, fence, start)
        return


def _cuts(file: BinaryIO, fence: int, start: int) -> Iterator[Cut]:
    """Whole frames up to the end of the file; no cut reaches over the fence."""
    offset, wanted = start, PIECE_BYTES
    while True:
        file.seek(offset)
        data = file.read(wanted)
        room = fence - offset if offset < fence else len(data)
        cut = scan(data, base=offset, limit_bytes=room)
        if cut.end > offset:
            yield cut
            offset, wanted = cut.end, PIECE_BYTES
        elif len(data) < wanted:
            return  # the end, or a frame that is still being written
        else:
            wanted *= 2  # a frame larger than the piece


Cursors = dict[tuple[str, str, int], int]


class SaidLine(msgspec.Struct, frozen=True):
    """One line; `time` is in epoch milliseconds, `speaker` is empty in a Run of one participant."""

    time: int
    speaker: str
    rank: int | None
    log_type: str
    message: str
    lease_id: str


class _Record(msgspec.Struct):
    time: int
    message: str
    logType: str  # noqa: N815 # the server's name


_decoder = msgspec.json.Decoder(_Record)


def read_lines(document: Document, roots: Sequence[Path], cursors: Cursors) -> Iterator[SaidLine]:
    """Lines behind the cursors, which move along.

    Args:
        document: has the Run's leases.
        roots: folders that hold one folder per lease.
        cursors: where an earlier call ended; empty for the start.
    """
    chains = [
        _chain(lease, speaker_shown(lease, document), stream, roots, cursors)
        for lease in document.leases
        for stream in sorted({name for root in roots for name in list_streams(str(root / lease.lease_id))})
        if stream_kind(stream) == "console"
    ]
    return heapq.merge(*chains, key=lambda line: line.time)


def _chain(
    lease: LeaseShown, speaker: str, stream: str, roots: Sequence[Path], cursors: Cursors
) -> Iterator[SaidLine]:
    folders = [str(root / lease.lease_id) for root in roots]
    for segment in sorted({number for folder in folders for number in list_streams(folder).get(stream, {})}):
        key = (lease.lease_id, stream, segment)
        for line, end in _records(folders, stream, segment, cursors.get(key, 0)):
            cursors[key] = end
            said = said_line(lease, speaker, line)
            if said is not None:
                yield said


def said_line(lease: LeaseShown, speaker: str, line: bytes) -> SaidLine | None:
    """One record of a console stream; None for one that no capture has written."""
    try:
        record = _decoder.decode(line)
    except UNREADABLE:
        return None
    return SaidLine(record.time, speaker, lease.rank, record.logType, record.message, lease.lease_id)


def _records(folders: Iterable[str], stream: str, segment: int, start: int) -> Iterator[tuple[bytes, int]]:
    """Records of a segment with the cursor behind their cut."""
    while True:
        sizes = {folder: list_streams(folder).get(stream, {}).get(segment, 0) for folder in folders}
        longest = max(sizes, key=lambda folder: sizes[folder])
        if sizes[longest] <= start:
            return
        try:
            cut = read_cut(longest, stream, segment, start)
        except FileNotFoundError:  # delivered and removed just now: the copy has it
            continue
        for line in cut.lines:
            yield line, cut.end
        if cut.end == start:
            return
        start = cut.end
