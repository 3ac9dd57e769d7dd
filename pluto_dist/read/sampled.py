"""The last system metrics of a Run's nodes. No summary has them, because nobody has logged them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pluto_dist.backend.local.reading import shown
from pluto_dist.core.rules.participants import NODE
from pluto_dist.core.values.document import Document
from pluto_dist.core.values.records import Point
from pluto_dist.read.columns import decoded
from pluto_dist.read.console import tails

TAIL_BYTES = 64 << 10  # a sample of 256 cores has 10 KB


def last_samples(document: Document, roots: Sequence[Path]) -> dict[str, Point]:
    """Last value of each system metric by its name; the count is 1 and means nothing.

    Args:
        document: of the Run.
        roots: folders that hold one folder per lease.
    """
    found: dict[str, Point] = {}
    for lease in document.leases:
        if lease.participant == NODE:
            folders = [str(root / lease.lease_id) for root in roots]
            for lines in tails(folders, "metrics", TAIL_BYTES):
                records = decoded(lines)
                if records:
                    last = records[-1]
                    found |= {name: Point(shown(value), last.step, 1) for name, value in last.data.items()}
                    break
    return found
