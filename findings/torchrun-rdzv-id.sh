#!/bin/sh
# torchrun on one node replaces the --rdzv-id that it was given by a random one, and says nothing of it.
. "$(dirname "$0")/setup.sh"
environment torch==2.13.0 numpy
echo 'expected:  two launches with --rdzv-id job7 tell their ranks TORCHELASTIC_RUN_ID=job7'

cat >rank.py <<'PY'
import os
print("run id", os.environ["TORCHELASTIC_RUN_ID"])
PY
for number in 1 2; do
    torchrun --rdzv-id job7 --nproc-per-node 1 rank.py >"plain$number" 2>"err$number"
done
torchrun --rdzv-id job7 --master-port 29731 --nproc-per-node 1 rank.py >port 2>>err1
grep -q 'run id job7' port || changed "with --master-port: $(cat port)"
if grep -q 'run id job7' plain1 plain2; then changed "$(cat plain1 plain2)"; fi
if cmp -s plain1 plain2; then changed 'both have one id'; fi
if grep -qi 'rdzv.id' err1 err2; then changed "it says so: $(grep -i 'rdzv.id' err1 err2)"; fi
seen "$(cat plain1), $(cat plain2), and no word about job7; with --master-port: $(cat port)"
