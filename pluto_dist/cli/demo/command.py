"""`pluto-dist demo`: shows on this machine, with a real training, what the package is for.

Four ranks train a small network on handwritten digits. Beside them an eval, one that crashes, an uploader and
a profiler that is killed attach to the same Run by its id. At the end the Run has to be COMPLETED and every
point that was logged in the store; else the exit code is 1, and the difference is printed.

It uses the node's own coordinator and the store of `--dir`, so the other commands see it like any other Run.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pluto_dist.cli.console import console
from pluto_dist.cli.options import Dir, Home, Option

if TYPE_CHECKING:
    from rich.console import Console

    from pluto_dist.cli.demo.check import Finding, Outcome
    from pluto_dist.cli.demo.play import Play
    from pluto_dist.read.lookup import Lookup

CHART_WIDTH, CHART_HEIGHT = 76, 12


def demo(
    home: Home = None,
    folder: Dir = None,
    seconds: Annotated[float, Option(least=3, most=60, help="How long it trains.")] = 7.0,
) -> None:
    """Trains with four ranks, lets others attach, crash and be killed; shows that nothing is lost."""
    from pluto_dist.cli.demo.check import findings
    from pluto_dist.errors import PlacesError
    from pluto_dist.read.lookup import Lookup

    lookup = Lookup(home, folder)
    if lookup.places is None:
        raise PlacesError(f"no process can log on this machine: {lookup.where()}")
    _check_store(lookup.store.root)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without braille dots shall not end the demo
    out = console()
    play = _play(lookup, home, folder, seconds)
    outcome = _performed(play, lookup, home, out)
    found = findings(outcome)
    _draw(outcome, out)
    _tell(found, out)
    _how_to_look(outcome, home, folder, out)
    if not all(each.kept for each in found):
        out.print(f"logs, checkpoints and the ledger of the processes: {play.folder}", soft_wrap=True)
        raise SystemExit(1)
    shutil.rmtree(play.folder)


def _check_store(root: Path) -> None:
    """A training goes on without its store and delivers later; a demo would only wait for it."""
    from pluto_dist.errors import PlacesError

    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise PlacesError(f"the store {root} cannot be made: {error}; --dir chooses another place") from error
    if not os.access(root, os.W_OK | os.X_OK):
        raise PlacesError(f"the store {root} cannot be written; --dir chooses another place")


def _play(lookup: Lookup, home: Path | None, folder: Path | None, seconds: float) -> Play:
    from pluto_dist.cli.demo.play import Play
    from pluto_dist.client.opening import generate_run_id
    from pluto_dist.read.lookup import reading_settings

    return Play(
        run_id=generate_run_id(),
        folder=Path(tempfile.mkdtemp(prefix="pluto-dist-demo-")),
        store=lookup.store.root.parent,
        home=reading_settings(home, folder).home,
        seconds=seconds,
    )


def _performed(play: Play, lookup: Lookup, home: Path | None, out: Console) -> Outcome:
    """Plays it through; Ctrl-C ends all processes and leaves what the store has by then."""
    from pluto_dist.cli.demo.play import Cast, Watch, interruptible, perform, screen

    out.print(
        f"A training and its helpers share one Run. Store: {lookup.store.root}\n"
        f"While it runs, in another terminal: pluto-dist ps{_option('home', home)}\n",
        soft_wrap=True,
    )
    try:
        with interruptible(), Cast(play.folder, play.env()) as cast, screen(out) as shown:
            watch = Watch(lookup, play.run_id, out, shown)
            killed_ms = perform(play, cast, watch)
            outcome = _outcome(play, lookup, cast.codes(), killed_ms)
            watch.look()
            return outcome
    except KeyboardInterrupt:
        out.print("interrupted: the processes of the demo have been ended")
        shutil.rmtree(play.folder)
        raise


def _outcome(play: Play, lookup: Lookup, codes: dict[str, int | None], killed_ms: int) -> Outcome:
    from pluto_dist.backend.local.reading import read_points
    from pluto_dist.cli.demo.check import Outcome
    from pluto_dist.cli.demo.job import ledger, network
    from pluto_dist.cli.demo.play import RANKS, settle

    document = settle(lookup, play.run_id)
    folder = lookup.store.run(document.key)
    points = list(read_points(document, [folder / "streams"]))
    return Outcome(
        document=document,
        points=points,
        shipped={
            point.step: network.checksum((folder / str(point.value)).read_bytes())
            for point in points
            if point.kind == "file"
        },
        ledger=list(ledger.read(play.ledger)),
        codes=codes,
        killed_ms=killed_ms,
        ranks=RANKS,
    )


def _draw(outcome: Outcome, out: Console) -> None:
    from pluto_dist.cli.chart import Curve, draw
    from pluto_dist.cli.demo.check import ranks_mean

    curve = Curve(ranks_mean(outcome.points, "train/loss"))
    lines = draw(curve, min(CHART_WIDTH, out.width), CHART_HEIGHT)
    out.print("\n".join(("", f"train/loss by step, mean of the {outcome.ranks} ranks", *lines, "")))


def _tell(found: Sequence[Finding], out: Console) -> None:
    import textwrap

    from rich.text import Text

    for each in found:
        mark, style = ("ok", "green") if each.kept else ("DIFFERS", "bold red")
        line = Text(textwrap.fill(f"{mark}  {each.text}", out.width - 1, subsequent_indent="    "))
        line.stylize(style, 0, len(mark))
        out.print(line)


def _how_to_look(outcome: Outcome, home: Path | None, folder: Path | None, out: Console) -> None:
    run = outcome.document.display_id or outcome.document.key
    where = _option("home", home) + _option("dir", folder)
    out.print(
        f"\nlook  pluto-dist show {run}{where}\n"
        f"      pluto-dist show {run} --plot train/loss{where}\n"
        f"      pluto-dist runs{where}\n"
        f"      pluto-dist ui{where}\n"
        f"      pluto-dist export {run} --format csv{where}",
        soft_wrap=True,
    )


def _option(name: str, value: Path | None) -> str:
    return "" if value is None else f" --{name} {shlex.quote(str(value))}"
