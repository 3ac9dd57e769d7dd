"""Two nodes and one server: two homes, node ranks set as torchrun sets them on two machines (R12)."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.process.harness import Script, wait_until
from tests.process.served import Served
from tests.process.test_launcher import CLI

RANK = """
    run = pluto.init(config={"lr": int(os.environ["RANK"])}, tags=["t" + os.environ["RANK"]], **OPTIONS)
    tell("in")
    for step in range(50):
        log(run, {"loss": 100.0 * int(os.environ["RANK"]) + step}, step)
    run.log({"note": "said by rank " + os.environ["RANK"]}, step=0)
    print("a line of rank " + os.environ["RANK"], flush=True)
    tell("logged")
    hear()
    END
    tell("id", run.id, run.display_id, run.run_id, run.role)
"""


class TwoNodes:
    """Node 0 has ranks 0 and 1, node 1 has ranks 2 and 3."""

    def __init__(self, here: Served, **env: str) -> None:
        self.nodes = (here, here.beside())
        self._env = {"GROUP_WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", **env}
        for node in self.nodes:
            node.set(PLUTO_DIST_SYSTEM_METRICS_S="1", PLUTO_DIST_HEARTBEAT_S="0.5")
        self.launchers = [node.launcher(4, run_id="two-nodes") for node in self.nodes]
        self.ranks: dict[int, Script] = {}

    def start(self, *ranks: int, end: str = "run.finish()", options: str = "") -> None:
        """Starts ranks; they log, and then wait for a word."""
        body = RANK.replace("END", end).replace("**OPTIONS", options)
        for rank in ranks:
            place = {"GROUP_RANK": str(rank // 2), "LOCAL_RANK": str(rank % 2)}
            self.ranks[rank] = self.launchers[rank // 2].rank(rank, body, env={**self._env, **place})

    def expect(self, word: str, *ranks: int) -> list[str]:
        return [self.ranks[rank].expect(word) for rank in ranks or sorted(self.ranks)]

    def end(self, *ranks: int) -> None:
        """Lets ranks end and waits for them."""
        for rank in ranks:
            self.ranks[rank].say()
        assert [self.ranks[rank].wait() for rank in ranks] == [0] * len(ranks)

    def close(self) -> None:
        self.nodes[1].close()


@pytest.fixture
def two(served: Served) -> Iterator[TwoNodes]:
    made = TwoNodes(served)
    # What each node delivers and beats for itself; the owner's node may be the first to end.
    served.server.waive("6.3.10", text="heartbeats from * sources in turn*")
    yield made
    made.close()


@pytest.mark.parametrize("first", [0, 1])
def test_two_nodes_share_one_run_whichever_ends_last(served: Served, two: TwoNodes, first: int) -> None:
    """R12, G1, G10: one Run, names apart, one terminal report, from the owner's node."""
    if first == 0:  # the others go on after the end: their records belong to the Run all the same
        served.server.waive("6.3.2")
    order = (0, 1, 2, 3) if first == 0 else (2, 3, 0, 1)
    two.start(*order)
    two.expect("logged")
    wait_until(lambda: len(sampled(served)) == 2, "samples of both nodes")
    two.end(*order[:2])
    two.end(*order[2:])
    assert {tuple(told.split()[:3]) for told in two.expect("id")} == {("1", "PLU-1", "torchrun-two-nodes")}

    run = served.ended_remotely("torchrun-two-nodes")
    history = [event["toStatus"] for event in served.server.history(run["id"])]
    assert (history, run["status"]) == (["RUNNING", "COMPLETED"], "COMPLETED")
    assert served.paths().count("/api/runs/status/update") == 1
    assert (run["config"], run["tags"]) == ({"lr": 0}, ["t0", "t1"])
    wait_until(lambda: missing(two) == [], "every point")
    values = {name: list(points.values()) for name, points in served.series("torchrun-two-nodes").items()}
    assert {name: values[name][0] for name in values if name.startswith("loss")} == {
        "loss": 0.0,
        "loss/rank1": 100.0,
        "loss/rank2": 200.0,
        "loss/rank3": 300.0,
    }
    notes = {row["log_name"]: row["data"] for row in served.server.data(run["id"])}
    assert notes == {"note": "said by rank 0"} | {f"note/rank{n}": f"said by rank {n}" for n in (1, 2, 3)}
    lines = {row["message"]: row["line_number"] for row in served.server.logs(run["id"])}
    assert {f"[rank{rank}] a line of rank {rank}" for rank in range(4)} <= set(lines)
    assert len(set(lines.values())) == len(lines)


def sampled(served: Served) -> set[str]:
    """Nodes whose system metrics have arrived."""
    names = [name.split("/") for name in served.series("torchrun-two-nodes") if name.startswith("sys/")]
    return {parts[1] for parts in names if parts[1].startswith("node")}


def missing(two: TwoNodes) -> list[str]:
    return [line for node in two.nodes for line in node.missing("torchrun-two-nodes")]


def test_tags_and_config_of_the_other_node_are_merged_at_the_server(served: Served, two: TwoNodes) -> None:
    """G9, R12: no list of tags is written over the other's."""
    two.start(0, end='run.add_tags("here"); run.update_config({"here": 1}); run.finish()')
    two.start(2, end='run.add_tags("there"); run.update_config({"there": 1}); run.finish()')
    two.expect("logged")
    two.end(2)
    wait_until(lambda: "there" in served.remote("torchrun-two-nodes")["tags"], "the other node's tag")
    two.end(0)
    run = served.ended_remotely("torchrun-two-nodes")
    assert sorted(run["tags"]) == ["here", "t0", "there"]
    assert run["config"] == {"lr": 0, "here": 1, "there": 1}


