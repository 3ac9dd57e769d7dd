"""The OOM killer is named as the first failure, with a counter that the test raises (R9).

The coordinator or the launcher of these tests looks at that file instead of its cgroup's.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from pluto_dist.host.launch import CoordinatorOptions
from pluto_dist.host.places import places_at
from tests.process.harness import Node, Script, wait_until
from tests.process.test_launcher import CLI

RAISED = "oom 1\noom_kill 1\n"
LOOKS_AT = (
    "import sys, pathlib, {module} as module\nmodule.oom_counter_of = lambda *_: pathlib.Path({path!r})\n"
)


@pytest.fixture
def counter(node: Node) -> Path:
    made = node.base / "memory.events"
    made.write_text("oom 0\noom_kill 0\n")
    return made


def patched(module: str, counter: Path, code: str) -> list[str]:
    """An interpreter in which a module finds our counter."""
    return [sys.executable, "-P", "-c", LOOKS_AT.format(module=module, path=str(counter)) + code]


def first_failure(node: Node) -> dict[str, Any]:
    found = node.ended("oom")
    assert found["status"] == "FAILED"
    return dict(found["verdict"]["first_failure"])


@pytest.mark.parametrize("risen", [True, False])
def test_the_coordinator_names_the_oom_kill_of_a_rank(node: Node, counter: Path, risen: bool) -> None:
    """G7, R9: a rank that is SIGKILLed while the count of its cgroup rises."""
    options = CoordinatorOptions(node.home / "run", node.home / "spool", 60.0)
    code = "from pluto_dist.coordinator.main import main\nsys.exit(main(sys.argv[1:]))\n"
    argv = [*patched("pluto_dist.coordinator.watches", counter, code), *options.arguments()]
    node.keep(Script("coordinator", *node.spawn(argv, "coordinator")))
    wait_until(places_at(options.runtime, options.spool).socket.exists, "the coordinator")
    launcher = node.launcher(2)
    body = "run = pluto.init(run_id='oom')\nlog(run, {'x': 1.0}, 0)\ntell_json('in', facts(run))\nhear()\n"
    ranks = [launcher.rank(rank, body) for rank in (0, 1)]
    for rank in ranks:
        rank.expect("in")
    if risen:
        counter.write_text(RAISED)
    ranks[1].kill()
    ranks[0].say()
    failure = first_failure(node)
    assert (failure["rank"], failure["signal"], failure["oom"]) == (1, "SIGKILL", risen)
    assert ("out of memory" in node.cli("show", "oom")) is risen


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("{raise_it}; kill -KILL $$", {"kind": "signal", "signal": "SIGKILL", "oom": True}),
        ("{raise_it}; sh -c 'kill -KILL $$'; exit $?", {"kind": "exit", "exit_code": 137, "oom": True}),
        ("{raise_it}; exit 1", {"kind": "exit", "exit_code": 1, "oom": False}),
        ("kill -KILL $$", {"kind": "signal", "signal": "SIGKILL", "oom": False}),
    ],
    ids=["killed", "child_killed", "exit", "not_raised"],
)
def test_the_launcher_names_the_oom_kill_of_the_command(
    node: Node, counter: Path, command: str, said: dict[str, object]
) -> None:
    """G7, R9: also where a shell between says it with 128 + 9."""
    raise_it = f"printf 'oom_kill 1\\n' > {counter}"
    argv = [*patched("pluto_dist.cli.run", counter, CLI), "run", "--run-id", "oom", "--", "sh", "-c"]
    script = node.keep(Script("oom", *node.spawn([*argv, command.format(raise_it=raise_it)], "oom")))
    script.wait()
    failure = first_failure(node)
    assert failure["label"] == "command"
    assert {name: failure[name] for name in said} == said
    assert ("out of memory" in node.cli("show", "oom")) is said["oom"]
