"""What stands between a task of SLURM and the training, and keeps signals from it.

At `scancel`, a time limit or a preemption SLURM sends SIGTERM to the processes that it has started itself,
one for each task, and to none below them (22.05 with proctrack/cgroup, seen). A shell there gets the signal,
passes it on to nobody and ends, and with the last task everything in the step is killed: the training cannot
save, and its Run ends by a SIGKILL. Launchers that pass signals on do no harm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from pluto_dist.client.job.detect import AncestorFacts
from pluto_dist.core.values.ids import Identity

# Of a Python program the name of its module or script.
_PASS_ON = frozenset(
    {"torchrun", "torch.distributed.run", "torch.distributed.launch", "pluto-dist", "pluto_dist"}
    | {"accelerate", "deepspeed", "mpirun", "mpiexec", "orterun", "prterun", "hydra_pmi_proxy"}
)


class Wrapper(msgspec.Struct, frozen=True):
    """The process of a SLURM task, above this one.

    Attributes:
        program: which it runs.
        pid: of the process.
    """

    program: str
    pid: int

    @property
    def advice(self) -> str:
        """What follows, and what to do."""
        return (
            f"the process of this SLURM task is {self.program!r} (pid {self.pid}), and SLURM's SIGTERM "
            "(scancel, time limit, preemption) reaches that one alone: this process is killed without a "
            "signal before. "
            "Start the training with `exec` in the wrapper, or the step with `srun pluto-dist run --`"
        )


def wrapper_above(
    env: Mapping[str, str], here: Identity, ancestors: Sequence[AncestorFacts], parents: Sequence[Identity]
) -> Wrapper | None:
    """The task's process, where SLURM's signals end in it; None where they arrive or this is no task.

    Args:
        env: the environment; in an interactive shell of a step a person is asked, and no signal.
        here: this process.
        ancestors: parent first.
        parents: those of them of whose program this process is a part.
    """
    task = env.get("SLURM_TASK_PID", "").strip()
    if not task.isdecimal() or "SLURM_PTY_PORT" in env:
        return None
    if int(task) == here.pid or int(task) in (parent.pid for parent in parents):
        return None
    above = next((each for each in ancestors if each.identity.pid == int(task)), None)
    if above is None or above.program in _PASS_ON:  # None: the variables were inherited by something else
        return None
    return Wrapper(above.program or "?", above.identity.pid)