def test_the_coordinator_of_the_other_node_may_die(served: Served, two: TwoNodes) -> None:
    """G12, R12: the next one goes on as a relay."""
    two.start(0, 2)
    two.expect("logged")
    two.nodes[1].kill_coordinator()
    two.end(2)
    two.end(0)
    assert served.ended_remotely("torchrun-two-nodes")["status"] == "COMPLETED"
    wait_until(lambda: missing(two) == [], "every point")


def test_a_requeued_job_goes_on_in_its_run_although_the_other_node_comes_first(served: Served) -> None:
    """R8, R12: the end of the first launch is neither left open nor put back over the second."""
    served.server.waive("6.3.10", text="heartbeats from * sources in turn*")
    for launch in ("first", "again"):
        two = TwoNodes(served, PLUTO_RUN_ID="queued", MASTER_PORT="1" if launch == "first" else "2")
        two.start(2)
        two.expect("in")
        two.start(0)
        two.expect("logged")
        two.end(2)
        two.end(0)
        two.close()
        assert served.ended_remotely("queued")["status"] == "COMPLETED"
    history = [event["toStatus"] for event in served.server.history(served.remote("queued")["id"])]
    assert history == ["RUNNING", "COMPLETED", "RUNNING", "COMPLETED"]


def test_an_eval_on_another_machine_joins_a_live_and_an_ended_run(served: Served) -> None:
    """G8, R12: nothing changes at the server, whatever becomes of it."""
    served.server.waive("6.3.2", name="*eval*")
    elsewhere = served.beside()
    owner = served.start("""
        run = pluto.init(run_id="shared", project="mine")
        log(run, {"loss": 1.0}, 0)
        tell("ready")
        hear()
    """)
    owner.expect("ready")
    body = """
        run = pluto.attach("shared", label="eval", project="mine")
        tell("joined", run.id, run.status)
        run.log({{"acc": {value}}}, step={step})
        {end}
    """
    live = elsewhere.start(body.format(value=0.5, step=1, end="run.finish()"))
    assert live.expect("joined") == "1 RUNNING"
    assert live.wait() == 0
    crashed = elsewhere.start(body.format(value=0.6, step=2, end='raise ValueError("boom")'))
    assert crashed.wait() == 1
    owner.say()
    assert owner.wait() == 0
    before = served.ended_remotely("shared")
    late = elsewhere.start(body.format(value=0.7, step=3, end="run.close()"))
    assert late.wait() == 0
    wait_until(lambda: len(served.series("shared")["acc/eval"]) == 3, "what the evals logged")
    after = served.remote("shared")
    assert {name: after[name] for name in ("status", "tags", "config", "name")} == {
        name: before[name] for name in ("status", "tags", "config", "name")
    }
    elsewhere.close()


def test_nodes_without_a_common_name_say_so_and_wait_for_nobody(served: Served) -> None:
    """R12: one Run per node and one warning."""
    two = TwoNodes(served, TORCHELASTIC_RUN_ID="none")
    two.start(0, 2)
    two.expect("logged")
    assert "PLUTO_RUN_ID" in two.ranks[2].stderr
    two.end(2)
    two.end(0)
    wait_until(lambda: len(served.server.runs()) == 2, "two Runs")
    wait_until(lambda: {run["status"] for run in served.server.runs()} == {"COMPLETED"}, "their ends")
    two.close()


def test_a_launcher_on_each_node_shares_the_run_of_the_first(served: Served) -> None:
    """R11, R12: `srun --ntasks-per-node=1 pluto-dist run -- …`; node 0's command decides the status."""
    served.server.waive("6.3.10", text="heartbeats from * sources in turn*")
    served.server.waive("6.3.2")  # node 1 may end last
    nodes = (served, served.beside())
    script = """
        run = pluto.init()
        log(run, {"loss": float(os.environ["SLURM_NODEID"])}, 0)
        tell("is", run.role, run.run_id)
        hear()
        run.finish()
    """
    jobs = []
    for number, node in enumerate(nodes):
        env = {
            "SLURM_JOB_ID": "77",
            "SLURM_STEP_ID": "0",
            "SLURM_PROCID": str(number),
            "SLURM_NODEID": str(number),
            "SLURM_LOCALID": "0",
            "SLURM_NTASKS": "2",
            "SLURM_NNODES": "2",
        }
        rank = {"RANK": str(number), "LOCAL_RANK": "0", "WORLD_SIZE": "2", "GROUP_RANK": str(number)}
        elastic = {"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": "0", "GROUP_WORLD_SIZE": "2"}
        command = ["env", *(f"{name}={value}" for name, value in (rank | elastic).items())]
        launcher = [sys.executable, "-P", "-c", CLI, "run", "--"]
        argv = [*launcher, *command, *node.command(script, "rank")]
        jobs.append(node.keep(Script("launched", *node.spawn(argv, "launched", env=env))))
    assert [job.expect("is") for job in jobs] == ["worker slurm-77-0-0"] * 2
    for job in reversed(jobs):
        job.say()
        assert job.wait() == 0
    run = served.ended_remotely("slurm-77-0-0")
    assert run["status"] == "COMPLETED"
    assert served.paths().count("/api/runs/status/update") == 1
    assert {name for name in served.series("slurm-77-0-0") if name.startswith("loss")} == {
        "loss",
        "loss/rank1",
    }
    nodes[1].close()
