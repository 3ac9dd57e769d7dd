"""One rank of a data-parallel training: what `torchrun train.py` runs on every rank.

`init`, `log` and `finish` are called by all ranks alike. Nothing here asks which rank may log or who ends the
Run.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import time
from pathlib import Path

import pluto_dist as pluto
from pluto_dist.cli.demo.job import ledger
from pluto_dist.cli.demo.job.network import Momentum, Network, load_digits, save_network
from pluto_dist.cli.demo.job.torchrun import Peers

BATCH = 16  # on each rank
RATE = 0.01
STEPS = 80  # at least, however slow the machine: then the loss has fallen by half


def main() -> None:
    """Trains for a time, on until it has learned and may end; all ranks end at the same step."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--save-every", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--until", type=Path, required=True, help="it does not end before this file is there")
    parser.add_argument("--checkpoints", type=Path, required=True)
    options = parser.parse_args()
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])

    config = {"batch": BATCH * world, "rate": RATE, "data": "optdigits"}
    run = pluto.init(project="demo", name="digits", config=config, tags="demo")

    peers = Peers.from_env()
    shard = load_digits()[0][rank::world]
    network, optimiser = Network(seed=1), Momentum(RATE)
    batches = random.Random(rank)  # noqa: S311 # reproducible, not secret
    deadline = time.monotonic() + options.seconds

    for step in itertools.count():
        gradient = network.gradient(batches.sample(shard, BATCH))
        optimiser.descend(network, peers.mean(gradient.weights))

        point = {"train/loss": gradient.loss, "train/accuracy": gradient.accuracy}
        run.log(point, step=step)
        ledger.note(run.lease_id, point, step)

        if (step + 1) % options.save_every == 0:
            if rank == 0:
                run.checkpoint(save_network(options.checkpoints, step, network), step)
            over = step + 1 >= STEPS and time.monotonic() > deadline and options.until.exists()
            if peers.any(rank == 0 and over):
                break

    run.finish()


if __name__ == "__main__":
    main()
