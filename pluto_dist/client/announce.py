"""What a user sees on stderr: one line at init, one at the end, and what is waited for if it takes long."""

from __future__ import annotations

import contextlib
import sys
from typing import Self

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


class Waiting:
    """What is waited for at the end, in one line that is written over; on a terminal only."""

    def __init__(self, settings: Settings) -> None:
        self._shown = not settings.quiet and sys.stderr is not None and sys.stderr.isatty()

    def __enter__(self) -> Self:
        return self

    def show(self, view: View | None, left_s: float) -> None:
        """How much is left, and for how long it is waited for at most."""
        if self._shown and view is not None:
            what = (
                f"delivering, {view.pending / 1e6:.1f} MB left" if view.pending else "waiting for the server"
            )
            trouble = f" ({view.trouble[:60]})" if view.trouble else ""
            self._write(f"\r\x1b[Kpluto_dist: {what}{trouble}, at most {left_s:.0f} s")

    def __exit__(self, *_: object) -> None:
        if self._shown:
            self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # the terminal is gone
            sys.stderr.write(text)
            sys.stderr.flush()


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
