"""`pluto-dist upload RUN PATH…`: files and folders to a Run, beside its training.

Attaches as a side, hands the files to this node's coordinator, and shows how it uploads them (without a
server: takes them into the store). A folder is one artifact. A file that a process has open for writing is
waited for.

--watch DIR goes on until the Run ends: files, no folders, that fit --pattern are taken when they are closed
or renamed into place, each state of a file once, also after a restart of the command. On filesystems that
cannot say who has a file open (NFS), when it has not changed for 5 s.

The step is --step, else the last number in the file's name (`step40.pt`: 40), else the next of the Run's.
The name is --name, else that of the file without its number, or of the watched folder.

Exit codes: 0 all is uploaded; 1 something was refused, and stderr says what and why; 130 after Ctrl-C: what
was handed over goes on, and the same command goes on with the rest.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pluto_dist.cli import options
from pluto_dist.cli.options import Argument, Option

if TYPE_CHECKING:
    from pluto_dist.cli.sender import FileSide
    from pluto_dist.cli.uploads import Uploads


def upload(
    run: options.RunName,
    paths: Annotated[list[Path] | None, Argument(metavar="PATH", help="Files, folders, or patterns.")] = None,
    name: Annotated[str | None, Option("--name", help="Under which they are logged.")] = None,
    step: Annotated[int | None, Option("--step", least=0, help="Default: the number in the name.")] = None,
    watch: Annotated[
        Path | None, Option("--watch", metavar="DIR", help="Take what comes, until the Run ends.")
    ] = None,
    pattern: Annotated[str, Option("--pattern", help="Which files of --watch.")] = "*",
    delete_after: Annotated[
        bool, Option("--delete-after", help="Delete files that are uploaded and have not changed.")
    ] = False,
    label: Annotated[str, Option("--label", help="What the process is called.")] = "uploader",
    project: Annotated[str | None, Option("--project", help="Of the Run.")] = None,
    timeout_s: Annotated[
        float, Option("--timeout", metavar="SECONDS", help="How long to wait for the Run to begin.")
    ] = 30.0,
    home: options.Home = None,
    folder: options.Dir = None,
) -> None:
    """Uploads files and folders to a Run, from outside of its training."""
    from pluto_dist.cli.sender import Sender
    from pluto_dist.cli.uploads import bars
    from pluto_dist.errors import UsageError

    if not paths and watch is None:
        raise UsageError("nothing to upload: name files or folders, or --watch DIR")
    if watch is not None and not watch.is_dir():
        raise UsageError(f"--watch {watch}: there is no such folder; make it, or start when it is there")
    for path in paths or []:
        _check(path)
    side = _attached(run, label, project, timeout_s, home, folder)
    with bars() as shown:
        sender = Sender(side, _lookup(side, home, folder), shown, name=name, step=step, delete=delete_after)
        try:
            for path in paths or []:
                sender.send_complete(str(path.absolute()))
            if watch is not None:
                sender.watch(str(watch.absolute()), pattern)
            sender.wait()
        except KeyboardInterrupt:
            side.run.close()
            left = len(sender.uploads.waiting)
            way = f"{left} on their way, which the coordinator goes on with" if left else "nothing on its way"
            shown.say(f"{way}; the same command goes on with the rest")
            raise
    side.run.close()
    refused = sender.uploads.refused
    if refused or sender.failed:
        raise SystemExit(1)


def _check(path: Path) -> None:
    from pluto_dist.errors import UsageError
    from pluto_dist.spool.sources import is_many

    if is_many(str(path)) or path.is_file():
        return
    what = "is no file or folder" if path.exists() else "does not exist"
    raise UsageError(f"{path} {what}; nothing was uploaded")


def _attached(
    run: str, label: str, project: str | None, timeout_s: float, home: Path | None, folder: Path | None
) -> FileSide:
    from pluto_dist.cli.sender import FileSide
    from pluto_dist.client.api import attach
    from pluto_dist.client.run import Run
    from pluto_dist.errors import MachineError

    given = {"home": home and str(home), "dir": folder and str(folder)}
    opened = attach(
        int(run) if run.isdigit() else run,
        label=label,
        project=project,
        timeout_s=timeout_s,
        settings={"console": "off", **{key: value for key, value in given.items() if value}},
    )
    if not isinstance(opened, Run):
        raise MachineError("nothing is recorded here (mode is disabled), so nothing can be uploaded")
    return FileSide(opened)


def _lookup(side: FileSide, home: Path | None, folder: Path | None) -> Uploads:
    from pluto_dist.backend.local.store import Store
    from pluto_dist.cli.uploads import Uploads
    from pluto_dist.read.lookup import Lookup

    found = Lookup(home, folder).find(side.key)
    return Uploads(Store(found.store).run(side.key), side.logged())
