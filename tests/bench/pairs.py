"""Two builds measured in turn: ratios of pairs that were taken one right after the other.

What else the machine does hits both of a pair, mostly; what it does to one of them shows in the spread.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.bench.builds import Build
from tests.bench.effort import Effort
from tests.bench.table import Row, shown

Section = Callable[[Effort, Build], Iterator[Row]]


@dataclass(slots=True)
class Pairs:
    """One figure of both builds.

    Attributes:
        what: is measured.
        unit: of all values.
        more_is_better: says which way a ratio is good.
        here, there: values of the two builds, pair by pair.
    """

    what: str
    unit: str
    more_is_better: bool
    here: list[float] = field(default_factory=list)
    there: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """Here by there, in ascending order."""
        return sorted(here / there for here, there in zip(self.here, self.there, strict=True) if there)


def compared(
    section: Section, effort: Effort, here: Build, there: Build, count: int, tell: Callable[[str], None]
) -> list[Pairs]:
    """All figures of a section, `count` times; which build comes first changes from one time to the next."""
    found: dict[str, Pairs] = {}
    for number in range(count):
        builds = (here, there) if number % 2 == 0 else (there, here)
        for rows in zip(*(section(effort, build) for build in builds), strict=True):
            mine, theirs = rows if builds[0] is here else reversed(rows)
            assert mine.what == theirs.what, (mine, theirs)
            pairs = found.setdefault(mine.what, Pairs(mine.what, mine.unit, mine.more_is_better))
            pairs.here.append(mine.ours)
            pairs.there.append(theirs.ours)
            tell(f"  {number + 1}. {mine.what}: {shown(mine.ours)} / {shown(theirs.ours)} {mine.unit}")
    return list(found.values())


def header(there: Build) -> str:
    """Titles of the columns."""
    return f"{'':66}{'unit':>10}{'here':>10}{there.name:>10}{'ratio':>8}{'spread':>14}"


def line(pairs: Pairs) -> str:
    """One row as text: medians, the median of the ratios, the lowest and the highest one."""
    here, there, ratios = statistics.median(pairs.here), statistics.median(pairs.there), pairs.ratios
    ratio, spread = "", ""
    if ratios:
        ratio, spread = f"{statistics.median(ratios):.2f}", f"{ratios[0]:.2f}-{ratios[-1]:.2f}"
    better = " (more is better)" if pairs.more_is_better else ""
    return (
        f"{pairs.what + better:66}{pairs.unit:>10}{shown(here):>10}{shown(there):>10}{ratio:>8}{spread:>14}"
    )
