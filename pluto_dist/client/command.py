"""A command that runs in its parent's place: same terminal, same process group, same signals, same exit.

All signals of this process are blocked and waited for in one place (`sigwaitinfo`), so nothing is lost, no
handler runs, and it works as pid 1 of a container: what is sent to us goes to the command, what is orphaned
is reaped. The terminal's own signals (Ctrl-C) reach the command without us.
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable, Mapping
from typing import NoReturn

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
        """Its wait status. Meanwhile signals are passed on; `on_signal` is told of each before."""
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
        """Collects the dead: the command, and as pid 1 whoever else was left to us."""
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
    """The command takes the place of this process.

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
