"""Start of a coordinator as no process's child (R3): whether, by which process, and how.

**How.** A short-lived Python without site-packages (8 ms) is started in a session of its own; it takes the
coordinator's lock, spawns the coordinator with clean signals and exits, which orphans the coordinator
(`spawn.py`). All this runs in the trainer, so nothing here forks without exec, runs Python code between fork
and exec, or changes the trainer's own state, whatever its other threads do meanwhile. `/bin/sh` would do too,
but slim containers have none.

Orphans go to the nearest subreaper, else to pid 1 of the pid namespace. If the trainer is that pid 1, the
coordinator becomes its child after all: it ends with the trainer (the kernel kills the namespace), and when
it ends earlier it stays a zombie until the trainer waits for it. A trainer that calls `waitpid(-1)` may then
see a pid it does not know; `subprocess` and `multiprocessing` wait for their own pids only and do not mind.

**By which process.** A ticket in the runtime folder keeps the ranks of a job from trying all at once. The
lock alone ensures that there is one coordinator.

**Whether.** `pluto-dist coordinator stop` leaves a marker in the runtime folder. While it is there, the
absence of a coordinator is no reason to start one: heartbeats and nudges of attached processes go unanswered,
and records stay in the spool. Calls that need a coordinator still get one, or nothing could begin or end:
`init()`, `attach()`, `finish()`, `close()`, `flush()`, `pluto-dist coordinator start` and `finish`. A start
removes the marker.
"""

from __future__ import annotations

import contextlib
import os
import posix
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from pluto_dist.errors import CoordinatorUnavailableError, PlutoDistError
from pluto_dist.host import boot, spawn
from pluto_dist.host.places import Places, make_again, open_private
from pluto_dist.host.spawn import BUSY, LOCK_OPTION

LOG_LIMIT = 5 << 20
SPAWN_WAIT_S = 60.0  # milliseconds, unless the machine has much else to do
TAIL_LINES = 8
LOOK_AGAIN_S = 0.005
TICKET_LIFE_S = 3.0  # by then it is worth a look whether the one who has it got round to a start
BUSY_S = 0.5  # one that is leaving lets go of the lock within this time

# What a coordinator needs to find its interpreter, its certificates and the server. Everything else stays
# behind: rank variables, CUDA_VISIBLE_DEVICES, LD_PRELOAD, PYTHONPATH, the keys of this and other services.
_KEPT = frozenset(
    """
    PATH HOME USER LOGNAME LANG LANGUAGE TZ LD_LIBRARY_PATH DYLD_LIBRARY_PATH VIRTUAL_ENV CONDA_PREFIX
    PYTHONHOME PYTHONNOUSERSITE PYTHONDONTWRITEBYTECODE PYTHONPYCACHEPREFIX PYTHONUTF8 SSL_CERT_FILE
    SSL_CERT_DIR HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY http_proxy https_proxy all_proxy no_proxy
    """.split()  # noqa: SIM905  -- a list that people read
)
_KEPT_PREFIXES = ("LC_", "PLUTO_DIST_")

# glibc raises this limit by itself when it meets batches of a megabyte, and then keeps their memory.
_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(128 << 10)}


class CoordinatorOptions(msgspec.Struct, frozen=True):
    """The coordinator's arguments; `parse(options.arguments())` gives the same options.

    Attributes:
        lock_fd: descriptor of its lock, if it inherits that.
    """

    runtime: Path
    spool: Path
    idle_exit_s: float = 60.0
    lock_fd: int | None = None

    def arguments(self) -> list[str]:
        """The options as arguments; no secret is ever among them."""
        given = [f"--runtime={self.runtime}", f"--spool={self.spool}", f"--idle-exit-s={self.idle_exit_s:g}"]
        return given if self.lock_fd is None else [*given, f"{LOCK_OPTION}{self.lock_fd}"]

    @classmethod
    def parse(cls, arguments: Iterable[str]) -> CoordinatorOptions:
        """Reads what `arguments()` wrote.

        Raises:
            ValueError: an argument is missing, unknown or has a bad value.
        """
        given = dict(argument.removeprefix("--").split("=", 1) for argument in arguments)
        lock_fd = given.pop("lock-fd", None)
        missing = {"runtime", "spool", "idle-exit-s"} ^ set(given)
        if missing:
            raise ValueError(f"coordinator arguments missing or unknown: {', '.join(sorted(missing))}")
        places = Path(given["runtime"]), Path(given["spool"])
        return cls(*places, float(given["idle-exit-s"]), int(lock_fd) if lock_fd is not None else None)


