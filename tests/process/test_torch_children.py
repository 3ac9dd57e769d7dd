"""Processes that torch starts below a script: DataLoader workers and `torch.multiprocessing` (R4, R9, G3)."""

from __future__ import annotations

import pytest

from tests.process.harness import Node

pytest.importorskip("torch", reason="torch is not installed here: pip install torch==2.13.0")

QUIET = {"PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}

LOADER = """
import torch
from torch.utils.data import DataLoader

class Squares(torch.utils.data.Dataset):
    def __len__(self): return 16
    def __getitem__(self, index):
        log(handle(), {"fetched": float(index), "by": str(os.getpid())}, index)
        return torch.tensor(float(index * index))

run = None
def handle():
    "A forked worker has its parent's; one that was spawned opens its own, as the parent did."
    global run
    run = run or pluto.init(run_id="loader")
    return run

if __name__ == "__main__":
    run = pluto.init(run_id="loader")
    loader = DataLoader(Squares(), batch_size=4, num_workers=2, multiprocessing_context=METHOD)
    for step, batch in enumerate(loader):
        log(run, {"loss": float(batch.sum())}, step)
    run.finish()
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_dataloader_workers_log_into_the_run_of_their_parent(node: Node, method: str) -> None:
    """G1, G3: records of workers and of the main process are in one Run, which the main process ends."""
    script = node.start(LOADER.replace("METHOD", repr(method)), env=QUIET)
    assert script.wait() == 0, script.stderr
    found = node.ended("loader")
    assert found["status"] == "COMPLETED", found["verdict"]
    roles = sorted(each["role"] for each in found["leases"] if each["label"] != "node")
    assert roles == {"fork": ["owner"], "spawn": ["owner", "worker", "worker"]}[method]
    assert not node.lost("loader")
    points = node.points("loader")
    assert {point.step: point.value for point in points if point.name == "loss"} == {
        step: sum(index * index for index in range(4 * step, 4 * step + 4)) for step in range(4)
    }
    assert sorted(point.value for point in points if point.logged_as == "fetched") == list(range(16))
    assert len({point.value for point in points if point.logged_as == "by"}) == 2


SPAWN = """
import torch.multiprocessing

def work(index):
    run = pluto.init(run_id="spawn")
    log(run, {"loss": float(index)}, 0)
    if index == 1:
        raise ValueError("boom")
    time.sleep(60)

if __name__ == "__main__":
    run = pluto.init(run_id="spawn")
    log(run, {"main": 1.0}, 0)
    torch.multiprocessing.start_processes(work, nprocs=2, start_method=METHOD)
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_what_a_spawned_rank_raised_is_named(node: Node, method: str) -> None:
    """R9, R10: torch ends it by `sys.exit(1)` and its peers by SIGTERM; the cause is the exception."""
    script = node.start(SPAWN.replace("METHOD", repr(method)), env=QUIET)
    assert script.wait() == 1
    found = node.ended("spawn")
    failure = found["verdict"]["first_failure"]
    assert found["status"] == "FAILED", failure
    assert (failure["role"], failure["type"], failure["message"]) == ("worker", "ValueError", "boom")
    assert 'raise ValueError("boom")' in failure["traceback"]
    assert not node.lost("spawn")


FOLDS = """
import torch.distributed as dist
import torch.multiprocessing as mp

def work(rank, fold, asked):
    dist.init_process_group("gloo", init_method=f"file://{os.getcwd()}/meet{fold}", rank=rank, world_size=2)
    if rank == 0: dist.barrier()
    run = pluto.init(**asked)
    if rank == 1: dist.barrier()  # rank 1 has asked before
    log(run, {"loss": float(rank)}, 0)
    if fold == 0 and rank == 1: raise ValueError("first fold")
    dist.barrier()
    dist.destroy_process_group()
    run.finish()
    tell_json("rank", [fold, run.role, run.label, run.run_id])

def use(rank, run):
    dist.init_process_group("gloo", init_method=f"file://{os.getcwd()}/meet", rank=rank, world_size=2)
    log(run, {"handed": float(rank)}, 0)
    dist.barrier()

if __name__ == "__main__":
    for fold in range(2):
        try: mp.start_processes(work, args=(fold, {"project": "folds"}), nprocs=2, start_method=METHOD)
        except mp.ProcessRaisedException: tell("failed")
    own = pluto.init(project="own")
    tell("own", own.role)
    own.finish()
    run = pluto.init(run_id="above")
    mp.start_processes(work, args=(2, {}), nprocs=2, start_method=METHOD)
    mp.start_processes(use, args=(run,), nprocs=2, start_method=METHOD)
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_ranks_of_torch_are_one_job_for_each_spawn(node: Node, method: str) -> None:
    """R4, R7: known by their process group; a start again is a Run of its own, and below a Run they join it.

    The plain name is rank 0's, although rank 1 comes first.
    """
    script = node.start(FOLDS.replace("METHOD", repr(method)), env=QUIET)
    script.expect("failed")
    told = [script.expect_json("rank") for _ in range(2)]
    assert script.expect("own") == "owner"  # and no late rank of a job of its children
    told += [script.expect_json("rank") for _ in range(2)]
    assert script.wait() == 0
    second = {(role, label, run) for fold, role, label, run in told if fold == 1}
    third = {(role, label, run) for fold, role, label, run in told if fold == 2}
    assert third == {("worker", "rank0", "above"), ("worker", "rank1", "above")}
    assert {(role, label) for role, label, _ in second} == {("owner", "rank0"), ("worker", "rank1")}
    (fold,) = {run for _, _, run in second}
    ends = {each["run_id"]: node.ended(each["run_id"])["status"] for each in node.documents()}
    assert sorted(ends.values()) == ["COMPLETED", "COMPLETED", "COMPLETED", "FAILED"]
    assert (ends[fold], ends["above"]) == ("COMPLETED", "COMPLETED")
    for run in (fold, "above"):
        names = {point.value: point.name for point in node.points(run) if point.logged_as == "loss"}
        assert names == {0.0: "loss", 1.0: "loss/rank1"}
    handed = [point.name for point in node.points("above") if point.logged_as == "handed"]
    assert sorted(handed) == ["handed", "handed/rank1"]


AT_TOP = """
import torch
from torch.utils.data import DataLoader

run = pluto.init(run_id="top")

class Squares(torch.utils.data.Dataset):
    def __len__(self): return 8
    def __getitem__(self, index): return torch.tensor(float(index * index))

if __name__ == "__main__":
    for epoch in range(2):
        loader = DataLoader(Squares(), batch_size=4, num_workers=2, multiprocessing_context="spawn")
        for step, batch in enumerate(loader):
            log(run, {"loss": float(batch.sum())}, 2 * epoch + step)
    run.finish()
"""


def test_workers_of_a_dataloader_that_import_the_script_again_open_nothing(node: Node) -> None:
    """R4: `init()` at module level, as most scripts have it."""
    script = node.start(AT_TOP, env=QUIET)
    assert script.wait() == 0, script.stderr
    (found,) = [node.ended(each["key"]) for each in node.documents()]
    assert [each["role"] for each in found["leases"] if each["label"] != "node"] == ["owner"]
    assert (found["status"], found["points"]) == ("COMPLETED", 4)
