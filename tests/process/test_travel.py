"""Handles that come into other processes: by pickle, and by a main module that is imported again (R4, G3)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.process.harness import Node, events

MODULE_LEVEL = """
import multiprocessing as mp
import torch_like

run = pluto.init(run_id="main", name=f"main-{os.getpid()}", config={"pid": os.getpid()})
run.log({"imported": 1.0}, step=0)
run.add_tags(f"by-{os.getpid()}")

def idle(n): return os.getpid()

def work(n):
    log(run, {"item": float(n)}, n)
    pluto.log({"by_module": float(n)}, step=n)
    return [os.getpid(), run.role, run.run_id]

if __name__ == "__main__":
    context = mp.get_context(METHOD)
    for epoch in range(2):
        with context.Pool(2) as pool: pool.map(idle, range(4), chunksize=1)
    with context.Pool(2) as pool: tell_json("told", pool.map(work, range(6), chunksize=1))
    log(run, {"loss": 1.0}, 0)
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_an_init_at_module_level_is_made_once(node: Node, method: str) -> None:
    """R4: children that import the main module again open nothing; one that logs is a worker of its Run."""
    script = node.start(MODULE_LEVEL.replace("import torch_like\n", "").replace("METHOD", repr(method)))
    told = script.expect_json("told")
    assert {(role, run_id) for _, role, run_id in told} == {("worker", "main")}
    assert script.wait() == 0
    (found,) = [node.ended(each["key"]) for each in node.documents()]
    workers = [each for each in found["leases"] if each["role"] == "worker"]
    assert {each["pid"] for each in workers} == {pid for pid, _, _ in told}
    assert (found["status"], found["tags"]) == ("COMPLETED", [f"by-{script.pid}"])
    points = node.points("main")
    assert [point.value for point in points if point.logged_as == "imported"] == [1.0]
    assert sorted(point.value for point in points if point.logged_as == "by_module") == list(range(6))
    assert not node.lost("main")
    assert "is used here too" not in script.stderr


TRAVEL = """
import copy, multiprocessing as mp, pickle, subprocess
from concurrent.futures import ProcessPoolExecutor

def work(run, n):
    assert pickle.loads(pickle.dumps(run)) is run
    log(run, {"item": float(n)}, n)
    return [os.getpid(), run.role, run.run_id, run.project]

def unused(run):
    repr(run); run.finish(); run.close()

if __name__ == "__main__":
    run = pluto.init(project="travel", run_id="main")
    log(run, {"loss": 1.0}, 0)
    assert copy.deepcopy({"run": [run]})["run"][0] is copy.copy(run) is run
    assert pickle.loads(pickle.dumps(run)) is run
    with ProcessPoolExecutor(2, mp_context=mp.get_context(METHOD)) as pool:
        tell_json("told", list(pool.map(work, [run] * 6, range(6))))
    child = mp.get_context(METHOD).Process(target=unused, args=(run,))
    child.start(); child.join(); tell("unused", child.exitcode)
    END
"""


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_a_handle_travels_to_children(node: Node, method: str) -> None:
    """R4: it attaches when it is used first, once for each process; unused it opens and ends nothing.

    A forked child has it by the fork already.
    """
    script = node.start(TRAVEL.replace("METHOD", repr(method)).replace("END", "run.finish()"))
    told = script.expect_json("told")
    role = "owner" if method == "fork" else "worker"
    assert {tuple(each[1:]) for each in told} == {(role, "main", "travel")}
    assert script.expect("unused") == "0"
    assert script.wait() == 0
    found = node.ended("main")
    assert (found["status"], len(node.documents())) == ("COMPLETED", 1)
    workers = [each["pid"] for each in found["leases"] if each["role"] == "worker"]
    assert sorted(workers) == ([] if method == "fork" else sorted({pid for pid, *_ in told}))
    assert not node.lost("main")


def test_a_handle_travels_to_any_process(node: Node) -> None:
    """R4: a sender that is no parent makes it a side; where it cannot be had the error names attach()."""
    script = node.start(
        """
        import pickle
        run = pluto.init(project="travel", run_id="main", strict=True)
        log(run, {"loss": 1.0}, 0)
        tell_json("pickle", pickle.dumps(run).hex())
        hear()
        """,
        env={"PLUTO_DIST_MODE": "local", "PLUTO_API_KEY": "key-0123456789-secret"},
    )
    sent = script.expect_json("pickle")
    assert b"secret" not in bytes.fromhex(sent)
    receiver: dict[str, Any] = {"env": {"PLUTO_DIR": "/nowhere", "PLUTO_PROJECT": "other"}}
    body = """
import pickle
run = pickle.loads(bytes.fromhex(sys.argv[1]))
tell("repr", repr(run))
try:
    log(run, {"eval": 1.0}, 0)
except pluto.errors.RunNotFoundError as error:
    tell("refused", error)
    sys.exit()
tell_json("told", [run.role, run.run_id, run.project])
run.finish()
"""
    other = node.start(body, sent, name="other", **receiver)
    assert "not used here yet" in other.expect("repr")
    assert other.expect_json("told") == ["side", "main", "travel"]
    assert other.wait() == 1  # strict travels too: a side may not finish
    elsewhere = Node()
    try:
        lost = elsewhere.start(f"from pluto_dist.client import travel; travel.AGAIN_S = 0.2{body}", sent)
        assert "attach(run_id)" in lost.expect("refused")
        assert lost.wait() == 0
    finally:
        elsewhere.close()
    script.say()
    assert script.wait() == 0
    assert node.ended("main")["status"] == "COMPLETED"
    assert not node.lost("main")
    assert events(node.document("main"), "side_failed")
