"""What is shown of Runs that go on: rates, lags, who is bad, lanes of a timeline, nodes, and which Runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from pluto_dist.core.values.document import Document, LeaseShown, VerdictShown
from pluto_dist.core.values.engine import ClusterAddress
from pluto_dist.core.values.lifecycle import encode_entry
from pluto_dist.core.values.messages import Reply
from pluto_dist.core.values.messages import Request as AnyRequest
from pluto_dist.core.values.records import Failure, Point, RunEvent
from pluto_dist.errors import ClusterUnavailableError, RunNotFoundError
from pluto_dist.host.identity import own_identity
from pluto_dist.read import board as boards
from pluto_dist.read.board import KEPT_S, STORE_EVERY_S, Board, Pace, UsageMeter, machines_of
from pluto_dist.read.nodes import NodeThere, OtherNodes, ProcessThere, RunThere
from pluto_dist.read.processes import (
    Usage,
    groups_of,
    in_order,
    processes_of,
    spans,
    stuck_labels,
    timeline_of,
)
from pluto_dist.read.streams import caught_up
from pluto_dist.spool.frames import encode_frame
from tests.adapters.coordinators import answering, knowing
from tests.adapters.documents import document, lease
from tests.adapters.test_cli_lookup import Machine, machine
from tests.core.builders import claim

__all__ = ["machine"]  # the fixture

NOW_MS = 3000


def rank(number: int, **more: object) -> LeaseShown:
    """A rank that spoke a second ago; rank 0 owns."""
    who = "owner" if number == 0 else f"rank{number}"
    facts: dict[str, object] = {"label": f"rank{number}", "rank": number, "last_step": 100, **more}
    return lease(f"r{number}", who, **facts)


# --- order


def test_processes_stand_in_one_order_however_they_came():
    """By attempt, ranks before sides: two looks, and two runs of one job, can be laid beside each other."""
    came = [
        lease("e", "eval", role="side", label="eval", granted_at=1),
        rank(2, granted_at=2),
        rank(0, attempt=1, granted_at=9),
        rank(1, granted_at=3),
        rank(0, granted_at=4),
    ]
    shown = in_order(processes_of(document(*came), NOW_MS))
    assert [(each.lease.attempt, each.lease.label) for each in shown] == [
        (0, "rank0"),
        (0, "rank1"),
        (0, "rank2"),
        (0, "eval"),
        (1, "rank0"),
    ]


# --- rates


def test_a_rate_is_steps_over_the_time_between_moves():
    pace = Pace()
    for second in range(11):
        pace.see("a", 5 * second, float(second))
    assert pace.rate("a", 10.0) == 5.0
    assert pace.rate("b", 10.0) is None


def test_a_rank_that_logs_rarely_keeps_its_rate_between_its_records():
    pace = Pace()
    for second in range(31):
        pace.see("a", 100 * (second // 10), float(second))
    assert pace.rate("a", 30.0) == 10.0
    assert pace.rate("a", 39.0) == 10.0  # the next one is not late yet
    assert pace.rate("a", 46.0) == pytest.approx(300 / 46)  # it is
    assert pace.rate("a", 61.0) == 0.0  # three times its longest pause


def test_one_look_and_one_step_are_no_rate():
    pace = Pace()
    pace.see("a", None, 0.0)
    pace.see("a", 7, 1.0)
    pace.see("a", 7, 2.0)
    assert pace.rate("a", 2.0) is None


def test_what_is_long_ago_does_not_count():
    pace = Pace()
    for second in range(100):
        pace.see("a", second, float(second))
    for second in range(100, 200):
        pace.see("a", 100 + 3 * (second - 100), float(second))
    assert pace.rate("a", 199.0) == 3.0
    assert KEPT_S < 100
    pace.keep(set())
    assert pace.rate("a", 199.0) is None


# --- processes


def seen(
    *leases: LeaseShown, rates: dict[str, float | None] | None = None, **more: object
) -> dict[str, tuple]:
    found = msgspec.structs.replace(document(*leases), **more)
    return {each.lease.label: (each.health, each.lag) for each in processes_of(found, NOW_MS, rates=rates)}


def test_lag_is_counted_from_the_median_of_the_living_ranks_of_the_newest_attempt():
    found = seen(
        rank(0, last_step=100),
        rank(1, last_step=98),
        rank(2, last_step=101),
        lease("old", "rank3", last_step=5, state="ended", end_reason="exited", label="old"),
        lease("e", "eval", last_step=3),
        lease("n", "node", pid=0, last_step=900),
    )
    assert found == {
        "rank0": ("well", 0),
        "rank1": ("well", 2),
        "rank2": ("well", -1),
        "old": ("ended", None),
        "eval": ("well", None),
    }


def test_a_restarted_rank_is_not_compared_with_the_attempt_before():
    assert seen(rank(0, last_step=9, attempt=1), rank(1, last_step=900)) == {
        "rank0": ("well", None),
        "rank1": ("well", None),
    }


@pytest.mark.parametrize(
    ("step", "rate", "health"),
    [
        (100, 10.0, "well"),
        (60, 10.0, "well"),  # four seconds
        (40, 10.0, "behind"),  # six
        (99, 0.1, "well"),  # ten seconds, but one step apart is in step
        (98, 0.1, "behind"),
        (40, 0.0, "well"),  # all of them rest: nobody can say
        (40, None, "well"),
    ],
)
def test_behind_is_who_lacks_more_than_the_others_do_in_five_seconds(
    step: int, rate: float | None, health: str
):
    rates = dict.fromkeys(("r0", "r1", "r2"), rate)
    assert seen(rank(0), rank(1, last_step=step), rank(2), rates=rates)["rank1"][0] == health


def test_health_says_the_worst_first():
    failure = Failure(role="worker", label="rank1", rank=1, host="node", pid=7, attempt=0, kind="signal")
    stuck = RunEvent(1, "ranks_stuck", {"ranks": "rank3, rank4"})
    found = seen(
        rank(0),
        rank(1, pid=7, state="ended", end_reason="died"),
        rank(2, state="ended", end_reason="died"),
        rank(3),
        rank(5, last_seen_at=NOW_MS - 15_001),
        rank(6, state="waiting"),
        rank(7, state="ended", end_reason="finished"),
        lease("e", "eval", state="ended", end_reason="exited", fault="failed"),
        lease("s", "stopped", state="ended", end_reason="closed", fault="stopped"),
        lease("u", "upload", state="ended", end_reason="closed"),
        verdict=VerdictShown("FAILED", "because", failure),
        events=(stuck,),
    )
    assert {who: health for who, (health, _) in found.items()} == {
        "rank0": "well",
        "rank1": "failed first",
        "rank2": "died",
        "rank3": "stuck",
        "rank5": "suspect",
        "rank6": "waiting",
        "rank7": "ended",
        "eval": "crashed",
        "stopped": "ended",
        "upload": "ended",
    }


def test_an_open_lease_without_a_live_coordinator_is_not_called_active():
    """G7."""
    (process,) = processes_of(document(rank(0)), NOW_MS, known=False)
    assert (process.health, process.state) == ("lost", "lost")


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({"state": "active", "fault": "failed"}, "active"),
        ({"end_reason": "finished"}, "finished"),
        ({"end_reason": "finished", "fault": "failed"}, "failed"),
        ({"end_reason": "closed", "fault": "stopped"}, "stopped"),
        ({"end_reason": "died", "fault": "failed"}, "died"),
        ({"end_reason": "superseded", "fault": "failed"}, "superseded"),
    ],
)
def test_a_process_that_failed_is_not_shown_as_one_that_finished(fields: dict[str, str], state: str):
    ended = document(rank(0, **{"state": "ended", **fields}), status="COMPLETED")
    assert [process.state for process in processes_of(ended, NOW_MS)] == [state]


def test_ranks_are_stuck_until_they_go_on():
    stuck, on = RunEvent(1, "ranks_stuck", {"ranks": "rank3, rank4"}), RunEvent(2, "ranks_go_on")
    assert stuck_labels([stuck]) == {"rank3", "rank4"}
    assert stuck_labels([stuck, on]) == frozenset()


# --- groups


def test_processes_that_are_alike_share_a_row_and_the_one_that_failed_comes_first():
    ranks = [rank(n, last_step=10 + n) for n in range(300)]
    ranks[7] = msgspec.structs.replace(ranks[7], state="ended", end_reason="died")
    processes = processes_of(document(*ranks), NOW_MS)
    assert [(row.who, row.first.state, row.steps) for row in groups_of(processes)] == [
        ("rank7", "died", "17"),
        ("rank0", "active", "10"),
        ("ranks 1-6, 8-299", "active", "11–309"),
    ]
    assert len(groups_of(processes, whole=True)) == 300


def test_a_group_shows_its_worst():
    usages = {"r1": Usage(50.0, 100), "r2": Usage(None, 10)}
    leases = [rank(n, written=10, delivered=n, last_step=100 - n) for n in (1, 2, 3)]
    rates = {"r1": 3.0, "r2": 1.0, "r3": None}
    (group,) = groups_of(processes_of(document(*leases), NOW_MS, rates=rates, usages=usages))
    assert (group.lag, group.rate, group.backlog, group.cpu, group.memory) == (1, 1.0, 24, 50.0, 110)


@pytest.mark.parametrize(
    ("by", "order"),
    [
        ("worst", ["rank2", "rank0", "rank1", "rank10"]),
        ("rank", ["rank0", "rank1", "rank2", "rank10"]),
        ("step", ["rank10", "rank1", "rank0", "rank2"]),
        ("lag", ["rank0", "rank1", "rank10", "rank2"]),
        ("rate", ["rank10", "rank1", "rank0", "rank2"]),
        ("backlog", ["rank1", "rank2", "rank0", "rank10"]),
    ],
)
def test_rows_can_be_sorted_and_what_is_not_known_comes_last(by: str, order: list[str]):
    processes = processes_of(
        document(
            rank(0, last_step=90),
            rank(1, last_step=91, written=9),
            rank(2, last_step=None, state="ended", end_reason="died", written=5),
            rank(10, last_step=92),
        ),
        NOW_MS,
        rates={"r0": 3.0, "r1": 2.0, "r10": 1.0},
    )
    rows = groups_of(processes, whole=True, by=by)  # type: ignore[arg-type]
    assert [row.who for row in rows] == order
    backwards = groups_of(processes, whole=True, by=by, reverse=True)  # type: ignore[arg-type]
    assert [row.who for row in backwards] == order[::-1]


def test_spans_of_ranks():
    assert spans([3, 1, 2, 9, 7, 2]) == "1-3, 7, 9"


# --- timeline


def test_a_timeline_has_a_lane_for_each_participant_over_all_restarts():
    failure = Failure(role="worker", label="rank1", rank=1, host="node", pid=8, attempt=0, kind="signal")
    found = document(
        lease("e", "eval", granted_at=1500),
        lease("b", "rank1", pid=8, granted_at=1200, ended_at=2000, state="ended", end_reason="died"),
        lease("c", "rank1", pid=9, granted_at=2100, attempt=1),
        lease("a", granted_at=1100),
        lease("w", "rank2", granted_at=None, state="waiting"),
        lease("n", "node", pid=0),
        events=(RunEvent(1000, "opened"), RunEvent(1001, "lease_granted"), RunEvent(2050, "restarted")),
    )
    ended = msgspec.structs.replace(found, verdict=VerdictShown("FAILED", "because", failure))
    line = timeline_of(ended, 5000)
    assert (line.begin, line.end) == (1000, 5000)
    assert [lane.participant for lane in line.lanes] == ["owner", "rank1", "eval"]
    spans_of = [(span.lease_id, span.begin, span.end, span.ended) for span in line.lanes[1].spans]
    assert spans_of == [("b", 1200, 2000, "died"), ("c", 2100, None, "")]
    assert [span.failed_first for span in line.lanes[1].spans] == [True, False]
    assert [mark.name for mark in line.marks] == ["opened", "restarted"]


def test_a_timeline_of_a_run_that_ended_ends_with_it():
    found = msgspec.structs.replace(document(lease("a", ended_at=1900, state="ended")), ended_at=2000)
    assert timeline_of(found, 5000).end == 2000


# --- nodes


def test_nodes_are_read_from_system_metrics_of_this_version_and_of_0_1_0():
    summary = {
        "loss": Point(1.0, 1, 1),
        "sys/a/cpu.percentage.0": Point(10.0, 1, 1),
        "sys/a/cpu.percentage.1": Point(30.0, 1, 1),
        "sys/a/memory.percentage": Point(61.0, 1, 1),
        "sys/a/gpu.1.A100-SXM4.utilization": Point(90, 1, 1),
        "sys/a/gpu.1.A100-SXM4.memory.utilization": Point(5, 1, 1),
        "sys/a/gpu.1.A100-SXM4.memory.used": Point(7e9, 1, 1),
        "sys/b/cpu.pct.0": Point(5.0, 1, 1),
        "sys/network.bytes_sent": Point(5.0, 1, 1),
    }
    first, second = machines_of(summary)
    assert (first.host, first.cpu, first.memory, first.busy) == ("a", 20.0, 61.0, 90)
    assert [(card.index, card.model, card.memory) for card in first.cards] == [(1, "A100-SXM4", 7e9)]
    assert (second.host, second.cpu, second.memory, second.busy) == ("b", 5.0, None, None)


# --- what processes use


def put_claim(spool: Path, lease_id: str, **more: object) -> None:
    folder = spool / lease_id
    folder.mkdir(parents=True)
    said = claim(identity=msgspec.structs.replace(own_identity(), **more))
    (folder / "lifecycle-00000001.spool").write_bytes(encode_frame(encode_entry(said), sequence=0))


def test_a_process_of_this_machine_is_measured_and_no_other_that_has_its_number(tmp_path: Path):
    put_claim(tmp_path, "mine")
    put_claim(tmp_path, "reused", start=1)
    meter = UsageMeter(tmp_path)
    leases = [lease("mine"), lease("reused"), lease("elsewhere"), lease("over", state="ended")]
    first = meter.look(leases)
    assert set(first) == {"mine"}
    assert first["mine"].cpu is None
    assert first["mine"].memory > 1 << 20
    again = meter.look(leases)["mine"].cpu
    assert again is not None
    assert again >= 0.0
    assert UsageMeter(None).look(leases) == {}


# --- which Runs


class Clock:
    """Both clocks of a board, moved by hand."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at

    def wall_ms(self) -> int:
        return round(1000 * self.at)


