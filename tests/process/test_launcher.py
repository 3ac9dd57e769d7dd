"""`pluto-dist run -- CMD…`: the job's Run belongs to the launcher, the exit is the command's (R9–R11)."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.process.harness import Node, Script, events, lease, wait_until

CLI = "from pluto_dist.cli.main import app; app()"


def launch(node: Node, *command: str, options: tuple[str, ...] = (), name: str = "launch") -> Script:
    """Starts a command under the launcher, as Run `name`."""
    argv = [sys.executable, "-P", "-c", CLI, "run", "--run-id", name, *options, "--", *command]
    return node.keep(Script(name, *node.spawn(argv, name)))


def python(node: Node, body: str, name: str = "train") -> list[str]:
    """Command line of a script with the names of `stage.py`."""
    return node.command(body, name)


def failure(found: dict[str, Any], *keys: str) -> list[Any]:
    """What the first failure says."""
    return [found["verdict"]["first_failure"][key] for key in keys]


def test_a_command_that_knows_nothing_of_us_completes_its_run(node: Node) -> None:
    """The launcher serves scripts in any language: the exit code is enough."""
    script = launch(node, "sh", "-c", "echo out; echo err >&2; cat", options=("--project", "plain"))
    assert script.expect("out") == ""
    script.say("through stdin")
    assert script.expect("through") == "stdin"
    script.signal(signal.SIGTERM)
    script.wait()
    assert node.ended("launch")["project"] == "plain"


@pytest.mark.parametrize(
    ("body", "code", "status", "kind", "said"),
    [
        ("exit 0", 0, "COMPLETED", "", ""),
        ("exit 3", 3, "FAILED", "exit", 3),
        ("kill -KILL $$", -9, "FAILED", "signal", "SIGKILL"),
        ("kill -SEGV $$", -11, "FAILED", "signal", "SIGSEGV"),
        ("kill -TERM $$", -15, "TERMINATED", "signal", "SIGTERM"),
        ("sh -c 'kill -TERM $$'; exit $?", 143, "TERMINATED", "exit", 143),
    ],
)
def test_the_exit_is_the_commands(
    node: Node, body: str, code: int, status: str, kind: str, said: object
) -> None:
    """G7: code and signal pass through, and the status follows from them."""
    script = launch(node, "sh", "-c", body)
    assert script.wait() == code
    found = node.ended("launch")
    assert found["status"] == status
    assert found["reported"]
    if kind:
        assert failure(found, "label", "kind", "signal" if kind == "signal" else "exit_code") == [
            "command",
            kind,
            said,
        ]
    else:
        assert found["verdict"]["first_failure"] is None
    assert [each["label"] for each in found["leases"]] == ["launcher"]


def test_a_command_that_cannot_be_started(node: Node) -> None:
    """As a shell says it; without a Run where it is not there at all."""
    script = launch(node, "no-such-command")
    assert script.wait() == 127
    assert "no-such-command: command not found" in script.stderr
    assert not node.documents()
    script = launch(node, "python train.py --lr 1")
    assert script.wait() == 127
    assert "for a shell line: pluto-dist run -- sh -c 'python train.py --lr 1'" in script.stderr
    (node.base / "plain.py").write_text("pass\n")
    script = launch(node, str(node.base / "plain.py"))
    assert script.wait() == 126
    assert "plain.py: permission denied" in script.stderr
    assert not node.documents()
    (node.base / "broken").write_text("#!/no/such/interpreter\n")
    (node.base / "broken").chmod(0o700)
    assert launch(node, str(node.base / "broken")).wait() == 126
    assert node.ended("launch")["status"] == "FAILED"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
def test_signals_pass_through(node: Node, number: signal.Signals) -> None:
    """What is sent to the launcher reaches the command; only what asks to stop ends the Run as such."""
    script = launch(
        node,
        *python(
            node,
            f"""
            got = []
            signal.signal({int(number)}, lambda number, frame: got.append(number))
            tell("ready", os.getppid())
            while not got: time.sleep(0.01)
            tell("got", *map(int, got))
            """,
        ),
    )
    assert script.expect("ready") == str(script.pid)
    script.signal(number)
    assert script.expect("got") == str(int(number))
    assert script.wait() == 0
    expected = "COMPLETED" if number == signal.SIGUSR1 else "TERMINATED"
    assert node.ended("launch")["status"] == expected


def test_the_command_sees_the_launchers_signals_and_files_as_its_own(node: Node) -> None:
    """Nothing of ours is blocked, ignored or open in the command."""
    show = """
