"""`pluto-dist run [--project …] [--name …] [--run-id …] -- CMD…`: a command whose Run is the launcher's.

Put it in front of what starts the job: `pluto-dist run -- torchrun --nproc-per-node 8 train.py`; on several
nodes as the one task of each: `srun --ntasks-per-node=1 pluto-dist run -- torchrun …`. The exit code, or the
signal, is the command's; 127 and 126 as of a shell if it cannot be started.
"""

from __future__ import annotations

import os
import resource
import shlex
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, NoReturn

from pluto_dist.cli.options import Argument, Option, echo
from pluto_dist.client.arguments import Wish, name_of
from pluto_dist.client.interface import Member
from pluto_dist.client.job.detect import is_node_launcher, is_rank
from pluto_dist.client.offline import DisabledRun
from pluto_dist.client.opening import generate_run_id, open_lease
from pluto_dist.client.run import Run
from pluto_dist.client.runs import RUNS
from pluto_dist.core.values.ids import classify_run_id
from pluto_dist.errors import CoordinatorUnavailableError, WaitTimeoutError
from pluto_dist.host.liveness import OomWatch, oom_counter_of
from pluto_dist.host.settings import Settings, as_option, load

NOT_FOUND, NOT_STARTED = 127, 126


def run(
    command: Annotated[list[str], Argument(metavar="CMD", help="The command and its arguments.")],
    project: Annotated[str | None, Option(help="The Run's project.")] = None,
    name: Annotated[str | None, Option(help="The Run's name.")] = None,
    run_id: Annotated[
        str | None, Option(help="The Run to create, or to go on with; default PLUTO_RUN_ID.")
    ] = None,
) -> None:
    """Runs a command and keeps its Run: status by its exit, ranks as workers, everything delivered."""
    if shutil.which(command[0]) is None:
        _cannot_start(command)
    if below_launcher(os.environ):
        become(command)  # the outer one does it all
    if is_rank(os.environ):
        echo(
            "pluto-dist: `run` belongs before the launcher, not behind it: ranks join by themselves", err=True
        )
        become(command)
    given = {"project": project, "run_id": run_id}
    try:
        status = run_command(command, {key: value for key, value in given.items() if value is not None}, name)
    except OSError as error:
        _refuse(f"{command[0]}: {error.strerror}", NOT_STARTED)
    end_like(status)


def _cannot_start(command: list[str]) -> NoReturn:
    """Exits as a shell does, with a message that names similar commands."""
    program = command[0]
    if os.sep in program and Path(program).is_dir():
        _refuse(f"{program}: is a directory", NOT_STARTED)
    if os.sep in program and Path(program).exists():
        _refuse(f"{program}: permission denied; chmod +x it, or name its interpreter before it", NOT_STARTED)
    line = len(command) == 1 and len(program.split()) > 1
    hint = f"; for a shell line: pluto-dist run -- sh -c {shlex.quote(program)}" if line else ""
    _refuse(f"{program}: command not found{hint}", NOT_FOUND)


def _refuse(message: str, code: int) -> NoReturn:
    echo(f"pluto-dist: {message}", err=True)
    raise SystemExit(code)


STOPPING = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})


# No rank owns the Run of a launcher: processes that the command starts are workers (`Claim.launched_by`). The
# exit of the command decides the final status, also if no rank wrote any evidence; evidence of ranks decides
# which failed first. The launcher stays until everything is delivered (R11), and then ends as the command
# did.
#
# Where SLURM starts a launcher on each node, each knows which node it is on, and without PLUTO_RUN_ID none
# makes up an id that the others could not know: so they can have one Run (R12).
#
# The command's output is recorded while no process below records its own (`client/console/capture.py`); the
# coordinator records the node's metrics.
#
# The command runs in its parent's place: same terminal, same process group, same signals, same exit. All
# signals of the launcher are blocked and waited for in one place (`sigwaitinfo`), so none is lost, no handler
# runs, and it works as pid 1 of a container: signals go on to the command, orphans are reaped. The terminal's
# own signals (Ctrl-C) reach the command directly.


def run_command(argv: list[str], given: Mapping[str, object], name: str | None) -> int:
    """Runs a command under a Run of its own; returns its wait status.

    Args:
        argv: the command.
        given: settings of the command line.
        name: of the Run.

    Raises:
        PlutoDistError: the Run cannot be opened as asked; the command was not started.
        OSError: the command cannot be started; the Run says so.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waited_signals())  # before any thread is started
    settings = load(os.environ, given, source=as_option)
    run_id = settings.run_id or (None if is_node_launcher(os.environ) else generate_run_id())
    wish = Wish(
        verb="init",
        role="owner",
        label="launcher",
        name=name_of(name),
        run=classify_run_id(run_id) if run_id else None,
        run_from_env=run_id is not None,
        launcher=True,
    )
    run = open_lease(wish, settings) if settings.mode != "disabled" else None
    if run is None or isinstance(run, DisabledRun):
        return Command(argv, os.environ, before).wait(lambda _: None)
    return Job(RUNS.open()[0], settings).play(
        argv, {**os.environ, **_exported(run, run_id, settings)}, before
    )


def below_launcher(env: Mapping[str, str]) -> bool:
    """Whether another `pluto-dist run` on this node owns the job already."""
    return bool(env.get("PLUTO_DIST_LAUNCHED_BY"))


def _exported(run: Run, run_id: str | None, settings: Settings) -> dict[str, str]:
    """Variables by which all processes of the command find the Run."""
    folder = Path(settings.dir or Path.cwd()).absolute()
    return {
        **_id_of(run, run_id),
        "PLUTO_PROJECT": settings.project,
        "PLUTO_DIR": str(folder),
        "PLUTO_DIST_LAUNCHED_BY": run.lease_id,
    }


def _id_of(run: Run, run_id: str | None) -> dict[str, str]:
    """The variable with the Run's id; none while only a coordinator could give it: the lease is enough."""
    try:
        return {"PLUTO_RUN_ID": run_id or run.run_id}
    except (CoordinatorUnavailableError, WaitTimeoutError):
        return {}