@contextmanager
def board(
    machine: Machine, live: list[Document], *names: str, every: bool = False
) -> Iterator[tuple[Board, Clock]]:
    """A board whose coordinator has the documents that are in the list at each look."""
    clock = Clock()

    def answer(question: AnyRequest) -> Reply | None:
        return knowing(*live)(question)

    with answering(machine.socket, answer):
        yield Board(machine.lookup(), names, every=every, clock=clock, wall_ms=clock.wall_ms), clock


def test_a_board_has_the_runs_that_go_on_and_keeps_one_that_ends_meanwhile(machine: Machine):
    going, over = machine.here("key-1", 1), machine.here("key-2", 2, status="COMPLETED")
    live = [msgspec.structs.replace(going, leases=(lease("a", last_step=0),)), over]
    with board(machine, live) as (watched, clock):
        (run,) = watched.look()
        assert (run.name, run.situation.status, run.rate) == ("DEM-1", "RUNNING", None)
        clock.at = 2.0
        live[0] = msgspec.structs.replace(live[0], leases=(lease("a", last_step=20),))
        (run,) = watched.look()
        assert (run.step, run.rate) == (20, 10.0)
        live[0] = machine.here("key-1", 1, status="FAILED")
        (run,) = watched.look()
        assert run.situation.status == "FAILED"