def launch(places: Places, env: Mapping[str, str], *, idle_exit_s: float = 60.0) -> bool:
    """Starts a coordinator and returns when it has been spawned, not when it answers.

    Returns:
        False if there is one already: it serves, starts, or leaves.

    Raises:
        CoordinatorUnavailableError: no process could be started; the text has the last lines of the log.
    """
    options = CoordinatorOptions(places.runtime, places.spool, idle_exit_s)
    try:
        os.close(open_private(places.lock, os.O_RDWR | os.O_CREAT))  # no link, pipe or second name
    except OSError as error:
        raise CoordinatorUnavailableError(
            f"the coordinator's lock {places.lock} cannot be opened: {error}"
        ) from error
    return start_detached(command(options), places.log, environment(env) | _MEMORY, lock=places.lock)


def command(options: CoordinatorOptions, *, search_path: Iterable[str] | None = None) -> list[str]:
    """The coordinator's command line: this interpreter, this very package, a safe import path.

    Without `site`: other packages hook into every start of an interpreter (the official client imports
    itself, 0.25 s), and have no place in the coordinator. Their folders are handed on instead.
    """
    return [*_python(sys.path if search_path is None else search_path), *options.arguments()]


def module_command(module: str, arguments: Iterable[str]) -> list[str]:
    """The command line of another helper process: a module of this very package, as `python -m` runs it."""
    return [*_python(sys.path), boot.MODULE + module, *arguments]


def _python(search_path: Iterable[str]) -> list[str]:
    folders = own_import_path(search_path)
    return [sys.executable, "-S", "-P", boot.__file__, *(boot.OPTION + folder for folder in folders)]


def own_import_path(search_path: Iterable[str]) -> list[str]:
    """The folders of an import path that the interpreter lacks by itself; never relative ones."""
    library = str(Path(os.__file__).parent)
    usual = {library, f"{library}/lib-dynload"}
    return [
        folder
        for folder in dict.fromkeys(search_path)
        if Path(folder).is_absolute() and folder not in usual and Path(folder).exists()
    ]


def environment(env: Mapping[str, str]) -> dict[str, str]:
    """The part of the trainer's environment that a coordinator gets."""
    return {name: value for name, value in env.items() if name in _KEPT or name.startswith(_KEPT_PREFIXES)}


def start_detached(
    arguments: list[str],
    log: Path,
    env: Mapping[str, str],
    *,
    keep: Sequence[int] = (),
    lock: Path | None = None,
) -> bool:
    """Runs a program as no process's child: own session, cwd `/`, umask 077, output appended to `log`.

    Args:
        arguments: the program and its arguments.
        log: a file of the user's own.
        env: its environment.
        keep: descriptors that it inherits under the same numbers; of all others only stdin, stdout, stderr.
        lock: a file that is locked for it from before its start to its end; it gets `--lock-fd=N`.

    Returns:
        False if another process has the lock.

    Raises:
        CoordinatorUnavailableError: as for `launch`.
    """
    if not arguments[0]:
        raise CoordinatorUnavailableError("sys.executable is empty: this Python is embedded in a program")
    try:
        output = _open_log(log)
    except OSError as error:
        raise CoordinatorUnavailableError(f"the coordinator's log {log} cannot be opened: {error}") from error
    try:
        code = _run_spawner(str(lock or ""), arguments, output, env, keep)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CoordinatorUnavailableError(f"the coordinator could not be started: {error}") from error
    finally:
        os.close(output)
    if code not in (0, BUSY):
        raise CoordinatorUnavailableError(
            f"the coordinator could not be started (code {code}); end of {log}:\n{log_tail(log)}",
            log=str(log),
        )
    return code == 0


