#!/bin/sh
# torchrun --max-restarts with gloo: the store outlives the attempt, and ranks of the next one read addresses of dead peers.
. "$(dirname "$0")/setup.sh"
environment torch==2.13.0 numpy
echo 'expected:  rank 1 fails once, all three ranks are started again, and the second attempt ends well'

cat >rank.py <<'PY'
import datetime, os, time
import torch.distributed as dist
dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=6))
dist.barrier()
if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    if os.environ["RANK"] == "1":
        raise ValueError("once")
    while True:
        dist.barrier()
        time.sleep(0.05)
dist.barrier()
PY
launch() {
    torchrun --standalone --nproc-per-node 3 --max-restarts 1 rank.py >out 2>&1
}
failed=0
for try in 1 2 3 4; do
    launch || { failed=$((failed + 1)); grep -ho 'Gloo connectFullMesh failed\|timed out connecting\|Connect timeout' out | sort -u | tr '\n' ' ' >why; }
done
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
mended=0
for try in 1 2 3; do launch && mended=$((mended + 1)); done
[ "$failed" -gt 0 ] || changed 'four of four second attempts ended well'
[ "$mended" = 3 ] || changed "with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 only $mended of 3 ended well"
seen "$failed of 4 second attempts fail ($(cat why)); with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 none of 3"
