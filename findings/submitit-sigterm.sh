#!/bin/sh
# A task of submitit does not end by SIGTERM, which is what SLURM sends at scancel, at a time limit and at a preemption.
. "$(dirname "$0")/setup.sh"
environment submitit==1.5.4
echo 'expected:  SIGTERM ends a task, or raises in it'

cat >job.py <<'PY'
import os, signal, time, submitit

def train():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(1)
    return "came to its end"

if __name__ == "__main__":
    executor = submitit.LocalExecutor(folder="jobs")
    executor.update_parameters(timeout_min=5)
    job = executor.submit(train)
    try:
        print("result:", job.result())
    except Exception as error:
        print("result:", type(error).__name__)
    print("log:", " ".join(line for line in job.stderr().splitlines() if "SIGTERM" in line)[-60:])
PY
python job.py >out 2>&1
grep -q 'result: came to its end' out || changed "$(tr '\n' ' ' <out)"
grep -q 'Bypassing signal SIGTERM' out || changed "$(tr '\n' ' ' <out)"
seen "$(grep -o 'Bypassing signal SIGTERM' out); the task $(sed -n 's/^result: //p' out)"
