"""Ranks find each other by what launchers put into environments (R4, R12)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pluto_dist.client.job.ancestors import rdzv_id_of, wrapper_above
from pluto_dist.client.job.detect import (
    LAUNCH_VARIABLES,
    AncestorFacts,
    ProcessFacts,
    Surroundings,
    detect,
    is_node_launcher,
    is_rank,
)
from pluto_dist.client.opening import _tell_ignored
from pluto_dist.core.values.ids import Identity, Job, Scheduled

BOOT, NS = "boot-1", 4026531836
Env = Mapping[str, str]


def someone(pid: int, start: int = 0, boot_id: str = BOOT) -> Identity:
    return Identity(boot_id, NS, pid, start or pid * 10)


def ancestor(pid: int, program: str = "", environ: Env | None = None, start: int = 0) -> AncestorFacts:
    return AncestorFacts(someone(pid, start), program, environ if environ is not None else {})


def surroundings(
    env: Env,
    *ancestors: AncestorFacts,
    pid: int = 500,
    initial: Env | None = None,
    nth_init: int = 1,
    **facts: Any,
) -> Surroundings:
    """What `detect` makes of them; `facts` are further ones of the process."""
    process = ProcessFacts(someone(pid), env if initial is None else initial, **facts)
    return detect(env, process, ancestors, nth_init)


def job(env: Env, *ancestors: AncestorFacts, **facts: Any) -> Job:
    return surroundings(env, *ancestors, **facts).job


def torchrun(
    rank: int, attempt: int = 0, port: int = 29400, run_id: str = "run-a", **more: str
) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": "4",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": run_id,
        "TORCHELASTIC_RESTART_COUNT": str(attempt),
        "TORCHELASTIC_MAX_RESTARTS": "3",
        **more,
    }


TWO_NODES = {"GROUP_WORLD_SIZE": "2"}


def ranked(rank: int, port: int = 29500, world: int = 2, **more: str) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        **more,
    }


def srun(rank: int, step: str = "2", world: int = 4, **more: str) -> dict[str, str]:
    return {
        "SLURM_JOB_ID": "77",
        "SLURM_STEP_ID": step,
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank % 2),
        "SLURM_NODEID": str(rank // 2),
        "SLURM_NTASKS": str(world),
        "SLURM_STEP_NUM_NODES": str(-(-world // 2)),
        **more,
    }


BATCH = {
    "SLURM_JOB_ID": "77",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_NTASKS": "4",
}
SHELL = ancestor(90, "bash")
INIT = ancestor(1, "systemd")


@pytest.mark.parametrize(
    ("env", "family", "expected"),
    [
        pytest.param({}, None, Job(""), id="plain"),
        pytest.param(
            torchrun(3, attempt=2, GROUP_RANK="1", LOCAL_RANK="1"),
            "torchelastic",
            Job("", 3, 1, 4, 1, 2, 3, SHELL.identity, "torchrun-run-a", "torchrun-run-a localhost:29400", 2),
            id="torchrun",
        ),
        pytest.param(ranked(1), "env", Job("", 1, None, 2, launcher=SHELL.identity), id="env"),
        pytest.param(
            ranked(1, NODE_RANK="0", LOCAL_RANK="1"),
            "env",
            Job("", 1, 1, 2, launcher=SHELL.identity),
            id="env local",
        ),
        pytest.param(
            srun(3),
            "slurm",
            Job(
                "",
                3,
                1,
                4,
                1,
                launcher=SHELL.identity,
                shared_id="slurm-77-2-0",
                launch="slurm-77-2-0",
                nodes=2,
            ),
            id="srun",
        ),
        pytest.param(
            srun(3, SLURM_RESTART_COUNT="2"),
            "slurm",
            Job(
                "",
                3,
                1,
                4,
                1,
                launcher=SHELL.identity,
                shared_id="slurm-77-2-2",
                launch="slurm-77-2-2",
                nodes=2,
            ),
            id="srun requeued",
        ),
        pytest.param(
            srun(1, SLURM_STEP_NUM_TASKS="2", SLURM_STEP_NUM_NODES="1"),
            "slurm",
            Job("", 1, 1, 2, launcher=SHELL.identity),
            id="srun with fewer tasks than the job",
        ),
        pytest.param(
            {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"},
            "openmpi",
            Job("", 1, 1, 2, launcher=SHELL.identity),
            id="mpirun",
        ),
        pytest.param(
            {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "0"},
            "pmi",
            Job("", 1, 0, 2, launcher=SHELL.identity),
            id="hydra",
        ),
        pytest.param(
            srun(3, PMIX_RANK="3", PMIX_NAMESPACE="slurm.pmix.77.2"),
            "pmix",
            Job(
                "",
                3,
                1,
                4,
                1,
                launcher=SHELL.identity,
                shared_id="slurm-77-slurm.pmix.77.2-0",
                launch="slurm-77-slurm.pmix.77.2-0",
                nodes=2,
            ),
            id="srun --mpi=pmix",
        ),
        pytest.param(
            srun(0, world=2, OMPI_COMM_WORLD_RANK="3", OMPI_COMM_WORLD_SIZE="4"),
            "openmpi",
            Job("", 3, None, 4, launcher=SHELL.identity),
            id="mpirun's daemon was started by srun",
        ),
        pytest.param(
            {"LOCAL_RANK": "1", "WORLD_SIZE": "2", "NODE_RANK": "0", "MASTER_PORT": "1"},
            "script",
            Job("", 1, 1, 2, launcher=SHELL.identity),
            id="script's peer",
        ),
        pytest.param(BATCH, None, Job(""), id="python in a batch script"),
        pytest.param(srun(0, step="batch"), None, Job(""), id="step named batch"),
        pytest.param(srun(0, step="4294967291"), None, Job(""), id="number of the batch step"),
        pytest.param(srun(0, step="4294967290"), None, Job(""), id="number of the interactive step"),
        pytest.param(srun(0, world=1), None, Job(""), id="shell of one task"),
        pytest.param({"RANK": "8"}, None, Job(""), id="RANK of something else"),
        pytest.param(ranked(0, world=1), None, Job(""), id="world of one"),
        pytest.param(
            torchrun(0, WORLD_SIZE="1", GROUP_WORLD_SIZE="1"),
            "torchelastic",
            Job("", 0, 0, 1, 0, 0, 3, SHELL.identity),
            id="torchrun of one",
        ),
    ],
)
def test_environment_to_job(env: Env, family: str | None, expected: Job) -> None:
    """R4"""
    found = surroundings(env, SHELL, INIT)
    assert found.family == family
    assert Job(**{**fields(found.job), "key": "", "scheduled": None}) == expected
    assert len(found.job.key) == 32
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        pytest.param({}, None, id="none"),
        pytest.param(BATCH, Scheduled("slurm 77"), id="plain process"),
        pytest.param(srun(1), Scheduled("slurm 77"), id="rank"),
        pytest.param({**BATCH, "SLURM_RESTART_COUNT": "2"}, Scheduled("slurm 77", 2), id="requeued"),
        pytest.param({**BATCH, "SLURM_CLUSTER_NAME": "gpu"}, Scheduled("slurm gpu 77"), id="cluster"),
        pytest.param({**BATCH, "SLURM_RESTART_COUNT": "-1"}, Scheduled("slurm 77"), id="no count"),
        pytest.param({"SLURM_JOB_ID": " "}, None, id="no number"),
    ],
)
def test_the_job_of_a_scheduler_keeps_its_number_over_restarts(env: Env, expected: Scheduled | None) -> None:
    """R5: with or without ranks, below `pluto-dist run` too."""
    assert job(env, SHELL).scheduled == expected
    process = ProcessFacts(someone(500), env)
    assert detect(env, process, [SHELL], 1, launcher=True).job.scheduled == expected


@pytest.mark.parametrize(
    ("given", "more", "expected"),
    [
        ("job7", {}, "job7"),
        ("run-a", {}, ""),
        ("", {}, ""),
        ("", {"PET_RDZV_ID": "job7"}, "job7"),
        ("none", {}, ""),
    ],
)
def test_an_id_that_torchrun_was_given_and_replaced(given: str, more: Env, expected: str) -> None:
    """R12: since torch 2.12.1 on one node, unless there is an address."""
    agent = AncestorFacts(someone(100), "torchrun", {}, rdzv_id=given)
    assert job(torchrun(0, run_id="run-a", **more), agent, SHELL).given_id == expected


def test_the_id_in_a_command_line() -> None:
    words = ["python", "/bin/torchrun", "--rdzv-id", "job7", "train.py"]
    assert rdzv_id_of(words) == "job7"
    assert rdzv_id_of(["torchrun", "--rdzv_id=job8"]) == "job8"
    assert rdzv_id_of(["torchrun", "--rdzv-id"]) == rdzv_id_of(["torchrun", "train.py"]) == ""


@pytest.mark.parametrize(
    ("programs", "task", "found"),
    [
        pytest.param(["bash"], 101, "bash", id="wrapper"),
        pytest.param(["sh", "slurm_script"], 102, "slurm_script", id="batch script without srun"),
        pytest.param(["env", "bash"], 500, None, id="the task itself"),
        pytest.param(["torchrun", "bash"], 101, None, id="torchrun"),
        pytest.param(["torchrun", "bash"], 102, "bash", id="torchrun below a wrapper"),
        pytest.param(["bash", "pluto-dist"], 102, None, id="our launcher"),
        pytest.param(["bash"], 77, None, id="not below the task"),
    ],
)
def test_what_stands_between_a_slurm_task_and_the_training(
    programs: list[str], task: int, found: str | None
) -> None:
    """R9: SLURM's SIGTERM reaches the task's process alone."""
    above = [ancestor(101 + place, program) for place, program in enumerate(programs)]
    env = {"SLURM_TASK_PID": str(task)}
    wrapper = wrapper_above(env, someone(500), above, ())
    assert (wrapper.program if wrapper else None) == found
    assert wrapper_above({**env, "SLURM_PTY_PORT": "1"}, someone(500), above, ()) is None
    assert wrapper_above(env, someone(500), above, [each.identity for each in above]) is None


@pytest.mark.parametrize(
    "broken",
    [
        {"MASTER_PORT": "29\udcff"},
        {"TORCHELASTIC_RUN_ID": "a\udcff"},
        {"SLURM_JOB_ID": "7\udcff", "SLURM_CLUSTER_NAME": "\udcfe"},
        {"PET_RDZV_ID": "\udcff"},
    ],
)
def test_bytes_that_are_no_text_name_a_job_all_the_same(broken: Env) -> None:
    """R4: an environment holds any bytes, and two different ones stay different."""
    env = {**torchrun(1, **TWO_NODES), **broken}
    found, other = job(env, AGENT), job({**env, **dict.fromkeys(broken, "x")}, AGENT)
    assert msgspec.json.encode(found)
    assert found != other


def submitit(rank: int, world: int = 1) -> dict[str, str]:
    return {
        "SUBMITIT_EXECUTOR": "local",
        "SUBMITIT_LOCAL_JOB_ID": "100",
        "SUBMITIT_LOCAL_NTASKS": str(world),
        "SUBMITIT_LOCAL_GLOBALID": str(rank),
        "SUBMITIT_LOCAL_LOCALID": str(rank),
        "SUBMITIT_LOCAL_NODEID": "0",
        "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
    }


def test_tasks_of_submitits_local_executor_are_ranks_also_if_there_is_one() -> None:
    """R4: it starts a task again that asks for it, in another process and with the same number."""
    controller = ancestor(100, "submitit.local._local")
    first, again = (job(submitit(0), controller, SHELL, pid=pid) for pid in (501, 502))
    assert first == again
    assert (first.rank, first.world_size) == (0, 1)
    assert job(submitit(1, 2), controller).rank == 1
    assert job({**torchrun(3), **submitit(0)}, AGENT, controller).rank == 3
    assert job({**submitit(0), **ranked(1)}, AGENT, controller).rank == 1


def fields(found: Job) -> dict[str, object]:
    return {name: getattr(found, name) for name in Job.__struct_fields__}


AGENT = ancestor(100, "torchrun")


def test_torchrun_keeps_its_key_over_restarts_though_the_port_changes() -> None:
    """R4"""
    first = job(torchrun(0, attempt=0, port=48893), AGENT, SHELL, pid=501)
    second = job(torchrun(1, attempt=1, port=33643), AGENT, SHELL, pid=502)
    assert first.key == second.key
    assert (first.attempt, second.attempt) == (0, 1)


@pytest.mark.parametrize(
    "agent",
    [ancestor(101, "torchrun"), ancestor(100, "torchrun", start=9)],
    ids=["another pid", "a reused pid"],
)
def test_two_torchruns_have_two_keys(agent: AncestorFacts) -> None:
    """R4"""
    assert job(torchrun(0), AGENT).key != job(torchrun(0), agent).key


def test_two_launches_from_one_python_program_have_two_keys() -> None:
    assert job(torchrun(0, run_id="a"), AGENT).key != job(torchrun(0, run_id="b"), AGENT).key


def test_torchrun_inside_pytest_or_a_notebook_is_still_the_launcher() -> None:
    assert job(torchrun(1), ancestor(100, "pytest")).launcher == someone(100)
    assert job(torchrun(1), ancestor(100, "ipykernel_launcher")).launcher == someone(100)


def test_a_wrapper_script_of_a_rank_is_no_launcher() -> None:
    """R4"""
    one = job(torchrun(0), ancestor(201, "bash", torchrun(0)), AGENT)
    other = job(torchrun(1), ancestor(202, "bash", torchrun(1)), ancestor(203, "numactl", torchrun(1)), AGENT)
    assert one.launcher == other.launcher == AGENT.identity
    assert one.key == other.key


def test_a_wrapper_that_translates_slurm_to_rank_is_no_launcher() -> None:
    """R4"""
    stepd = AncestorFacts(someone(300), "slurmstepd", None)
    jobs = [
        job(
            {**srun(rank), **ranked(rank, world=4)},
            ancestor(310 + rank, "wrap.sh", srun(rank)),
            stepd,
            pid=500 + rank,
        )
        for rank in range(2)
    ]
    assert jobs[0].key == jobs[1].key
    assert jobs[0].launcher == stepd.identity
    assert jobs[0].shared_id == "slurm-77-2-0"
    assert (jobs[1].local_rank, jobs[1].node_rank) == (1, 0)


def test_torchrun_below_a_pod_with_its_own_rank_is_the_launcher() -> None:
    pod = ranked(0, world=2)
    jobs = [
        job(
            {**pod, **torchrun(rank)},
            ancestor(100, "torchrun", pod),
            ancestor(1, "bash", pod),
            pid=500 + rank,
        )
        for rank in range(2)
    ]
    assert jobs[0].launcher == jobs[1].launcher == someone(100)
    assert jobs[0].key == jobs[1].key


def test_torchrun_below_srun_is_the_launcher() -> None:
    found = job({**srun(0), **torchrun(0)}, ancestor(100, "torchrun", srun(0)), ancestor(99, "slurmstepd"))
    assert found.launcher == someone(100)


def test_mpirun_in_an_interactive_step_is_the_launcher() -> None:
    shell = srun(0, step="0", world=1)
    mpi = {**shell, "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"}
    found = job(mpi, ancestor(100, "mpirun", shell), ancestor(99, "bash", shell), ancestor(98, "slurmstepd"))
    assert found.launcher == someone(100)
    assert found.shared_id is None


def test_a_rank_in_a_container_of_its_own_has_no_launcher_but_an_address() -> None:
    pod = ranked(1)
    here = job(pod, ancestor(1, "bash", pod))
    assert here.launcher is None
    assert here.rank == 1
    assert here.key != job(ranked(1, port=1), ancestor(1, "bash", ranked(1, port=1))).key


@pytest.mark.parametrize("program", ["raylet", "pytest", "ipykernel_launcher", "systemd", "tini", "sshd"])
def test_what_starts_anything_is_no_launcher(program: str) -> None:
    """R4"""
    found = job(ranked(0), ancestor(100, program))
    assert found.launcher is None
    assert found.key == job(ranked(1), ancestor(200, program), pid=501).key
    assert found.key != job(ranked(0, port=1), ancestor(100, program)).key


def test_a_worker_of_a_test_runner_is_known_by_the_test_name_it_sets() -> None:
    env = ranked(0, PYTEST_CURRENT_TEST="test_x (call)")
    assert job(env, ancestor(100, "-c")).launcher is None
    shell = ancestor(101, "bash", {"PYTEST_CURRENT_TEST": "test_x (call)"})
    assert job(env, shell, ancestor(100, "-c")).launcher == someone(101)


def test_two_jobs_of_one_shell_are_told_apart_by_their_address() -> None:
    """R4"""
    assert job(ranked(0), SHELL, pid=501).key == job(ranked(1), SHELL, pid=502).key
    assert job(ranked(0), SHELL).key != job(ranked(0, port=1), SHELL).key


def test_plain_processes_have_keys_of_their_own() -> None:
    assert job({}, SHELL, pid=501).key != job({}, SHELL, pid=502).key
    assert job({}, SHELL, pid=501).key == job({}, SHELL, pid=501).key


def test_each_init_is_a_job_of_its_own_and_the_same_for_all_ranks() -> None:
    """R4"""
    first, second = (job(torchrun(0, **TWO_NODES), AGENT, nth_init=nth) for nth in (1, 2))
    assert first.key != second.key
    assert second.key == job(torchrun(1, **TWO_NODES), AGENT, pid=501, nth_init=2).key
    assert second.shared_id == "torchrun-run-a-2"


def test_another_boot_is_another_job() -> None:
    here = detect({}, ProcessFacts(someone(500)), (), 1)
    there = detect({}, ProcessFacts(someone(500, boot_id="boot-2")), (), 1)
    assert here.job.key != there.job.key


SCRIPT = {
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "2",
    "NODE_RANK": "0",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "1",
}


def test_a_script_that_starts_its_own_peers_shares_their_key_before_and_after() -> None:
    """R4"""
    before = surroundings({}, SHELL, pid=400)
    after = surroundings(SCRIPT, SHELL, pid=400, initial={})
    peer = surroundings({**SCRIPT, "LOCAL_RANK": "1"}, ancestor(400, "train"), SHELL, pid=500)
    assert before.job.key == after.job.key == peer.job.key
    assert (after.job.rank, peer.job.rank) == (0, 1)
    assert peer.job.launcher == after.job.launcher == someone(400)


SERVER = AncestorFacts(someone(401), "-c", {}, pooled=True)
TRAIN = ancestor(400, "train")


def test_pool_children_without_ranks_are_jobs_of_their_own() -> None:
    """R4: nothing says that they are one; with whom they share a Run is decided by their parent's."""
    parent = surroundings({}, SHELL, pid=400)
    children = [surroundings({}, TRAIN, SHELL, pid=pid, pool_parent=400) for pid in (500, 501)]
    assert len({parent.job.key, *(child.job.key for child in children)}) == 3
    assert all(child.job.rank is None and child.parents == (TRAIN.identity,) for child in children)


