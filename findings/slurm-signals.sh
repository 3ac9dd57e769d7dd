#!/bin/sh
# SLURM with proctrack/cgroup: scancel sends SIGTERM to the process of a task and to none below it. With a shell in
# between the program gets none and is gone at once; a helper of a task gets none either.
# A real SLURM of one node on loopback, as root.
. "$(dirname "$0")/setup.sh"
[ "$(id -u)" = 0 ] || cannot 'slurmd runs as root'
[ -d /sys/fs/cgroup/freezer ] || [ -e /sys/fs/cgroup/cgroup.controllers ] || cannot 'there are no control groups'
debian slurmctld slurmd slurm-client slurm-wlm-basic-plugins libslurm38 munge libmunge2 libhwloc15
daemons=''
cleanup() {
    for pid in $daemons; do kill "$pid" 2>/dev/null || :; done
    wait
}
echo 'expected:  a program, the same below a shell, and a helper get SIGTERM, and KillWait to end'

lib="$debs/usr/lib/x86_64-linux-gnu"
export LD_LIBRARY_PATH="$lib:$lib/slurm-wlm" SLURM_CONF="$here/slurm.conf" PATH="$debs/usr/bin:$PATH"
host=$(hostname -s)
set -- $(python3 -c 'import socket
for s in [socket.socket() for _ in range(2)]: s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat >slurm.conf <<CONF
ClusterName=finding
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort=$1
SlurmdPort=$2
AuthType=auth/munge
AuthInfo=socket=$here/munge
CredType=cred/munge
StateSaveLocation=$here/state
SlurmdSpoolDir=$here/spool
SlurmctldPidFile=$here/slurmctld.pid
SlurmdPidFile=$here/slurmd.pid
PluginDir=$lib/slurm-wlm
ProctrackType=proctrack/cgroup
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
KillWait=5
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=1 State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
echo 'IgnoreSystemd=yes' >cgroup.conf
mkdir state spool
head -c 128 /dev/urandom >munge.key
chmod 600 munge.key
start() {
    "$debs/usr/sbin/$@" >"$here/$1.log" 2>&1 &
    daemons="$! $daemons"
}
start munged --foreground --force --key-file="$here/munge.key" --socket="$here/munge" --pid-file="$here/munged.pid" \
    --log-file="$here/munged.out" --seed-file="$here/munged.seed"
while [ ! -S munge ]; do sleep 0.1; done
start slurmctld-wlm -D
start slurmd-wlm -D -N "$host" -d "$debs/usr/sbin/slurmstepd-wlm"
for _ in $(seq 300); do sinfo -h -o %T 2>/dev/null | grep -q idle && break; sleep 0.2; done
sinfo -h -o %T | grep -q idle || cannot "no idle node: $(tail -n 1 slurmctld-wlm.log)"

cat >probe.py <<'PY'
import signal, sys, time
name = sys.argv[1]
def told(number, frame):
    open(f"{name}.told", "w").close()
signal.signal(signal.SIGTERM, told)
open(f"{name}.ready", "w").close()
while True:
    time.sleep(0.05)
    open(f"{name}.alive", "w").write(str(time.time()))
PY
probe="$(command -v python3) $here/probe.py"
trial() { # name, batch line; says how long the program lived on, and whether it got SIGTERM
    printf '#!/bin/sh\ncd %s\n%s\n' "$here" "$2" >job.sh
    job=$(sbatch --parsable --output=/dev/null job.sh)
    while [ ! -e "$1.ready" ]; do sleep 0.1; done
    sleep 1
    at=$(date +%s.%N)
    scancel "$job"
    for _ in $(seq 150); do [ -z "$(squeue -h -j "$job" 2>/dev/null)" ] && break; sleep 0.2; done
    sleep 1
    echo "$1: $([ -e "$1.told" ] && echo SIGTERM || echo none), $(python3 -c "print(f'{max(0, $(cat "$1.alive") - $at):.0f}')") s" >>out
}
trial program "srun $probe program"
trial shell "srun sh -c '$probe shell; true'"
trial helper "srun sh -c '$probe helper & exec $probe main'"
grep -q '^program: SIGTERM, [3-9] s' out && grep -q '^shell: none, 0 s' out && grep -q '^helper: none, [3-9] s' out ||
    changed "$(tr '\n' ';' <out)"
seen "signal before the end, and life after scancel: $(tr '\n' ';' <out)"
