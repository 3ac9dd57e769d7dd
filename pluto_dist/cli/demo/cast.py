"""The demo's processes: each in a process group of its own, with a log, and ended with the demo."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pluto_dist.cli.demo.job.torchrun import last_line
from pluto_dist.host.launch import module_command

JOB = "pluto_dist.cli.demo.job."
GRACE_S = 20.0  # more than the launcher gives its ranks

# Of the surroundings, nothing that would make a process look like another job's rank or send it elsewhere.
_FOREIGN = ("PLUTO_", "MLOP_", "SLURM_", "OMPI_", "PMI_", "PMIX_", "TORCHELASTIC_")
_FOREIGN_NAMES = frozenset(
    {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK"}
)


class Cast:
    """Starts, kills and ends them. As a context manager it leaves none behind.

    Args:
        folder: for their logs.
        env: what they get beside the harmless part of this process's environment.
    """

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self._folder = folder
        self._env = {**_harmless(os.environ), **env}
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, module: str, *arguments: object) -> None:
        """Runs one of the programs of `job`."""
        with self._log(name).open("wb") as log:
            self._started[name] = subprocess.Popen(
                command(module, *arguments),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
                process_group=0,  # Ctrl-C comes to the demo, which ends them in order
            )

    def kill(self, name: str) -> None:
        """SIGKILL, if it still lives."""
        self._started[name].kill()

    def running(self) -> list[str]:
        """Names of the processes that have not ended."""
        return [name for name, process in self._started.items() if process.poll() is None]

    def code(self, name: str) -> int | None:
        """Exit code as `subprocess` has it: None while it runs, negative after a signal."""
        return self._started[name].poll()

    def codes(self) -> dict[str, int | None]:
        """Exit codes of all."""
        return {name: process.poll() for name, process in self._started.items()}

    def last_words(self, name: str) -> str:
        """The last line it wrote."""
        return last_line(self._log(name))

    def end(self) -> None:
        """SIGTERM to all that live, SIGKILL to those that do not go; returns when they are gone."""
        alive = [process for process in self._started.values() if process.poll() is None]
        try:
            for process in alive:
                process.terminate()
            deadline = time.monotonic() + GRACE_S
            for process in alive:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))
        finally:  # after a second Ctrl-C too
            for process in alive:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"


def command(module: str, *arguments: object) -> list[str]:
    """The command line of a program of `job`."""
    return module_command(JOB + module, map(str, arguments))


def _harmless(env: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in env.items()
        if not name.startswith(_FOREIGN) and name not in _FOREIGN_NAMES
    }
