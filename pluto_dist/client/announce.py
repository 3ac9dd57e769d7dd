"""What a user sees: one line at init, one at the end, by the owner only, on stderr."""

from __future__ import annotations

import sys

from pluto_dist.core.messages import RunView, View
from pluto_dist.node.settings import Settings


def started(view: View | None, settings: Settings, store: str) -> None:
    """Which Run it is, where it goes and how to watch it."""
    if settings.quiet or view is None or view.run is None or view.role != "owner":
        return
    run = view.run
    verb = "resumed" if run.resumed else "started"
    if run.mode == "local":
        _print(f"{verb} {_named(run)} (local, {store}); watch it: pluto-dist show {_short(run)}")
    elif run.provisional:
        _print(f"{verb} {_named(run)} (the server does not answer yet; everything is kept on disk)")
    else:
        _print(f"{verb} {_named(run)}; watch it: {run.url}")


def finished(view: View | None, settings: Settings) -> None:
    """Status, number of points, how to look; a failure names the culprit."""
    if settings.quiet or view is None or view.run is None or view.role != "owner":
        return
    run = view.run
    state = run.status if run.status != "RUNNING" else f"is {run.phase}"
    why = f" ({run.reason})" if run.status not in ("RUNNING", "COMPLETED") else ""
    look = f"look: pluto-dist show {_short(run)}" if run.mode == "local" else run.url
    _print(f"{_named(run)} {state}{why}, {run.points} points; {look}")


def _named(run: RunView) -> str:
    shown = run.display_id or run.external_id
    return f"Run {shown} ({run.name}, project {run.project})" if run.name != shown else f"Run {shown}"


def _short(run: RunView) -> str:
    return run.display_id or run.external_id


def _print(text: str) -> None:
    print(f"pluto_dist: {text}", file=sys.stderr, flush=True)  # noqa: T201 # the one thing that is printed
