"""`pluto-dist ui`: Runs in the browser.

Prints an address with a token and serves the page until it is interrupted. It listens on this machine alone
unless --host says otherwise, loads nothing from elsewhere, and only reads. A coordinator is started only
where one is needed to judge a Run whose processes are dead, as by `show`.

For a machine that is reached by ssh: `ssh -L 8642:localhost:8642 node7`, then open the address here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pluto_dist.cli.console import note
from pluto_dist.cli.options import Home, Option, echo

INSTALL = "pip install 'pluto-dist[ui]'"


def ui(
    store: Annotated[
        Path | None,
        Option("--store", "--dir", help="The store, or its parent; only its Runs. Default: all."),
    ] = None,
    home: Home = None,
    host: Annotated[str, Option(help="Name or address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int | None, Option(least=0, most=65535, help="0 for any; default the first free from 8642 on.")
    ] = None,
    browse: Annotated[bool, Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Shows Runs in the browser: list, charts, processes, console, files; live."""
    from pluto_dist.errors import MissingPackageError
    from pluto_dist.read.lookup import Lookup

    try:
        from pluto_dist.ui.serve import Server
    except ImportError as error:
        raise MissingPackageError(
            f"{error.name} is not installed, which the page needs: {INSTALL}"
        ) from error
    Lookup(home, store)  # an unusable setting is said here, not in the browser
    server = Server(lambda take: Lookup(home, store, take), host, port, only_store=store is not None)
    echo(server.address)
    note("Everybody with this address can read the Runs. Ctrl-C ends it.")
    if not server.only_here:
        note(f"{host} is reached from other machines, and nothing is encrypted on the way.")
    if browse:
        import webbrowser

        webbrowser.open(server.address)
    server.run()
