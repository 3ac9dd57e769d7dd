"""Entry point `pluto-dist`: the commands and what their errors look like.

Adding a command is one line in `_COMMANDS`. Its module is imported when it is called; what only some calls of
it need, or what an extra installs, is imported inside of a function.

Exit codes: 0 done; 1 it could not be done, one line on stderr says why and what to do; 2 the call is wrong,
or the Run it names is not the only one.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
import typer.main
from typer.core import TyperGroup

from pluto_dist import __version__
from pluto_dist.errors import AmbiguousRunError, PlutoDistError, UsageError

FAILED, WRONG_CALL, INTERRUPTED = 1, 2, 130


_COMMANDS = {  # name → module, and the first sentence of its help, so that the list needs no module
    "demo": (
        "demo.command",
        "Trains with four ranks, lets others attach, crash and be killed, and shows that nothing is lost.",
    ),
    "runs": (
        "runs",
        "Lists the Runs of this node and of the store, oldest first; with --dir only that store's.",
    ),
    "show": (
        "show",
        "Shows one Run: status and why, first failure with its last lines, processes, checkpoints, the rest.",
    ),
    "ps": (
        "ps",
        "Lists the attached processes of all live Runs of this node, and all nodes in the cluster store.",
    ),
    "ui": ("ui", "Shows Runs in the browser: list, charts, processes, console, files; live."),
    "top": (
        "top.command",
        "Follows Runs and their processes in a full screen: who is slow, who is gone, how the loss goes.",
    ),
    "export": ("export", "Writes all points of a Run: a line or a row for each."),
    "logs": ("logs", "Prints the console output of a Run."),
    "upload": ("upload", "Uploads files and folders to a Run, from outside of its training."),
    "artifacts": (
        "artifacts",
        "Lists the files and folders that a Run has logged, with sizes and checksums.",
    ),
    "download": ("artifacts", "Brings a file or folder of a Run here, and holds it against its checksum."),
    "finish": ("finish", "Ends a Run by hand, as a take-over with a new epoch."),
    "sync": ("sync", "Uploads local Runs and undelivered records to the server."),
    "run": (
        "run",
        "Runs a command and keeps its Run: status by its exit, ranks as workers, everything delivered.",
    ),
    "doctor": ("doctor", "Reports places, their filesystems, sockets, namespaces and versions, with advice."),
    "coordinator": ("coordinator", "Starts, stops and looks at the coordinator of this node."),
}
_PLAIN: dict[str, Any] = {
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
}


class Commands(TyperGroup):
    """Turns errors into a line on stderr and an exit code; a traceback would only mean a fault of ours."""

    def list_commands(self, _: Any) -> list[str]:
        """Names of all commands."""
        return [*_COMMANDS]

    def get_command(self, _: Any, cmd_name: str) -> Any:
        """A command, from its module; None if there is none of that name."""
        return _command(cmd_name) if cmd_name in _COMMANDS else None

    def format_commands(self, _: Any, formatter: Any) -> None:
        """Writes the list of commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, sentence) for name, (_, sentence) in _COMMANDS.items()])

    def invoke(self, ctx: Any) -> Any:
        """Runs a command."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            given = value_of(error.param.opts, sys.argv) if error.param is not None else ""
            if given and given not in error.message:
                error.message = f"{error.message.rstrip('.')}; it is {given!r}"
            raise
        except PlutoDistError as error:
            raise typer.Exit(_say(error.message, exit_code(error))) from error
        except BrokenPipeError as error:  # `export | head` is a fine way to look
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit from error
        except OSError as error:
            said = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
            raise typer.Exit(_say(said, FAILED)) from error
        except KeyboardInterrupt as error:
            raise typer.Exit(INTERRUPTED) from error


def exit_code(error: PlutoDistError) -> int:
    """1, or 2 for what another call would mend."""
    return WRONG_CALL if isinstance(error, UsageError | AmbiguousRunError) else FAILED


def value_of(options: Sequence[str], words: Sequence[str]) -> str:
    """The value of an option in a command line, "" if it is not there."""
    for word, after in zip(words, (*words[1:], ""), strict=True):
        name, separator, value = word.partition("=")
        if name in options:
            return value if separator else after
    return ""


def _say(message: str, code: int) -> int:
    typer.echo(f"pluto-dist: {message}", err=True)
    return code


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"pluto-dist {__version__}")
        raise typer.Exit


def _command(name: str) -> Any:
    module = import_module(f"pluto_dist.cli.{_COMMANDS[name][0]}")
    made = typer.Typer(**_PLAIN)
    if name == "coordinator":
        for each in module.app.registered_commands:  # without one of its own the list cuts the sentence
            each.short_help = (inspect.getdoc(each.callback) or "").partition("\n\n")[0].replace("\n", " ")
        made.add_typer(module.app, name=name)
    else:
        made.command(name, context_settings={"allow_interspersed_args": name != "run"})(getattr(module, name))
    return typer.main.get_group(made).commands[name]


app = typer.Typer(cls=Commands, no_args_is_help=True, context_settings={"max_content_width": 110}, **_PLAIN)


@app.callback()
def options(
    version: Annotated[  # `_version` has printed it before
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Looks at Runs, their processes and the coordinator of this node."""
