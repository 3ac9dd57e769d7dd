"""`python -m tests.pluto_server`: run the emulator until it is killed.

Once it listens, one JSON line with the URLs goes to the ready descriptor or file, else to standard output.
"""

import argparse
import json
import os
import sys
import threading
from dataclasses import asdict
from pathlib import Path

from .server import PlutoServer


def main() -> None:
    """Parse the arguments and serve."""
    parser = argparse.ArgumentParser(prog="python -m tests.pluto_server", description=__doc__)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--ready-fd", type=int, help="descriptor that gets the line, then is closed")
    where.add_argument("--ready-file", type=Path, help="file that appears, complete, with the line")
    arguments = parser.parse_args()
    with PlutoServer() as server:
        _announce(json.dumps(asdict(server.urls)) + "\n", arguments.ready_fd, arguments.ready_file)
        threading.Event().wait()


def _announce(line: str, fd: int | None, file: Path | None) -> None:
    if fd is not None:
        with os.fdopen(fd, "w") as ready:
            ready.write(line)
    elif file is not None:
        part = file.with_name(file.name + ".part")
        part.write_text(line)
        part.replace(file)
    else:
        sys.stdout.write(line)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
