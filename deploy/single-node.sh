#!/bin/sh
# One machine: four ranks, an eval and an uploader beside them; all of them in one Run.
# Needs: pip install torch scikit-learn pluto-dist
set -eu
here=$(cd "$(dirname "$0")" && pwd)
id=digits-$(date +%Y%m%d-%H%M%S)

python "$here/eval_digits.py" --run-id "$id" &
python "$here/upload_checkpoints.py" --run-id "$id" --to archive &
torchrun --nproc-per-node 4 "$here/train_digits.py" --run-id "$id"
wait
