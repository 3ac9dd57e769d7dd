"""What looking costs: commands on a small Run, on 1,000 Runs and on a Run of millions of points."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from pluto_dist.backend.local.store import Store
from pluto_dist.cli.top.model import Asked, process_rows
from pluto_dist.core.values.document import Document
from pluto_dist.core.values.records import Point
from pluto_dist.spool.frames import encode_frame
from tests.adapters.coordinators import answering, knowing
from tests.adapters.documents import document, lease
from tests.bench.builds import Build
from tests.bench.effort import Effort
from tests.bench.nodes import COMMAND
from tests.bench.table import Row

VALUES = 10
SEGMENT_BYTES = 64 << 20
RANKS = 300


def rows(effort: Effort, build: Build) -> Iterator[Row]:
    """All figures."""
    with tempfile.TemporaryDirectory(prefix="pd") as name:
        base = Path(name)
        make_store(base / "s", effort.looked_runs, effort.looked_records)
        yield from _commands(effort, base, build)
        if effort.peers:
            yield _series(effort, base)
            yield from _page(effort, base)
            yield from _ranks(effort, base)


def _commands(effort: Effort, base: Path, build: Build) -> Iterator[Row]:
    points = VALUES * effort.looked_records
    small, many = f"{effort.looked_runs:,} Runs", f"{points:,} points"
    yield _row(effort, base, build, "`ps`, nothing attached", ["ps"], goal=0.2)
    yield _row(effort, base, build, "`show` of a small Run", ["show", "2"], goal=0.2)
    yield _row(effort, base, build, f"`runs`, {small}", ["runs", "--json"], goal=0.4)
    yield _row(effort, base, build, f"`show`, {many}", ["show", "1"], goal=0.2)
    plot = ["show", "1", "--plot", "loss"]
    yield _row(effort, base, build, f"`show --plot` of a tenth of {many}, first time", plot)
    yield _row(effort, base, build, f"`show --plot` of a tenth of {many}, again", plot, goal=0.3)
    for form, rate in (("jsonl", None), ("csv", 1.5e6), ("parquet", 3e6)):
        command = ["export", "1", "--format", form, "--output", os.devnull]
        if form != "parquet" or effort.peers:
            yield _rate(_row(effort, base, build, f"`export` of {many}, {form}", command), points, rate)


def _page(effort: Effort, base: Path) -> Iterator[Row]:
    """The server's part of the page, in a process that has loaded it; the columns are kept."""
    from pluto_dist.read.lookup import Lookup
    from pluto_dist.ui.curves import chart_of
    from pluto_dist.ui.live import Runs
    from pluto_dist.ui.opened import Asked, Opened

    def chart(opened: Opened) -> float:
        begun = time.process_time()
        opened.page()
        msgspec.json.encode(chart_of(opened.lines(Asked(metric="loss"), "step"), places=600))
        return time.process_time() - begun

    def lookup(_: object = None) -> Lookup:
        return Lookup(base / "h", base / "s")

    fresh = [Opened(lookup(), "key-00001") for _ in range(effort.rounds)]
    points = f"{VALUES * effort.looked_records:,} points"
    opened = statistics.median(map(chart, fresh))
    yield Row(f"`ui`: a Run of {points} opens with a chart of a tenth of them", "s CPU", opened, goal=1.0)
    again = statistics.median(map(chart, fresh))
    yield Row(f"`ui`: the chart again, {points}", "s CPU", again)
    begun = time.process_time()
    msgspec.json.encode(Runs(lookup).look())
    took = time.process_time() - begun
    yield Row(f"`ui`: the list of {effort.looked_runs:,} Runs", "s CPU", took, goal=0.4)


def _rate(row: Row, points: int, goal: float | None) -> Row:
    """Points a second of processor time instead of seconds."""
    return Row(row.what, "points/s", points / row.ours, goal=goal, more_is_better=True)


def _series(effort: Effort, base: Path) -> Row:
    """In a process that has read it before, as a notebook or a page does."""
    from pluto_dist import read

    run = read.run("1", base / "s", settle=False)
    run.series("loss")
    took = []
    for _ in range(effort.rounds):
        begun = time.process_time()
        run.series("loss").curves()
        took.append(1000 * (time.process_time() - begun))
    return Row(f"`run.series()` of {effort.looked_records:,} points, again", "ms", statistics.median(took))