@pytest.mark.parametrize(
    ("above", "facts", "parents"),
    [
        pytest.param((TRAIN, SHELL), {"pool_parent": 400}, (400,), id="spawned or forked"),
        pytest.param((SERVER, TRAIN, SHELL), {"pool_parent": 400}, (401, 400), id="forkserver"),
        pytest.param((TRAIN, SHELL), {"forked_from": 400}, (400,), id="os.fork"),
        pytest.param(
            (ancestor(402, "train"), TRAIN, SHELL),
            {"pool_parent": 402, "forked_from": 400},
            (402, 400),
            id="a fork of a fork",
        ),
        pytest.param(
            (AncestorFacts(someone(402), "-c", {}, pooled=True), SERVER, TRAIN, SHELL),
            {"pool_parent": 402},
            (402, 401, 400),
            id="a pool in a pool",
        ),
        pytest.param((TRAIN, SHELL), {}, (), id="a program that it starts"),
        pytest.param((INIT,), {"pool_parent": 400}, (), id="the parent is gone"),
    ],
)
def test_whose_program_a_process_is_a_part_of(
    above: tuple[AncestorFacts, ...], facts: dict[str, int], parents: tuple[int, ...]
) -> None:
    """R4"""
    assert surroundings({}, *above, **facts).parents == tuple(map(someone, parents))