import re
state = open("/proc/self/status").read()
ours = ~(3 << 31)  # 32 and 33 are the C library's own
masks = [int(mask, 16) & ours for mask in re.findall(r"Sig(?:Blk|Ign):\\s*(\\w+)", state)]
tell("state", masks, sorted(map(int, os.listdir("/proc/self/fd")))[:-1])
"""
    plain = node.start(show)
    script = launch(node, *python(node, show))
    assert script.expect("state") == plain.expect("state")
    assert script.wait() == plain.wait() == 0


def test_the_script_is_a_worker_of_the_launchers_run(node: Node) -> None:
    """R5: its `init()` joins whatever project it names; config and tags become the Run's."""
    script = launch(
        node,
        *python(
            node,
            """
            run = pluto.init(project="another", config={"lr": 0.1}, tags=["a"])
            log(run, {"loss": 1.0}, 0)
            tell_json("ready", facts(run) | {"config": run.config})
            """,
        ),
        options=("--project", "mine"),
    )
    facts = script.expect_json("ready")
    assert script.wait() == 0
    found = node.ended("launch")
    assert (facts["role"], facts["run_id"], facts["project"]) == ("worker", "launch", "mine")
    assert (facts["config"], found["tags"], found["status"]) == ({"lr": 0.1}, ["a"], "COMPLETED")
    assert not node.lost("launch")
    assert [point.name for point in node.points("launch")] == ["loss"]
    assert len(node.documents()) == 1
    assert script.stderr.count("belongs to `pluto-dist run`") == 1
    assert "project='another' (it is 'mine') is not used; give --project to `pluto-dist run`" in script.stderr


def test_a_script_that_names_what_the_launcher_names_is_not_warned(node: Node) -> None:
    """R5: nothing of what it asked for is passed over; names that nobody gave are no difference."""
    body = 'pluto.init(); sys.exit("of the launcher")'
    script = launch(node, *python(node, body), options=("--project", "mine", "--name", "a name"))
    script.wait()
    same = 'pluto.init(project="mine", name="a name")'
    second = launch(node, *python(node, same), options=("--project", "mine", "--name", "a name"))
    second.wait()
    assert "of the launcher" in script.stderr
    assert "not used" not in script.stderr + second.stderr


def test_a_workers_exception_is_named_and_not_the_exit_code(node: Node) -> None:
    """R9: what a participant says about itself is worth more than what its parent saw."""
    script = launch(node, *python(node, "run = pluto.init(); log(run, {'a': 1.0}); raise ValueError('boom')"))
    assert script.wait() == 1
    found = node.ended("launch")
    assert found["status"] == "FAILED"
    assert failure(found, "role", "kind", "message") == ["worker", "exception", "boom"]


def test_a_failure_that_the_command_got_over_is_no_failure(node: Node) -> None:
    """The command's exit decides: its own retries are its own business."""
    body = python(node, "run = pluto.init(); log(run, {'a': 1.0}); raise ValueError('boom')")
    script = launch(node, "sh", "-c", '"$@" || true', "sh", *body)
    assert script.wait() == 0
    assert node.ended("launch")["status"] == "COMPLETED"


def test_only_the_first_process_without_a_rank_has_a_say(node: Node) -> None:
    """G1: what a script starts beside itself is a side."""
    body = """
import subprocess
run = pluto.init()
tell("outer", run.role)
if len(sys.argv) == 1:
    subprocess.run([sys.executable, "-P", __file__, "inner"])
"""
    script = launch(node, *python(node, body))
    assert [script.expect("outer"), script.expect("outer")] == ["worker", "side"]
    assert script.wait() == 0
    assert node.ended("launch")["status"] == "COMPLETED"


def test_a_second_init_under_the_launcher_is_a_run_of_its_own(node: Node) -> None:
    """R5: a sweep."""
    script = launch(
        node,
        *python(
            node,
            """
            for n in range(2):
                run = pluto.init()
                tell(run.role, run.run_id)
                log(run, {"a": 1.0}, n)
                run.finish()
            """,
        ),
    )
    assert script.expect("worker") == "launch"
    other = script.expect("owner")
    assert script.wait() == 0
    assert [node.ended(run)["status"] for run in ("launch", other)] == ["COMPLETED"] * 2


def test_an_inner_launcher_steps_aside(node: Node) -> None:
    inner = [sys.executable, "-P", "-c", CLI, "run", "--", "sh", "-c", "exit 5"]
    assert launch(node, *inner).wait() == 5
    (found,) = node.documents()
    assert found["status"] == "FAILED"


def test_a_rank_that_is_given_a_launcher_goes_without_it(node: Node) -> None:
    """R4: ranks join by themselves."""
    node.set(RANK="0", WORLD_SIZE="2")
    script = launch(node, "sh", "-c", "echo here; exit 5")
    assert script.wait() == 5
    assert "belongs before the launcher" in script.stderr
    assert not node.documents()