def claim_start(places: Places) -> bool:
    """Takes the ticket; False if another process has it, and the caller should wait for the socket.

    The ticket keeps the ranks of a job from trying all at once. It is only an economy: when it errs, two try,
    and the lock decides before there is a second coordinator.
    """
    ticket = _ticket(places)
    for _ in range(2):
        try:
            os.close(open_private(ticket, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
            return True
        except FileExistsError:
            if not _is_stale(ticket):
                return False
            ticket.unlink(missing_ok=True)
        except OSError:  # no space for a ticket: start without one
            return True
    return False


def end_start(places: Places) -> None:
    """Gives the ticket back, because the coordinator answers or will not: the next launch need not wait."""
    with contextlib.suppress(OSError):  # its folder is gone, or not ours any more
        _ticket(places).unlink()


def put_off_start(places: Places) -> None:
    """Keeps the ticket for a moment: there is a coordinator; if it is leaving, another try follows soon."""
    soon = time.time() - TICKET_LIFE_S + BUSY_S
    with contextlib.suppress(OSError):
        os.utime(_ticket(places), (soon, soon))


def _run_spawner(
    lock: str, arguments: list[str], output: int, env: Mapping[str, str], keep: Sequence[int]
) -> int:
    kept = ",".join(map(str, keep))
    command = [sys.executable, "-S", "-P", spawn.__file__, lock, kept, *arguments]
    if _subprocess_is_gevents():
        return _spawned(command, output, env, keep)
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        close_fds=bool(keep),  # without: one posix_spawn
        pass_fds=keep,
        env=dict(env),
    ) as spawner:
        try:
            return spawner.wait(SPAWN_WAIT_S)
        except BaseException:
            spawner.kill()
            raise


def _subprocess_is_gevents() -> bool:
    """Whether gevent has replaced what starts processes, and left threads alone: its own works in one."""
    monkey = sys.modules.get("gevent.monkey")
    replaced = monkey is not None and monkey.is_module_patched("subprocess")
    return replaced and monkey is not None and not monkey.is_module_patched("threading")


def _spawned(arguments: list[str], output: int, env: Mapping[str, str], keep: Sequence[int]) -> int:
    """As `subprocess` would, which gevent has emptied, and `os` too: starts a program, waits for it."""
    pid = posix.posix_spawn(
        arguments[0],
        arguments,
        dict(env),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, output, 1),
            (os.POSIX_SPAWN_DUP2, output, 2),
            *((os.POSIX_SPAWN_DUP2, fd, fd) for fd in keep),  # which makes it go over
        ],
    )
    deadline = time.monotonic() + SPAWN_WAIT_S
    while True:
        ended, status = posix.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired(arguments, SPAWN_WAIT_S)
        time.sleep(LOOK_AGAIN_S)


def _open_log(log: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        if log.lstat().st_size > LOG_LIMIT:
            log.replace(log.with_name(log.name + ".1"))
    return open_private(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def log_tail(log: Path) -> str:
    """The last lines of the coordinator's log, for error texts."""
    try:
        lines = log.read_bytes()[-4000:].decode(errors="replace").splitlines()
        return "\n".join(lines[-TAIL_LINES:])
    except OSError as error:
        return f"({error})"


def _ticket(places: Places) -> Path:
    return places.runtime / "starting"


def _is_stale(ticket: Path) -> bool:
    try:
        age = time.time() - ticket.lstat().st_mtime
    except FileNotFoundError:
        return True
    return not 0 <= age < TICKET_LIFE_S  # negative: the clock was set back


def leave(places: Places) -> None:
    """Leaves the marker of `pluto-dist coordinator stop`.

    Raises:
        OSError: the runtime folder cannot be written.
    """
    os.close(open_private(_marker(places), os.O_WRONLY | os.O_CREAT))


def is_left(places: Places) -> bool:
    """Whether the coordinator was stopped by hand, and none was needed since."""
    return _marker(places).exists()


def clear(places: Places) -> None:
    """Removes the marker, because a coordinator is needed again."""
    _marker(places).unlink(missing_ok=True)


def _marker(places: Places) -> Path:
    return places.runtime / "stopped"


def start_if_absent(places: Places, env: Mapping[str, str], *, idle_exit_s: float, needed: bool) -> bool:
    """Starts a coordinator if there is none and no other process is about to start one.

    Args:
        places: of this node; folders that were deleted are made again.
        env: of the calling process.
        idle_exit_s: for the coordinator.
        needed: a call waits for it, so it is started also after `pluto-dist coordinator stop`.

    Returns:
        True if one listens already.

    Raises:
        PlutoDistError: it cannot be started here; the ticket is given back.
    """
    if is_left(places) and not needed:
        return False
    if someone_listens(places.socket):  # it has much to do; another one would not help
        return True
    try:
        make_again(places)
        if claim_start(places):
            clear(places)
            if not launch(places, env, idle_exit_s=idle_exit_s):
                put_off_start(places)
    except PlutoDistError:
        end_start(places)
        raise
    return False


def someone_listens(path: Path) -> bool:
    """Whether a process listens there now; the file alone says nothing, a killed coordinator leaves it."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            probe.connect(str(path))
    except BlockingIOError:  # its queue is full: very much alive
        return True
    except OSError:
        return False
    return True


def widen_affinity() -> int | None:
    """Lets the calling thread run on every CPU that its cpuset allows, and returns how many.

    Launchers pin a rank to a few cores and a child inherits that. Threads that exist already keep theirs, so
    this is called before there are others. None where the platform has no affinity; the old one stays if the
    kernel refuses.
    """
    if not hasattr(os, "sched_setaffinity"):
        return None
    with contextlib.suppress(OSError):  # seccomp; the coordinator also works with few CPUs
        os.sched_setaffinity(0, range(os.sysconf("SC_NPROCESSORS_CONF")))
    return len(os.sched_getaffinity(0))
