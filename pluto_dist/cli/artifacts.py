"""`pluto-dist artifacts RUN` and `pluto-dist download RUN NAME`: files and folders that a Run has logged.

A Run of this machine's store is looked up there: what its processes on this node logged, with the checksums
that the coordinator has taken. For a Run that is not there, or an artifact that its store does not know, the
server is asked (PLUTO_API_KEY), at most 1000 files of a name.

JSON of `artifacts`: a list of `name`, `step`, `time` (epoch ms), `file_name`, `size`, `sha256` ("" where none
is known; of a folder one of all its files), `where` (store; server; spool: on its way), `path` (on this
machine, null if it is not) and `files` (of a folder: `name`, `size`, `sha256`).

JSON of `download`: `name`, `step`, `path`, `checked` (the checksum was known, and fits) and `files`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pluto_dist.cli import options
from pluto_dist.cli.options import Argument, Option, echo

if TYPE_CHECKING:
    from pluto_dist.backend.pluto import PlutoBackend
    from pluto_dist.core.rules.shipment import ManifestFile
    from pluto_dist.core.values.ids import RunRef
    from pluto_dist.read.artifacts import Artifact, ServerArtifacts
    from pluto_dist.read.run import Run

Project = Annotated[
    str | None, Option("--project", help="Of a Run that only the server has; default PLUTO_PROJECT.")
]


def artifacts(
    run: options.RunName,
    project: Project = None,
    home: options.Home = None,
    folder: options.Dir = None,
    as_json: options.Json = False,
) -> None:
    """Lists the files and folders that a Run has logged, with sizes and checksums."""
    from pluto_dist.cli.console import print_json, print_table
    from pluto_dist.read.artifacts import artifacts_of

    found = _local(run, home, folder)
    if found is not None:
        listed = artifacts_of(found)
    else:
        backend = _backend(folder)
        try:
            server = _on_server(backend, run, project)
            listed = [server.whole(each) for each in server.artifacts]
        finally:
            backend.close()
    if as_json:
        print_json([_plain(each) for each in listed])
        return
    rows = [
        (
            each.name,
            each.step,
            _size(each.size),
            len(each.files) or 1,
            each.sha256[:12],
            each.where,
            each.path or each.file_name,
        )
        for each in listed
    ]
    print_table(
        ("NAME", "STEP", "SIZE", "FILES", "SHA256", "WHERE", "FILE"), rows, right=("STEP", "SIZE", "FILES")
    )


def download(
    run: options.RunName,
    name: Annotated[str, Argument(metavar="NAME", help="Under which it was logged.")],
    step: Annotated[int | None, Option("--step", help="Of which step; default the last.")] = None,
    to: Annotated[Path, Option("--to", metavar="DIR", help="Folder; it is made.")] = Path(),
    project: Project = None,
    home: options.Home = None,
    folder: options.Dir = None,
    as_json: options.Json = False,
) -> None:
    """Brings a file or folder of a Run here, and holds it against its checksum."""
    from pluto_dist.errors import ArtifactError
    from pluto_dist.read.artifacts import artifacts_of, bring, chosen

    found = _local(run, home, folder)
    listed = artifacts_of(found) if found is not None else []
    here = chosen(listed, name, step)
    if here is not None and here.path is not None:
        _tell(here, to, bring(here, to), as_json=as_json)
        return
    if found is not None and found.document.mode != "pluto":
        raise ArtifactError(_no_such(run, name, step, listed))
    backend = _backend(folder)
    try:
        server = _on_server(backend, run, project, found, name)
        there = chosen(server.artifacts, name, step)
        if there is None:
            raise ArtifactError(_no_such(run, name, step, [*listed, *server.artifacts]))
        whole = server.whole(there)
        if not whole.sha256 and here is not None and here.file_name == whole.file_name:
            whole = here
        _tell(whole, to, bring(whole, to, server.content(whole)), as_json=as_json)
    finally:
        backend.close()


def _local(run: str, home: Path | None, folder: Path | None) -> Run | None:
    from pluto_dist.errors import RunNotFoundError, SettingError
    from pluto_dist.read.lookup import Lookup
    from pluto_dist.read.run import Run

    lookup = Lookup(home, folder)
    try:
        return Run(lookup, lookup.find(run))
    except RunNotFoundError as error:
        try:
            _backend(folder).close()
        except SettingError:
            raise error from None
        return None


def _backend(folder: Path | None) -> PlutoBackend:
    """Of the server that the settings name.

    Raises:
        SettingError: there is no API key.
    """
    from pluto_dist.backend.pluto import PlutoBackend
    from pluto_dist.cli.sync import target_of
    from pluto_dist.errors import SettingError
    from pluto_dist.host.settings import as_option, load

    settings = load(os.environ, {"dir": folder, "mode": "auto"}, source=as_option)
    key = settings.api_key
    if key is None:
        raise SettingError(
            "it is not on this machine, and the server needs an API key: set PLUTO_API_KEY, or run "
            "`pluto login`",
            setting="api_key",
        )
    return PlutoBackend(target_of(settings), lambda: key)


def _on_server(
    backend: PlutoBackend, run: str, project: str | None, found: Run | None = None, name: str = ""
) -> ServerArtifacts:
    from pluto_dist.backend.pluto.client import Details
    from pluto_dist.errors import ServerRefusedError, UsageError
    from pluto_dist.read.artifacts import ServerArtifacts

    run_id, of_project = (found.document.id, found.document.project) if found is not None else (None, "")
    if run_id is None:
        project = project or os.environ.get("PLUTO_PROJECT")
        named = _named(run)
        if named.external_id is not None and not project:
            raise UsageError(
                f"Run {run!r} is not on this machine, and the server knows such an id within its project: "
                "name that with --project, or the Run by its number or display id"
            )
        details = backend.details(named, project)
        if not isinstance(details, Details):
            raise ServerRefusedError(
                f"Run {run!r} is not on this machine, and the server says: {details.reason}"
            )
        run_id, of_project = details.id, details.project_name
    rows = backend.file_rows(run_id, of_project, name)
    if not isinstance(rows, list):
        raise ServerRefusedError(f"the server does not list the files of Run {run!r}: {rows.reason}")
    return ServerArtifacts(rows, backend.fetch)


def _named(run: str) -> RunRef:
    from pluto_dist.core.values.ids import classify_run_id
    from pluto_dist.errors import UsageError

    try:
        return classify_run_id(run)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _no_such(run: str, name: str, step: int | None, listed: list[Artifact]) -> str:
    steps = sorted({each.step for each in listed if each.name == name})
    if steps:
        return f"Run {run!r} has {name!r} of the steps {', '.join(map(str, steps))}, and none of {step}"
    names = ", ".join(sorted({each.name for each in listed})) or "none"
    return f"Run {run!r} has no artifact {name!r}; its artifacts: {names}"


def _tell(artifact: Artifact, to: Path, files: list[ManifestFile], *, as_json: bool) -> None:
    from pluto_dist.cli.console import print_json
    from pluto_dist.read.artifacts import safe_part

    path = (to / safe_part(artifact.file_name)).absolute()
    checked = bool(artifact.sha256)
    if as_json:
        plain = [{"name": each.name, "size": each.size, "sha256": each.sha256} for each in files]
        shown = {"name": artifact.name, "step": artifact.step, "path": str(path), "checked": checked}
        print_json({**shown, "files": plain})
        return
    how = "its checksum fits" if checked else "no checksum of it is known"
    many = f", {len(files)} files" if len(files) > 1 else ""
    echo(f"{path}: {artifact.name}, step {artifact.step}, {_size(artifact.size)}{many}; {how}")


def _plain(artifact: Artifact) -> dict[str, object]:
    return {
        "name": artifact.name,
        "step": artifact.step,
        "time": artifact.time,
        "file_name": artifact.file_name,
        "size": artifact.size,
        "sha256": artifact.sha256,
        "where": artifact.where,
        "path": str(artifact.path) if artifact.path is not None else None,
        "files": [{"name": each.name, "size": each.size, "sha256": each.sha256} for each in artifact.files],
    }


def _size(count: int) -> str:
    from pluto_dist.cli.console import size

    return size(count)