@pytest.mark.parametrize("place", ["0", "1"])
def test_the_one_slurm_task_of_each_node_is_a_launcher(node: Node, place: str) -> None:
    """R12: the variables of SLURM alone make no rank of it; without an id the nodes leave it to the job."""
    node.set(
        SLURM_JOB_ID="77",
        SLURM_STEP_ID="0",
        SLURM_NTASKS="2",
        SLURM_NNODES="2",
        SLURM_PROCID=place,
        SLURM_NODEID=place,
        SLURM_LOCALID="0",
    )
    body = "run = pluto.init()\ntell_json('ready', facts(run) | {'env': os.environ['PLUTO_RUN_ID']})"
    argv = [sys.executable, "-P", "-c", CLI, "run", "--", *python(node, body)]
    script = node.keep(Script("launch", *node.spawn(argv, "launch")))
    facts = script.expect_json("ready")
    assert script.wait() == 0
    found = node.ended(facts["run_id"])
    assert (facts["role"], facts["env"], found["status"]) == ("worker", facts["run_id"], "COMPLETED")
    owner = lease(found, role="owner")
    assert (owner["label"], owner["rank"]) == ("launcher", None)


def test_a_requeued_job_goes_on_with_its_run(node: Node) -> None:
    """R5: the same id, the same Run; everything that was delivered stays."""
    body = "run = pluto.init(); run.log({{'n': {n}.0}}); sys.exit({code})"
    assert launch(node, *python(node, body.format(n=1, code=75))).wait() == 75
    assert node.ended("launch")["status"] == "FAILED"
    assert launch(node, *python(node, body.format(n=2, code=0))).wait() == 0
    found = wait_until(lambda: (d := node.ended("launch"))["status"] == "COMPLETED" and d, "the second end")
    assert (len(node.documents()), found["epoch"]) == (1, 2)
    assert {(point.step, point.value) for point in node.points("launch")} == {(0, 1.0), (1, 2.0)}


def test_the_launcher_waits_for_what_the_command_left_behind(node: Node) -> None:
    """R11: it ends last, when everything is delivered and the status accepted."""
    script = launch(node, *python(node, "run = pluto.init()\nfor n in range(20_000): run.log({'a': 1.0}, n)"))
    assert script.wait() == 0
    found = node.document("launch")
    assert (found["status"], found["reported"], found["pending"]) == ("COMPLETED", True, 0)
    assert found["points"] == 20_000


def test_ranks_under_the_launcher_restart_as_attempts(node: Node) -> None:
    """R10: attempt and epoch rise while the launcher stays the owner; the last attempt names the cause."""
    ranks = """
import subprocess
job = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "GROUP_WORLD_SIZE": "1",
    "TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_MAX_RESTARTS": "1", "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500", "TORCHELASTIC_USE_AGENT_STORE": "True"}
codes = []
for attempt in range(2):
    job["TORCHELASTIC_RESTART_COUNT"] = str(attempt)
    places = [job | {"RANK": str(n), "LOCAL_RANK": str(n)} for n in range(2)]
    ranks = [
        subprocess.Popen([sys.executable, "-P", "-c", sys.argv[1]], env=os.environ | place)
        for place in places
    ]
    codes = [rank.wait() for rank in ranks]
sys.exit(max(codes))
"""
    rank = """
import os, sys
from tests.process.stage import *
run = pluto.init()
log(run, {"loss": 1.0})
tell_json("ready", facts(run))
if os.environ["RANK"] == "1": raise ValueError("attempt " + os.environ["TORCHELASTIC_RESTART_COUNT"])
"""
    script = launch(node, *python(node, ranks), rank)
    told = [script.expect_json("ready") for _ in range(4)]
    assert script.wait() == 1
    found = node.ended("launch")
    assert {each["role"] for each in told} == {"worker"}
    assert {each["label"] for each in told} == {"rank0", "rank1"}
    assert (found["status"], found["attempt"], found["epoch"]) == ("FAILED", 1, 2)
    assert failure(found, "rank", "message") == [1, "attempt 1"]
    assert [each["first_failure"]["message"] for each in found["attempts"]] == ["attempt 0"]
    assert len(events(found, "ended")) == 1
    assert lease(found, role="owner")["label"] == "launcher"
    assert not node.lost("launch")
    steps = sorted((point.name, point.step) for point in node.points("launch"))
    assert steps == [("loss", 0), ("loss", 1), ("loss/rank1", 0), ("loss/rank1", 1)]


def test_as_pid_1_it_passes_signals_on_and_reaps(node: Node) -> None:
    """As a container's command: orphans are collected, SIGTERM ends the command, the exit is 128 + signal."""
    unshare = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    probe = node.keep(Script("probe", *node.spawn([*unshare, "true"], "probe")))
    if probe.wait() != 0:
        pytest.skip(f"no pid namespaces here: {probe.stderr.strip()}")
    command = "(sleep 0.05 & ) ; sleep 0.3; echo zombies $(ps -e -o stat= | grep -c Z); echo ready; sleep 60"
    argv = [sys.executable, "-P", "-c", CLI, "run", "--run-id", "launch", "--", "sh", "-c", command]
    script = node.keep(Script("launch", *node.spawn([*unshare, *argv], "launch")))
    assert script.expect("zombies") == "0"
    script.expect("ready")
    inner = int(Path(f"/proc/{script.pid}/task/{script.pid}/children").read_text().split()[0])
    os.kill(inner, signal.SIGTERM)
    assert script.wait() == 143
    assert node.ended("launch")["status"] == "TERMINATED"