@pytest.mark.parametrize(
    ("env", "above", "facts", "place"),
    [
        pytest.param({}, (TRAIN,), {"pool_parent": 400}, (1, 4), id="no variables"),
        pytest.param({"MASTER_PORT": "1"}, (SHELL,), {}, (1, 4), id="an address tells launches apart"),
        pytest.param({}, (SHELL,), {}, (None, None), id="nothing does"),
        pytest.param(ranked(0, world=2), (TRAIN,), {"pool_parent": 400}, (1, 4), id="RANK is the node's"),
        pytest.param(ranked(1, world=4), (SHELL,), {}, (1, 4), id="both say the same"),
        pytest.param(torchrun(1), (AGENT,), {}, (1, 4), id="torchrun"),
    ],
)
def test_a_process_group_says_which_rank_it_is(
    env: Env, above: tuple[AncestorFacts, ...], facts: dict[str, int], place: tuple[int | None, int | None]
) -> None:
    """R4: `torch.distributed` is the truth about ranks; variables may be of another level, or missing."""
    found = job(env, *above, group=(1, 4), **facts)
    assert (found.rank, found.world_size) == place


def test_ranks_of_one_process_group_find_each_other_and_no_other_launch() -> None:
    """R4"""
    ranks = [job({}, TRAIN, SHELL, pid=500 + n, pool_parent=400, group=(n, 2)) for n in range(2)]
    assert ranks[0].key == ranks[1].key
    assert ranks[0].launcher == TRAIN.identity
    assert job({}, SHELL, pid=400).key != ranks[0].key
    other = ancestor(600, "train")
    assert job({}, other, SHELL, pid=700, pool_parent=600, group=(0, 2)).key != ranks[0].key


