"""A Run as a small card for notebooks. Every text comes from users' programs and is escaped."""

from __future__ import annotations

import time
from html import escape

from pluto_dist.core.values.document import Document
from pluto_dist.read.settle import Situation

COLOURS = {"COMPLETED": "#2e7d32", "FAILED": "#c62828", "RUNNING": "#1565c0"}
ELSE = "#8a6d00"
SERIES = 8


def html(run: Document, situation: Situation) -> str:
    """One element, without scripts and without anything from elsewhere."""
    known = situation.status
    title = f"{run.display_id or run.run_id} · {run.name} · {run.project}"
    colour = COLOURS.get(known, ELSE)
    parts = [
        f'<div style="border:1px solid #8886;border-radius:6px;padding:.6em .8em;max-width:44em">'
        f'<b>{escape(title)}</b> <span style="color:{colour};font-weight:bold">{escape(known)}</span>',
        f"<div>{escape(_when(run))}</div>",
    ]
    if run.verdict is not None:
        parts.append(f"<div>{escape(run.verdict.reason)}</div>")
    if run.tags:
        parts.append(f"<div>tags: {escape(', '.join(run.tags))}</div>")
    if run.summary:
        parts.append(_table(run))
    return "".join((*parts, "</div>"))


def _when(run: Document) -> str:
    made = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.created_at / 1000))
    return f"since {made}, {len(run.leases)} processes, {run.points} points"


def _table(run: Document) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(_short(point.last))}</td><td>{point.step}</td></tr>"
        for name, point in sorted(run.summary.items())[:SERIES]
    )
    more = len(run.summary) - SERIES
    rest = f"<div>… {more} more series</div>" if more > 0 else ""
    return f"<table><tr><th>series</th><th>last</th><th>step</th></tr>{rows}</table>{rest}"


def _short(value: float | str) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)[:60]
