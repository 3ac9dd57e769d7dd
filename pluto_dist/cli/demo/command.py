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
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec

from pluto_dist.backend.local.reading import SeriesPoint, read_points
from pluto_dist.cli.chart import Curve, draw
from pluto_dist.cli.console import console
from pluto_dist.cli.demo.job import ledger, network
from pluto_dist.cli.demo.job.ledger import Entry
from pluto_dist.cli.demo.play import RANKS, Cast, Play, Watch, interruptible, perform, screen, settle, settled
from pluto_dist.cli.options import Dir, Home, Option
from pluto_dist.client.opening import generate_run_id
from pluto_dist.core.values.document import Document, LeaseShown
from pluto_dist.core.values.records import RunEvent
from pluto_dist.errors import PlacesError
from pluto_dist.read.lookup import Lookup, reading_settings

if TYPE_CHECKING:
    from rich.console import Console

CHART_WIDTH, CHART_HEIGHT = 76, 12


def demo(
    home: Home = None,
    folder: Dir = None,
    seconds: Annotated[float, Option(least=3, most=60, help="How long it trains.")] = 7.0,
) -> None:
    """Trains with four ranks, lets others attach, crash and be killed; shows that nothing is lost."""
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
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise PlacesError(f"the store {root} cannot be made: {error}; --dir chooses another place") from error
    if not os.access(root, os.W_OK | os.X_OK):
        raise PlacesError(f"the store {root} cannot be written; --dir chooses another place")


def _play(lookup: Lookup, home: Path | None, folder: Path | None, seconds: float) -> Play:
    return Play(
        run_id=generate_run_id(),
        folder=Path(tempfile.mkdtemp(prefix="pluto-dist-demo-")),
        store=lookup.store.root.parent,
        home=reading_settings(home, folder).home,
        seconds=seconds,
    )


def _performed(play: Play, lookup: Lookup, home: Path | None, out: Console) -> Outcome:
    """Plays it through; Ctrl-C ends all processes and leaves what the store has by then."""
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


