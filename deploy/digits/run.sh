#!/bin/sh
# One machine: training on all ranks, evaluation and upload beside it, one Run.
#   deploy/digits/run.sh [FOLDER] [arguments of train.py]
# Needs: pip install pluto-dist torch scikit-learn
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-/tmp/digits}
[ $# -gt 0 ] && shift

# One name for all processes. With the same name again, the same Run goes on.
export PLUTO_RUN_ID="${PLUTO_RUN_ID:-digits-$(date +%Y%m%d-%H%M%S)}"

python "$here/evaluate.py" &
mkdir -p "$out"
pluto-dist upload "$PLUTO_RUN_ID" --watch "$out" --pattern 'epoch*.pt' --name checkpoint --timeout 300 &

# A restarted attempt would look for its peers at the addresses of the one before (torch 2.6 to 2.13, gloo).
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1

# The ranks own the Run: rank 0 does, its exit and theirs decide the final status.
status=0
torchrun --standalone --nproc-per-node "${RANKS:-2}" --max-restarts 1 "$here/train.py" --out "$out" "$@" || status=$?
wait
exit $status
