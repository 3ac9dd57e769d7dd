#!/bin/sh
# torchrun's "Root Cause (first observed failure)" can be a victim: of the ranks that end between two of its looks it
# names the lowest, whatever ended first.
. "$(dirname "$0")/setup.sh"
environment torch==2.13.0 numpy
echo 'expected:  rank 1, killed by SIGKILL, is the root cause; rank 0 exits half a second later, as a victim does'

cat >rank.py <<'PY'
import os, signal, sys, time
if os.environ["RANK"] == "1":
    with open("killed.tmp", "w") as file:
        file.write(str(os.getpid()))
    os.rename("killed.tmp", "killed")
    os.kill(os.getpid(), signal.SIGKILL)
while not os.path.exists("killed"):
    time.sleep(0.01)
time.sleep(0.5)
sys.exit(1)
PY
if torchrun --standalone --monitor-interval 10 --nproc-per-node 2 rank.py >out 2>&1; then changed 'torchrun ended well'; fi
sed -n '/^Root Cause/,$p' out >cause
grep -q 'rank *: 0' cause || changed "$(tr '\n' ' ' <cause)"
seen "$(grep -o 'rank *: 0' cause | head -n 1 | tr -s ' ') is named, $(grep -o 'exitcode *: [0-9]*' cause | tr -s ' ')"
