"""Looks at every checkpoint and logs into the training's Run; whatever happens here, the training goes on.

python deploy/eval_digits.py --run-id digits-1
"""

import argparse
import time
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

import pluto_dist as pluto


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run-id", required=True)
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
    args = parser.parse_args()

    run = pluto.attach(args.run_id, label="eval", timeout_s=120)
    digits = load_digits()
    images, labels = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    seen: set[Path] = set()
    while True:
        training = run.status == "RUNNING"  # asked before looking, so the last checkpoint is not missed
        for path in sorted(set(args.checkpoints.glob("*.pt")) - seen):
            model.load_state_dict(torch.load(path, weights_only=True))
            right = (model(images).argmax(1) == labels).float().mean()
            run.log({"eval/accuracy": right}, step=int(path.stem))
            seen.add(path)
        if not training:
            break
        time.sleep(1)
    run.close()


if __name__ == "__main__":
    main()