def test_where_nothing_goes_on_the_newest_that_ended_is_shown(machine: Machine):
    with board(machine, []) as (watched, clock):
        assert watched.look() == []
        machine.keep(machine.here("key-1", 1, status="COMPLETED", created_ms=1000))
        machine.keep(machine.here("key-2", 2, status="COMPLETED", created_ms=2000))
        assert watched.look() == []  # the store is listed from time to time
        clock.at += STORE_EVERY_S
        assert [run.name for run in watched.look()] == ["DEM-2"]


def test_all_runs_can_be_asked_for(machine: Machine):
    machine.keep(*(machine.here(f"key-{n}", n, status="COMPLETED", created_ms=n) for n in (1, 2, 3)))
    with board(machine, [machine.here("key-3", 3, created_ms=3)], every=True) as (watched, _):
        assert [(run.name, run.live) for run in watched.look()] == [
            ("DEM-1", False),
            ("DEM-2", False),
            ("DEM-3", True),
        ]


def test_named_runs_are_followed_whether_they_go_on_or_not(machine: Machine):
    machine.keep(*(machine.here(f"key-{n}", n, status="COMPLETED", created_ms=n) for n in (1, 2, 3)))
    with board(machine, [machine.here("key-3", 3, created_ms=3)], "DEM-1", "3") as (watched, _):
        assert [run.name for run in watched.look()] == ["DEM-1", "DEM-3"]
    with board(machine, [], "DEM-9") as (watched, _), pytest.raises(RunNotFoundError):
        watched.look()


