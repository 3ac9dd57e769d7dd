"""An uploader beside a training: ships finished checkpoints to another place and logs what it did.

PLUTO_RUN_ID=… python deploy/digits/upload.py --out /tmp/digits --to /archive/digits
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

import pluto_dist as pluto


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("checkpoints"))
    parser.add_argument("--to", type=Path, required=True)
    given = parser.parse_args()
    given.to.mkdir(parents=True, exist_ok=True)
    run = pluto.attach(label="uploader", timeout_s=300)
    while True:
        ended = run.status != "RUNNING"
        for path in sorted(given.out.glob("epoch*.pt")):
            target = given.to / path.name
            if not target.exists():
                begun = time.monotonic()
                partial = shutil.copy(path, target.with_suffix(".partial"))
                Path(partial).rename(target)
                run.log({"upload/bytes": path.stat().st_size, "upload/seconds": time.monotonic() - begun})
        if ended:
            break
        time.sleep(1)
    run.close()


if __name__ == "__main__":
    main()
