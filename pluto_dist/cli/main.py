"""Entry point `pluto-dist`: the commands and what their errors look like.

Adding a command is one line below: `app.command()(module.function)`. The module is imported by every call,
`--help` included, so it imports at its top nothing but typer, the standard library, and modules that keep to
the same rule; the rest is imported inside of the function.

Exit codes: 0 done; 1 it could not be done, one line on stderr says why and what to do; 2 the call is wrong,
or the Run it names is not the only one.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pluto_dist import __version__
from pluto_dist.cli import (
    artifacts,
    coordinator,
    doctor,
    export,
    finish,
    logs,
    ps,
    run,
    runs,
    show,
    sync,
    ui,
    upload,
)
from pluto_dist.cli.demo import command as demo
from pluto_dist.cli.top import command as top
from pluto_dist.errors import AmbiguousRunError, PlutoDistError, UsageError

FAILED, WRONG_CALL, INTERRUPTED = 1, 2, 130


class Commands(TyperGroup):
    """Turns errors into a line on stderr and an exit code; a traceback would only mean a fault of ours."""

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


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"max_content_width": 110},
)


@app.callback()
def options(
    version: Annotated[  # `_version` has printed it before
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Looks at Runs, their processes and the coordinator of this node."""


app.command()(demo.demo)
app.command()(runs.runs)
app.command()(show.show)
app.command()(ps.ps)
app.command()(ui.ui)
app.command()(top.top)
app.command()(export.export)
app.command()(logs.logs)
app.command()(upload.upload)
app.command()(artifacts.artifacts)
app.command()(artifacts.download)
app.command()(finish.finish)
app.command()(sync.sync)
app.command(context_settings={"allow_interspersed_args": False})(run.run)
app.command()(doctor.doctor)
app.add_typer(coordinator.app, name="coordinator")

for command in (*app.registered_commands, *coordinator.app.registered_commands):
    # Without a short help of its own the list of commands would cut the sentence.
    command.short_help = (
        (inspect.getdoc(command.callback or app) or "").partition("\n\n")[0].replace("\n", " ")
    )
