"""An uploader beside a training: ships finished checkpoints into the Run.

PLUTO_RUN_ID=… python deploy/digits/upload.py --out /tmp/digits
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import pluto_dist as pluto


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("checkpoints"))
    given = parser.parse_args()
    run = pluto.attach(label="uploader", timeout_s=300)
    shipped: set[Path] = set()
    while True:
        ended = run.status != "RUNNING"
        for path in sorted(set(given.out.glob("epoch*.pt")) - shipped):
            epoch = int(path.stem.removeprefix("epoch"))
            run.log({"checkpoint": pluto.Artifact(path), "upload/bytes": path.stat().st_size}, step=epoch)
            shipped.add(path)  # its content is safe: the training may delete it now
        if ended:
            break
        time.sleep(1)
    run.close()


if __name__ == "__main__":
    main()