def test_pool_children_that_set_their_rank_share_a_launcher() -> None:
    train = ancestor(400, "train")
    jobs = [
        job(
            ranked(rank),
            ancestor(401, "forkserver"),
            train,
            SHELL,
            pid=500 + rank,
            initial={},
            pool_parent=400,
        )
        for rank in range(2)
    ]
    assert jobs[0].key == jobs[1].key
    assert jobs[0].launcher == train.identity


def test_a_pool_child_of_a_rank_is_seen_as_that_rank() -> None:
    """R4: its ancestors then tell that it is a side."""
    rank = job(torchrun(1), AGENT, pid=400)
    child = surroundings(torchrun(1), ancestor(400, "train", torchrun(1)), AGENT, pid=500, pool_parent=400)
    assert (child.job.key, child.job.rank) == (rank.key, 1)
    assert child.ancestors == (someone(400), AGENT.identity)
    assert child.parents == (someone(400),)


@pytest.mark.parametrize(
    ("env", "shared"),
    [
        ({}, None),
        (BATCH, None),
        (torchrun(0, run_id="none", **TWO_NODES), None),
        (torchrun(0, run_id="job7", **TWO_NODES), "torchrun-job7"),
        (torchrun(0, run_id="job7", GROUP_WORLD_SIZE="1"), None),
        (torchrun(0, run_id="job7"), None),
        (torchrun(0, run_id="100", SLURM_JOB_ID="77", **TWO_NODES), "torchrun-100-77-0"),
        (srun(0, world=2), None),
        ({**srun(0), **torchrun(0, run_id="none")}, "slurm-77-2-0"),
        (ranked(0), None),
        ({**BATCH, **ranked(0)}, None),
        ({**srun(0, step="0", world=1), **ranked(0)}, None),
    ],
)
def test_only_what_all_nodes_of_one_launch_know_is_a_shared_id(env: Env, shared: str | None) -> None:
    """R12"""
    assert job(env, SHELL).shared_id == shared


