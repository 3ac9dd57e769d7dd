"""An uploader beside a training: ships every checkpoint, and logs its size and checksum."""

from __future__ import annotations

import argparse
from pathlib import Path

import pluto_dist as pluto
from pluto_dist.cli.demo.job import checkpoints, ledger


def main() -> None:
    """Follows the checkpoints to the last one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run_id")
    parser.add_argument("--checkpoints", type=Path, required=True)
    options = parser.parse_args()

    run = pluto.attach(options.run_id, label="uploader")
    for step, path in checkpoints.follow(options.checkpoints):
        body = path.read_bytes()
        checksum = checkpoints.checksum(body)
        point: dict[str, float | str] = {"checkpoint/bytes": len(body), "checkpoint/sha256": checksum}
        run.log({**point, "checkpoint": pluto.Artifact(body, caption=path.stem)}, step=step)
        ledger.note(run.lease_id, point, step)
    run.close()


if __name__ == "__main__":
    main()
