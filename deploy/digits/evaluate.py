"""Evaluation beside a training: looks at every checkpoint, logs into the same Run, ends with it.

PLUTO_RUN_ID=… python deploy/digits/evaluate.py

It is a side: whatever becomes of it, the training's status is not its business. Killed and started again it
goes on with the checkpoint that it had not finished; started twice, the two share the work.
"""

from __future__ import annotations

import torch
from model import Digits, load_digits

import pluto_dist as pluto


def main() -> None:
    run = pluto.attach(label="eval", timeout_s=300)
    _, _, images, labels = load_digits()
    model = Digits()
    for checkpoint in run.checkpoints(group="evals"):
        state = torch.load(checkpoint.path, weights_only=True)["model"]
        model.load_state_dict({name.removeprefix("module."): each for name, each in state.items()})
        with torch.no_grad():
            right = (model(images).argmax(1) == labels).float().mean().item()
        run.log({"eval/accuracy": right}, checkpoint.step)
    run.close()


if __name__ == "__main__":
    main()
