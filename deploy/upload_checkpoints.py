"""Ships checkpoints away and notes each in the Run.

python deploy/upload_checkpoints.py --run-id digits-1 --to /mnt/archive
"""

import argparse
import shutil
import time
from pathlib import Path

import pluto_dist as pluto


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run-id", required=True)
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
    parser.add_argument("--to", type=Path, required=True)
    args = parser.parse_args()

    args.to.mkdir(parents=True, exist_ok=True)
    with pluto.attach(args.run_id, label="uploader", timeout_s=120) as run:
        shipped: set[str] = set()
        while True:
            training = run.status == "RUNNING"
            for path in sorted(args.checkpoints.glob("*.pt")):
                if path.name not in shipped:
                    shutil.copy2(path, args.to / path.name)
                    run.log({"uploader/bytes": path.stat().st_size}, step=int(path.stem))
                    shipped.add(path.name)
            if not training:
                break
            time.sleep(1)


if __name__ == "__main__":
    main()
