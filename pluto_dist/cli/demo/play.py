"""The script of the demo: its processes, its steps and their order, and the screen that shows its Run."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Protocol, Self

import msgspec

from pluto_dist.cli.console import STATUS_STYLES, printable
from pluto_dist.cli.demo.job import ledger
from pluto_dist.cli.demo.job.torchrun import last_line
from pluto_dist.core.values.document import Document, LeaseShown, read
from pluto_dist.errors import PlutoDistError, RunNotFoundError, WaitTimeoutError
from pluto_dist.host.launch import module_command
from pluto_dist.read.lookup import Lookup
from pluto_dist.read.streams import caught_up

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from pluto_dist.core.values.records import RunEvent

JOB = "pluto_dist.cli.demo.job."
GRACE_S = 20.0  # more than the launcher gives its ranks

# Of the surroundings, nothing that would make a process look like another job's rank or send it elsewhere.
_FOREIGN = ("PLUTO_", "MLOP_", "SLURM_", "OMPI_", "PMI_", "PMIX_", "TORCHELASTIC_")
_FOREIGN_NAMES = frozenset(
    {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK"}
)
RANKS = 4
SAVE_EVERY = 20  # steps; also how often the ranks look whether they may end
CRASH_AFTER = 1  # checkpoints
KILL_AFTER = 20  # records of the profiler
LATEST_S = 600.0  # beyond the time of training; only what hangs takes so long
SETTLE_S = 120.0  # after the last process has ended; usually 0.1 s


class Cast:
    """Starts, kills and ends them. As a context manager it leaves none behind.

    Args:
        folder: for their logs.
        env: what they get beside the harmless part of this process's environment.
    """

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self._folder = folder
        self._env = {**_harmless(os.environ), **env}
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, module: str, *arguments: object) -> None:
        """Runs one of the programs of `job`."""
        with self._log(name).open("wb") as log:
            self._started[name] = subprocess.Popen(
                command(module, *arguments),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
                process_group=0,  # Ctrl-C comes to the demo, which ends them in order
            )

    def kill(self, name: str) -> None:
        """SIGKILL, if it still lives."""
        self._started[name].kill()

    def running(self) -> list[str]:
        """Names of the processes that have not ended."""
        return [name for name, process in self._started.items() if process.poll() is None]

    def code(self, name: str) -> int | None:
        """Exit code as `subprocess` has it: None while it runs, negative after a signal."""
        return self._started[name].poll()

    def codes(self) -> dict[str, int | None]:
        """Exit codes of all."""
        return {name: process.poll() for name, process in self._started.items()}

    def last_words(self, name: str) -> str:
        """The last line it wrote."""
        return last_line(self._log(name))

    def end(self) -> None:
        """SIGTERM to all that live, SIGKILL to those that do not go; returns when they are gone."""
        alive = [process for process in self._started.values() if process.poll() is None]
        try:
            for process in alive:
                process.terminate()
            deadline = time.monotonic() + GRACE_S
            for process in alive:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))
        finally:  # after a second Ctrl-C too
            for process in alive:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"


def command(module: str, *arguments: object) -> list[str]:
    """The command line of a program of `job`."""
    return module_command(JOB + module, map(str, arguments))


def _harmless(env: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in env.items()
        if not name.startswith(_FOREIGN) and name not in _FOREIGN_NAMES
    }


class Play(msgspec.Struct, frozen=True):
    """Places and duration of one demo.

    Attributes:
        run_id: of the Run that all processes join.
        folder: for checkpoints, logs and the ledger; exists and is empty.
        store: parent of the store.
        home: `PLUTO_DIST_HOME` of the processes, None for the usual places.
        seconds: how long it trains.
    """

    run_id: str
    folder: Path
    store: Path
    home: Path | None
    seconds: float

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.folder / "checkpoints"

    @property
    def ledger(self) -> Path:
        """File in which every process accounts for what it logged."""
        return self.folder / "ledger.jsonl"

    @property
    def over(self) -> Path:
        """A file whose existence allows the training to end."""
        return self.folder / "over"

    def env(self) -> dict[str, str]:
        """Variables for the processes; a job script would export the same."""
        home = {} if self.home is None else {"PLUTO_DIST_HOME": str(self.home)}
        return home | {
            "PLUTO_RUN_ID": self.run_id,
            "PLUTO_DIR": str(self.store),
            "PLUTO_DIST_MODE": "local",
            "PLUTO_DIST_REQUIRED": "1",
            "PLUTO_DIST_SYSTEM_METRICS_S": "0",  # every point shall be one that a program has logged
            ledger.VARIABLE: str(self.ledger),
        }


def perform(play: Play, cast: Cast, watch: Watch) -> int:
    """Starts all processes, kills one, and returns when all have ended.

    Each step waits for the effect of the one before, and the training goes on until the crash and the kill
    have happened beside it, however slow the machine is.

    Returns:
        When that one was killed, in epoch milliseconds.

    Raises:
        WaitTimeoutError: a process has not ended in time.
        PlutoDistError: the training failed.
    """
    play.checkpoints.mkdir()
    play.ledger.touch()
    watch.say(f"starting {RANKS} ranks that train, as torchrun does")
    pace = ("--save-every", SAVE_EVERY, "--seconds", play.seconds, "--until", play.over)
    train = command("train", "--checkpoints", play.checkpoints, *pace)
    cast.start("torchrun", "torchrun", "--nproc-per-node", RANKS, "--log-dir", play.folder, *train)
    _until(play, cast, watch, lambda: watch.document is not None)
    watch.say("starting eval, uploader, and profiler, which will be killed")
    evaluate = ("evaluate", play.run_id, "--label")
    cast.start("eval", *evaluate, "eval")
    cast.start("uploader", "upload", play.run_id)
    cast.start("profiler", "profiler", play.run_id)
    _until(play, cast, watch, lambda: _has_logged(watch, "eval", 1) or "eval" not in cast.running())
    watch.say("starting eval-2, which will crash")
    cast.start("eval-2", *evaluate, "eval-2", "--crash-after", CRASH_AFTER)
    _until(play, cast, watch, lambda: _time_to_kill(play, watch) or "profiler" not in cast.running())
    killed_ms = time.time_ns() // 1_000_000
    cast.kill("profiler")
    watch.say("sent SIGKILL to profiler")
    _until(play, cast, watch, lambda: watch.failed("eval-2", "profiler") or cast.code("eval-2") == 0)
    play.over.touch()
    _until(play, cast, watch, lambda: not cast.running())
    return killed_ms


def settle(lookup: Lookup, run_id: str) -> Document:
    """The Run as the store has it once it has ended, or after a while.

    Raises:
        RunNotFoundError: the store does not have it.
    """
    deadline = time.monotonic() + SETTLE_S
    key = next(known.head.key for known in lookup.runs() if known.head.run_id == run_id)
    while True:
        body = lookup.store.document(key)
        document = read(body) if body is not None else None
        if document is not None and settled(document):
            return document
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    if document is None:
        raise RunNotFoundError(f"Run {key} is not in the store {lookup.store.root} after {SETTLE_S:g} s")
    return document


def settled(document: Document) -> bool:
    """Whether a Run has ended and everything of its processes is in."""
    ended = all(lease.state == "ended" for lease in document.leases)
    return document.status != "RUNNING" and document.reported and not document.pending and ended


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM and a closed terminal end the demo as Ctrl-C does."""
    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _until(play: Play, cast: Cast, watch: Watch, condition: Callable[[], bool]) -> None:
    within_s = play.seconds + LATEST_S
    in_time = watch.until(lambda: bool(cast.code("torchrun")) or condition(), within_s)
    if cast.code("torchrun"):
        raise PlutoDistError(
            f"the training failed (exit code {cast.code('torchrun')}): {cast.last_words('torchrun')}; "
            f"logs are in {play.folder}"
        )
    if not in_time:
        raise WaitTimeoutError(
            f"the demo did not end within {within_s:g} s; still running: {', '.join(cast.running())}; "
            f"logs are in {play.folder}"
        )


