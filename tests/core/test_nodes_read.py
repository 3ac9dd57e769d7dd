"""All nodes of a Run as they stand in the cluster store, for `ps` and `show` on any host."""

from __future__ import annotations

from pluto_dist.read.nodes import RunThere, run_of
from tests.core.cluster_world import FOLDER, ClusterWorld
from tests.core.test_cluster import VICTIM, started


def there(world: ClusterWorld) -> RunThere:
    """What a host that is none of the job's sees."""
    items = {key.removeprefix(FOLDER): found for key, found in world.engine.all(FOLDER).items()}
    now_ms = max(node.wall_ms for node in world.nodes)
    found = run_of("demo", "x", items, now_ms)
    assert found is not None
    return found


def test_all_nodes_and_their_processes() -> None:
    world = started()
    found = there(world)
    assert (found.status, found.verdict, found.sent, found.round, found.epoch) == (
        "RUNNING",
        None,
        False,
        1,
        1,
    )
    assert found.means("x")
    assert found.means("DEM-1")
    assert found.means("1")
    assert not found.means("y")
    assert [(n.name, n.present, n.seat, n.owner, n.current, n.ended) for n in found.nodes] == [
        ("node0", True, True, True, True, False),
        ("node1", True, False, False, True, False),
    ]
    assert [[(p.rank, p.role, p.alive) for p in node.processes] for node in found.nodes] == [
        [(0, "owner", True), (1, "worker", True)],
        [(2, "worker", True), (3, "worker", True)],
    ]
    assert all(node.said_s >= 0 and all(p.age_s is not None for p in node.processes) for node in found.nodes)


def test_a_node_that_is_gone_and_what_was_said() -> None:
    world = started()
    world.kill_node(0)
    for rank in (2, 3):
        world.ranks[rank].raises(**VICTIM)
    world.wait(25)
    found = there(world)
    assert (found.status, found.sent) == ("FAILED", True)
    assert found.verdict is not None
    assert found.verdict.reason.startswith("node0")
    assert [(n.name, n.present, n.ended) for n in found.nodes] == [
        ("node0", False, False),
        ("node1", True, True),
    ]
    assert [(told.node, told.rank, told.what) for told in found.evidence] == [
        ("node1", 2, "ConnectionResetError: boom"),
        ("node1", 3, "ConnectionResetError: boom"),
    ]


def test_what_is_no_run_is_left_out() -> None:
    assert run_of("demo", ".doctor", {}, 0) is None
