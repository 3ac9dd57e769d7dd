#!/bin/sh
# Ray: what is registered with atexit runs for an actor that goes out of scope, and for no task and no actor at
# ray.shutdown(); one process serves task after task.
. "$(dirname "$0")/setup.sh"
environment ray==2.60.0
echo 'expected:  atexit functions of tasks and actors run when their processes end'

cat >driver.py <<'PY'
import os, time
import ray

def register(name):
    import atexit
    atexit.register(lambda: open(f"{os.environ['PLACE']}/{name}.ran", "w").close())
    return os.getpid()

ray.init(num_cpus=1, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
task = ray.remote(register)

@ray.remote(num_cpus=0)
class Actor:
    def call(self, name):
        return register(name)

processes = {ray.get(task.remote(f"task{number}")) for number in range(3)}
dropped, kept = Actor.remote(), Actor.remote()
ray.get([dropped.call.remote("dropped"), kept.call.remote("kept")])
del dropped
time.sleep(5)
ray.shutdown()
time.sleep(3)
print(f"{len(processes)} process for 3 tasks; ran:", *sorted(n[:-4] for n in os.listdir(".") if n.endswith(".ran")))
PY
PLACE="$here" python driver.py >out 2>err || changed "$(tail -n 1 err)"
[ "$(cat out)" = '1 process for 3 tasks; ran: dropped' ] || changed "$(cat out)"
seen "$(cat out)"