@pytest.mark.parametrize(
    ("env", "node_rank", "nodes"),
    [
        (torchrun(3, GROUP_RANK="1", GROUP_WORLD_SIZE="2"), 1, 2),
        ({"RANK": "1", "NUM_NODES": "2", "MASTER_ADDR": "node-0"}, 1, 2),  # one process on each
        ({"RANK": "0", "NUM_NODES": "2", "MASTER_ADDR": "node-0"}, 0, 2),
        ({"RANK": "1", "WORLD_SIZE": "2", "NUM_NODES": "2", "MASTER_ADDR": "node-0"}, 1, 2),
        ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "NNODES": "2"}, 1, 2),
        ({"RANK": "5", "WORLD_SIZE": "8", "NUM_NODES": "2", "MASTER_ADDR": "node-0"}, 0, 2),
        ({"RANK": "1", "NUM_NODES": "2"}, 0, 1),  # nothing says that these are of one job
        (torchrun(3, LOCAL_RANK="1", LOCAL_WORLD_SIZE="2"), 0, 2),
        (ranked(3, world=4, LOCAL_RANK="1", LOCAL_WORLD_SIZE="2"), 1, 2),
        (ranked(3, world=4, LOCAL_RANK="3", LOCAL_WORLD_SIZE="4"), 0, 1),
        (ranked(3, world=4, NODE_RANK="1"), 1, 2),
        (ranked(3, world=4), 0, 1),
        (srun(3), 1, 2),
        (
            {
                "OMPI_COMM_WORLD_RANK": "5",
                "OMPI_COMM_WORLD_SIZE": "8",
                "OMPI_COMM_WORLD_LOCAL_RANK": "1",
                "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
            },
            1,
            2,
        ),
        ({"PMI_RANK": "5", "PMI_SIZE": "7", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "4"}, 1, 2),
    ],
)
def test_the_node_is_said_or_counted_by_the_ranks_that_it_holds(env: Env, node_rank: int, nodes: int) -> None:
    """R12"""
    found = job(env, SHELL)
    assert (found.node_rank, found.nodes) == (node_rank, nodes)


