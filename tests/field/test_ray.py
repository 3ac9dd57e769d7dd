"""Runs in tasks and actors of a real Ray, in an environment of its own (R9).

Heavy (200 MB), so it is no part of the default suite: `python -m pytest -m field tests/field/test_ray.py`.
The environment is `.venv-ray`; it is made when it is not there.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.process.harness import CHECKOUT, Node

pytestmark = pytest.mark.field

VERSION = "2.60.0"
ENVIRONMENT = CHECKOUT / ".venv-ray"

DRIVER = """
import sys, time
import pluto_dist as pluto
import ray
from pluto_dist import read

ray.init(num_cpus=1, include_dashboard=False, logging_level="ERROR")

@ray.remote
def left_open(name, fail=False):
    pluto.init(project="ray", run_id=name).log({"loss": 1.0}, 0)
    if fail:
        raise ValueError("Ray takes it to the driver")

@ray.remote
def ended(name):
    with pluto.init(project="ray", run_id=name) as run:
        run.log({"loss": 1.0}, 0)

@ray.remote(num_cpus=0)
class Actor:
    def __init__(self, name):
        self.run = pluto.init(project="ray", run_id=name)

    def step(self, step):
        self.run.log({"loss": 1.0}, step)

ray.get([left_open.remote("first"), left_open.remote("second")])
try:
    ray.get(left_open.remote("raised", fail=True))
except ValueError:
    pass
ray.get(ended.remote("ended"))
actor, kept, killed = (Actor.remote(name) for name in ("actor", "kept", "killed"))
for each in (actor, kept, killed):
    ray.get([each.step.remote(step) for step in range(3)])
ray.kill(killed)
del actor
ray.get(left_open.remote("idle"))
time.sleep(10)  # the worker waits for work meanwhile, and the actor that went out of scope ends
print("idle", read.run("idle").status, flush=True)
ray.get(left_open.remote("last"))
ray.shutdown()
"""


@pytest.fixture(scope="module")
def python() -> Path:
    """The interpreter that has Ray."""
    found = ENVIRONMENT / "bin" / "python"
    if not found.exists():
        subprocess.run([sys.executable, "-m", "venv", ENVIRONMENT], check=True)
    pip = [found, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if subprocess.run([*pip, f"ray=={VERSION}", "-e", CHECKOUT], check=False).returncode:
        pytest.skip(f"ray {VERSION} could not be installed")
    return found


def test_what_tasks_and_actors_leave_open_ends_truly(python: Path) -> None:
    """R9, G7: none is COMPLETED without `finish()`, none FAILED because Ray ended a worker."""
    node = Node()
    try:
        script = node.base / "driver.py"
        script.write_text(DRIVER)
        env = node.env() | {"PYTHONPATH": ""}
        done = subprocess.run(
            [python, script], env=env, cwd=node.base, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        said = done.stdout + done.stderr
        assert "idle TERMINATED" in said
        assert said.count("call run.finish() at the end") == 4, said  # first, second, raised, idle
        ends: dict[str, Any] = {}
        for name in ("first", "second", "raised", "ended", "actor", "kept", "killed", "idle", "last"):
            node.cli("show", name)
            ends[name] = node.ended(name)
        assert {name for name, end in ends.items() if end["status"] == "COMPLETED"} == {"ended", "actor"}
        others = [end for name, end in ends.items() if name not in ("ended", "actor")]
        assert {end["status"] for end in others} == {"TERMINATED"}, [end["verdict"] for end in others]
        assert "left the Run open" in ends["last"]["verdict"]["reason"]
    finally:
        node.close()
