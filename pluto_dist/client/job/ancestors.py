"""Facts about this process and its ancestors, for job detection (R4).

Read once per `init()`: on Linux from /proc (three small files a process), elsewhere by psutil. Of
environments only the launchers' variables are read. The chain of ancestors ends where a process cannot be
seen: at the top of the pid namespace, or when a parent dies while it is read.

One ancestor may keep signals from the training. At `scancel`, a time limit or a preemption SLURM sends
SIGTERM to the processes that it has started itself, one for each task, and to none below them (22.05 with
proctrack/cgroup, seen). A shell there gets the signal, passes it on to nobody and ends, and with the last
task everything in the step is killed: the training cannot save, and its Run ends by a SIGKILL. Launchers that
pass signals on do no harm.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath

import msgspec

from pluto_dist.client.job.detect import LAUNCH_VARIABLES, AncestorFacts, ProcessFacts
from pluto_dist.client.runs import RUNS
from pluto_dist.client.tasks import parent_pid
from pluto_dist.core.values.ids import Identity
from pluto_dist.host import identity as procfs

MAX_ANCESTORS = 64

_LAUNCH_NAMES = frozenset(map(os.fsencode, LAUNCH_VARIABLES))
_PYTHON = re.compile(r"(python|pypy)[0-9.]*")
_OPTIONS_WITH_VALUE = ("-X", "-W")
_RDZV_ID = ("--rdzv-id", "--rdzv_id")
_POOL_MARKS = ("--multiprocessing-fork", "from multiprocessing.forkserver", "loky.backend.popen_loky")
# Of a Python program the name of its module or script.
_PASS_ON = frozenset(
    {"torchrun", "torch.distributed.run", "torch.distributed.launch", "pluto-dist", "pluto_dist"}
    | {"accelerate", "deepspeed", "mpirun", "mpiexec", "orterun", "prterun", "hydra_pmi_proxy"}
)


def read_process(identity: Identity) -> ProcessFacts:
    """Facts about this process; the identity is the caller's."""
    return ProcessFacts(
        identity=identity,
        environ=_own_environ(),
        notebook=_in_notebook(),
        pool_parent=parent_pid(),
        forked_from=RUNS.inherited_from(),
        group=process_group(),
    )


def read_ancestors(identity: Identity) -> tuple[AncestorFacts, ...]:
    """Facts about the ancestors, parent first.

    Args:
        identity: this process; its boot and pid namespace are those of every ancestor it can see.
    """
    read = _from_proc if _on_linux() else _from_psutil
    return tuple(read(identity))


def program_of(comm: str, args: Sequence[str]) -> str:
    """Name of the program that a process runs; for Python, of its script or module."""
    if not args or not args[0]:
        return comm
    name = PurePath(args[0].partition(": ")[0]).name.lstrip("-")  # "sshd: user@pts/0", "-bash"
    if not _PYTHON.fullmatch(name):
        return name
    rest = iter(args[1:])
    for arg in rest:
        if arg == "-m":
            return next(rest, "")
        if arg in _OPTIONS_WITH_VALUE:
            next(rest, None)
        elif arg == "-c" or not arg.startswith("-"):
            return PurePath(arg).name.removesuffix(".py")
    return name


def is_pooled(args: Sequence[str]) -> bool:
    """Whether the command line is that of a child that starts anew, or of the server that forks such ones."""
    return any(mark in arg for arg in args for mark in _POOL_MARKS)


def rdzv_id_of(args: Sequence[str]) -> str:
    """What a torchrun was given as its id; the last one counts, "" if there is none."""
    found = ""
    for place, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if name in _RDZV_ID:
            found = value if equals else next(iter(args[place + 1 :]), "")
    return found


def _on_linux() -> bool:
    return sys.platform == "linux"


def _from_proc(identity: Identity) -> Iterator[AncestorFacts]:
    if not procfs.shows_own_namespace():
        return  # the numbers in it would be those of strangers
    pid = os.getppid()
    for _ in range(MAX_ANCESTORS):
        try:
            stat = procfs.read(pid, "stat")
            args = procfs.read(pid, "cmdline")[:4096]
        except OSError:  # 0 is the namespace's end; gone, or hidden by hidepid
            return
        comm, _, fields = stat.partition(b"(")[2].rpartition(b")")
        parent, start = int(fields.split()[1]), int(fields.split()[19])
        words = os.fsdecode(args).split("\0")
        yield AncestorFacts(
            identity=Identity(identity.boot_id, identity.pid_ns, pid, start, host=identity.host),
            program=program_of(os.fsdecode(comm), words),
            environ=_environ_of(pid),
            pooled=is_pooled(words),
            rdzv_id=rdzv_id_of(words),
        )
        pid = parent


def _environ_of(pid: int | str) -> Mapping[str, str] | None:
    try:
        raw = procfs.read(pid, "environ")
    except OSError:  # another user's process, or it has just ended
        return None
    entries = (entry.partition(b"=") for entry in raw.split(b"\0"))
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in entries if name in _LAUNCH_NAMES}


def _from_psutil(identity: Identity) -> Iterator[AncestorFacts]:
    import psutil  # type: ignore[import-untyped,unused-ignore]  # has no types of its own

    try:
        for parent in psutil.Process().parents()[:MAX_ANCESTORS]:
            facts = parent.as_dict(["create_time", "name", "cmdline", "environ"])  # None where it is refused
            start = int((facts["create_time"] or 0) * 100)
            yield AncestorFacts(
                identity=Identity(identity.boot_id, identity.pid_ns, parent.pid, start, host=identity.host),
                program=program_of(facts["name"] or "", facts["cmdline"] or []),
                environ=_launch_variables(facts["environ"]),
                pooled=is_pooled(facts["cmdline"] or []),
                rdzv_id=rdzv_id_of(facts["cmdline"] or []),
            )
    except psutil.Error:
        return


def _own_environ() -> Mapping[str, str]:
    if _on_linux():
        return _environ_of("self") or {}
    import psutil

    return _launch_variables(psutil.Process().as_dict(["environ"])["environ"]) or {}


def _launch_variables(environ: Mapping[str, str] | None) -> Mapping[str, str] | None:
    if environ is None:
        return None
    return {name: environ[name] for name in LAUNCH_VARIABLES & environ.keys()}


def _in_notebook() -> bool:
    if parent_pid() is not None:
        return False  # a forked child of a kernel is none
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


def process_group() -> tuple[int, int] | None:
    """Rank and size of the default process group; torch is looked up, never imported."""
    distributed = sys.modules.get("torch.distributed")
    try:
        if distributed is None or not (distributed.is_available() and distributed.is_initialized()):
            return None
        rank, size = int(distributed.get_rank()), int(distributed.get_world_size())
    except (
        AttributeError,
        ImportError,
        RuntimeError,
        ValueError,
    ):  # it is just being imported, or taken down
        return None
    return (rank, size) if 0 <= rank < size and size > 1 else None


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