def _time_to_kill(play: Play, watch: Watch) -> bool:
    return watch.elapsed_s > play.seconds / 2 and _has_logged(watch, "profiler", KILL_AFTER)


def _has_logged(watch: Watch, label: str, records: int) -> bool:
    lease = watch.lease(label)
    return lease is not None and lease.written >= records


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


# The demo's Run while it lives: a live table, or lines where a table cannot be drawn.
LOOK_S = 0.2
LINE_EVERY_S = 2.0
COLUMNS = ("RUN", "ROLE", "LABEL", "RANK", "PID", "STATE", "STEP", "WRITTEN", "DELIVERED")
FAILURES = {"side_failed": "crashed", "side_died": "died"}
NUMBERS = ("RANK", "PID", "STEP", "WRITTEN", "DELIVERED")


class Screen(Protocol):
    """A display for the state of the Run."""

    def show(self, document: Document, elapsed_s: float) -> None:
        """The Run as it is now."""

    def __enter__(self) -> Self:
        """Begins."""

    def __exit__(self, *_: object) -> None:
        """Ends; nothing is left on the screen but lines."""


class Table:
    """A table that is drawn anew in place."""

    def __init__(self, console: Console) -> None:
        from rich.live import Live

        self._live = Live(console=console, auto_refresh=False)

    def show(self, document: Document, elapsed_s: float) -> None:
        """All leases, those that have ended too."""
        self._live.update(_table(document, elapsed_s), refresh=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()


class Lines:
    """A line from time to time."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next_s = 0.0

    def show(self, document: Document, elapsed_s: float) -> None:
        """One line each two seconds."""
        if elapsed_s >= self._next_s:
            self._next_s = elapsed_s + LINE_EVERY_S
            self._console.print(f"{elapsed_s:5.1f} s  {_line(document)}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def screen(console: Console) -> Screen:
    """A table where a terminal can draw one, else lines."""
    return Table(console) if console.is_terminal and not console.is_dumb_terminal else Lines(console)


class Watch:
    """Asks the coordinator about one Run, shows it, and prints when a process comes or goes.

    Attributes:
        document: the Run as it was seen last, None before it is open.
    """

    def __init__(self, lookup: Lookup, run_id: str, console: Console, on: Screen) -> None:
        self.document: Document | None = None
        self._lookup = lookup
        self._run_id = run_id
        self._console = console
        self._screen = on
        self._states: dict[str, str] = {}
        self._started = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Since the watch began."""
        return time.monotonic() - self._started

    def until(self, condition: Callable[[], bool], within_s: float) -> bool:
        """Watches until the condition holds; whether it did so in time."""
        while not condition():
            if self.elapsed_s > within_s:
                return False
            time.sleep(LOOK_S)
            self.look()
        return True

    def look(self) -> None:
        """Looks once."""
        found = [each for each in self._lookup.documents() if each.run_id == self._run_id]
        if found:
            self.document = caught_up(found[0], self._lookup.spool)
            for text in self._news(self.document):
                self.say(text)
            self._screen.show(self.document, self.elapsed_s)

    def say(self, text: str) -> None:
        """A line with the time."""
        self._console.print(f"{self.elapsed_s:5.1f} s  {printable(text)}")

    def lease(self, label: str) -> LeaseShown | None:
        """The lease of the process that people call so, None if it has none yet."""
        leases = self.document.leases if self.document is not None else ()
        return next((lease for lease in leases if lease.label == label), None)

    def failed(self, *labels: str) -> bool:
        """Whether the Run knows of the crash or death of all these processes."""
        events = self.document.events if self.document is not None else ()
        known = {event.detail.get("label") for event in events if event.name in FAILURES}
        return known >= set(labels)

    def _news(self, document: Document) -> Iterator[str]:
        for lease in document.leases:
            state, before = lease.state, self._states.get(lease.lease_id)
            if state != before:
                self._states[lease.lease_id] = state
                if state == "active":
                    yield f"{_who(lease)} attached to {_run(document)} as {lease.role}"
                if state == "ended":
                    yield f"{_who(lease)} {_end(document, lease)}: {_run(document)} is {document.status}"


def _who(lease: LeaseShown) -> str:
    return f"{lease.label} (pid {lease.pid})"


def _run(document: Document) -> str:
    return document.display_id or document.run_id


def _state(document: Document, lease: LeaseShown) -> str:
    """State of a process, or how it ended."""
    failure = _failure(document, lease)
    return lease.end_reason or lease.state if failure is None else FAILURES[failure.name]


def _end(document: Document, lease: LeaseShown) -> str:
    failure = _failure(document, lease)
    detail = failure.detail if failure is not None else {}
    why = detail.get("type") or detail.get("signal")
    return f"{_state(document, lease)} ({why})" if why else _state(document, lease)


def _failure(document: Document, lease: LeaseShown) -> RunEvent | None:
    """The event of a side's failure, which stands nowhere else."""
    found = (event for event in document.events if event.name in FAILURES)
    return next((event for event in found if event.detail.get("label") == lease.label), None)


def _table(document: Document, elapsed_s: float) -> RenderableType:
    from rich.console import Group
    from rich.table import Table as Grid
    from rich.text import Text

    title = Text(f"{elapsed_s:5.1f} s  {_line(document)}", style=STATUS_STYLES.get(document.status, ""))
    grid = Grid(box=None, pad_edge=False, header_style="bold")
    for column in COLUMNS:
        grid.add_column(column, justify="right" if column in NUMBERS else "left", no_wrap=True)
    for lease in document.leases:
        style = "dim" if lease.state == "ended" else ""
        grid.add_row(*(Text(printable(cell), style=style) for cell in _row(document, lease)))
    return Group("", title, grid)


def _row(document: Document, lease: LeaseShown) -> tuple[object, ...]:
    who = (lease.role, lease.label, lease.rank, lease.pid)
    return (_run(document), *who, _state(document, lease), lease.last_step, lease.written, lease.delivered)


def _line(document: Document) -> str:
    attached = [lease.label for lease in document.leases if lease.state == "active"]
    loss = document.summary.get("train/loss")
    training = f"step {loss.step}, loss {loss.last:.3g}, " if loss is not None else ""
    written = sum(lease.written for lease in document.leases)
    delivered = sum(lease.delivered for lease in document.leases)
    return (
        f"{_run(document)} {document.status}, {training}{len(attached)} attached, "
        f"{delivered} of {written} delivered"
    )
