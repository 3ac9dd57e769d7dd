"""The model of `top`: what it looks at, and its rows of text.

`Source` is the board, and for one Run its points, its console and its end. It reads files and asks the
coordinator, so it is called by threads beside the screen. The rows are a pure function of the Runs seen and
the person's choices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple, Protocol, get_args

import msgspec

from pluto_dist.backend.local.reading import SaidLine
from pluto_dist.cli import show
from pluto_dist.cli.chart import Curve
from pluto_dist.cli.console import printable, span
from pluto_dist.cli.show import roots
from pluto_dist.core.rules.participants import speaker_shown
from pluto_dist.core.values.document import Document, LeaseShown
from pluto_dist.core.values.records import Point, RunEvent
from pluto_dist.read.board import Board, MachineUse, RunSeen
from pluto_dist.read.lookup import Found
from pluto_dist.read.processes import OPEN, Group, Health, Key, Process, failed_lease, groups_of
from pluto_dist.read.run import Run
from pluto_dist.read.settle import remark_on
from pluto_dist.read.streams import last_lines

LAST_LINES = 30
TOGETHER = 32  # consoles that are read at once


class Drawn(NamedTuple):
    """A series for the chart; of several ranks the mean, with the band in which all of them lie."""

    curve: Curve
    band: tuple[Curve, Curve] | None = None
    ranks: int = 0


class Source(Protocol):
    """The questions of the screen."""

    @property
    def remark(self) -> str:
        """What a person should know about the looking."""

    def look(self) -> list[RunSeen]:
        """The Runs as of now."""

    def curve(self, run: RunSeen, name: str, *, every_rank: bool) -> Drawn:
        """Points of one series, or of all ranks that log it."""

    def console(self, run: RunSeen, leases: Sequence[LeaseShown], count: int) -> list[SaidLine]:
        """The newest console lines of some processes, oldest first."""

    def why(self, run: RunSeen) -> list[str]:
        """The end of the Run, or its state."""


class Looking:
    """The source that looks at this machine.

    Args:
        board: of the Runs.
    """

    def __init__(self, board: Board) -> None:
        self._board = board

    @property
    def remark(self) -> str:
        """What a person should know about the looking."""
        return self._board.remark

    def look(self) -> list[RunSeen]:
        """The Runs as of now."""
        return self._board.look()

    def curve(self, run: RunSeen, name: str, *, every_rank: bool) -> Drawn:
        """Points that are on this machine; of all ranks their mean between the smallest and the largest."""
        series = Run(self._board.lookup, _found(run)).series([name], every_rank=every_rank)
        if every_rank:
            for found in series.together():
                if found.metric == name:
                    means, lows, highs = (
                        _curve(found.steps, each) for each in (found.means, found.lows, found.highs)
                    )
                    return Drawn(means, (lows, highs), max(len(found.ranks), *found.counts))
        drawn = Curve()
        for each in series.curves():
            if each.name == name:
                drawn.extend(each.steps, each.values)
        return Drawn(drawn)

    def console(self, run: RunSeen, leases: Sequence[LeaseShown], count: int) -> list[SaidLine]:
        """The newest lines; of many processes those of the first `TOGETHER`."""
        folders = roots(_found(run), self._board.lookup.spool)
        several = len(leases) > 1
        lines = [
            line
            for lease in leases[:TOGETHER]
            for line in last_lines(
                lease, folders, count, speaker_shown(lease, run.document) if several else ""
            )
        ]
        return sorted(lines, key=lambda line: line.time)[-count:]

    def why(self, run: RunSeen) -> list[str]:
        """The status and its reason, who failed first with the last lines of its console."""
        document = run.document
        unsettled = self._board.remark
        remark = remark_on(document, self._board.lookup, run.situation, unsettled, live=run.live)
        lease = failed_lease(document)
        shown = show.Shown(
            document=document,
            store=str(run.store),
            situation=run.situation,
            last_lines=tuple(self.console(run, [lease], LAST_LINES)) if lease is not None else (),
        )
        parts = [
            [f"{run.name} {document.name}: {run.situation.status}"],
            [remark] if remark else [],
            [f"trouble: {document.trouble}"] if document.trouble else [],
            list(show.verdict_lines(shown)),
            list(show.earlier_lines(document)),
        ]
        lines = [line for part in parts if part for line in ("", *part)][1:]
        if document.verdict is None and not document.attempts:
            lines += ["", "It has not ended, and no attempt of it failed."]
        return lines


def _found(run: RunSeen) -> Found:
    return Found(run.document, b"", run.store, run.live)


def _curve(steps: Sequence[int], values: Sequence[float]) -> Curve:
    made = Curve()
    made.extend(steps, values)
    return made


KEYS: tuple[Key, ...] = get_args(Key)
RUN_COLUMNS = ("RUN", "NAME", "STATUS", "AGE", "STEP", "STEP/S", "LAG", "LIVE", "BACKLOG", "LOSS")
PROCESS_COLUMNS = ("WHO", "STATE", "STEP", "STEP/S", "LAG", "WORD", "BACKLOG", "CPU", "MEMORY", "WHERE")
NUMBERS = frozenset({"AGE", "STEP", "STEP/S", "LAG", "LIVE", "BACKLOG", "LOSS", "WORD", "CPU", "MEMORY"})
SORTED_COLUMN: dict[Key, str] = {
    "worst": "STATE",
    "rank": "WHO",
    "step": "STEP",
    "rate": "STEP/S",
    "lag": "LAG",
    "word": "WORD",
    "backlog": "BACKLOG",
    "cpu": "CPU",
    "memory": "MEMORY",
}
STATUS_STYLES = {
    "RUNNING": "cyan",
    "COMPLETED": "green",
    "FAILED": "bold red",
    "TERMINATED": "yellow",
    "CANCELLED": "yellow",
}
HEALTH_STYLES: dict[Health, str] = {
    "failed first": "bold red",
    "died": "red",
    "crashed": "red",
    "stuck": "bold yellow",
    "suspect": "yellow",
    "behind": "yellow",
    "lost": "yellow",
    "waiting": "cyan",
    "well": "",
    "ended": "dim",
}
LONGEST_NAME, LONGEST_WHO = 16, 20
WHOM = ("label", "ranks", "status")


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The person's choices: order, filters, groups.

    Attributes:
        by: by what processes are sorted.
        reverse: the other way round.
        grouped: processes that are alike share a row.
        ended: also processes of earlier attempts, and sides that have left.
        runs: words of which each must be in a Run's row, its project or its tags.
        processes: words of which each must be in a process's row, role or host.
    """

    by: Key = "worst"
    reverse: bool = False
    grouped: bool = True
    ended: bool = False
    runs: str = ""
    processes: str = ""

    def sorted_by_next(self) -> Asked:
        """The choices with the next key of sorting, in its own direction."""
        following = KEYS[(KEYS.index(self.by) + 1) % len(KEYS)]
        return msgspec.structs.replace(self, by=following, reverse=False)


