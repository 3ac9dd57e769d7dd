"""Several nodes and one server: the owner's node decides, the others relay (R12)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pluto_dist.core.rules.changes import merge_tags
from pluto_dist.core.rules.claims import Facts, Grant, decide_claim
from pluto_dist.core.rules.participants import LINES_OF_A_NODE
from pluto_dist.core.rules.series import names_itself
from pluto_dist.core.rules.verdict import RESTART_WINDOW_S
from pluto_dist.core.values.ids import Job, RunRef
from pluto_dist.core.values.records import Verdict
from tests.core.builders import claim, identity, job, member, run
from tests.core.processes import LOCAL, Process
from tests.core.test_claims import told
from tests.core.world import World

X = RunRef(external_id="x")
DONE = Verdict("COMPLETED", "done")


def node_job(rank: int, **fields: Any) -> Job:
    """A rank of two nodes with two ranks each."""
    place = {"local_rank": rank % 2, "node_rank": rank // 2, "nodes": 2, "world_size": 4, "launch": "l1"}
    return job(rank, **{**place, **fields})


def facts(**fields: Any) -> Facts:
    """A Run that this node relays for."""
    return Facts(**{"run": run(relay="node1", owner=None, want="join"), "phase": "running", **fields})


SOUGHT = facts(run=run(relay="node1", owner=None, want="join", opening=True, epoch=0, id=None))
ROWS: list[tuple[str, dict[str, Any], Facts, str]] = [
    ("a rank of node 1", {"job": node_job(2)}, Facts(run=None), "create join"),
    ("of node 0", {"job": node_job(0)}, Facts(run=None), "create create"),
    ("one that insists", {"job": node_job(2), "wanted": "owner"}, Facts(run=None), "create create"),
    ("a launcher", {"job": node_job(2), "wanted": "owner", "launcher": True}, Facts(run=None), "create join"),
    ("the next one", {"job": node_job(3)}, facts(), "worker"),
    ("one that asks for it", {"job": node_job(3), "wanted": "worker"}, facts(), "worker"),
    ("while it is looked for", {"job": node_job(3)}, SOUGHT, "worker"),
    (
        "of an attempt that is over",
        {"job": node_job(3)},
        facts(run=run(relay="n", attempt=1)),
        "StaleEpochError",
    ),
    (
        "a Run that ended here before",
        {"job": node_job(2, key="next")},
        facts(run=run(verdict=DONE)),
        "worker",
    ),
    (
        "beside its owner on one machine",
        {"job": node_job(2, key="agent2")},
        facts(run=run(), owner=member(0, opened=claim(0, job=node_job(0)))),
        "worker",
    ),
    (
        "beside an owner of another launch",
        {"job": node_job(2, key="other", launch="l2")},
        facts(run=run(), owner=member(0, opened=claim(0, job=node_job(0)))),
        "verify",
    ),
    (
        "an eval beside ranks",
        {"job": job(key="eval"), "run_from_env": True},
        facts(members=(member(2),)),
        "side",
    ),
    ("the job runs here now", {"job": job(0, key="next"), "run_from_env": True}, facts(), "owner"),
    ("the same, rank 1", {"job": job(1, key="next"), "run_from_env": True}, facts(), "wait"),
    ("an id that is taken", {"job": job(key="new")}, facts(), "RunExistsError"),
    ("training starts while an eval looks", {"job": job(0, key="new")}, SOUGHT, "create create"),
    ("attach", {"verb": "attach", "job": job(key="eval")}, facts(), "side"),
    ("attach while it is looked for", {"verb": "attach", "job": job(key="eval")}, SOUGHT, "wait"),
    ("init as side", {"wanted": "side", "job": job(key="eval")}, Facts(run=None), "create join"),
    ("without a server", {"job": node_job(2), "target": LOCAL}, Facts(run=None), "create create"),
    ("the others there", {"job": node_job(3), "target": LOCAL}, Facts(run=None), "wait"),
]


@pytest.mark.parametrize(("fields", "given", "expected"), [r[1:] for r in ROWS], ids=[r[0] for r in ROWS])
def test_who_relays(fields: dict[str, Any], given: Facts, expected: str) -> None:
    """R4, R5, R12"""
    asked = claim(**{"run": X, "identity": identity(700), **fields})
    assert told(decide_claim(asked, given, 0.0)) == expected


def test_without_an_id_that_all_know_a_node_has_a_run_of_its_own() -> None:
    """R12: never a wait for a rank 0 that is elsewhere."""
    assert told(decide_claim(claim(job=node_job(2)), Facts(run=None), 0.0)) == "create create"


def test_ranks_of_a_relay_are_granted_as_such() -> None:
    decision = decide_claim(claim(run=X, job=node_job(3)), facts(), 0.0)
    assert isinstance(decision, Grant)
    assert decision.relay


@pytest.mark.parametrize(
    ("there", "base", "wanted", "merged"),
    [
        ("ab", "ab", "abc", "abc"),
        ("abx", "ab", "abc", "abcx"),
        ("abx", "ab", "b", "bx"),
        ("b", "ab", "abc", "bc"),
        ("", "", "a", "a"),
        ("x", "", "x", "x"),
    ],
)
def test_tags_merge_with_what_other_nodes_did(there: str, base: str, wanted: str, merged: str) -> None:
    """G9, R12: no list is written over another; a tag that somebody removed is not put back."""
    assert "".join(merge_tags(there, base, wanted)) == merged


class Nodes:
    """Two nodes with two ranks each, and one server."""

    def __init__(self) -> None:
        self.here, self.there = World(), World(leases=1000)
        self.there.server = self.here.server
        self.server = self.here.server
        self.ranks: dict[int, Process] = {}
        self.agents: dict[str, Process] = {}

    def start(self, *ranks: int, attempt: int = 0, key: str = "launch") -> list[Process]:
        """Ranks call init() with a shared id from their environment."""
        started = []
        for rank in ranks:
            world = self.there if rank > 1 else self.here
            agent = f"{key}-{rank // 2}"
            if agent not in self.agents:
                self.agents[agent] = world.process(agent)
            place = node_job(rank, key=agent, attempt=attempt, launch=key, max_restarts=1)
            place = msgspec.structs.replace(place, launcher=self.agents[agent].identity)
            self.ranks[rank] = world.process(f"rank{rank}", place)
            started.append(self.ranks[rank].init(env="x", config={"lr": rank}, tags=(f"t{rank}",)))
        return started

    def wait(self, seconds: float) -> None:
        """Time passes on both nodes."""
        for world in (self.here, self.there):
            world.wait(seconds)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 3, 0, 1), (3, 0, 2, 1)])
def test_two_nodes_make_one_run_whoever_comes_first(order: tuple[int, ...]) -> None:
    """R12, G10: one Run, made by the owner's node; names and console lines of the nodes are apart."""
    nodes = Nodes()
    nodes.start(*order)
    nodes.wait(20)
    for rank, process in sorted(nodes.ranks.items()):
        process.log(loss=float(rank)).log(stream="console", line=1.0)
    nodes.wait(5)
    server = nodes.server.only()
    assert [nodes.ranks[rank].role for rank in range(4)] == ["owner", "worker", "worker", "worker"]
    assert {process.view.run.id for process in nodes.ranks.values() if process.view.run} == {server.id}
    assert server.config == {"lr": 0}
    assert server.tags == ("t0", "t1"), "a node that relays adds none by itself"
    assert server.reopened == 0
    found = {name: server.values(name) for name in server.series if name.startswith("loss")}
    assert found == {"loss": [0.0], "loss/rank1": [1.0], "loss/rank2": [2.0], "loss/rank3": [3.0]}
    assert [line // LINES_OF_A_NODE for line in sorted(server.console)] == [0, 0, 1, 1]
    differing = [
        sum(event.name == "config_differs" for history in world.book.histories for event in history.events)
        for world in (nodes.here, nodes.there)
    ]
    assert differing == [1, 0], "a node that relays does not know the owner's config"


@pytest.mark.parametrize("last", [0, 1])
def test_the_owners_node_alone_tells_the_end_whoever_is_last(last: int) -> None:
    """R12, G1: one terminal report; what the other node writes later still arrives."""
    nodes = Nodes()
    nodes.start(0, 1, 2, 3)
    for rank in (0, 1, 2, 3) if last else (2, 3, 0, 1):
        nodes.ranks[rank].log(loss=1.0).finish().exit()
        nodes.wait(20)
    server = nodes.server.only()
    assert [report.status for report in server.reports] == ["COMPLETED"]
    assert {name: len(points) for name, points in server.series.items()} == {
        "loss": 1, "loss/rank1": 1, "loss/rank2": 1, "loss/rank3": 1,
    }  # fmt: skip
    nodes.wait(100)
    assert nodes.there.core.at_rest
    assert nodes.here.core.at_rest


def test_a_relay_beats_while_its_ranks_live_and_the_run_does() -> None:
    """G7, R12: also when the owner's node is silent; after the end nobody beats."""
    nodes = Nodes()
    nodes.start(0, 1, 2, 3)
    before = nodes.server.only().beats
    nodes.there.wait(100)
    assert nodes.server.only().beats >= before + 4
    for rank in (0, 1):
        nodes.ranks[rank].finish().exit()
    nodes.wait(30)
    after = nodes.server.only().beats
    nodes.wait(300)
    assert nodes.server.only().status == "COMPLETED"
    assert nodes.server.only().beats == after
    assert nodes.ranks[2].view.run is not None
    assert nodes.ranks[2].view.run.status == "COMPLETED"


def test_a_rank_that_leaves_a_relay_waits_for_its_records_and_for_no_status() -> None:
    """R11, R12"""
    nodes = Nodes()
    nodes.start(0, 1, 2, 3)
    nodes.server.down = True
    nodes.ranks[2].log(loss=1.0).finish()
    nodes.ranks[3].finish()
    nodes.wait(1)
    assert not nodes.ranks[2].view.drained
    nodes.server.down = False
    nodes.wait(40)
    assert nodes.ranks[2].view.drained
    assert nodes.ranks[3].view.drained


def test_tags_and_config_of_all_nodes_meet_on_the_server() -> None:
    """G9, R12"""
    nodes = Nodes()
    nodes.start(0, 1, 2, 3)
    nodes.ranks[2].add_tags("there").update_config(there=1)
    nodes.ranks[0].add_tags("here").remove_tags("t0").update_config(here=1)
    nodes.ranks[3].add_tags("more")
    nodes.wait(5)
    server = nodes.server.only()
    assert set(server.tags) == {"t1", "here", "there", "more"}
    assert server.config == {"lr": 0, "here": 1, "there": 1}


def test_a_restart_on_all_nodes_goes_on_in_the_same_run() -> None:
    """R10, R12: epochs rise on both, old ranks have no say."""
    nodes = Nodes()
    nodes.start(0, 1, 2, 3)
    epochs = [world.run("x").epoch for world in (nodes.here, nodes.there)]
    for process in list(nodes.ranks.values()):
        process.kill()
    nodes.wait(1)
    nodes.start(2, 3, 0, 1, attempt=1)
    nodes.wait(10)
    assert [world.run("x").epoch for world in (nodes.here, nodes.there)] == [epochs[0] + 1, epochs[1] + 1]
    assert nodes.there.run("x").attempt == 1
    for process in nodes.ranks.values():
        process.log(loss=1.0).finish().exit()
    nodes.wait(30)
    assert [report.status for report in nodes.server.only().reports] == ["COMPLETED"]


def test_a_relay_waits_for_a_restart_as_long_as_the_launcher_may_make_one() -> None:
    nodes = Nodes()
    nodes.start(0, 1, 2, 3)
    for rank in (2, 3):
        nodes.ranks[rank].raises()
    assert nodes.ranks[2].view.run is not None
    nodes.there.wait(RESTART_WINDOW_S / 2)
    assert not nodes.there.core.at_rest
    nodes.there.wait(RESTART_WINDOW_S)
    assert nodes.there.core.at_rest
    assert nodes.server.only().reports == []


def test_a_requeued_job_may_change_its_nodes() -> None:
    """R5, R12: node 0 of the next launch is where node 1 was."""
    nodes = Nodes()
    for process in nodes.start(0, 1, 2, 3):
        process.finish().exit()
    nodes.wait(30)
    nodes.here, nodes.there = nodes.there, nodes.here
    for process in nodes.start(2, 0, 1, 3, key="again"):
        process.log(loss=5.0)
    nodes.wait(10)
    server = nodes.server.only()
    assert server.status == "RUNNING"
    assert [nodes.ranks[rank].role for rank in range(4)] == ["owner", "worker", "worker", "worker"]
    for process in nodes.ranks.values():
        process.finish().exit()
    nodes.wait(30)
    assert [report.status for report in server.reports] == ["COMPLETED", "COMPLETED"]
    assert server.values("loss") == [5.0]


def test_an_eval_on_another_machine_joins_by_the_run_id() -> None:
    """G8, R12: nothing changes on the server, its series have its label."""
    nodes = Nodes()
    evaluation = nodes.there.process("eval").attach("x", label="eval")
    nodes.wait(5)
    assert evaluation.role == "waiting"
    owner = nodes.here.process("train").init("x", tags=("a",), config={"lr": 1})
    nodes.wait(10)
    assert evaluation.role == "side"
    evaluation.log(acc=0.5).finish().exit()
    owner.finish().exit()
    nodes.wait(30)
    server = nodes.server.only()
    assert server.values("acc/eval") == [0.5]
    assert (server.tags, server.config) == (("a",), {"lr": 1})
    assert [report.status for report in server.reports] == ["COMPLETED"]
    assert nodes.there.core.at_rest


def test_who_gives_up_looking_leaves_nothing_behind() -> None:
    nodes = Nodes()
    nodes.there.process("eval").attach("x").kill()
    nodes.wait(1)
    assert not list(nodes.there.book.runs)
    assert nodes.there.core.at_rest


def test_an_eval_that_was_there_first_joins_whatever_the_project_is() -> None:
    """R5: who attaches names no project; what it looked for elsewhere is forgotten when it is made here."""
    world = World()
    first = world.process("eval").attach("x", label="first", project="pluto")
    world.wait(5)
    owner = world.process("train").init("x", project="digits")
    second = world.process("eval").attach("x", label="second", project="pluto")
    world.wait(5)
    assert [process.role for process in (owner, first, second)] == ["owner", "side", "side"]
    assert len(list(world.book.runs)) == 1


def test_training_on_the_machine_where_an_eval_waits_makes_the_run() -> None:
    """R5, R12: and the eval joins it."""
    world = World()
    evaluation = world.process("eval").attach("x")
    world.wait(20)
    owner = world.process("train").init("x", config={"lr": 1})
    world.wait(20)
    assert (owner.role, evaluation.role) == ("owner", "side")
    assert len(list(world.book.runs)) == 1
    assert world.server.only().reopened == 0


def test_a_relay_never_ends_a_run_that_the_server_took_for_dead() -> None:
    """G1: that is the owner's node's to mend."""
    nodes = Nodes()
    nodes.start(0, 1, 2, 3)
    nodes.server.only().status = "FAILED"
    nodes.there.wait(100)
    assert nodes.server.only().status == "FAILED"
    assert "revive" not in nodes.server.asked


def test_a_job_whose_node_0_logs_nothing_has_its_run_all_the_same() -> None:
    """R4, R12, G3: pipeline-parallel jobs log on the last rank; at the latest its end makes the Run."""
    nodes = Nodes()
    (process,) = nodes.start(3)
    process.log(loss=1.0).finish()
    nodes.wait(1)
    assert not nodes.server.runs
    process.exit()
    nodes.wait(60)
    server = nodes.server.only()
    assert [report.status for report in server.reports] == ["COMPLETED"]
    assert server.values("loss") == [1.0]
    assert server.config == {"lr": 3}
    nodes.wait(100)
    assert nodes.there.core.at_rest


def test_an_outage_is_no_sign_that_there_is_no_owner() -> None:
    """R8, R12: the owner's node may be cut off as well, so nobody takes its place."""
    nodes = Nodes()
    nodes.server.down = True
    for process in nodes.start(0, 2):
        process.log(loss=1.0)
    nodes.ranks[2].finish().exit()
    nodes.there.wait(600)
    nodes.server.down = False
    nodes.there.wait(20)
    nodes.here.wait(30)
    nodes.there.wait(60)
    assert nodes.there.run("x").relay == "node1"
    assert nodes.server.only().values("loss/rank2") == [1.0]
    assert nodes.server.only().reports == []


def test_which_rank_failed_first_on_another_node_stands_in_the_config() -> None:
    """G7, R12: the owner's node sees only its consequences; nothing else of its status is touched."""
    nodes = Nodes()
    nodes.start(0, 1, 2, 3)
    nodes.ranks[3].raises()
    nodes.ranks[2].raises("ConnectionResetError", communication=True)
    nodes.wait(5)
    server = nodes.server.only()
    (told,) = server.config["pluto_dist"]["failures"]["node1"].values()
    assert told.startswith("rank 3 (pid ")
    assert told.endswith("ValueError: boom")
    assert server.status == "RUNNING"
    for rank in (0, 1):
        nodes.ranks[rank].raises("ConnectionResetError", communication=True)
    nodes.agents["launch-0"].exit(1)
    nodes.wait(200)
    assert [report.status for report in server.reports] == ["FAILED"]
    assert len(nodes.there.notes(nodes.there.run("x"), "failed_on_this_node")) == 1


def test_a_node_that_was_asked_to_stop_reports_no_failure() -> None:
    nodes = Nodes()
    nodes.start(0, 2)
    nodes.ranks[2].sigterm()
    nodes.wait(5)
    assert "pluto_dist" not in nodes.server.only().config


def test_names_that_have_the_rank_in_them_already_keep_it_so() -> None:
    """R7, R12: what scripts of several nodes do by hand is known by those names; nobody else means them."""
    nodes = Nodes()
    nodes.start(0, 1, 2, 3)
    nodes.wait(5)
    names = (
        "loss/rank{0}",
        "train/loss_rank{0}",
        "Rank-{0}/loss",
        "loss/node{1}",
        "loss/rank9",
        "frank{0}/x",
    )
    for rank, process in nodes.ranks.items():
        process.log(**{name.format(rank, rank // 2): float(rank) for name in names})
    nodes.wait(10)
    found = set(nodes.server.only().series)
    for rank in range(4):
        assert {f"loss/rank{rank}", f"train/loss_rank{rank}", f"Rank-{rank}/loss"} <= found
    assert {"loss/node0", "loss/node0/rank1", "loss/node1", "loss/node1/rank3"} <= found
    assert {"loss/rank9", "loss/rank9/rank2", "frank2/x/rank2"} <= found


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("loss/rank3", True), ("rank3/loss", True), ("loss_rank_3", True), ("a.RANK-3:b", True),
        ("node1", True), ("gpu/node_1/temp", True), ("loss/rank4", False), ("loss/rank33", False),
        ("frank3", False), ("ranks3", False), ("node3", False), ("loss", False), ("3", False),
    ],
)  # fmt: skip
def test_a_name_names_its_rank_or_its_node(name: str, own: bool) -> None:
    """R7"""
    assert names_itself(name, Job(key="k", rank=3, node_rank=1, nodes=2)) == own
    assert not names_itself(name, Job(key="k"))
