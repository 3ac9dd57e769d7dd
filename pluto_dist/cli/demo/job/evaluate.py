"""An eval beside the training: attaches to its Run, tests every checkpoint, closes.

It logs at the checkpoints' steps, which the training has long passed. Its end is its own: the Run goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pluto_dist as pluto
from pluto_dist.cli.demo.job import ledger, network


def main() -> None:
    """Tests every checkpoint to the last one, unless an argument has it crash before."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run_id")
    parser.add_argument("--label", required=True)
    parser.add_argument("--crash-after", type=int, help="so many checkpoints")
    options = parser.parse_args()

    run = pluto.attach(options.run_id, label=options.label)
    samples = network.load_digits()[1]
    for checkpoint in run.checkpoints():
        loss, accuracy = network.load_network(Path(checkpoint.path)).test(samples)
        point = {"eval/loss": loss, "eval/accuracy": accuracy}
        run.log(point, step=checkpoint.step)
        ledger.note(run.lease_id, point, checkpoint.step)
        if checkpoint.number == options.crash_after:
            raise RuntimeError("this eval was told to crash")
    run.close()


if __name__ == "__main__":
    main()