# Whether the demo kept what it promised: pure functions of what the store holds and what was logged.
Key = tuple[str, str, int, float | str]  # lease, final name, step, value


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The remains of a demo whose processes have all ended.

    Attributes:
        document: of the Run, from the store.
        points: all that the store holds.
        ledger: all that the processes have logged by their own account.
        codes: exit codes of the processes by name; negative after a signal.
        killed_ms: epoch milliseconds of the SIGKILL.
        ranks: how many there were.
        shipped: checksums of the files in the store by step, as the uploader shortens them.
    """

    document: Document
    points: Sequence[SeriesPoint]
    ledger: Sequence[Entry]
    codes: Mapping[str, int | None]
    killed_ms: int
    ranks: int
    shipped: Mapping[int, str]


class Finding(msgspec.Struct, frozen=True):
    """A promise, in a sentence, or what differs from it."""

    kept: bool
    text: str


def findings(outcome: Outcome) -> list[Finding]:
    """All promises of the demo."""
    return [
        _completed(outcome),
        _accounted(outcome),
        _shipped(outcome),
        _closed(outcome),
        _crashed(outcome),
        _killed(outcome),
        _learned(outcome),
    ]


def ranks_mean(points: Sequence[SeriesPoint], name: str) -> Iterator[tuple[int, float]]:
    """The mean over all ranks of a series at each step."""
    values: dict[int, list[float]] = {}
    for point in points:
        if (point.name == name or point.name.startswith(f"{name}/")) and not isinstance(point.value, str):
            values.setdefault(point.step, []).append(point.value)
    for step in sorted(values):
        yield step, sum(values[step]) / len(values[step])


def _completed(outcome: Outcome) -> Finding:
    document, code = outcome.document, outcome.codes["torchrun"]
    reason = document.verdict.reason if document.verdict is not None else "no verdict"
    roles = Counter(lease.role for lease in document.leases)
    text = (
        f"{_run(outcome)} is {document.status} ({reason}): one owner, {roles['worker']} workers and "
        f"{roles['side']} others wrote into one Run"
    )
    if code == 0 and roles["owner"] == 1 and roles["worker"] == outcome.ranks - 1 and _is_completed(outcome):
        return Finding(True, text)
    return Finding(False, f"{text}; the launcher's exit code is {code}, the owners are {roles['owner']}")


def _accounted(outcome: Outcome) -> Finding:
    logged, stored = Counter(_logged(outcome)), Counter(_stored(outcome))
    missing, extra = logged - stored, stored - logged
    document = outcome.document
    if _died_before_its_note(outcome, extra):
        extra = Counter()
    counts = {name: point.count for name, point in document.summary.items()}
    lost = {"rejected": document.rejected, "dropped": document.dropped, "repeats": document.repeats}
    troubles = [
        *(f"missing: {_shown(outcome, key)}" for key in missing),
        *(f"not logged by anybody: {_shown(outcome, key)}" for key in extra),
        *(f"{number} {name}" for name, number in lost.items() if number),
    ]
    if counts != Counter(point.name for point in outcome.points):
        troubles.append("the summary counts other points than the store has")
    text = f"{logged.total():,} points logged, {stored.total():,} points in the store"
    if not troubles and logged:
        return Finding(True, f"{text}: nothing lost, nothing doubled")
    more = f" and {len(troubles) - 5} more" if len(troubles) > 5 else ""
    return Finding(False, f"{text}: {'; '.join(troubles[:5])}{more}")


def _shipped(outcome: Outcome) -> Finding:
    logged = {entry.step: entry.value for entry in outcome.ledger if entry.name == "checkpoint/sha256"}
    if logged and logged == outcome.shipped:
        return Finding(True, f"{len(logged)} checkpoints are in the store, byte for byte")
    steps = sorted({*logged, *outcome.shipped})
    different = [step for step in steps if logged.get(step) != outcome.shipped.get(step)]
    return Finding(
        False, f"{len(logged)} checkpoints shipped; missing or different in the store: {different}"
    )


def _closed(outcome: Outcome) -> Finding:
    leases = [_lease(outcome, label) for label in ("eval", "uploader")]
    kept = all(
        lease is not None and lease.end_reason == "closed" and outcome.codes[lease.label] == 0
        for lease in leases
    )
    if kept:
        return Finding(True, "eval and uploader closed: that did not complete the Run, its owner did")
    return Finding(False, f"eval or uploader did not close: {_codes(outcome)}")


def _crashed(outcome: Outcome) -> Finding:
    event, logged = _event(outcome, "side_failed", "eval-2"), len(_points_of(outcome, "eval-2"))
    if event is None or outcome.codes["eval-2"] != 1 or not _is_completed(outcome):
        return Finding(False, f"eval-2 did not crash as it should: {_codes(outcome)}, event {event}")
    kind = event.detail.get("what", "?").partition(":")[0]
    return Finding(
        True,
        f"eval-2 crashed ({kind}): that did not fail the Run, its {logged} points are there",
    )


def _killed(outcome: Outcome) -> Finding:
    lease, event = _lease(outcome, "profiler"), _event(outcome, "side_died", "profiler")
    died = lease is not None and lease.end_reason == "died" and lease.ended_at is not None
    if not died or event is None or outcome.codes["profiler"] != -9 or not _is_completed(outcome):
        return Finding(False, f"profiler was not killed as it should: {_codes(outcome)}, event {event}")
    assert lease is not None and lease.ended_at is not None  # noqa: S101, PT018 # `died` says so
    noticed_ms, logged = max(0, lease.ended_at - outcome.killed_ms), len(_points_of(outcome, "profiler"))
    return Finding(
        True,
        "profiler was killed (SIGKILL): that did not end the Run and lost none of its "
        f"{logged} points; noticed after {noticed_ms} ms",
    )


def _learned(outcome: Outcome) -> Finding:
    losses = [loss for _, loss in ranks_mean(outcome.points, "train/loss")]
    tests = [value for name, value in _points_of(outcome, "eval") if name.startswith("eval/accuracy")]
    if not losses or not tests:
        return Finding(False, f"{len(losses)} losses of the training and {len(tests)} results of the eval")
    before, after = losses[0], sum(losses[-10:]) / len(losses[-10:])
    text = f"{len(losses):,} steps took the loss from {before:.2f} to {after:.2f}"
    return Finding(after < before * 0.8, f"{text}; eval: {tests[-1]:.0%} of the test images read rightly")


def _is_completed(outcome: Outcome) -> bool:
    document = outcome.document
    failure = document.verdict.first_failure if document.verdict is not None else None
    return document.status == "COMPLETED" and settled(document) and failure is None


def _logged(outcome: Outcome) -> Iterator[Key]:
    """Points of the ledger under the names that they have in the end."""
    participants = {lease.lease_id: lease.participant for lease in outcome.document.leases}
    for entry in outcome.ledger:
        others = outcome.document.series.get(entry.name, {})
        name = others.get(participants.get(entry.lease_id, ""), entry.name)
        value = entry.value if isinstance(entry.value, str) else float(entry.value)
        yield entry.lease_id, name, entry.step, value


def _stored(outcome: Outcome) -> Iterator[Key]:
    for point in outcome.points:
        if point.kind != "file":  # `_shipped` looks at these
            yield point.lease_id, point.name, point.step, point.value


def _died_before_its_note(outcome: Outcome, extra: Counter[Key]) -> bool:
    """Whether the only extra point is the killed process's last: logged, and not yet in the ledger."""
    killed = _lease(outcome, "profiler")
    return extra.total() == 1 and killed is not None and all(key[0] == killed.lease_id for key in extra)


def _shown(outcome: Outcome, key: Key) -> str:
    lease_id, name, step, value = key
    labels = {lease.lease_id: lease.label for lease in outcome.document.leases}
    return f"{labels.get(lease_id, lease_id)} {name}@{step} = {value}"


def _points_of(outcome: Outcome, label: str) -> list[tuple[str, float | str]]:
    lease = _lease(outcome, label)
    return [
        (point.name, point.value)
        for point in outcome.points
        if lease is not None and point.lease_id == lease.lease_id
    ]


def _lease(outcome: Outcome, label: str) -> LeaseShown | None:
    return next((lease for lease in outcome.document.leases if lease.label == label), None)


def _event(outcome: Outcome, name: str, label: str) -> RunEvent | None:
    events = (event for event in outcome.document.events if event.name == name)
    return next((event for event in events if event.detail.get("label") == label), None)


def _codes(outcome: Outcome) -> str:
    return "exit codes " + ", ".join(f"{name} {code}" for name, code in outcome.codes.items())


def _run(outcome: Outcome) -> str:
    return outcome.document.display_id or outcome.document.run_id
