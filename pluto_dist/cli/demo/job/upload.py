"""An uploader beside a training: ships every checkpoint, and logs its size and checksum."""

from __future__ import annotations

import argparse
from pathlib import Path

import pluto_dist as pluto
from pluto_dist.cli.demo.job import ledger, network


def main() -> None:
    """Ships each checkpoint as it comes, to the last one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run_id")
    options = parser.parse_args()

    run = pluto.attach(options.run_id, label="uploader")
    for saved in run.checkpoints():
        path = Path(saved.path)
        body = path.read_bytes()
        checksum = network.checksum(body)
        point: dict[str, float | str] = {"checkpoint/bytes": len(body), "checkpoint/sha256": checksum}
        run.log({**point, "checkpoint": pluto.Artifact(body, caption=path.stem)}, step=saved.step)
        ledger.note(run.lease_id, point, saved.step)
    run.close()


if __name__ == "__main__":
    main()
