"""`Histogram`, `Table`, `Data`: values that are sent as one data row each; the server draws the first two."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pluto_dist.client.media.base import DataValue, array_of, as_json, leave_out, package, reported_by_log
from pluto_dist.client.values import NotAScalarError, clean_text, scalar_of, shown
from pluto_dist.errors import InvalidRecordError

LONGEST_PAYLOAD = 2 << 20  # characters; the server's contract advises 1 to 2 MB a request
_UNEVEN = 1e-6  # of the width of all bins


class Data(DataValue):
    """Named values that are kept together, for programs that read them back: no page draws them.

    Args:
        data: a dict of what JSON can hold.

    Reported by `log()`, which leaves it out or, with `strict`, raises: it is no dict, or no JSON.
    """

    log_type = "DATA"
    data_type = "DATA"
    __slots__ = ()

    @reported_by_log
    def __init__(self, data: Mapping[str, Any]) -> None:
        if not isinstance(data, Mapping):
            raise InvalidRecordError(f"Data was given {shown(data)}; pass a dict")
        super().__init__(as_json({**data, "type": "Data", "v": 1}, "Data"))


class Histogram(DataValue):
    """Counts of values in bins of equal width.

    Args:
        data: numbers (list, array or tensor of any shape; what is not finite is left out), or with `bins`
            other than a number a pair of counts and bin edges, one more than counts, evenly spaced.
        bins: how many bins of equal width.

    Reported by `log()`, which leaves it out or, with `strict`, raises: no number is finite, the
    edges do not fit, or numpy is needed for numbers and is not installed.
    """

    log_type = "HISTOGRAM"
    data_type = "histogram"
    __slots__ = ()

    @reported_by_log
    def __init__(self, data: Any, bins: Any = 64) -> None:
        counts, edges = _counted(data, bins) if isinstance(bins, int) else _given(data)
        drawn = {
            "freq": counts,
            "bins": {"min": edges[0], "max": edges[-1], "num": len(counts)},
            "shape": "uniform",
            "type": "Histogram",
            "maxFreq": max(counts),
        }
        super().__init__(as_json(drawn, "Histogram"))


class Table(DataValue):
    """Rows of cells.

    Args:
        data: a list of rows, a two-dimensional array, or a pandas DataFrame.
        columns, rows: their names; a DataFrame has its own.
        table, dataframe: other ways to pass `data`.

    Reported by `log()`, which leaves it out or, with `strict`, raises: the rows differ in length
    or number from the names, or it is too large.
    """

    log_type = "TABLE"
    data_type = "table"
    __slots__ = ()

    @reported_by_log
    def __init__(
        self,
        /,
        data: Any = None,
        *,
        columns: Sequence[Any] = (),
        rows: Sequence[Any] = (),
        table: Any = None,
        dataframe: Any = None,
        **more: object,
    ) -> None:
        leave_out("Table", more)
        found: Any = next((each for each in (dataframe, data, table) if each is not None), None)
        if found is not None and hasattr(found, "to_dict") and hasattr(found, "columns"):
            split = found.to_dict(orient="split")
            found, columns, rows = split["data"], columns or split["columns"], rows or split["index"]
        if found is None and len(rows):
            raise InvalidRecordError("Table was given rows= and no cells; pass Table(cells), rows= are names")
        cells = _cells(found)
        drawn: dict[str, Any] = {"table": cells}
        width = len(cells[0]) if cells else len(columns)
        if len(columns):
            drawn["col"] = _headings(columns, cells[0] if cells else [None] * width, "columns")
        if len(rows):
            drawn["row"] = _headings(rows, [row[0] if row else None for row in cells], "rows")
        payload = as_json(drawn, "Table")
        if len(payload) > LONGEST_PAYLOAD:
            raise InvalidRecordError(
                f"Table has {len(payload):,} characters as JSON; it may have {LONGEST_PAYLOAD:,}. Log fewer "
                "rows, or the whole as a File"
            )
        super().__init__(payload)


def _counted(data: Any, bins: int) -> tuple[list[int], list[float]]:
    numpy = package("numpy", "Histogram of numbers")
    numbers = array_of(data, "Histogram")
    if isinstance(bins, bool) or not 0 < bins <= 10_000 or numbers.dtype.kind not in "biuf":
        raise InvalidRecordError(
            f"Histogram was given {numbers.dtype} values and {shown(bins)} bins; it needs numbers and 1 to "
            "10000 bins"
        )
    numbers = numbers.astype("float64").ravel()
    finite = numbers[numpy.isfinite(numbers)]
    if not finite.size:
        raise InvalidRecordError(f"Histogram was given {numbers.size} values, none of which is finite")
    counts, edges = numpy.histogram(finite, bins=bins)
    return counts.tolist(), edges.tolist()


def _given(data: Any) -> tuple[list[int], list[float]]:
    try:
        counts, edges = ([float(each) for each in part] for part in data)
    except (TypeError, ValueError) as error:
        raise InvalidRecordError(
            f"Histogram was given {shown(data)}; without a number of bins, pass (counts, edges)"
        ) from error
    if not counts or len(counts) + 1 != len(edges) or not all(map(math.isfinite, (*counts, *edges))):
        raise InvalidRecordError(
            f"Histogram was given {len(counts)} counts and {len(edges)} edges; it needs finite numbers, and "
            "one edge more than counts"
        )
    step = (edges[-1] - edges[0]) / len(counts)
    off = max(abs(edge - (edges[0] + n * step)) for n, edge in enumerate(edges))
    if step <= 0 or off > _UNEVEN * step * len(counts):
        raise InvalidRecordError(
            "Histogram was given bins of different width; the server draws equal ones only"
        )
    return [int(count) for count in counts], edges


def _cells(data: Any) -> list[list[Any]]:
    if hasattr(data, "tolist"):
        data = data.tolist()
    if not isinstance(data, list | tuple) or not all(isinstance(row, list | tuple) for row in data):
        raise InvalidRecordError(
            f"Table was given {shown(data)}; pass a list of rows, an array or a DataFrame"
        )
    if len({len(row) for row in data}) > 1:
        raise InvalidRecordError("Table was given rows of different length; fill them up with None")
    return [[_cell(cell) for cell in row] for row in data]


def _cell(value: object) -> bool | int | float | str | None:
    """A cell as strict JSON: the server's readers stop at a NaN."""
    try:
        plain = scalar_of(value)
    except NotAScalarError:
        plain = None
    if isinstance(plain, float) and not math.isfinite(plain):
        return str(plain)
    if isinstance(plain, str):
        return clean_text(plain)
    return plain if plain is not None or value is None else clean_text(str(value))


def _headings(names: Iterable[Any], cells: list[Any], what: str) -> list[dict[str, str]]:
    found = [clean_text(str(name)) for name in names]
    if len(found) != len(cells):
        raise InvalidRecordError(f"Table was given {len(found)} names of {what} for {len(cells)} {what}")
    return [{"name": name, "dtype": type(cell).__name__} for name, cell in zip(found, cells, strict=True)]
