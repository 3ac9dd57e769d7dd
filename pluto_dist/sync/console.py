"""Console lines of all processes of a Run, in one order: by time, as the numbers say that they will get."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pluto_dist.backend.local.marks import Offsets
from pluto_dist.core.foreign import UNREADABLE
from pluto_dist.node.batches import numbered
from pluto_dist.sync.source import BATCH_BYTES, BATCH_LINES, Piece, Stream, next_piece

AHEAD = 500  # lines that are read of each stream at a time


class Taken(msgspec.Struct, frozen=True):
    """Lines with their numbers, in their order, and the cursors behind them."""

    lines: tuple[bytes, ...]
    offsets: Offsets


class _Time(msgspec.Struct):
    time: int = 0


class _Head(msgspec.Struct, frozen=True):
    stream: Stream
    piece: Piece
    times: tuple[int, ...]


def next_lines(
    streams: Sequence[Stream], offsets: Offsets, first_number: int, limit: int = BATCH_LINES
) -> Taken | None:
    """The next lines of all streams, oldest first, at most `limit`; None at the end."""
    lines: list[bytes] = []
    size = 0
    heads = [head for head in (_head(stream, offsets) for stream in streams) if head is not None]
    moved = False
    while heads and len(lines) < limit and size < BATCH_BYTES:
        heads.sort(key=lambda head: head.times[:1])
        first = heads.pop(0)
        piece = _before(first, heads[0].times[:1] if heads else (), limit - len(lines), offsets)
        lines.extend(numbered(piece.cut.lines, first_number + len(lines), first.stream.speaker))
        size += sum(map(len, piece.cut.lines))
        offsets = first.stream.moved(offsets, piece.segment, piece.cut.end)
        moved = True
        following = _head(first.stream, offsets)
        if following is not None:
            heads.append(following)
    return Taken(tuple(lines), offsets) if moved else None


def _head(stream: Stream, offsets: Offsets) -> _Head | None:
    piece = next_piece(stream, stream.offsets_in(offsets), AHEAD)
    return None if piece is None else _Head(stream, piece, tuple(map(_time, piece.cut.lines)))


def _before(head: _Head, other: tuple[int, ...], room: int, offsets: Offsets) -> Piece:
    """The lines of a stream up to the other one's next line, at least one."""
    count = len(head.times)
    if other:
        count = next((n for n, time in enumerate(head.times) if (time,) > other), count)
    count = max(1, min(count, room))
    if count >= len(head.times):
        return head.piece
    piece = next_piece(head.stream, head.stream.offsets_in(offsets), count)
    assert piece is not None  # noqa: S101 # it was there just now
    return piece


def _time(line: bytes) -> int:
    try:
        return msgspec.json.decode(line, type=_Time).time
    except UNREADABLE:
        return 0
