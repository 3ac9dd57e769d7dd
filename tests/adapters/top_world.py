"""Runs as `top` may see them, without any process: a healthy one, one that failed, and one of 300 ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from pluto_dist.backend.local.reading import SaidLine
from pluto_dist.cli.chart import Curve
from pluto_dist.cli.top.model import Drawn
from pluto_dist.core.values.document import Document, LeaseShown, VerdictShown
from pluto_dist.core.values.records import Failure, Point, RunEvent
from pluto_dist.read.board import RunSeen, machines_of
from pluto_dist.read.processes import Usage, processes_of
from pluto_dist.read.settle import Situation
from tests.adapters.documents import document, lease

NOW_MS = 1_796_000_000_000


def rank(number: int, step: int, **more: object) -> LeaseShown:
    """A rank of a job; rank 0 owns."""
    facts: dict[str, object] = {
        "rank": number,
        "label": f"rank{number}",
        "pid": 4700 + number,
        "host": "node7",
        "last_step": step,
        "last_seen_at": NOW_MS - 800,
        "granted_at": NOW_MS - 1_260_000,
        "written": step,
        "delivered": step,
    }
    who = "owner" if number == 0 else f"rank{number}"
    return lease(f"l{number}", who, **{**facts, **more})


def run(
    number: int, name: str, leases: Sequence[LeaseShown], status: str = "RUNNING", **more: object
) -> RunSeen:
    """A Run as the board sees it."""
    key = f"key-{number}"
    made: Document = msgspec.structs.replace(
        document(*leases, key=key, number=number, project="digits"),
        name=name,
        display_id=f"DIG-{number}",
        status=status,
        created_at=NOW_MS - 1_262_000,
        ended_at=None if status == "RUNNING" else NOW_MS - 60_000,
        **more,
    )
    live = [each for each in leases if each.state == "active"]
    rates = {each.lease_id: 0.4 if each.label == "rank3" else 4.12 for each in live}
    usages = {each.lease_id: Usage(97.0 + each.pid % 3, (each.pid % 7 + 11) << 27) for each in live}
    return RunSeen(
        document=made,
        store=more.get("store", "/nowhere"),  # type: ignore[arg-type]
        live=status == "RUNNING",
        situation=Situation("running" if status == "RUNNING" else "ended", status),
        processes=tuple(processes_of(made, NOW_MS, rates=rates, usages=usages)),
        machines=tuple(machines_of(made.summary)),
    )


def summary(step: int) -> dict[str, Point]:
    """Some series, of the machine too."""
    names = {"train/loss": 0.3127, "train/lr": 0.001, "eval/accuracy": 0.91}
    machine = {"cpu.percentage.0": 88.0, "cpu.percentage.1": 64.0, "memory.percentage": 61.0}
    cards = {f"gpu.{card}.H100.{what}": value for card in range(8) for what, value in CARD.items()}
    found = {f"sys/{name}": value for name, value in {**machine, **cards}.items()}
    return {name: Point(value, step, step) for name, value in {**names, **found}.items()}


CARD = {"utilization": 97.0, "memory.used": 71e9}
EVENTS = (
    RunEvent(NOW_MS - 1_262_000, "opened", {"id": "7", "resumed": "false"}),
    RunEvent(NOW_MS - 1_261_000, "lease_granted", {"lease": "l0", "role": "owner", "label": "rank0"}),
    RunEvent(NOW_MS - 600_000, "lease_granted", {"lease": "e", "role": "side", "label": "eval"}),
    RunEvent(
        NOW_MS - 300_000, "side_failed", {"label": "eval", "type": "ValueError", "message": "no such file"}
    ),
)


def healthy() -> RunSeen:
    """Eight ranks, one of them slow, and an eval."""
    ranks = [rank(n, 4200 + n % 2, written=4210 if n == 5 else 4200) for n in range(8)]
    ranks[3] = rank(3, 4170, written=4170, delivered=4100)
    sides = [
        lease("e", "eval", label="eval", pid=4900, host="node7", last_step=3, last_seen_at=NOW_MS - 2000),
        lease("u", "upload", label="upload", state="ended", end_reason="closed", last_seen_at=NOW_MS - 9000),
    ]
    return run(7, "baseline", [*ranks, *sides], summary=summary(4201), events=EVENTS)


def failed() -> RunSeen:
    """Four ranks; rank 2 was killed."""
    failure = Failure(
        role="worker",
        label="rank2",
        rank=2,
        host="node7",
        pid=4702,
        attempt=0,
        kind="signal",
        signal="SIGKILL",
    )
    over = {"state": "ended", "end_reason": "exited", "ended_at": NOW_MS - 60_000}
    ranks = [rank(n, 900, **over) for n in range(4)]
    ranks[2] = rank(2, 899, **{**over, "end_reason": "died"})
    verdict = VerdictShown("FAILED", "rank2 failed first: killed by SIGKILL", failure)
    return run(8, "wide [model]", ranks, "FAILED", verdict=verdict, summary={"loss": Point(0.7, 900, 901)})


def large() -> RunSeen:
    """300 ranks on one node: one stuck, four behind, one dead, the rest well."""
    ranks = [rank(n, 50_000 - n % 2) for n in range(300)]
    for number in (17, 18, 19, 21):
        ranks[number] = rank(number, 49_900)
    ranks[250] = rank(250, 48_012, state="ended", end_reason="died")
    events = (*EVENTS, RunEvent(NOW_MS - 9000, "ranks_stuck", {"ranks": "rank77", "silent_s": "600"}))
    return run(9, "pretrain", ranks, summary=summary(50_000), events=events)


class World:
    """A source whose Runs a test sets."""

    def __init__(self, *runs: RunSeen) -> None:
        self.runs = list(runs)
        self.remark = ""
        self.curves: list[tuple[str, str]] = []
        self.lines = [said(n) for n in range(60)]

    def look(self) -> list[RunSeen]:
        """As it is now."""
        return list(self.runs)

    def curve(self, run: RunSeen, name: str, *, every_rank: bool) -> Drawn:
        """A loss that falls, with noise; the ranks lie a third around it."""
        self.curves.append((run.name, name))
        points = [(n, 0.3 + 2 * math.exp(-n / 90) + 0.05 * math.sin(n * n)) for n in range(420)]
        if not every_rank:
            return Drawn(Curve(points))
        edges = [Curve((n, value * part) for n, value in points) for part in (2 / 3, 4 / 3)]
        return Drawn(Curve(points), (edges[0], edges[1]), 8)

    def console(self, run: RunSeen, leases: Sequence[LeaseShown], count: int) -> list[SaidLine]:
        """The same for all."""
        return self.lines[-count:]

    def why(self, run: RunSeen) -> list[str]:
        """The verdict."""
        verdict = run.document.verdict
        return [f"verdict: {verdict.status}: {verdict.reason}" if verdict is not None else "it goes on"]


def said(number: int) -> SaidLine:
    """A line of a console."""
    kind = "ERROR" if number % 10 == 9 else "INFO"
    return SaidLine(NOW_MS - 60_000 + 1000 * number, "", 1, kind, f"step {number} loss 0.3", "l1")
