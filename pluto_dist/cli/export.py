"""`pluto-dist export RUN`: every point of a Run.

jsonl: a line per point with `kind` (metric, string, histogram, table or file), `name` (final), `step`,
`value`, `time` (epoch ms), `lease_id`; values that are not finite are "NaN", "Infinity", "-Infinity", and
that of a file is its path below the Run's folder in the store. csv: the same as columns with a header. Points
come lease by lease and are in order within a stream; memory is constant.

Points come from the store and, for what is not delivered yet, from the spool of this node.
"""

from __future__ import annotations

import contextlib
import csv
import sys
from collections.abc import Iterable, Iterator
from enum import StrEnum
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import msgspec
import typer

from pluto_dist.cli import options

if TYPE_CHECKING:
    from pluto_dist.backend.local.reading import SeriesPoint

COLUMNS = ("kind", "name", "step", "value", "time", "lease_id")


class Format(StrEnum):
    """Of the output."""

    JSONL = "jsonl"
    CSV = "csv"


def export(
    run: options.RunName,
    form: Annotated[Format, typer.Option("--format", help="jsonl or csv.")] = Format.JSONL,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File; default stdout.")] = None,
    home: options.Home = None,
    folder: options.Dir = None,
) -> None:
    """Writes all points of a Run, one per line."""
    from pluto_dist.backend.local.reading import read_points
    from pluto_dist.cli.console import note
    from pluto_dist.cli.show import roots
    from pluto_dist.read.lookup import Lookup

    lookup = Lookup(home, folder)
    found = lookup.find(run)
    if found.document.mode != "local":
        note(f"only what is still on this machine; what was delivered is at {found.document.url}")
    points = read_points(found.document, roots(found, lookup.spool))
    with _opened(output) as file:
        (write_csv if form is Format.CSV else write_jsonl)(points, file)


def write_jsonl(points: Iterable[SeriesPoint], file: BinaryIO) -> None:
    """One JSON object per line."""
    from pluto_dist.backend.local.reading import shown

    encode = msgspec.json.Encoder().encode
    for point in points:
        value = shown(point.value)
        file.write(encode(point if value is point.value else msgspec.structs.replace(point, value=value)))
        file.write(b"\n")


def write_csv(points: Iterable[SeriesPoint], file: BinaryIO) -> None:
    """A header, then a row per point."""
    from pluto_dist.backend.local.reading import shown

    text = TextIOWrapper(file, encoding="utf-8", newline="", write_through=False)
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    for point in points:
        rows.writerow((point.kind, point.name, point.step, shown(point.value), point.time, point.lease_id))
    text.flush()
    text.detach()


@contextlib.contextmanager
def _opened(output: Path | None) -> Iterator[BinaryIO]:
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with output.open("wb") as file:
        yield file
