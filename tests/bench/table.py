"""What was measured, as rows with goals; printed as a table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of this project, beside those of others.

    Attributes:
        what: is measured.
        unit: of all values.
        ours: the value.
        peers: values by name of the client.
        goal: limit that the value should keep.
        more_is_better: whether the goal is a lower limit.
    """

    what: str
    unit: str
    ours: float
    peers: dict[str, float] = field(default_factory=dict)
    goal: float | None = None
    more_is_better: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        if self.goal is None:
            return None
        return self.ours >= self.goal if self.more_is_better else self.ours <= self.goal

    def ratio(self, peer: str) -> float | None:
        """How many times better than a peer, None where it was not measured."""
        value = self.peers.get(peer)
        if not value or not self.ours:
            return None
        return self.ours / value if self.more_is_better else value / self.ours


def header(peers: Iterable[str]) -> str:
    """Titles of the columns."""
    others = "".join(f"{peer:>12}{'ratio':>9}" for peer in peers)
    return f"{'':58}{'unit':>9}{'here':>12}{'goal':>12}{'':>6}{others}"


def line(row: Row, peers: Iterable[str]) -> str:
    """One row as text."""
    sign = ">=" if row.more_is_better else "<="
    goal = "" if row.goal is None else f"{sign} {shown(row.goal)}"
    verdict = {None: "", True: "ok", False: "MISS"}[row.met]
    others = "".join(_cell(row.peers.get(peer), 12) + _cell(row.ratio(peer), 9, "x") for peer in peers)
    return f"{row.what:58}{row.unit:>9}{shown(row.ours):>12}{goal:>12}{verdict:>6}{others}".rstrip()


def as_json(rows: Iterable[Row], load: tuple[float, float, float]) -> str:
    """All rows, and how busy the machine was."""
    return json.dumps(
        {"load_average": load, "rows": [asdict(row) | {"met": row.met} for row in rows]}, indent=1
    )


def shown(value: float) -> str:
    """Three digits that count."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _cell(value: float | None, width: int, sign: str = "") -> str:
    return f"{'' if value is None else shown(value) + sign:>{width}}"
