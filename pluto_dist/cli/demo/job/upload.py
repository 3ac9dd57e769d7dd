"""What an uploader does beside a training, short of uploading: size and checksum of every checkpoint."""

from __future__ import annotations

import argparse
import hashlib
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
        checksum = hashlib.sha256(body).hexdigest()[:16]
        point: dict[str, float | str] = {"checkpoint/bytes": len(body), "checkpoint/sha256": checksum}
        run.log(point, step=step)
        ledger.note(run.lease_id, point, step)
    run.close()


if __name__ == "__main__":
    main()
