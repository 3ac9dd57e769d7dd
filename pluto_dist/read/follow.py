"""A Run's points as they grow: each look reads only what is new.

Blocks that were kept in files (`column_files`) stay there, mapped; what came since is held in memory, as it
is for a Run whose delivered records are removed. Blocks are joined so that a long Run with a look each second
does not become many small ones.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import msgspec

from pluto_dist.backend.local.reading import Segment, segments
from pluto_dist.backend.local.store import Store
from pluto_dist.core.rules.series import FinalNames
from pluto_dist.core.values.document import Document
from pluto_dist.read.column_files import ColumnFiles
from pluto_dist.read.columns import Block, Chunk, gathered
from pluto_dist.read.run import Run, chunks_of
from pluto_dist.read.series import Wanted

Key = tuple[str, str, int]


class _Followed(msgspec.Struct):
    """A segment, how far it was read, and its blocks by the names they hold."""

    segment: Segment
    end: int
    blocks: dict[tuple[str, ...], list[Block]]

    @property
    def is_over_the_fence(self) -> bool:
        """A fence was put into the middle of a block, whose records now belong to two participants."""
        fence = self.segment.fence
        return any(block.start < fence < block.end for each in self.blocks.values() for block in each)


class Follower:
    """The points of one Run; may be used by several threads."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._followed: dict[Key, _Followed] = {}
        self._document: Document | None = None

    def look(self, run: Run) -> int:
        """Reads what is new since the look before.

        Returns:
            How many values there are now.
        """
        with self._turn:
            self._document = run.document
            make = run.document.mode == "local"
            files = ColumnFiles(Store(run.store).run(run.key), make=make)
            for segment in segments(run.document, run.roots):
                if segment.kind == "metrics":
                    self._follow(segment, files)
            return sum(
                len(block.steps) * len(block.names)
                for followed in self._followed.values()
                for blocks in followed.blocks.values()
                for block in blocks
            )

    def chunks(self, wanted: Wanted | None = None) -> Iterator[Chunk]:
        """Points of series, lease by lease, as they were at the last look."""
        with self._turn:
            if self._document is None:
                return
            names = FinalNames(self._document)
            found = [(each.segment, list(each.blocks.values())) for each in self._followed.values()]
        for segment, tables in found:
            for blocks in tables:
                for block in tuple(blocks):
                    yield from chunks_of(segment, block, names, wanted)

    def _follow(self, segment: Segment, files: ColumnFiles) -> None:
        key = (segment.lease_id, segment.stream, segment.number)
        known = self._followed.get(key)
        if known is not None:
            known.segment = segment
        if known is None or known.is_over_the_fence:
            known = self._followed[key] = _Followed(segment, 0, {})
        new = gathered(segment, known.end) if known.end else files.blocks(segment)
        for block in new:
            known.end = max(known.end, block.end)
            _append(known.blocks.setdefault(block.names, []), block, segment.fence)


def _append(blocks: list[Block], new: Block, fence: int) -> None:
    """Puts a block behind the others; those that are not much larger are joined with it."""
    while blocks and len(blocks[-1].steps) <= 2 * len(new.steps) and not blocks[-1].start < fence < new.end:
        new = _joined(blocks.pop(), new)
    blocks.append(new)


def _joined(first: Block, second: Block) -> Block:
    follow = not len(first.steps) or not len(second.steps) or first.steps[-1] <= second.steps[0]
    return Block(
        first.start,
        second.end,
        first.names,
        _both(first.steps, second.steps),
        _both(first.times, second.times),
        tuple(_both(a, b) for a, b in zip(first.values, second.values, strict=True)),
        first.ordered and second.ordered and follow,
    )


def _both(first: memoryview, second: memoryview) -> memoryview:
    return memoryview(b"".join((first, second))).cast(first.format)  # type: ignore[call-overload, no-any-return]
