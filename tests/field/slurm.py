"""A real SLURM of one node, on loopback: slurmctld, slurmd and munge from Debian's packages, only unpacked.

Everything is in one folder, nothing of a SLURM or munge of the machine is touched: own keys, sockets, ports
and configuration. It runs as root, because slurmd does; the jobs are root's too.

What SLURM does with signals depends on how it tracks processes, so `proctrack` is chosen: `linuxproc` knows
children by their parents, `cgroup` by control groups.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests import nobody
from tests.patience import PATIENCE_S, wait_until

PACKAGES = (
    *("slurmctld", "slurmd", "slurm-client", "slurm-wlm-basic-plugins", "libslurm38"),
    *("munge", "libmunge2", "libhwloc15"),
)
LIBRARIES = "usr/lib/x86_64-linux-gnu"
UNPACKED = Path(__file__).parents[2] / ".slurm"

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
PluginDir={plugins}
ProctrackType=proctrack/{proctrack}
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
ReturnToService=2
SlurmctldTimeout=300
SlurmdTimeout=300
KillWait={kill_wait_s}
OverTimeLimit=0
MinJobAge=300
JobRequeue=1
PrologFlags=Alloc
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""
CGROUPS = "CgroupPlugin=autodetect\nCgroupAutomount=no\nIgnoreSystemd=yes\n"


def unpack() -> str:
    """Fetches the packages once; returns why that cannot be, "" if all is there."""
    if (UNPACKED / "usr/sbin/slurmctld-wlm").exists():
        return ""
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        return "SLURM comes from Debian's packages, and there is no apt-get here"
    UNPACKED.mkdir(exist_ok=True)
    fetched = subprocess.run(
        ["apt-get", "download", *PACKAGES], cwd=UNPACKED, capture_output=True, text=True, check=False
    )
    found = sorted(UNPACKED.glob("*.deb"))
    if fetched.returncode or len(found) < len(PACKAGES):
        return f"SLURM's packages could not be had (apt-get update may help): {fetched.stderr[-500:]}"
    for package in found:
        subprocess.run(["dpkg", "-x", package, UNPACKED], check=True)
        package.unlink()
    return ""


class Slurm:
    """One cluster.

    Args:
        folder: for everything; short, because sockets are in it.
        proctrack: see the module.
        kill_wait_s: seconds between SLURM's SIGTERM and SIGKILL.
    """

    def __init__(self, folder: Path, proctrack: str = "linuxproc", kill_wait_s: int = 30) -> None:
        self.folder = folder
        self.host = socket.gethostname().partition(".")[0]
        for name in ("state", "spool", "log"):
            (folder / name).mkdir()
        plugins = UNPACKED / LIBRARIES / "slurm-wlm"
        (folder / "slurm.conf").write_text(
            CONFIG.format(
                host=self.host,
                ports=_free_ports(2),
                folder=folder,
                plugins=plugins,
                proctrack=proctrack,
                kill_wait_s=kill_wait_s,
            )
        )
        (folder / "cgroup.conf").write_text(CGROUPS)
        self._daemons: list[subprocess.Popen[bytes]] = []
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _path(self, env: Mapping[str, str]) -> str:
        return f"{UNPACKED / 'usr/bin'}:{env.get('PATH', os.environ['PATH'])}"

    def env(self) -> dict[str, str]:
        """What SLURM's commands need."""
        folders = (UNPACKED / LIBRARIES, UNPACKED / LIBRARIES / "slurm-wlm")
        return {
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "LD_LIBRARY_PATH": ":".join(map(str, folders)),
            "PATH": self._path({}),
        }

    def run(
        self,
        *command: str,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        check: bool = True,
    ) -> str:
        """Output of one of SLURM's commands."""
        own = self.env() if env is None else {**env, **self.env(), "PATH": self._path(env)}
        done = subprocess.run(
            command,
            env=nobody.environment() | own,
            cwd=cwd,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )
        assert not check or done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def submit(self, *options: str, env: Mapping[str, str], cwd: Path) -> str:
        """Number of a batch job; what it prints goes into a file beside it, `<number>.out`.

        Args:
            options: of sbatch, then the script and its arguments.
            env: of the job.
            cwd: where sbatch is called, and the job runs.
        """
        said = self.run("sbatch", "--parsable", "--output=%j.out", *options, env=env, cwd=cwd)
        return said.strip().partition(";")[0]

    def facts(self, job: str) -> dict[str, str]:
        """What `scontrol show job` says."""
        said = self.run("scontrol", "-o", "show", "job", job)
        return dict(re.findall(r"(\w+)=(\S*)", said))

    def ended(self, job: str) -> str:
        """State of a job when it has ended."""
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED")
        wait_until(lambda: self.facts(job)["JobState"] in over, lambda: f"the end of {self.facts(job)}")
        return self.facts(job)["JobState"]

    def log(self) -> str:
        """For the message of a failed test."""
        parts = [f"--- {path.name}\n{path.read_text()[-4000:]}" for path in self.folder.glob("*.log")]
        return "\n".join(parts)

    def close(self) -> None:
        """Ends all of it, slurmd's steps first."""
        for daemon in reversed(self._daemons):
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def _start(self) -> None:
        key, munge = self.folder / "munge.key", self.folder / "munge.socket"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        self._daemon(
            "munged",
            *("--foreground", "--force", f"--key-file={key}", f"--socket={munge}"),
            *(f"--pid-file={self.folder}/munged.pid", f"--log-file={self.folder}/munged.log"),
            f"--seed-file={self.folder}/munged.seed",
        )
        wait_until(munge.exists, lambda: f"munge\n{self.log()}")
        self._daemon("slurmctld-wlm", "-D")
        self._daemon("slurmd-wlm", "-D", "-N", self.host, "-d", str(UNPACKED / "usr/sbin/slurmstepd-wlm"))
        wait_until(
            lambda: "idle" in self.run("sinfo", "-h", "-o", "%T", check=False),
            lambda: f"an idle node\n{self.run('sinfo', check=False)}\n{self.log()}",
        )

    def _daemon(self, name: str, *arguments: str) -> None:
        with (self.folder / f"{name}.out.log").open("wb") as out:
            command: Sequence[str] = (str(UNPACKED / "usr/sbin" / name), *arguments)
            env = nobody.environment() | self.env()
            process = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
        self._daemons.append(process)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
