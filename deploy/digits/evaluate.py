"""Evaluation beside a training: looks at every checkpoint, logs into the same Run, ends with it.

PLUTO_RUN_ID=… python deploy/digits/evaluate.py --out /tmp/digits

It is a side: whatever becomes of it, the training's status is not its business.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from model import Digits, load_digits

import pluto_dist as pluto


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("checkpoints"))
    given = parser.parse_args()
    run = pluto.attach(label="eval", timeout_s=300)
    _, _, images, labels = load_digits()
    model, seen = Digits(), set[Path]()
    while True:
        ended = run.status != "RUNNING"  # asked before looking, so that the last checkpoint is not missed
        for path in sorted(set(given.out.glob("epoch*.pt")) - seen):
            seen.add(path)
            state = torch.load(path, weights_only=True)
            model.load_state_dict(
                {name.removeprefix("module."): each for name, each in state["model"].items()}
            )
            with torch.no_grad():
                right = (model(images).argmax(1) == labels).float().mean().item()
            run.log({"eval/accuracy": right}, state["step"])
        if ended:
            break
        time.sleep(1)
    run.close()


if __name__ == "__main__":
    main()