class Row(msgspec.Struct, frozen=True):
    """A line of a table.

    Attributes:
        key: the same at each look.
        cells: texts without control characters.
        style: of the cell with the status or state; of the whole line if that is `dim`.
    """

    key: str
    cells: tuple[str, ...]
    style: str


class ProcessRow(msgspec.Struct, frozen=True):
    """A line of the table of processes, and those that share it."""

    row: Row
    group: Group


def run_rows(runs: Iterable[RunSeen], asked: Asked, now_ms: int) -> list[Row]:
    """The Runs that fit the filter, under `RUN_COLUMNS`."""
    found = []
    for run in runs:
        row = _run_row(run, now_ms)
        if _fits(asked.runs, (*row.cells, run.document.project, *run.document.tags)):
            found.append(row)
    return found


def process_rows(run: RunSeen, asked: Asked) -> list[ProcessRow]:
    """The processes of a Run that fit the filter, under `PROCESS_COLUMNS`."""
    shown = [each for each in run.processes if asked.ended or is_of_now(each, run.document)]
    fitting = [each for each in shown if _fits(asked.processes, _words(each))]
    groups = groups_of(fitting, whole=not asked.grouped, by=asked.by, reverse=asked.reverse)
    return [ProcessRow(_process_row(group), group) for group in groups]


def is_of_now(process: Process, document: Document) -> bool:
    """Whether a process is of the present attempt, and no side that has left on purpose."""
    lease = process.lease
    if lease.state in OPEN or process.health == "failed first":
        return True
    return lease.attempt == document.attempt and (
        lease.role != "side" or process.health in ("died", "crashed")
    )


def main_series(summary: Mapping[str, Point]) -> str | None:
    """The series that a person most likely means: a loss; else the one with the most points."""
    names = sorted(
        (name for name, point in summary.items() if _is_plotted(name, point)),
        key=lambda name: (len(name), name),
    )
    losses = [name for name in names if "loss" in name.lower()]
    for wanted in ("loss", "train/loss", "train_loss"):
        if wanted in losses:
            return wanted
    return losses[0] if losses else max(names, key=lambda name: summary[name].count, default=None)


def plotted(summary: Mapping[str, Point]) -> list[str]:
    """Names of all series of numbers, those of the machine last."""
    names = [name for name, point in summary.items() if not isinstance(point.last, str)]
    return sorted(names, key=lambda name: (name.startswith("sys/"), name))


def headline(run: RunSeen, now_ms: int) -> str:
    """The Run in a line."""
    document = run.document
    parts = [printable(document.name), printable(document.project), run.situation.status]
    parts.append(span(((document.ended_at or now_ms) - document.created_at) / 1000))
    if document.attempt:
        parts.append(f"attempt {document.attempt}")
    if document.verdict is not None:
        parts.append(printable(document.verdict.reason).replace("\n", " "))
    elif run.situation.standing != "ended":
        parts += [machine_line(each) for each in run.machines]
    return "  ".join(part for part in parts if part)


