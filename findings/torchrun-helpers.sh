#!/bin/sh
# torchrun signals the process groups of the ranks that it still has: a helper of a healthy rank gets SIGTERM with its
# rank, a helper of the rank that failed gets nothing and outlives torchrun.
. "$(dirname "$0")/setup.sh"
environment torch==2.13.0 numpy
cleanup() { kill $(cat ./*.pid) 2>/dev/null || :; }
echo 'expected:  the helpers of both ranks are treated alike when rank 1 fails'

cat >helper.py <<'PY'
import os, signal, sys, time
def told(number, frame):
    open(f"{sys.argv[1]}.told", "w").close()
    sys.exit()
signal.signal(signal.SIGTERM, told)
with open(f"{sys.argv[1]}.tmp", "w") as file:
    file.write(str(os.getpid()))
os.rename(f"{sys.argv[1]}.tmp", f"{sys.argv[1]}.pid")
time.sleep(600)
PY
cat >rank.py <<'PY'
import os, subprocess, sys, time
rank = os.environ["RANK"]
subprocess.Popen([sys.executable, "helper.py", f"helper{rank}"])
while not all(os.path.exists(f"helper{number}.pid") for number in range(2)):
    time.sleep(0.05)
if rank == "1":
    sys.exit(1)
time.sleep(600)
PY
if torchrun --standalone --nproc-per-node 2 rank.py >out 2>&1; then changed 'torchrun ended well'; fi
sleep 2
[ -e helper0.told ] || changed 'the helper of the healthy rank got no SIGTERM'
if [ -e helper1.told ] || ! kill -0 "$(cat helper1.pid)" 2>/dev/null; then changed 'the helper of the failed rank ended too'; fi
seen 'torchrun is gone; the helper of rank 0 got SIGTERM, that of rank 1 got nothing and lives on'
