"""The reading end of a stream: which segments there are, and cuts behind cursors.

A cursor belongs to one segment, and a stream is delivered when every segment is read to its size. Segments
behind the newest one may still grow: a write that was in flight during a rotation, or in a segment that a
signal handler opened for one frame.

An unfinished frame at the end of a segment does not hold up the segments behind it. The caller notes the
size at which a cut was `torn` and hands it to `next_range`, which looks at that segment again when it has
grown. Only `final=True` gives such bytes up. It may be said when the writer is dead (a forked child's chain:
when `writer_lives` is false), or when a newer segment exists and the size has not changed for `SETTLE_S`: a
write may stop in its middle for as long as the disk stalls, and what it then completes is a record that was
accepted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Final

import msgspec

from pluto_dist.spool.files import Files, real_files
from pluto_dist.spool.frames import HEADER_BYTES, MAX_PAYLOAD, Cut, joined, parse_segment, scan, segment_name

SETTLE_S: Final = 60.0
PIECE_BYTES: Final = 96 * 1024  # from 128 KiB on, malloc asks the kernel for memory, each time
_NO_LIMIT: Final = 1 << 62
_TAIL_BYTES: Final = 64 * 1024
_TAIL_GROWTH: Final = 16
_NOTHING: Final[Mapping[int, int]] = {}


class ReadLimits(msgspec.Struct, frozen=True):
    """Limits of one cut. A single frame passes even if it is larger than `bytes`."""

    bytes: int = 1024 * 1024
    frames: int = 10_000


def list_streams(folder: str, files: Files | None = None) -> dict[str, dict[int, int]]:
    """Sizes of the segments of every stream in a lease's folder; foreign files and links are left out."""
    streams: dict[str, dict[int, int]] = {}
    for name, size in (files or real_files()).sizes(folder).items():
        if segment := parse_segment(name):
            streams.setdefault(segment[0], {})[segment[1]] = size
    return streams


def next_range(
    segments: Mapping[int, int], offsets: Mapping[int, int], torn: Mapping[int, int] = _NOTHING
) -> int | None:
    """The lowest segment with something to read, or None.

    Args:
        segments: sizes.
        offsets: cursors; 0 for those that are missing.
        torn: sizes, as listed before the read, of segments whose cut was torn and moved no cursor.
    """
    return min(
        (n for n, size in segments.items() if offsets.get(n, 0) < size != torn.get(n)),
        default=None,
    )


def read_cut(
    folder: str,
    stream: str,
    segment: int,
    offset: int,
    limits: ReadLimits | None = None,
    *,
    final: bool = False,
    files: Files | None = None,
) -> Cut:
    """Reads the frames behind a cursor.

    Args:
        folder: the lease's folder.
        stream: name of the chain.
        segment: its number.
        offset: the cursor.
        limits: of one cut.
        final: give up an unfinished frame at the end; see the module's docstring for when.
        files: where segments are.

    Raises:
        OSError: the segment is gone, or is no regular file of this user.
    """
    source, limits = files or real_files(), limits or ReadLimits()
    path, stop = f"{folder}/{segment_name(stream, segment)}", offset + limits.bytes
    room = min(limits.bytes, PIECE_BYTES)
    cuts = [_read_piece(source, path, offset, room, limits.frames, most=_NO_LIMIT, final=final)]
    frames = len(cuts[0].lines)
    while (last := cuts[-1]).start < last.end < stop and not last.torn and frames < limits.frames:
        most = stop - last.end
        room = min(most, PIECE_BYTES)
        cut = _read_piece(source, path, last.end, room, limits.frames - frames, most=most, final=final)
        cuts.append(cut)
        frames += len(cut.lines)
    return joined(cuts)


def _read_piece(
    source: Files, path: str, offset: int, room: int, frames: int, *, most: int, final: bool
) -> Cut:
    """A cut of `room` bytes; a frame that is larger passes, if it has at most `most` bytes."""
    wanted = max(room, HEADER_BYTES)
    while True:
        data = source.read_at(path, offset, wanted)
        at_end = len(data) < wanted
        cut = scan(data, final=final and at_end, base=offset, limit_bytes=room, limit_frames=frames)
        if at_end or not cut.torn:
            return cut
        if cut.end > cut.start or cut.needed > most:  # the limit cut that frame, not the end of the segment
            return msgspec.structs.replace(cut, torn=False, needed=0)
        wanted = max(cut.needed, wanted) + 1  # a frame larger than the limit; one more tells the end


def records(
    folder: str, stream: str, segment: int, start: int = 0, end: int | None = None
) -> Iterator[bytes]:
    """Payloads of the records that begin in this part of a segment; none of a segment that is gone."""
    with suppress(FileNotFoundError):
        while end is None or start < end:
            limits = ReadLimits() if end is None else ReadLimits(bytes=min(end - start, ReadLimits().bytes))
            cut = read_cut(folder, stream, segment, start, limits)
            if cut.end == start:
                return
            yield from cut.lines
            start = cut.end


def last_record(folder: str, stream: str, files: Files | None = None) -> bytes | None:
    """Payload of the last readable record of the newest segment that has one; reads its tail only."""
    source = files or real_files()
    segments = list_streams(folder, source).get(stream, {})
    for number in sorted(segments, reverse=True):
        record = _last_in(source, f"{folder}/{segment_name(stream, number)}", segments[number])
        if record is not None:
            return record
    return None


def writer_lives(folder: str, stream: str, files: Files | None = None) -> bool:
    """Whether a process has a segment of this chain open for writing.

    False before the first record, while the writer is in trouble, and on filesystems without locks.
    """
    source = files or real_files()
    numbers = sorted(list_streams(folder, source).get(stream, {}), reverse=True)
    return any(source.being_written(f"{folder}/{segment_name(stream, number)}") for number in numbers)


def _last_in(source: Files, path: str, size: int) -> bytes | None:
    window = _TAIL_BYTES
    while True:
        start = max(0, size - window)
        lines = scan(source.read_at(path, start, size - start), final=True).lines
        if lines:
            return lines[-1]
        if start == 0 or window > HEADER_BYTES + MAX_PAYLOAD + _TAIL_BYTES:
            return None
        window *= _TAIL_GROWTH
