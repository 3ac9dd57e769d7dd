"""Entry point `pluto-dist`: the commands and what their errors look like.

Adding a command is one entry below: its module, its function's name and the first sentence of its docstring.
Only the module of the command that is called is loaded; what not all of its ways need is imported inside of
its functions.

Exit codes: 0 done; 1 it could not be done, one line on stderr says why and what to do; 2 the call is wrong,
or the Run it names is not the only one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from pluto_dist import __version__
from pluto_dist.cli.options import Command, Group, echo
from pluto_dist.errors import AmbiguousRunError, PlutoDistError, UsageError

FAILED, WRONG_CALL, INTERRUPTED = 1, 2, 130

_HERE = "pluto_dist.cli"
_COORDINATOR = f"{_HERE}.coordinator"

commands = Group(
    "Looks at Runs, their processes and the coordinator of this node.",
    {
        "demo": Command(
            f"{_HERE}.demo.command",
            "demo",
            "Trains with four ranks, lets others attach, crash and be killed; shows that nothing is lost.",
        ),
        "runs": Command(
            f"{_HERE}.runs",
            "runs",
            "Lists the Runs of this node and of the store, oldest first; with --dir only that store's.",
        ),
        "show": Command(
            f"{_HERE}.show",
            "show",
            "Shows one Run: status and why, first failure with its last lines, processes, checkpoints, rest.",
        ),
        "ps": Command(
            f"{_HERE}.ps",
            "ps",
            "Lists the attached processes of all live Runs of this node, and all nodes in the cluster store.",
        ),
        "ui": Command(
            f"{_HERE}.ui", "ui", "Shows Runs in the browser: list, charts, processes, console, files; live."
        ),
        "top": Command(
            f"{_HERE}.top.command",
            "top",
            "Follows Runs and their processes in a full screen: who is slow, who is gone, how the loss goes.",
        ),
        "export": Command(
            f"{_HERE}.export", "export", "Writes all points of a Run: a line or a row for each."
        ),
        "logs": Command(f"{_HERE}.logs", "logs", "Prints the console output of a Run."),
        "upload": Command(
            f"{_HERE}.upload", "upload", "Uploads files and folders to a Run, from outside of its training."
        ),
        "artifacts": Command(
            f"{_HERE}.artifacts",
            "artifacts",
            "Lists the files and folders that a Run has logged, with sizes and checksums.",
        ),
        "download": Command(
            f"{_HERE}.artifacts",
            "download",
            "Brings a file or folder of a Run here, and holds it against its checksum.",
        ),
        "finish": Command(
            f"{_HERE}.finish", "finish", "Ends a Run by hand, as a take-over with a new epoch."
        ),
        "sync": Command(f"{_HERE}.sync", "sync", "Uploads local Runs and undelivered records to the server."),
        "run": Command(
            f"{_HERE}.run",
            "run",
            "Runs a command and keeps its Run: status by its exit, ranks as workers, everything delivered.",
            mixed=False,
        ),
        "doctor": Command(
            f"{_HERE}.doctor",
            "doctor",
            "Reports places, their filesystems, sockets, namespaces and versions, with advice.",
        ),
        "coordinator": Group(
            "Starts, stops and looks at the coordinator of this node.",
            {word: Command(_COORDINATOR, word) for word in ("start", "stop", "status", "logs")},
        ),
    },
    version=f"pluto-dist {__version__}",
)


def app(words: Sequence[str] | None = None, prog_name: str = "pluto-dist") -> None:
    """Runs a command, and ends the process with its exit code.

    Args:
        words: behind the program's name; None for those of the command line.
        prog_name: how it is called in what it says.

    Raises:
        SystemExit: always.
    """
    sys.exit(_run(sys.argv[1:] if words is None else words, prog_name))


def _run(words: Sequence[str], called: str) -> int:
    """Turns errors into a line on stderr and an exit code; a traceback would only mean a fault of ours."""
    try:
        commands.run(words, called)
        sys.stdout.flush()
    except PlutoDistError as error:
        return _say(error.message, exit_code(error))
    except BrokenPipeError:  # `export | head` is a fine way to look
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        said = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        return _say(said, FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def exit_code(error: PlutoDistError) -> int:
    """1, or 2 for what another call would mend."""
    return WRONG_CALL if isinstance(error, UsageError | AmbiguousRunError) else FAILED


def _say(message: str, code: int) -> int:
    echo(f"pluto-dist: {message}", err=True)
    return code
