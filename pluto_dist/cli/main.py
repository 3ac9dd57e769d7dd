"""Entry point `pluto-dist`: the commands and what their errors look like.

Adding a command is one line in `_COMMANDS`. Its module is imported when it is called, and with all others for
the list of commands. What only some calls of it need, or what an extra installs, is imported inside of a
function.

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


_COMMANDS = {  # name → module, which has a function, or for a group an `app`, of that name
    "demo": "demo.command",
    "runs": "runs",
    "show": "show",
    "ps": "ps",
    "ui": "ui",
    "top": "top.command",
    "export": "export",
    "logs": "logs",
    "upload": "upload",
    "artifacts": "artifacts",
    "download": "artifacts",
    "finish": "finish",
    "sync": "sync",
    "run": "run",
    "doctor": "doctor",
    "coordinator": "coordinator",
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
    module = import_module(f"pluto_dist.cli.{_COMMANDS[name]}")
    found = getattr(module, name, None)
    made = typer.Typer(**_PLAIN)
    if found is None:
        made.add_typer(module.app, name=name)
    else:
        made.command(context_settings={"allow_interspersed_args": name != "run"})(found)
    for each in (*made.registered_commands, *(module.app.registered_commands if found is None else ())):
        # Without a short help of its own the list of commands would cut the sentence.
        first = (inspect.getdoc(each.callback or _command) or "").partition("\n\n")[0]
        each.short_help = first.replace("\n", " ")
    return typer.main.get_group(made).commands[name]


app = typer.Typer(cls=Commands, no_args_is_help=True, context_settings={"max_content_width": 110}, **_PLAIN)


@app.callback()
def options(
    version: Annotated[  # `_version` has printed it before
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Looks at Runs, their processes and the coordinator of this node."""