def test_a_launch_of_several_nodes_has_a_name_that_all_of_them_know() -> None:
    """R12: the port alone repeats between launches, so it is no id, but it tells most launches apart."""
    assert job(torchrun(0, run_id="none", **TWO_NODES), SHELL).launch == "localhost:29400"
    assert job(torchrun(0, run_id="none", GROUP_RANK="1", **TWO_NODES), SHELL).launch == "localhost:29400"
    assert job(torchrun(0, run_id="job7", **TWO_NODES), SHELL).launch == "torchrun-job7 localhost:29400"
    assert job(torchrun(0, run_id="job7"), SHELL).launch == ""


@pytest.mark.parametrize("run_id", ["a/b c", "é", "x" * 300, "new\nline", "lone \ud800"])
def test_a_shared_id_is_always_a_plain_one(run_id: str) -> None:
    shared = job(torchrun(0, run_id=run_id, **TWO_NODES), SHELL).shared_id
    assert shared is not None
    assert shared.startswith("torchrun-")
    assert len(shared) == len("torchrun-") + 32
    assert shared != job(torchrun(0, run_id=run_id + "2", **TWO_NODES), SHELL).shared_id


@pytest.mark.parametrize(
    ("change", "variable"),
    [
        ({"RANK": "abc"}, "RANK"),
        ({"RANK": "-1"}, "RANK"),
        ({"RANK": "1.0"}, "RANK"),
        ({"RANK": "²"}, "RANK"),
        ({"RANK": "9" * 5000}, "RANK"),
        ({"RANK": "2"}, "RANK"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE"),
        ({"LOCAL_RANK": "x"}, "LOCAL_RANK"),
        ({"NODE_RANK": "x"}, "NODE_RANK"),
    ],
)
def test_a_number_that_is_none_is_ignored_and_named(change: Env, variable: str) -> None:
    (warning,) = surroundings({**ranked(1), **change}, SHELL).warnings
    assert warning.startswith(f"{variable} is ")
    assert "ignored" in warning
    assert len(warning) < 200


def per_node(rank: int, nodes: int = 2, **more: str) -> dict[str, str]:
    """One task on each node, as `srun --ntasks-per-node=1` starts it."""
    place = {"SLURM_LOCALID": "0", "SLURM_NODEID": str(rank), "SLURM_NNODES": str(nodes)}
    return without_steps(srun(rank, world=nodes)) | place | more


def without_steps(env: dict[str, str]) -> dict[str, str]:
    """What only the step says of its nodes left out."""
    return {name: value for name, value in env.items() if name != "SLURM_STEP_NUM_NODES"}


@pytest.mark.parametrize(
    ("env", "what"),
    [
        pytest.param({}, "neither", id="plain"),
        pytest.param(per_node(0), "node launcher", id="first node"),
        pytest.param(per_node(1), "node launcher", id="second node"),
        pytest.param(
            per_node(1, SLURM_NTASKS="8", SLURM_STEP_NUM_TASKS="2", SLURM_STEP_NUM_NODES="2"),
            "node launcher",
            id="a step with fewer tasks than the job",
        ),
        pytest.param(
            per_node(0, nodes=4, SLURM_STEP_NUM_TASKS="4", SLURM_STEP_NUM_NODES="2"),
            "rank",
            id="a step with as many tasks as the job has nodes, on fewer nodes",
        ),
        pytest.param(per_node(0, nodes=1), "neither", id="one node, one task"),
        pytest.param(srun(3, SLURM_STEP_NUM_NODES="1"), "rank", id="several tasks on one node"),
        pytest.param(srun(3), "rank", id="several tasks on each node"),
        pytest.param(without_steps(srun(1, world=2)), "rank", id="nobody says how many nodes"),
        pytest.param(per_node(0, SLURM_NNODES="two"), "rank", id="a number of nodes that is none"),
        pytest.param({**BATCH, "SLURM_NNODES": "4"}, "neither", id="batch script"),
        pytest.param({**per_node(1), **torchrun(1)}, "rank", id="torchrun's rank"),
        pytest.param({**per_node(1), **ranked(1)}, "rank", id="RANK was set"),
        pytest.param(
            per_node(1, OMPI_COMM_WORLD_RANK="1", OMPI_COMM_WORLD_SIZE="2"), "rank", id="MPI's rank"
        ),
        pytest.param(per_node(1, PMIX_RANK="1"), "rank", id="srun --mpi=pmix"),
    ],
)
def test_one_slurm_task_on_each_node_launches_and_is_no_rank(env: Env, what: str) -> None:
    """R12: `srun --ntasks-per-node=1 pluto-dist run -- torchrun …`."""
    assert (is_rank(env), is_node_launcher(env)) == (what == "rank", what == "node launcher")


def test_a_node_launcher_says_on_which_node_it_is_and_is_nobodys_rank() -> None:
    """R12"""
    process, ancestors = ProcessFacts(someone(500), per_node(1)), (ancestor(100, "slurmstepd"),)
    found = detect(per_node(1), process, ancestors, 1, launcher=True).job
    assert (found.rank, found.local_rank, found.world_size, found.launcher) == (None, None, None, None)
    assert (found.node_rank, found.shared_id) == (1, "slurm-77-2-0")
    rank = detect(per_node(1), ProcessFacts(someone(501), per_node(1)), ancestors, 1).job
    assert rank.key != found.key


any_value = st.sampled_from(["", "0", "1", "2", "-1", "none", "x", "4294967295", "9" * 30]) | st.text(
    max_size=5
)
any_environ = st.dictionaries(
    st.sampled_from(sorted(LAUNCH_VARIABLES | {"SLURM_JOB_ID", "NODE_RANK"})), any_value
)
any_ancestor = st.builds(
    AncestorFacts,
    st.builds(someone, st.integers(1, 9)),
    st.sampled_from(["bash", "torchrun", "pytest", ""]),
    st.none() | any_environ,
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    any_environ, st.none() | any_environ, st.lists(any_ancestor, max_size=4), st.none() | st.integers(0, 9)
)
def test_no_environment_raises(
    env: Env, initial: Env | None, ancestors: list[AncestorFacts], pool_parent: int | None
) -> None:
    process = ProcessFacts(someone(500), initial or {}, pool_parent=pool_parent, forked_from=3, group=(1, 2))
    found = detect(env, process, ancestors, 1)
    place = found.job
    assert found == detect(env, process, ancestors, 1)
    assert place.rank is None or place.rank >= 0
    assert place.rank is None or place.world_size is None or place.rank < place.world_size
    assert place.attempt >= 0
    assert place.launcher is None or place.rank is not None
    assert (found.family is None) == (place.rank is None)


def test_what_is_ignored_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """A process that is no rank because of a mistyped variable has a Run of its own."""
    found = surroundings({"RANK": "9", "WORLD_SIZE": "4"}, SHELL)
    for _ in range(3):
        _tell_ignored(found)
    assert [record.message for record in caplog.records] == [
        "RANK is 9, not below the 4 of WORLD_SIZE; both are ignored"
    ]


def test_variables_that_agree_are_not_worth_a_word() -> None:
    env = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "NUM_NODES": "2", "MASTER_ADDR": "node-0"}
    assert surroundings(env, SHELL).warnings == ()
