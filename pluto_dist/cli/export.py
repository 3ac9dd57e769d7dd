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
import csv
import io
import sys
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import msgspec

from pluto_dist.backend.local.reading import SeriesPoint, read_points_of, shown
from pluto_dist.cli.console import note
from pluto_dist.cli.options import Dir, Home, Option, RunName
from pluto_dist.core.values.document import Document
from pluto_dist.errors import UsageError
from pluto_dist.read.columns import Chunk, Integers, Numbers, arrow, batches_of, schema
from pluto_dist.read.lookup import Lookup
from pluto_dist.read.run import Run


class Format(StrEnum):
    """Formats of the output."""

    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"


def export(
    run: RunName,
    form: Annotated[Format, Option("--format", help="jsonl, csv or parquet.")] = Format.JSONL,
    output: Annotated[Path | None, Option("--output", "-o", help="File; default stdout.")] = None,
    home: Home = None,
    folder: Dir = None,
) -> None:
    """Writes all points of a Run: a line or a row for each."""
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


# Numbers are written column by column: a chunk of one series is turned into text as a whole, and its steps
# and times only once for all series that share them. Memory is flat: `ROWS` rows at a time for texts, and
# `GROUP_ROWS` for parquet.
COLUMNS = ("kind", "name", "step", "value", "time", "lease_id", "metric", "rank", "label", "role", "attempt")
_AFTER = COLUMNS[5:]
ROWS = 1 << 15
GROUP_ROWS = 1 << 19

_encode = msgspec.json.Encoder().encode
_NOT_FINITE = b"null"  # as msgspec writes it
Token = Callable[[float], bytes]


class Texts:
    """Steps and times of the chunk before, as text: the series of a block share them."""

    def __init__(self) -> None:
        self._columns: dict[str, tuple[Integers | None, int, list[bytes]]] = {}

    def of(self, which: str, column: Integers, start: int) -> list[bytes]:
        """A part of a column, as tokens."""
        known, at, tokens = self._columns.get(which, (None, -1, []))
        if known is not column or at != start:
            tokens = tokens_of(column[start : start + ROWS])
            self._columns[which] = (column, start, tokens)
        return tokens


def tokens_of(column: Integers | Numbers) -> list[bytes]:
    """Numbers as JSON has them, `null` for what is not finite."""
    return _encode(column.tolist())[1:-1].split(b",")


def write_jsonl(run: Run, file: BinaryIO) -> None:
    """One JSON object per line."""
    texts = Texts()
    for chunk in run.chunks(keep=False):
        facts = chunk.facts
        prefix = b'{"kind":"metric","name":%b,"step":' % _encode(facts["name"])
        suffix = b"".join(b",%b:%b" % (_encode(name), _encode(facts[name])) for name in _AFTER) + b"}\n"
        seams = (prefix, b',"value":', b',"time":', suffix)
        _write_numbers(chunk, texts, seams, file, lambda value: b'"%b"' % str(shown(value)).encode())
    for row in text_rows(run):
        file.write(_encode(row) + b"\n")


def write_csv(run: Run, file: BinaryIO) -> None:
    """A header, then a row per point."""
    texts = Texts()
    file.write(_line(COLUMNS))
    for chunk in run.chunks(keep=False):
        facts = chunk.facts
        prefix = _line(("metric", facts["name"]))[:-1] + b","
        suffix = b"," + _line([facts[name] for name in _AFTER])
        seams = (prefix, b",", b",", suffix)
        _write_numbers(chunk, texts, seams, file, lambda value: str(shown(value)).encode())
    for row in text_rows(run):
        file.write(_line([row[name] for name in COLUMNS]))


def write_parquet(run: Run, file: BinaryIO) -> None:
    """Typed columns: `value` for numbers, `text` for everything else; `time` is a timestamp.

    Raises:
        ImportError: pyarrow is not installed.
    """
    lib = arrow()
    from pyarrow import parquet

    form = parquet_schema(lib)
    plain = [field.name for field in form if not lib.types.is_dictionary(field.type)]
    dictionaries = [name for name in form.names if name not in plain]
    with parquet.ParquetWriter(file, form, use_dictionary=dictionaries, compression="zstd") as writer:
        for group in _grouped(batches_of(_sliced(run.chunks(keep=False)))):
            writer.write_table(
                _with_kind(lib, lib.Table.from_batches(group), form), row_group_size=GROUP_ROWS
            )
        for rows in _text_groups(run):
            writer.write_table(_text_table(lib, rows, form))


