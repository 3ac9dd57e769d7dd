"""Options and arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Home = Annotated[
    Path | None,
    typer.Option(
        "--home", help="Folder of runtime and spool; default PLUTO_DIST_HOME, else this node's own."
    ),
]
Dir = Annotated[
    Path | None,
    typer.Option("--dir", help="Parent of the store `.pluto`, or the store; default PLUTO_DIR, else here."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="Id (7), display id (MMP-42), your own id, or key.")
]