def machine_line(machine: MachineUse) -> str:
    """`node7: CPU 43 %, memory 61 %, 8 GPUs 97 %, 560G`."""
    parts = []
    if machine.cpu is not None:
        parts.append(f"CPU {machine.cpu:.0f} %")
    if machine.memory is not None:
        parts.append(f"memory {machine.memory:.0f} %")
    if machine.cards:
        count = len(machine.cards)
        busy = f" {machine.busy:.0f} %" if machine.busy is not None else ""
        used = sum(card.memory or 0 for card in machine.cards)
        parts.append(f"{f'{count} GPUs' if count > 1 else 'GPU'}{busy}{f' {size(used)}' if used else ''}")
    return (f"{printable(machine.host)}: " if machine.host else "") + ", ".join(parts)


def event_line(event: RunEvent) -> str:
    """An event in one line: its name, the process, the particulars; without ids of leases."""
    whom = [event.detail[key] for key in WHOM if key in event.detail]
    rest = [f"{key}={value}" for key, value in event.detail.items() if key not in (*WHOM, "lease")]
    return printable(" ".join((event.name, *whom, *rest))).replace("\n", " ")


def folded(events: Sequence[RunEvent]) -> list[tuple[RunEvent, str]]:
    """Events as lines; several of one kind after each other share one, with the last one's time."""
    found = []
    for _, same in groupby(events, key=lambda event: event.name):
        alike = list(same)
        if len(alike) == 1:
            found.append((alike[0], event_line(alike[0])))
            continue
        whom = dict.fromkeys(event.detail[key] for event in alike for key in WHOM[:2] if key in event.detail)
        names = f" {', '.join(whom)}" if whom else ""
        found.append((alike[-1], printable(f"{alike[0].name} ×{len(alike)}{names}").replace("\n", " ")))
    return found


def size(count: float | None) -> str:
    """Bytes: `512K`, `1.2G`."""
    if count is None:
        return ""
    for unit in ("", "K", "M", "G"):
        if count < 1000:
            return f"{count:.1f}{unit}" if 0 < count < 10 and unit else f"{count:.0f}{unit}"
        count /= 1024
    return f"{count:.1f}T"


def pace(rate: float | None) -> str:
    """Steps per second."""
    if rate is None:
        return ""
    return f"{rate:.0f}" if rate >= 100 or rate == 0 else f"{rate:.1f}" if rate >= 10 else f"{rate:.2f}"


def ago(seconds: float | None) -> str:
    """A duration, shorter than `span`: `4s`, `3min`, `5h10`, `2d`."""
    if seconds is None:
        return ""
    if seconds < 100:
        return f"{seconds:.0f}s"
    minutes = int(seconds // 60)
    if minutes < 100:
        return f"{minutes}min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}" if hours < 48 else f"{hours // 24}d"


def short(text: str, longest: int) -> str:
    """One line of at most so many characters."""
    line = printable(text).replace("\n", " ")
    return line if len(line) <= longest else line[: longest - 1] + "…"


def _run_row(run: RunSeen, now_ms: int) -> Row:
    document = run.document
    alive = sum(each.lease.state in OPEN and each.health != "lost" for each in run.members)
    loss = main_series(document.summary)
    value = document.summary[loss].last if loss is not None and "loss" in loss.lower() else None
    cells = (
        short(run.name, LONGEST_NAME),
        short(document.name, LONGEST_NAME),
        run.situation.status,
        ago(((document.ended_at or now_ms) - document.created_at) / 1000),
        _number(run.step),
        pace(run.rate),
        _number(run.lag),
        f"{alive}/{len(run.members)}",
        _number(run.backlog),
        f"{value:.4g}" if isinstance(value, float) else _number(value) if isinstance(value, int) else "",
    )
    return Row(document.key, cells, STATUS_STYLES.get(run.situation.status, "yellow"))


def _process_row(group: Group) -> Row:
    first = group.first
    cells = (
        short(group.who, LONGEST_WHO),
        first.health if first.health == "failed first" else first.state,
        group.steps,
        pace(group.rate),
        _number(group.lag),
        ago(group.word_s) if first.lease.state in OPEN else "",
        _number(group.backlog),
        f"{group.cpu:.0f}%" if group.cpu is not None else "",
        size(group.memory),
        _where(group),
    )
    return Row(first.lease.lease_id, cells, HEALTH_STYLES[first.health])


def _where(group: Group) -> str:
    lease = group.first.lease
    who = f"{len(group.processes)} pids" if len(group.processes) > 1 else str(lease.pid)
    return f"{who} {short(lease.host, LONGEST_NAME)}"


def _words(process: Process) -> Sequence[str]:
    lease = process.lease
    return (lease.label, lease.role, process.state, process.health, lease.host, str(lease.pid))


def _fits(words: str, texts: Iterable[str]) -> bool:
    text = "\n".join(texts).lower()
    return all(word in text for word in words.lower().split())


def _is_plotted(name: str, point: Point) -> bool:
    return not (isinstance(point.last, str) or name.startswith("sys/"))


def _number(value: int | None) -> str:
    return "" if value is None else str(value)