def test_a_damaged_run_does_not_hide_the_others(machine: Machine):
    machine.keep(machine.here("key-1", 1), machine.here("key-2", 2))
    (machine.store.run("key-1") / "run.json").write_bytes(b"{")
    with board(machine, [], every=True) as (watched, _):
        assert [run.name for run in watched.look()] == ["DEM-2"]
        assert "holds no document" in watched.remark


def test_open_leases_of_a_run_without_a_coordinator_are_not_running(machine: Machine):
    """G7: the pid that a lease names has been given to another process since."""
    machine.keep(msgspec.structs.replace(machine.here("key-1"), leases=(lease("a", pid=os.getpid()),)))
    with board(machine, []) as (watched, _):
        (run,) = watched.look()
    assert run.situation.standing == "unknown"
    assert run.processes[0].health == "lost"


def test_a_run_that_is_found_gone_is_settled_soon_and_others_cost_nothing(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
):
    """G7."""
    asked: list[float] = []
    clock = Clock()

    def settle(_: object) -> str:
        asked.append(clock.at)
        return "it was stopped on purpose"

    monkeypatch.setattr(boards, "settle", settle)
    watched = Board(machine.lookup(), clock=clock, wall_ms=clock.wall_ms)
    for clock.at in (0.0, 1.0, 60.0):
        watched.look()
    assert asked == [0.0]
    machine.keep(msgspec.structs.replace(machine.here("key-1"), leases=(lease("a", state="ended"),)))
    for clock.at in (70.0, 71.0, 72.0, 80.0):
        (run,) = watched.look()
        assert run.situation.standing == "gone"
    assert asked == [0.0, 71.0, 80.0]
    assert watched.remark == "it was stopped on purpose"


