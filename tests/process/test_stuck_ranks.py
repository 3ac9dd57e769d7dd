"""A rank that hangs is named, once, while nothing is ended."""

from __future__ import annotations

from tests.process.harness import Node, events, lease, wait_until

BODY = """
run = pluto.init(run_id="stuck", settings={"stuck_after_s": 5.0})
rank, step = int(os.environ["RANK"]), 0
hangs = threading.Event()
def obey():
    hear(); hangs.set(); tell("hangs"); hear(); hangs.clear()
threading.Thread(target=obey, daemon=True).start()
while not os.path.exists(os.environ["PD_TEST_LEDGER"] + ".stop"):
    if not hangs.is_set():
        log(run, {"loss": 1.0}, step)
        step += 1
    time.sleep(0.05)
"""


def test_a_rank_that_hangs_is_named_once_and_nothing_is_ended(node: Node) -> None:
    """`ps`, the document, one event and one warning of the owner say who; that it goes on is said too."""
    launcher = node.launcher(3)
    ranks = [launcher.rank(number, BODY) for number in range(3)]
    wait_until(lambda: node.ledger.exists() and node.ledger.read_bytes().count(b"\n") > 120, "a pace")
    ranks[1].say()
    ranks[1].expect("hangs")
    found = wait_until(lambda: (d := node.document("stuck")) and events(d, "ranks_stuck") and d, "the event")
    (said,) = events(found, "ranks_stuck")
    assert said["ranks"] == "rank1"
    assert int(said["steps"]) < int(said["others_at"])
    assert "rank1" in found["trouble"]
    assert found["status"] == "RUNNING"
    wait_until(lambda: "rank1. Nothing was ended" in ranks[0].stderr, "the warning")
    last = {rank: lease(found, rank=rank)["last_logged_at"] for rank in range(3)}
    assert last[1] < min(last[0], last[2])
    ranks[1].say()
    found = wait_until(lambda: (d := node.document("stuck")) and events(d, "ranks_go_on") and d, "it goes on")
    assert (found["trouble"], len(events(found, "ranks_stuck"))) == ("", 1)
    assert [rank.stderr.count("wait for it: rank1. Nothing was ended") for rank in ranks] == [1, 0, 0]
    node.ledger.with_name("ledger.stop").touch()
    assert [rank.wait() for rank in ranks] == [0, 0, 0]
    assert node.ended("stuck")["status"] == "COMPLETED"
