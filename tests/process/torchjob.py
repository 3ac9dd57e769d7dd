"""A real torchrun, as the process tests of this folder start it.

Every rank runs one of the trainings below around the lines that a test gives: it trains `STEPS` steps and
logs each, says `ready` with its facts, and then does what the test is about. The agent and its ranks share
one stdout, so lines begin with the rank. `without_pluto` runs the same job with a stand-in that does nothing:
it shows what torchrun itself would have done.

Importing torch is most of what a job costs. The agent is forked from a process that has done so; it really is
torchrun, and its ranks are started as ever. `PLAIN` ranks do without torch, where a story is about their ends
and not about what a peer's death does inside of a collective; `DDP` imports the most.
"""

from __future__ import annotations

import json
import signal
import sys
import textwrap
from typing import Any

from tests.process.harness import PRELUDE, Node, Script, Zygote, wait_until, zygote

STEPS = 4
# Ranks of another attempt may meet the addresses that those of the last one left in the agent's store (seen
# with torch 2.13, in half of the restarts, also without us); a store for each attempt has none.
OWN_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
RUN = "torch.distributed.run"
UNDER = (sys.executable, "-P", "-c", "from pluto_dist.cli.main import app; app()", "run")  # our launcher

RANKS = """
RANK, ATTEMPT = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
WORLD = int(os.environ["WORLD_SIZE"])
WITHOUT = bool(os.environ.get("PD_TEST_WITHOUT"))
if WITHOUT:
    class Nothing:
        role, ended, preempted = "owner", True, False
        def __getattr__(self, name): return lambda *_, **__: None
    pluto.init = lambda *_, **__: Nothing()
    log = facts = lambda *_, **__: {}

def say(word, value=None):
    tell(f"{RANK}:{word}", json.dumps(value))

def cause():
    "The last thing that is done before the end begins."
    say("cause")

def train(run, steps, first=0):
    for n in range(first, first + steps):
        loss = step()
        if run is not None:
            log(run, {"loss": loss, "seen": f"{RANK}.{ATTEMPT}.{n}"}, n)

def train_for_ever(run):
    "Waiting for a peer most of the time, as real jobs are."
    while True:
        step()
"""

PLAIN = """
import itertools, random

meetings = itertools.count()

def meet():
    "Waits for the other ranks of this attempt."
    place = f"{__file__}.{ATTEMPT}.{next(meetings)}"
    open(f"{place}.{RANK}", "w").close()
    while not all(os.path.exists(f"{place}.{rank}") for rank in range(WORLD)): time.sleep(0.01)

leave = meet

def step():
    time.sleep(0.01)
    return random.random()
"""

GLOO = """
import torch, torch.distributed as dist

torch.manual_seed(0)
dist.init_process_group("gloo")
model = torch.nn.Linear(4, 1)
meet = dist.barrier

def step():
    "One step of data-parallel training; gradients meet in a collective."
    loss = model(torch.rand(8, 4)).square().mean()
    loss.backward()
    with torch.no_grad():
        for weight in model.parameters():
            dist.all_reduce(weight.grad)
            weight -= 0.01 / WORLD * weight.grad
            weight.grad = None
    return float(loss.detach())

def leave():
    "In step, and without the model: torch 2.13 aborts in a third of the jobs that just end, also without us."
    global model
    del model
    dist.barrier()
    dist.destroy_process_group()
"""

DDP = (
    GLOO
    + """
from torch.nn.parallel import DistributedDataParallel

model = DistributedDataParallel(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

def step():
    optimizer.zero_grad()
    loss = model(torch.rand(8, 4)).square().mean()
    loss.backward()
    optimizer.step()
    return float(loss.detach())

def leave(leave=leave):
    global optimizer
    del optimizer
    leave()
"""
)


ABORTED = "terminate called without an active exception"


def code_of(torchrun: Script) -> int:
    """Its exit code; torch 2.13 aborts now and then as the interpreter ends, also without this package."""
    code = torchrun.wait()
    if code != -signal.SIGABRT or ABORTED not in torchrun.stderr:
        return code
    return int(any(f"{error}: " in torchrun.stderr for error in ("SignalException", "ChildFailedError")))


class TorchJob:
    """One launch.

    Args:
        node: where.
        body: what each rank does when it can `train`.
        options: of torchrun, before the script.
        wrapper: a shell script that starts the ranks (`--no-python`).
        without_pluto: see above.
        train: what comes before: one of the above, or a framework's trainer.
        born_of: a zygote that can be an agent, too.
    """

    def __init__(
        self,
        node: Node,
        name: str,
        body: str,
        *options: str,
        ranks: int = 2,
        env: dict[str, str] | None = None,
        wrapper: bool = False,
        without_pluto: bool = False,
        under: tuple[str, ...] = (),
        train: str = PLAIN,
        born_of: Zygote | None = None,
    ) -> None:
        self.node, self.ranks = node, ranks
        script = node.base / f"{name}.py"
        script.write_text(PRELUDE + "import json\n" + RANKS + train + textwrap.dedent(body))
        argv = ["-m", RUN, f"--nproc-per-node={ranks}"]
        argv += ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", *options]
        if wrapper:
            wrap = node.base / f"{name}.sh"
            wrap.write_text(f'#!/bin/sh\n"{sys.executable}" -P "$@"\nexit $?\n')
            wrap.chmod(0o700)
            argv += ["--no-python", str(wrap)]
        more = {"PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1", **(env or {})}
        if without_pluto:
            more["PD_TEST_WITHOUT"] = "1"
        argv.append(str(script))
        if under:
            command = [*under, sys.executable, "-P", *argv]
            self.agent: Script = node.keep(Script(name, *node.spawn(command, name, env=more)))
        else:
            self.agent = (born_of or zygote(RUN)).child(node, name, argv, more)

    def told(self, word: str, count: int | None = None) -> list[tuple[int, Any]]:
        """What ranks said after this word, (rank, value), when so many of them have."""
        wanted = self.ranks if count is None else count

        def enough() -> list[tuple[int, Any]] | None:
            found = self._said(word)
            return found if len(found) >= wanted else None

        found = wait_until(enough, lambda: self.agent._report(f"{word} by {wanted} ranks"))
        assert isinstance(found, list)
        return found

    def ready(self) -> dict[int, dict[str, Any]]:
        """Facts of the handles, by rank, when all ranks are there."""
        return dict(self.told("ready"))

    def wait(self) -> int:
        """Exit code of torchrun."""
        return code_of(self.agent)

    def pids(self) -> dict[int, int]:
        """Process ids by rank; of the newest attempt."""
        return dict(self.told("pid"))

    def _said(self, word: str) -> list[tuple[int, Any]]:
        found = []
        for line in tuple(self.agent.lines):
            head, _, rest = line.partition(" ")
            rank, colon, said = head.partition(":")
            if colon and said == word and rank.isdecimal():
                found.append((int(rank), json.loads(rest)))
        return found
