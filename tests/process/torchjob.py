"""A real torchrun with a real DDP model (gloo, CPU), as the process tests of this folder start it.

Every rank runs `TRAIN` around the lines that a test gives: it trains `STEPS` steps and logs each, says
`ready` with its facts, and then does what the test is about. The agent and its ranks share one stdout, so
lines begin with the rank. `without_pluto` runs the same job with a stand-in that does nothing: it shows what
torchrun itself would have done.
"""

from __future__ import annotations

import json
import sys
import textwrap
import time
from collections import Counter
from typing import Any

from tests.process.harness import PRELUDE, Node, Script, wait_until

STEPS = 4
# Ranks of another attempt may meet the addresses that those of the last one left in the agent's store (seen
# with torch 2.13, in half of the restarts, also without us); a store for each attempt has none.
OWN_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
START_S = 60.0  # importing torch in all ranks, on a machine with other work to do

RANKS = """
RANK, ATTEMPT = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
WITHOUT = bool(os.environ.get("PD_TEST_WITHOUT"))
if WITHOUT:
    class Nothing:
        role, ended = "owner", True
        def __getattr__(self, name): return lambda *_, **__: None
    pluto.init = lambda *_, **__: Nothing()
    log = facts = lambda *_, **__: {}

def say(word, value=None):
    tell(f"{RANK}:{word}", json.dumps(value), time.monotonic())

def cause():
    "The last thing that is done before the end begins."
    say("cause")
"""

TRAIN = """
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

torch.manual_seed(0)
dist.init_process_group("gloo")
model = DistributedDataParallel(torch.nn.Linear(4, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

def step():
    optimizer.zero_grad()
    loss = model(torch.rand(8, 4)).square().mean()
    loss.backward()
    optimizer.step()
    return float(loss.detach())

def train(run, steps, first=0):
    for n in range(first, first + steps):
        loss = step()
        if run is not None:
            log(run, {"loss": loss, "seen": f"{RANK}.{ATTEMPT}.{n}"}, n)

def leave():
    "In step, and without the model: torch 2.13 aborts in a third of the jobs that just end, also without us."
    global model, optimizer
    del model, optimizer
    dist.barrier()
    dist.destroy_process_group()

def train_for_ever(run):
    "Stuck in a collective for most of the time, as real jobs are."
    while True:
        step()
"""


class TorchJob:
    """One launch.

    Args:
        node: where.
        body: what each rank does after `train`.
        options: of torchrun, before the script.
        wrapper: a shell script that starts the ranks (`--no-python`).
        without_pluto: see above.
        train: what comes before; `TRAIN`, or a framework's trainer.
    """

    def __init__(
        self,
        node: Node,
        name: str,
        body: str,
        *options: str,
        ranks: int = 3,
        env: dict[str, str] | None = None,
        wrapper: bool = False,
        without_pluto: bool = False,
        under: tuple[str, ...] = (),
        train: str = TRAIN,
    ) -> None:
        self.node, self.ranks = node, ranks
        script = node.base / f"{name}.py"
        script.write_text(PRELUDE + "import json\n" + RANKS + train + textwrap.dedent(body))
        argv = [*under, sys.executable, "-P", "-m", "torch.distributed.run", f"--nproc-per-node={ranks}"]
        argv += ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", *options]
        if wrapper:
            wrap = node.base / f"{name}.sh"
            wrap.write_text(f'#!/bin/sh\n"{sys.executable}" -P "$@"\nexit $?\n')
            wrap.chmod(0o700)
            argv += ["--no-python", str(wrap)]
        more = {"PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1", **(env or {})}
        if without_pluto:
            more["PD_TEST_WITHOUT"] = "1"
        self.agent: Script = node.keep(Script(name, *node.spawn([*argv, str(script)], name, env=more)))

    def told(self, word: str, count: int | None = None, within_s: float = START_S) -> list[tuple[int, Any]]:
        """What ranks said after this word, (rank, value), when so many of them have."""
        wanted = self.ranks if count is None else count

        def enough() -> list[tuple[int, Any]] | None:
            found = self._said(word)
            return found if len(found) >= wanted else None

        found = wait_until(enough, self.agent._report(f"{word} by {wanted} ranks"), within_s)
        assert isinstance(found, list)
        return found

    def ready(self, within_s: float = START_S) -> dict[int, dict[str, Any]]:
        """Facts of the handles, by rank, when all ranks are there."""
        return dict(self.told("ready", within_s=within_s))

    def caused_at(self) -> float:
        """Monotonic time of the first cause, as the rank took it."""
        return min(float(line.split()[-1]) for line in self.agent.lines if line.split(" ")[0][1:] == ":cause")

    def wait(self, within_s: float = START_S) -> tuple[int, float]:
        """Exit code of torchrun, and the seconds since the cause."""
        code = self.agent.wait(within_s)
        ended = time.monotonic()
        has_cause = any(line.split(" ")[0].endswith(":cause") for line in self.agent.lines)
        return code, ended - self.caused_at() if has_cause else 0.0

    def pids(self) -> dict[int, int]:
        """Process ids by rank; of the newest attempt."""
        return dict(self.told("pid"))

    def _said(self, word: str) -> list[tuple[int, Any]]:
        found = []
        for line in tuple(self.agent.lines):
            head, _, rest = line.partition(" ")
            rank, colon, said = head.partition(":")
            if colon and said == word and rank.isdecimal():
                found.append((int(rank), json.loads(rest.rpartition(" ")[0])))
        return found


def check_points(node: Node, run: str, expected: dict[int, int]) -> None:
    """Every returned `log()` is in the store, and the ranks logged as many steps as expected.

    Args:
        expected: rank -> how many records of it there must be at least.
    """
    assert not node.lost(run)
    seen = Counter(str(point.value).split(".")[0] for point in node.points(run) if point.logged_as == "seen")
    assert {int(rank): count for rank, count in seen.items()} == expected, node.points(run)