def parquet_schema(lib: Any) -> Any:
    """Columns of a parquet file, in the order of the text formats."""
    text = lib.dictionary(lib.int32(), lib.string())
    types = {field.name: field.type for field in schema()} | {"kind": text, "text": lib.string()}
    return lib.schema([(name, types[name]) for name in (*COLUMNS[:4], "text", *COLUMNS[4:])])


def text_rows(run: Run) -> Iterator[dict[str, Any]]:
    """Points that are no numbers: texts, histograms, tables and files."""
    document = run.document
    leases = {lease.lease_id: lease for lease in document.leases}
    logged_as = _logged_names(document)
    for point in read_points_of(document, run.roots, ("data", "files")):
        lease = leases.get(point.lease_id)
        yield {
            **_point(point),
            "metric": logged_as.get(point.name, point.name),
            "rank": lease.rank if lease is not None else None,
            "label": lease.label if lease is not None else None,
            "role": lease.role if lease is not None else None,
            "attempt": lease.attempt if lease is not None else None,
        }


def _point(point: SeriesPoint) -> dict[str, Any]:
    return {name: getattr(point, name) for name in COLUMNS[:6]}


def _logged_names(document: Document) -> dict[str, str]:
    return {final: name for name, others in document.series.items() for final in others.values()}


def _write_numbers(
    chunk: Chunk, texts: Texts, seams: tuple[bytes, bytes, bytes, bytes], file: BinaryIO, odd: Token
) -> None:
    """Rows of one series: what stands before the step, the value, the time, and behind."""
    for start in range(0, len(chunk.steps), ROWS):
        numbers = chunk.values[start : start + ROWS]
        values = tokens_of(numbers)
        if _NOT_FINITE in values:
            tokens = zip(values, numbers, strict=True)
            values = [odd(value) if token == _NOT_FINITE else token for token, value in tokens]
        count = len(values)
        row: list[bytes] = [b""] * (7 * count)
        row[0::7] = [seams[0]] * count
        row[1::7] = texts.of("step", chunk.steps, start)
        row[2::7] = [seams[1]] * count
        row[3::7] = values
        row[4::7] = [seams[2]] * count
        row[5::7] = texts.of("time", chunk.times, start)
        row[6::7] = [seams[3]] * count
        file.write(b"".join(row))


def _line(cells: Any) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode("utf-8", "surrogatepass")


def _sliced(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    for chunk in chunks:
        if len(chunk.steps) <= GROUP_ROWS:
            yield chunk
            continue
        for start in range(0, len(chunk.steps), GROUP_ROWS):
            yield chunk.part(slice(start, start + GROUP_ROWS))


def _grouped(batches: Any) -> Iterator[list[Any]]:
    group: list[Any] = []
    rows = 0
    for batch in batches:
        if group and rows + batch.num_rows > GROUP_ROWS:
            yield group
            group, rows = [], 0
        group.append(batch)
        rows += batch.num_rows
    if group:
        yield group


def _with_kind(lib: Any, table: Any, form: Any) -> Any:
    count = table.num_rows
    indices = lib.repeat(lib.scalar(0, lib.int32()), count)
    more = {
        "kind": lib.DictionaryArray.from_arrays(indices, lib.array(["metric"], lib.string())),
        "text": lib.nulls(count, lib.string()),
    }
    columns = [more[name] if name in more else table.column(name) for name in form.names]
    return lib.Table.from_arrays(columns, schema=form)


def _text_groups(run: Run) -> Iterator[list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    for row in text_rows(run):
        rows.append({**row, "text": str(row["value"]), "value": None})
        if len(rows) >= ROWS:
            yield rows
            rows = []
    if rows:
        yield rows


def _text_table(lib: Any, rows: list[dict[str, Any]], form: Any) -> Any:
    columns = []
    for field in form:
        found = [row[field.name] for row in rows]
        plain = field.type.value_type if lib.types.is_dictionary(field.type) else field.type
        column = lib.array(found, plain)
        columns.append(column.dictionary_encode() if plain is not field.type else column)
    return lib.Table.from_arrays(columns, schema=form)
