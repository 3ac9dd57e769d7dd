"""`rank_metrics="reduce"`: what all ranks log is one series at the server, exact, whoever dies meanwhile."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pluto_dist.core.rules.together import STATISTICS, series_of, statistics
from tests.patience import wait_until
from tests.process.harness import Child, Node
from tests.process.served import Served

RANK = """
    run = pluto.init(run_id="reduced", settings={"rank_metrics": "reduce", "reduce": {"lr": "max"}})
    rank = int(os.environ["RANK"])
    tell("ready")
    while (line := hear()) not in ("", "end"):
        start, stop = map(int, line.split())
        for step in range(start, stop):
            log(run, {"loss": rank + step / 7, "acc": -rank * step}, step)
            if rank == 0:
                log(run, {"lr": step / 2}, step)
        tell("logged")
    run.finish()
"""
Series = dict[str, dict[int, float]]


def logged(node: Node) -> Series:
    """What the ledger's accepted values are together, by numbers that are the ranks'."""
    values: dict[tuple[str, int], dict[str, float]] = {}
    for line in node.ledger.read_text().splitlines():
        lease_id, step, data = json.loads(line)
        for name, value in data.items():
            values.setdefault((name, step), {})[lease_id] = value
    ranks = {lease["lease_id"]: lease["rank"] for lease in node.document("reduced")["leases"]}
    found: Series = {}
    for (name, step), by_lease in values.items():
        which = ("max",) if name == "lr" else STATISTICS
        together = statistics({ranks[lease_id]: value for lease_id, value in by_lease.items()}, which)
        for final, index in series_of(name, (), which).items():
            found.setdefault(final, {})[step] = together[index]
    return found


def start(node: Node, count: int) -> list[Child]:
    launcher = node.launcher(count)
    ranks = [launcher.rank(rank, RANK) for rank in range(count)]
    for rank in ranks:
        rank.expect("ready")
    return ranks


def log_all(ranks: Sequence[Child], steps: str) -> None:
    for rank in ranks:
        rank.say(steps)
    for rank in ranks:
        rank.expect("logged")


def end_all(ranks: Sequence[Child]) -> None:
    for rank in reversed(ranks):
        rank.say("end")
    for rank in ranks:
        assert rank.wait() == 0


def test_all_ranks_are_one_series_at_the_server_over_a_killed_coordinator(served: Served) -> None:
    """R7, G3, G12: exact, and a few series however many ranks; the coordinator dies twice in the middle."""
    ranks = start(served, 4)
    log_all(ranks, "0 20")
    wait_until(lambda: served.series("reduced").get("loss"), "first steps at the server")
    log_all(ranks[1:], "20 40")
    served.kill_coordinator()
    log_all(ranks[:1], "20 40")
    log_all(ranks, "40 60")
    served.coordinator()
    served.kill_coordinator()
    end_all(ranks)
    assert served.ended_remotely("reduced")["status"] == "COMPLETED"
    assert served.series("reduced") == logged(served)
    assert len(served.series("reduced")) == 2 * len(STATISTICS) + 1
    assert served.series("reduced")["loss/count"][59] == 4


def test_a_killed_rank_and_what_sync_uploads_are_what_the_server_would_have_got(served: Served) -> None:
    """R7: without a server the same series are in the store, in `export`, and at the server after `sync`."""
    served.set(PLUTO_DIST_MODE="local")
    ranks = start(served, 3)
    log_all(ranks, "0 15")
    ranks[2].kill()
    log_all(ranks[:2], "15 30")
    end_all(ranks[:2])
    assert served.ended("reduced")["status"] == "FAILED"
    expected = logged(served)
    exported: Series = {}
    for row in map(json.loads, served.cli("export", "reduced", "--format", "jsonl").splitlines()):
        exported.setdefault(row["name"], {})[row["step"]] = row["value"]
    assert exported == expected
    assert {name: point["count"] for name, point in served.document("reduced")["summary"].items()} == {
        name: len(steps) for name, steps in expected.items()
    }
    assert not served.lost("reduced")  # what ranks logged stays in the store
    served.set(PLUTO_DIST_MODE="pluto")
    served.cli("sync", str(served.store))
    assert served.series("reduced") == expected
