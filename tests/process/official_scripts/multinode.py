"""One process on each node, all with the same PLUTO_RUN_ID; the training would be behind a process group."""

import os
import sys

import pluto

rank = int(os.environ.get("RANK", "0"))
nodes = int(os.environ.get("NUM_NODES", "1"))
run_id = os.environ.get("PLUTO_RUN_ID")
if not run_id:
    sys.exit("PLUTO_RUN_ID is not set")

run = pluto.init(
    project="multinode",
    name="ddp-training",
    run_id=run_id,
    config={"num_nodes": nodes},
)
if run.resumed:
    print("joined", run.id, flush=True)
print("opened", run.settings.url_view, flush=True)
for step in range(5):
    run.log(
        {f"loss/node{rank}": 1.0 - step * 0.1 - rank * 0.01, f"throughput/node{rank}": 1000 + step}, step=step
    )
print("logged", flush=True)
sys.stdin.readline()  # all nodes have logged, as behind a barrier
run.finish()