class Job:
    """The command as a job: started, waited for, and its end written as evidence."""

    def __init__(self, run: Member, settings: Settings) -> None:
        self._run = run
        self._settings = settings
        self._stopped = False
        self._oom = OomWatch(oom_counter_of())

    def play(self, argv: list[str], env: Mapping[str, str], mask: set[int]) -> int:
        """Starts the command, waits for it, ends the Run."""
        try:
            command = Command(argv, env, mask)
        except OSError as error:
            message = f"{argv[0]}: {error.strerror}"
            self._run.evidence(kind="exception", type=type(error).__name__, message=message)
            self._run.finish(timeout_s=self._settings.exit_wait_s)
            raise
        status = command.wait(self._signalled)
        self._end(command.pid, status)
        return status

    def _signalled(self, number: int) -> None:
        """Takes a request to stop us as one to stop the job; what follows is its consequence (R10)."""
        if number in STOPPING and not self._stopped:
            self._stopped = True
            self._run.evidence(kind="signal", signal=signal.Signals(number).name)

    def _end(self, pid: int, status: int) -> None:
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            name = _name_of(-code)
            self._run.evidence(kind="signal", signal=name, command_pid=pid, oom=self._was_oom(-code))
        elif code > 0:
            oom = self._was_oom(code - 128)  # what a shell makes of a signal
            self._run.evidence(kind="exit", exit_code=code, command_pid=pid, oom=oom)
        well = code == 0 and not self._stopped
        wait_s = self._settings.sigterm_wait_s if self._stopped else self._settings.exit_wait_s
        self._run.finish(code=0 if well else None, timeout_s=wait_s)

    def _was_oom(self, number: int) -> bool:
        return number == signal.SIGKILL and self._oom.risen()


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


# A crash of this process is its own; stops belong to the shell's job control, for both of us alike.
_OURS = {"SEGV", "BUS", "FPE", "ILL", "TRAP", "ABRT", "SYS", "KILL", "STOP", "TSTP", "TTIN", "TTOU", "CONT"}
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)  # the command gets the default back


def waited_signals() -> set[int]:
    """All signals but those that stay this process's own."""
    ours = {getattr(signal, f"SIG{name}") for name in _OURS if hasattr(signal, f"SIG{name}")}
    return {int(number) for number in signal.valid_signals()} - ours


class Command:
    """One child process.

    Args:
        argv: its command line; the program is looked for in the PATH.
        env: its environment.
        mask: blocked signals that it starts with: ours as they were before `waited_signals` were blocked.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, argv: list[str], env: Mapping[str, str], mask: set[int]) -> None:
        self.pid = os.posix_spawnp(argv[0], argv, env, setsigmask=mask, setsigdef=_IGNORED_BY_PYTHON)

    def wait(self, on_signal: Callable[[int], None]) -> int:
        """Waits for the command's wait status; passes signals on, each after a call of `on_signal`."""
        waited = waited_signals()
        while True:
            info = signal.sigwaitinfo(waited)
            if info.si_signo == signal.SIGCHLD:
                status = self._reap()
                if status is not None:
                    return status
                continue
            on_signal(info.si_signo)
            if info.si_code <= 0:  # by a process; what the kernel sends for the terminal goes to both of us
                os.kill(self.pid, info.si_signo)

    def _reap(self) -> int | None:
        """Collects dead children: the command, and as pid 1 all orphans."""
        anybody = -1 if os.getpid() == 1 else self.pid
        while True:
            try:
                pid, status = os.waitpid(anybody, os.WNOHANG)
            except ChildProcessError:
                return None
            if pid == self.pid:
                return status
            if pid == 0:
                return None


def become(argv: list[str]) -> NoReturn:
    """Replaces this process by the command.

    Raises:
        OSError: it cannot be started.
    """
    for number in _IGNORED_BY_PYTHON:
        signal.signal(number, signal.SIG_DFL)
    os.execvp(argv[0], argv)  # noqa: S606 # no shell is wanted


def end_like(status: int) -> NoReturn:
    """Ends this process as the command ended; a parent sees no difference. Pid 1 can only exit."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        os._exit(code)
    number = -code
    if os.getpid() != 1:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the command has dumped its own
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        os.kill(os.getpid(), number)
    os._exit(128 + number)
