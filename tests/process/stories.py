"""Scripts and torchrun jobs around a framework: two go on at a time, since each imports for seconds."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from tests.process.harness import Node, Script, Zygote
from tests.process.torchjob import TorchJob

Stories = dict[str, Future[Any]]


class Told:
    """A script that is over."""

    def __init__(self, process: Script, code: int) -> None:
        self.process, self.code = process, code

    def json(self, word: str) -> Any:
        """What it said after this word."""
        return json.loads(self.text(word))

    def text(self, word: str) -> str:
        """The same, as it said it."""
        (found,) = [line for line in self.process.lines if line.partition(" ")[0] == word]
        return found.partition(" ")[2]


def tell(node: Node, name: str, body: str, born_of: Zygote) -> Told:
    """Runs a script to its end."""
    env = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    script = born_of.child(node, name, node.command(body, name)[-1:], env)
    return Told(script, script.wait())


def tell_job(node: Node, name: str, body: str, train: str, born_of: Zygote) -> tuple[TorchJob, int]:
    """Runs a job of two ranks to its end: the job, the launcher's exit code."""
    job = TorchJob(node, name, body, ranks=2, train=train, born_of=born_of)
    return job, job.wait()


@contextmanager
def told(
    node: Node,
    born_of: Zygote,
    prelude: str,
    scripts: Mapping[str, str],
    job: str,
    jobs: Mapping[str, int | None],
) -> Iterator[Stories]:
    """All scripts and jobs of a module, by their names.

    Args:
        born_of: what has imported the framework.
        prelude: what each of them begins with.
        job: body of the jobs, with places for `{name}` and `{failing_rank}`.
        jobs: the rank that fails, for each.
    """
    with ThreadPoolExecutor(2) as pool:
        made: Stories = {}
        for name, failing_rank in jobs.items():
            body = job.format(name=name, failing_rank=failing_rank)
            made[name] = pool.submit(tell_job, node, name, body, prelude, born_of)
        for name, body in scripts.items():
            made[name] = pool.submit(tell, node, name, prelude + textwrap.dedent(body), born_of)
        yield made


def steps_of(node: Node, run: str) -> dict[str, list[int]]:
    """Steps of each series of a Run, in the order of their points."""
    steps: dict[str, list[int]] = {}
    for point in node.points(run):
        steps.setdefault(point.name, []).append(point.step)
    return steps
