"""Chunks of series as an Arrow table, without copying their numbers. Needs pyarrow, the extra `read`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

    from pluto_dist.read.columns import Chunk


def arrow() -> Any:
    """The library.

    Raises:
        ImportError: it is not installed; says what to install.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError(
            "pyarrow is not installed: `pip install 'pluto-dist[read]'`; columns(), curves() and rows() "
            "need no library"
        ) from error
    return pyarrow


def schema() -> pa.Schema:
    """Columns and their types."""
    lib = arrow()
    text = lib.dictionary(lib.int32(), lib.string())
    return lib.schema(
        [
            ("name", text),
            ("step", lib.int64()),
            ("value", lib.float64()),
            ("time", lib.timestamp("ms", tz="UTC")),
            ("metric", text),
            ("rank", lib.int32()),
            ("label", text),
            ("role", text),
            ("attempt", lib.int32()),
            ("lease_id", text),
        ]
    )


def table(chunks: Sequence[Chunk]) -> pa.Table:
    """One table of all chunks."""
    lib = arrow()
    batches = [lib.Table.from_batches([batch]) for batch in batches_of(chunks)]
    if not batches:
        return schema().empty_table()
    return lib.concat_tables(batches).unify_dictionaries()


def batches_of(chunks: Iterable[Chunk]) -> Iterable[pa.RecordBatch]:
    """A batch for each chunk that is not empty."""
    lib, form = arrow(), schema()
    for chunk in chunks:
        count = len(chunk.steps)
        if count:
            columns = [_column(lib, field, chunk, count) for field in form]
            yield lib.RecordBatch.from_arrays(columns, schema=form)


def _column(lib: Any, field: Any, chunk: Chunk, count: int) -> Any:
    if field.name in ("step", "time", "value"):
        numbers = {"step": chunk.steps, "time": chunk.times, "value": chunk.values}[field.name]
        return lib.Array.from_buffers(field.type, count, [None, lib.py_buffer(numbers)])
    fact = chunk.facts[field.name]
    if fact is None:
        return lib.nulls(count, field.type)
    if isinstance(fact, int):
        return lib.repeat(lib.scalar(fact, field.type), count)
    indices = lib.repeat(lib.scalar(0, lib.int32()), count)
    return lib.DictionaryArray.from_arrays(indices, lib.array([fact], lib.string()))