def _ranks(effort: Effort, base: Path) -> Iterator[Row]:
    """What `top` does once a second for a job of many ranks that all have something undelivered."""
    from pluto_dist.read.board import Board
    from pluto_dist.read.lookup import Lookup

    home = base / "h300"
    live = many_ranks(home, str(base / "s" / ".pluto"))
    with answering(home / "run" / "coordinator.sock", knowing(live)):
        board = Board(Lookup(home, base / "s"))
        looks = [_took_ms(board.look) for _ in range(effort.rounds + 1)][1:]
        yield Row(f"`top`: a look at {RANKS} ranks", "ms CPU", statistics.median(looks))
        seen = board.look()
        rows = [_took_ms(lambda: process_rows(seen[0], Asked())) for _ in range(effort.rounds)]
        yield Row(f"`top`: its lines for {RANKS} ranks", "ms CPU", statistics.median(rows))


def many_ranks(home: Path, store: str) -> Document:
    """A Run of many ranks whose spools lie on this node: 2,000 records each, 50 of them not delivered."""
    spool = home / "spool" / "leases"
    spool.mkdir(parents=True)
    for folder in (home, home / "spool", spool):
        folder.chmod(0o700)
    frames = [
        encode_frame(b'{"time":%d,"step":%d,"data":{"loss":0.5,"lr":1}}\n' % (step, step), sequence=step)
        for step in range(2000)
    ]
    done = sum(map(len, frames[:1950]))
    leases = []
    for rank in range(RANKS):
        folder = spool / f"l{rank}"
        folder.mkdir()
        (folder / "metrics-00000001.spool").write_bytes(b"".join(frames))
        who, facts = "owner" if rank == 0 else f"rank{rank}", {"rank": rank, "label": f"rank{rank}"}
        leases.append(lease(f"l{rank}", who, **facts, delivered=1950, cursors={"metrics": {1: done}}))
    return document(*leases, store=store)


def _took_ms(call: Callable[[], object]) -> float:
    begun = time.process_time()
    call()
    return 1000 * (time.process_time() - begun)


def _row(
    effort: Effort, base: Path, build: Build, what: str, command: list[str], goal: float | None = None
) -> Row:
    here = [] if command[0] == "ps" else ["--dir", str(base / "s")]
    rounds = 1 if "first" in what else effort.rounds
    argv = [*command, *here, "--home", str(base / "h")]
    return Row(what, "s CPU", cpu_s(argv, build, rounds), goal=goal)


def cpu_s(argv: list[str], build: Build, rounds: int) -> float:
    """Median processor time of a command."""
    env = {**os.environ, "PYTHONPATH": build.path}
    return statistics.median(_once(argv, build.python, env) for _ in range(rounds))


def _once(argv: list[str], python: str, env: dict[str, str]) -> float:
    process = subprocess.Popen(
        [python, "-P", "-c", COMMAND, *argv],
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, argv
    return usage.ru_utime + usage.ru_stime


def make_store(base: Path, runs: int, records: int) -> None:
    """A store with a long Run, number 1, and small ones."""
    store = Store(base / ".pluto")
    for number in range(1, runs + 1):
        key, points = f"key-{number:05d}", records if number == 1 else 10
        names = ["loss", *(f"train/metric{n}" for n in range(1, VALUES))]
        found = document(
            lease(f"l{number}", state="ended", end_reason="finished"),
            key=key,
            number=number,
            store=str(store.root),
            summary={name: Point(0.5, points - 1, points) for name in names},
        )
        ended = msgspec.structs.replace(found, status="COMPLETED", phase="ended", points=VALUES * points)
        store.run(key).mkdir(parents=True)
        (store.run(key) / "run.json").write_bytes(msgspec.json.encode(ended))
    _write(store.run("key-00001") / "streams" / "l1", records, names)


def _write(folder: Path, records: int, names: list[str]) -> None:
    folder.mkdir(parents=True)
    rng, encode = random.Random(1), msgspec.json.Encoder().encode
    segment, frames, size = 1, [], 0
    for step in range(records):
        data = encode({name: rng.random() for name in names})
        frames.append(encode_frame(b'{"time":%d,"step":%d,"data":%b}\n' % (step, step, data), sequence=step))
        size += len(frames[-1])
        if size >= SEGMENT_BYTES or step == records - 1:
            (folder / f"metrics-{segment:08d}.spool").write_bytes(b"".join(frames))
            segment, frames, size = segment + 1, [], 0
