"""Entry point `pluto-dist`: the commands and what their errors look like.

Adding a command is one line below: its module and its function's name. Only the module of the command that
is called is loaded; what not all of its ways need is imported inside of its functions.

Exit codes: 0 done; 1 it could not be done, one line on stderr says why and what to do; 2 the call is wrong,
or the Run it names is not the only one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper

from pluto_dist import __version__
from pluto_dist.cli.options import Command, Group, echo
from pluto_dist.errors import AmbiguousRunError, PlutoDistError, UsageError

FAILED, WRONG_CALL, INTERRUPTED = 1, 2, 130

_HERE = "pluto_dist.cli"
_COORDINATOR = f"{_HERE}.coordinator"

commands = Group(
    "Looks at Runs, their processes and the coordinator of this node.",
    {
        "demo": Command(f"{_HERE}.demo.command", "demo"),
        "runs": Command(f"{_HERE}.runs", "runs"),
        "show": Command(f"{_HERE}.show", "show"),
        "ps": Command(f"{_HERE}.ps", "ps"),
        "ui": Command(f"{_HERE}.ui", "ui"),
        "top": Command(f"{_HERE}.top.command", "top"),
        "export": Command(f"{_HERE}.export", "export"),
        "logs": Command(f"{_HERE}.logs", "logs"),
        "upload": Command(f"{_HERE}.upload", "upload"),
        "artifacts": Command(f"{_HERE}.artifacts", "artifacts"),
        "download": Command(f"{_HERE}.artifacts", "download"),
        "rm": Command(f"{_HERE}.rm", "rm"),
        "finish": Command(f"{_HERE}.finish", "finish"),
        "sync": Command(f"{_HERE}.sync", "sync"),
        "run": Command(f"{_HERE}.run", "run", mixed=False),
        "doctor": Command(f"{_HERE}.doctor", "doctor"),
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
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a name that the terminal cannot show hides nothing else
            stream.reconfigure(errors="backslashreplace")
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
