"""`pluto-dist export RUN`: every point of a Run.

jsonl: a line per point with `kind` (metric, string, histogram, table or file), `name` (final), `step`,
`value`, `time` (epoch ms), `lease_id`, and of its process `metric` (the name as it was logged), `rank` (null
for a plain process or a side), `label`, `role`, `attempt`; values that are not finite are "NaN", "Infinity",
"-Infinity", and that of a file is its path below the Run's folder in the store. csv: the same as columns with
a header. parquet (needs pyarrow: the extra `read`): the same, typed; `value` has numbers, also those that are
not finite, `text` everything else, `time` is a timestamp. Numbers come lease by lease, and in parts of a
stream series by series; the points of one series keep their order within a stream. Memory is constant.

Points come from the store and, for what is not delivered yet, from the spool of this node.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, BinaryIO

from pluto_dist.cli import options
from pluto_dist.cli.options import Option


class Format(StrEnum):
    """Formats of the output."""

    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"


def export(
    run: options.RunName,
    form: Annotated[Format, Option("--format", help="jsonl, csv or parquet.")] = Format.JSONL,
    output: Annotated[Path | None, Option("--output", "-o", help="File; default stdout.")] = None,
    home: options.Home = None,
    folder: options.Dir = None,
) -> None:
    """Writes all points of a Run: a line or a row for each."""
    from pluto_dist.cli.console import note
    from pluto_dist.errors import UsageError
    from pluto_dist.read.export import write_csv, write_jsonl, write_parquet
    from pluto_dist.read.lookup import Lookup
    from pluto_dist.read.run import Run

    if form is Format.PARQUET and output is None and sys.stdout.isatty():
        raise UsageError("parquet is no text for a terminal; name a file with --output")
    lookup = Lookup(home, folder)
    found = Run(lookup, lookup.find(run))
    if found.document.mode != "local":
        note(f"only what is still on this machine; what was delivered is at {found.document.url}")
    write = {Format.JSONL: write_jsonl, Format.CSV: write_csv, Format.PARQUET: write_parquet}[form]
    try:
        with _opened(output) as file:
            write(found, file)
    except ImportError as error:
        raise UsageError(str(error)) from error


@contextlib.contextmanager
def _opened(output: Path | None) -> Iterator[BinaryIO]:
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with output.open("wb") as file:
        yield file
