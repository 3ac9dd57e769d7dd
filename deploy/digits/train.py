"""DDP on scikit-learn's digits, with checkpoints, restarts and preemption.

torchrun --nproc-per-node 2 --max-restarts 1 deploy/digits/train.py --epochs 20 --out /tmp/digits

Every rank calls `init()` and gets the same Run; nothing is gated on rank 0 but the checkpoint.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.distributed as dist
from model import Digits, load_digits
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

import pluto_dist as pluto


def main() -> None:
    given = arguments()
    dist.init_process_group("gloo")
    run = pluto.init(project="digits", config=vars(given) | {"world_size": dist.get_world_size()})

    model = DistributedDataParallel(Digits())
    optimizer = torch.optim.Adam(model.parameters(), lr=given.lr)
    images, labels, _, _ = load_digits()
    data = TensorDataset(images, labels)
    sampler: DistributedSampler[tuple[torch.Tensor, ...]] = DistributedSampler(data, shuffle=True)
    batches = DataLoader(data, batch_size=given.batch, sampler=sampler)

    first, step = resume(given.out, model, optimizer)
    for epoch in range(first, given.epochs):
        sampler.set_epoch(epoch)
        for image, label in batches:
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(image), label)
            loss.backward()
            optimizer.step()
            run.log({"loss": loss.item(), "epoch": epoch}, step)
            step += 1
        if dist.get_rank() == 0:
            run.checkpoint(save(given.out, epoch + 1, step, model, optimizer), step)
        if any_rank_is(run.preempted):
            break
    run.finish()
    dist.destroy_process_group()


def any_rank_is(preempted: bool) -> bool:
    """Whether any rank got SIGTERM; all ranks leave the loop after the same epoch, so none waits for ever."""
    asked = torch.tensor(float(preempted))
    dist.all_reduce(asked, dist.ReduceOp.MAX)
    return bool(asked)


def save(out: Path, epoch: int, step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Path:
    """Where the checkpoint is; the rename lets nobody see half a file."""
    state = {"epoch": epoch, "step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    partial, path = out / "partial", out / f"epoch{epoch:04}.pt"
    torch.save(state, partial)
    return partial.rename(path)


def resume(out: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, int]:
    """Epoch and step to go on with: a restarted or requeued job finds its last checkpoint."""
    out.mkdir(parents=True, exist_ok=True)
    found = sorted(out.glob("epoch*.pt"))
    if not found:
        return 0, 0
    state = torch.load(found[-1], weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["epoch"], state["step"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--out", type=Path, default=Path("checkpoints"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
