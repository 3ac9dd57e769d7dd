"""Data-parallel training on scikit-learn's digits: an ordinary torchrun script with three lines for the Run.

torchrun --nproc-per-node 4 deploy/train_digits.py --run-id digits-1

Needs: pip install torch scikit-learn pluto-dist
"""

import argparse
from pathlib import Path

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import pluto_dist as pluto


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run-id", default=None)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
    args = parser.parse_args()

    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    run = pluto.init(project="digits", run_id=args.run_id, config=vars(args))  # on every rank

    digits = load_digits()
    images = torch.tensor(digits.data, dtype=torch.float32)[rank::world] / 16
    labels = torch.tensor(digits.target)[rank::world]
    model = DistributedDataParallel(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)

    for step in range(args.steps):
        chosen = torch.randint(len(images), (64,))
        loss = nn.functional.cross_entropy(model(images[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.log({"train/loss": loss}, step=step)  # one local write; every rank has a series of its own
        stop = torch.tensor(float(run.preempted))
        dist.all_reduce(stop, op=dist.ReduceOp.MAX)  # all ranks agree before they leave
        if rank == 0 and (step % 50 == 49 or stop):
            args.checkpoints.mkdir(exist_ok=True)
            partial = args.checkpoints / f".{step}.pt"
            torch.save(model.module.state_dict(), partial)
            partial.replace(args.checkpoints / f"{step:06d}.pt")
        if stop:
            break

    dist.destroy_process_group()
    run.finish()


if __name__ == "__main__":
    main()