# --- how far processes are ahead of delivery


def test_what_is_behind_the_cursors_counts_as_written_and_its_last_step_as_reached(tmp_path: Path):
    frames = [
        encode_frame(line, sequence=number)
        for number, line in enumerate(
            (
                b'{"time":1,"step":4,"data":{"loss":1}}\n',
                b'{"time":2,"step":5,"data":{"loss":1}}\n',
                b'{"time":3,"step":6,"data":{"loss":NaN}}\n',
            )
        )
    ]
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "metrics-00000001.spool").write_bytes(b"".join(frames))

    def seen(cursor: int, **more: object) -> tuple[int, int | None]:
        found = lease("a", cursors={"metrics": {1: sum(map(len, frames[:cursor]))}}, **more)
        (after,) = caught_up(document(found), tmp_path).leases
        return after.written, after.last_step

    assert seen(1, delivered=1, last_step=4) == (3, 6)
    assert seen(3, delivered=3, last_step=6) == (3, 6)
    assert seen(0) == (3, 6)
    assert seen(2, delivered=2, last_step=9) == (3, 9)  # steps may fall
    assert caught_up(document(lease("b")), tmp_path).leases[0].last_step is None
    assert caught_up(document(lease("a")), None).leases[0].written == 0


# --- other nodes


ADDRESS = ClusterAddress(members=("http://127.0.0.1:1",), prefix="p")


