"""`pluto-dist run [--project …] [--name …] [--run-id …] -- CMD…`: a command whose Run is the launcher's.

Put it in front of what starts the job: `pluto-dist run -- torchrun --nproc-per-node 8 train.py`; on several
nodes as the one task of each: `srun --ntasks-per-node=1 pluto-dist run -- torchrun …`. The exit code, or the
signal, is the command's; 127 and 126 as of a shell if it cannot be started.
"""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path
from typing import Annotated, NoReturn

from pluto_dist.cli.options import Argument, Option, echo

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
    from pluto_dist.client.job.detect import is_rank
    from pluto_dist.client.launcher import become, below_launcher, end_like, run_command

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