def there(lease_id: str, rank_there: int, **more: object) -> ProcessThere:
    known = ProcessThere(
        lease_id=lease_id,
        role="worker",
        label=f"rank{rank_there}",
        rank=rank_there,
        pid=5,
        alive=True,
        step=40,
        age_s=9.0,
    )
    return msgspec.structs.replace(known, **more)


def node(name: str, *processes: ProcessThere, **more: object) -> NodeThere:
    known = NodeThere(
        node=name,
        name=name,
        host=f"host-{name}",
        present=True,
        seat=False,
        owner=False,
        current=True,
        ended=False,
        attempt=0,
        said_s=12.0,
        processes=processes,
    )
    return msgspec.structs.replace(known, **more)


def shared(*nodes: NodeThere) -> RunThere:
    return RunThere(
        project="demo",
        run_id="mine-1",
        id=None,
        display_id="",
        url="",
        status="RUNNING",
        verdict=None,
        sent=False,
        epoch=1,
        round=1,
        attempt=0,
        nodes=nodes,
        evidence=(),
    )


def test_processes_of_other_nodes_come_from_the_cluster_store():
    """G7: of a node that is silent nobody can say whether its processes live."""
    run = shared(
        node("node0", there("a", 0)),
        node("node1", there("b", 1), there("c", 2, alive=False)),
        node("node2", there("d", 3), present=False),
        node("old", there("e", 4), attempt=7),
    )
    others = OtherNodes(ADDRESS, lambda *_: [run])
    others.look(0.0, NOW_MS)
    found = others.processes(document(lease("a", rank=0)), NOW_MS)
    assert [(each.lease.label, each.lease.host, each.health, each.lag, each.word_s) for each in found] == [
        ("rank1", "host-node1", "well", None, 12.0),
        ("rank2", "host-node1", "ended", None, 12.0),
        ("rank3", "host-node2", "lost", None, 12.0),
    ]
    assert others.processes(document(number=2), NOW_MS) == []


def test_a_cluster_store_that_is_away_is_named_and_what_was_known_stays():
    answers: list[list[RunThere] | None] = [[shared(node("node1", there("b", 1)))], None, []]

    def ask(*_: object) -> list[RunThere]:
        answer = answers.pop(0)
        if answer is None:
            raise ClusterUnavailableError("no answer")
        return answer

    others, known = OtherNodes(ADDRESS, ask), document()
    seen = []
    for at in (0.0, 1.0, 6.0, 12.0):
        others.look(at, NOW_MS)
        seen.append((len(others.processes(known, NOW_MS)), others.trouble))
    assert seen == [(1, ""), (1, ""), (1, "no answer"), (0, "")]


@pytest.mark.parametrize("mine", ["owners", "others"])
@pytest.mark.parametrize("names", [(), ("mine-1",)])
def test_a_run_of_several_nodes_is_one_with_the_parts_of_all(
    machine: Machine, mine: str, names: tuple[str, ...]
):
    """R12: without a name too, and whichever part the coordinator of this node has."""
    about = {"part_of": "owners", "store": str(machine.store.root)}
    parts = {
        "owners": document(rank(0), key="owners", **about),
        "others": document(rank(1), key="others", relay="node1", **about),
    }
    for part in parts.values():
        machine.keep(part)
    with answering(machine.socket, knowing(parts[mine])):
        for _ in range(2):
            (run,) = Board(machine.lookup(), names).look()
            assert [process.lease.label for process in run.processes] == ["rank0", "rank1"]
