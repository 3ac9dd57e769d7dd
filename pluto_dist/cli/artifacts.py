"""`pluto-dist artifacts RUN` and `pluto-dist download RUN NAME`: files and folders that a Run has logged.

A Run of this machine's store is looked up there: what its processes on this node logged, with the checksums
that the coordinator has taken. For a Run that is not there, or an artifact that its store does not know, the
server is asked (PLUTO_API_KEY), at most 1000 files of a name.

What ranks or nodes gave together (`shards`) is one artifact with the files of all, and says whose is lacking.

JSON of `artifacts`: a list of `name`, `step`, `time` (epoch ms), `file_name`, `size`, `sha256` ("" where none
is known; of a folder one of all its files), `where` (store; server; spool: on its way; refused: it was not
what had been logged any more, or its name or size is no good), `path` (on this machine, null if it is not),
`files` (of a folder: `name`, `size`, `sha256`) and `lacks` (`rank 3` and the like, whose share nobody has).

JSON of `download`: `name`, `step`, `path`, `checked` (the checksum was known, and fits) and `files`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import msgspec

from pluto_dist.backend import ledger
from pluto_dist.backend.ledger import digest_of
from pluto_dist.backend.local.files import part_place
from pluto_dist.backend.local.store import Store
from pluto_dist.cli.console import print_json, print_table, size
from pluto_dist.cli.options import Argument, Dir, Home, Json, Option, RunName, echo
from pluto_dist.core.rules.series import FinalNames
from pluto_dist.core.rules.shipment import MANIFEST, Manifest, ManifestFile, Shard, Unit
from pluto_dist.core.values.ids import UNREADABLE, classify_run_id
from pluto_dist.errors import ArtifactError, RunNotFoundError, ServerRefusedError, SettingError, UsageError
from pluto_dist.host.settings import as_option, load
from pluto_dist.read.lookup import Lookup
from pluto_dist.read.run import LoggedFile, Run

if TYPE_CHECKING:
    from pluto_dist.backend.pluto import PlutoBackend
    from pluto_dist.backend.pluto.client import FileRow
    from pluto_dist.core.values.ids import RunRef
    from pluto_dist.spool.file_lines import FileLine

Project = Annotated[
    str | None, Option("--project", help="Of a Run that only the server has; default PLUTO_PROJECT.")
]


def artifacts(
    run: RunName,
    project: Project = None,
    home: Home = None,
    folder: Dir = None,
    as_json: Json = False,
) -> None:
    """Lists the files and folders that a Run has logged, with sizes and checksums."""
    found = _local(run, home, folder)
    if found is not None:
        listed = artifacts_of(found)
    else:
        backend = _backend(folder)
        try:
            listed = ServerArtifacts(_asking(backend, run, project)(""), backend.fetch).wholes
        finally:
            backend.close()
    if as_json:
        print_json([_plain(each) for each in listed])
        return
    rows = [
        (
            each.name,
            each.step,
            size(each.size),
            len(each.files) or 1,
            each.sha256[:12],
            f"{each.where}, {lacking(each)}" if each.lacks else each.where,
            each.path or each.file_name,
        )
        for each in listed
    ]
    print_table(
        ("NAME", "STEP", "SIZE", "FILES", "SHA256", "WHERE", "FILE"), rows, right=("STEP", "SIZE", "FILES")
    )


def download(
    run: RunName,
    name: Annotated[str, Argument(metavar="NAME", help="Under which it was logged.")],
    step: Annotated[int | None, Option("--step", help="Of which step; default the last.")] = None,
    to: Annotated[Path, Option("--to", metavar="DIR", help="Folder; it is made.")] = Path(),
    project: Project = None,
    home: Home = None,
    folder: Dir = None,
    as_json: Json = False,
) -> None:
    """Brings a file or folder of a Run here, and holds it against its checksum."""
    found = _local(run, home, folder)
    listed = artifacts_of(found) if found is not None else []
    here = chosen(listed, name, step)
    if here is not None and here.is_here:
        _tell(here, to, bring(here, to), as_json=as_json)
        return
    if found is not None and found.document.mode != "pluto":
        raise ArtifactError(_no_such(run, name, step, listed))
    backend = _backend(folder)
    try:
        ask = _asking(backend, run, project, found)
        server = ServerArtifacts(ask(name), backend.fetch)
        there = chosen(server.artifacts, name, step)
        whole = server.whole(there) if there is not None else None
        if whole is None:
            server = ServerArtifacts(_shares(name, ask, backend.fetch), backend.fetch)
            whole = chosen(server.wholes, name, step)
        if whole is None:
            everything = ServerArtifacts(ask(""), backend.fetch).wholes
            raise ArtifactError(_no_such(run, name, step, [*listed, *everything]))
        if not whole.sha256 and here is not None and here.file_name == whole.file_name:
            whole = here
        _tell(whole, to, bring(whole, to, server.content), as_json=as_json)
    finally:
        backend.close()


def _local(run: str, home: Path | None, folder: Path | None) -> Run | None:
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

    settings = load(os.environ, {"dir": folder, "mode": "auto"}, source=as_option)
    key = settings.api_key
    if key is None:
        raise SettingError(
            "it is not on this machine, and the server needs an API key: set PLUTO_API_KEY, or run "
            "`pluto login`",
            setting="api_key",
        )
    return PlutoBackend(target_of(settings), lambda: key)


def _asking(
    backend: PlutoBackend, run: str, project: str | None, found: Run | None = None
) -> Callable[[str], list[FileRow]]:
    """Gives the server's rows of a Run under a name, "" for all."""
    from pluto_dist.backend.pluto.client import Details

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

    def ask(name: str) -> list[FileRow]:
        rows = backend.file_rows(run_id, of_project, name)
        if not isinstance(rows, list):
            raise ServerRefusedError(f"the server does not list the files of Run {run!r}: {rows.reason}")
        return rows

    return ask


def _shares(name: str, ask: Callable[[str], list[FileRow]], fetch: Content) -> list[FileRow]:
    """Rows of what ranks or nodes gave together; the share of the first says how many there are."""
    rows: list[FileRow] = []
    for unit in get_args(Unit):
        first = ServerArtifacts(ask(f"{name}/{unit}0"), fetch)
        of = max((each.shard.of for each in map(first.whole, first.artifacts) if each.shard), default=0)
        rows += [row for number in range(of) for row in ask(f"{name}/{unit}{number}")]
    return rows


def _named(run: str) -> RunRef:
    try:
        return classify_run_id(run)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _no_such(run: str, name: str, step: int | None, listed: list[Artifact]) -> str:
    steps = sorted({each.step for each in listed if each.name == name})
    if any(each.where == "refused" and each.name == name and step in (None, each.step) for each in listed):
        return f"Run {run!r} has {name!r} not any more, it was refused: `pluto-dist show {run}` says why"
    if steps:
        return f"Run {run!r} has {name!r} of the steps {', '.join(map(str, steps))}, and none of {step}"
    names = sorted({each.name[:LONGEST] for each in listed})
    some = f"{', '.join(names[:SHOWN])}{f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''}"
    return f"Run {run!r} has no artifact {name!r}; its artifacts: {some or 'none'}"


def _tell(artifact: Artifact, to: Path, files: list[ManifestFile], *, as_json: bool) -> None:
    path = (to / safe_part(artifact.file_name)).absolute()
    checked = bool(artifact.sha256)
    if as_json:
        plain = [{"name": each.name, "size": each.size, "sha256": each.sha256} for each in files]
        shown = {"name": artifact.name, "step": artifact.step, "path": str(path), "checked": checked}
        print_json({**shown, "files": plain})
        return
    how = "its checksum fits" if checked else "no checksum of it is known"
    many = f", {len(files)} files" if len(files) > 1 else ""
    echo(f"{path}: {artifact.name}, step {artifact.step}, {size(artifact.size)}{many}; {how}")


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
        "lacks": list(artifact.lacks),
    }


# Files and folders that a Run has logged, on this machine and on a server, and how they are brought here.
PIECE = 1 << 20
SHOWN, LONGEST = 8, 80  # names in one message, and characters of one

Where = Literal["store", "server", "spool", "refused"]
_PART = re.compile(r"\.\d{5}-[A-Za-z0-9_.-]+")  # what stands behind an artifact's file name in that of a part


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """One artifact.

    Attributes:
        name: final name under which it was logged.
        step: of the record.
        time: epoch milliseconds.
        file_name: with step and id.
        size: bytes; of a folder the sum.
        sha256: of the content, of a folder that of its names and checksums; "" where none is known.
        where: the store, the server only, still on its way (`spool`), or refused, with its reason in `show`.
        files: of a folder, or of a file that a server has in parts; () for a plain file.
        path: where it is on this machine, None if it is not.
        shard: of which artifact it is the share of a rank or node.
        shares: of an artifact that ranks or nodes gave together, by their numbers.
        lacks: who has given nothing of it, `rank 3` and the like.
    """

    name: str
    step: int
    time: int
    file_name: str
    size: int
    sha256: str
    where: Where
    files: tuple[ManifestFile, ...] = ()
    path: Path | None = None
    shard: Shard | None = None
    shares: tuple[Artifact, ...] = ()
    lacks: tuple[str, ...] = ()

    @property
    def is_here(self) -> bool:
        """Whether all of it is on this machine."""
        return all(each.path is not None or not each.size for each in self.shares or (self,))


Content = Callable[[str], Iterator[bytes]]  # of an object, by its file name


def artifacts_of(run: Run) -> list[Artifact]:
    """What is known on this machine, by name and step."""
    folders = [Store(run.store).run(key) for key in run.document.part_keys]
    listed = {entry.file_name: entry for folder in folders for entry in ledger.entries(folder)}
    refused: dict[str, FileLine] = {}
    for folder in folders:
        refused.update(ledger.Refusals(folder).files)
    logged = {file.file_name: file for file in run.files if file.kind in ledger.LISTED}
    found = [
        _logged(file, listed.get(file.file_name), folders, refused=file.file_name in refused)
        for file in logged.values()
    ]
    found += [
        _refused(line)
        for name, line in refused.items()
        if line.log_type in ledger.LISTED and name not in logged.keys() | listed.keys()
    ]
    names, participants = FinalNames(run.document), {each.lease_id: each.participant for each in run.leases}
    for entry in listed.values():
        if entry.file_name not in logged:
            own = entry.where == "store"  # a server's entries have their final names
            final = names.of(participants.get(entry.lease_id, ""), entry.name, "FILE") if own else entry.name
            found.append(_of(entry, final or entry.name))
    return joined(found)


def joined(artifacts: Iterable[Artifact]) -> list[Artifact]:
    """Artifacts by name and step, where the shares of one are one; a repeated share replaces the first."""
    found: list[Artifact] = []
    shares: dict[tuple[object, ...], dict[int, Artifact]] = {}
    for each in sorted(artifacts, key=lambda each: each.time):
        if each.shard is None or each.where == "refused":
            found.append(each)
        else:
            shard = each.shard
            key = (shard.name, each.step, shard.unit, shard.of, shard.group)
            shares.setdefault(key, {})[shard.number] = each
    found += [_together(each) for each in shares.values()]
    return sorted(found, key=lambda each: (each.name, each.step, each.time))


def _together(by_number: dict[int, Artifact]) -> Artifact:
    shares = tuple(each for _, each in sorted(by_number.items()))
    last = max(shares, key=lambda each: each.time)
    shard = last.shard
    assert shard is not None  # noqa: S101 # only those are together
    files = tuple(msgspec.structs.replace(file, name=name) for _, file, name in _placed(shares))
    unknown = any(not share.sha256 for share in shares)
    return msgspec.structs.replace(
        last,
        name=shard.name,
        file_name=f"{shard.name.rpartition('/')[2]}-{last.step}",
        size=sum(file.size for file in files) if not unknown else sum(share.size for share in shares),
        sha256="" if unknown else digest_of(files),
        where=next((share.where for share in shares if share.where == "spool"), last.where),
        files=files,
        path=None,
        shard=None,
        shares=shares,
        lacks=tuple(f"{shard.unit} {n}" for n in range(shard.of) if n not in by_number),
    )


def _placed(shares: Iterable[Artifact]) -> Iterator[tuple[Artifact, ManifestFile, str]]:
    """The files with their names in the whole: one that several gave alike once, others below their giver."""
    known: dict[str, str] = {}
    for share in shares:
        for file in share.files:
            name = file.name
            if share.shard is not None and known.get(name, file.sha256) != file.sha256:
                name = f"{share.shard.unit}{share.shard.number}/{name}"
            if name not in known:
                known[name] = file.sha256
                yield share, file, name


def chosen(artifacts: Iterable[Artifact], name: str, step: int | None) -> Artifact | None:
    """The artifact of a name and step, None if there is none; without a step the latest whole one."""
    there = (each for each in artifacts if each.where != "refused")
    fitting = [each for each in there if each.name == name and step in (None, each.step)]
    return max(fitting, key=lambda each: (not each.lacks, each.step, each.time), default=None)


def bring(
    artifact: Artifact, to: Path, fetch: Callable[[Artifact], Content] | None = None
) -> list[ManifestFile]:
    """Puts an artifact into a folder, under its file name; files that are there with that content stay.

    Args:
        artifact: from the store, or with `fetch` from a server.
        to: the folder; it is made.
        fetch: gives the contents of an artifact's objects.

    Returns:
        The files, with the checksums that they have.

    Raises:
        ArtifactError: a share of it is not there; or the content is not the one that was logged, and nothing
            of it stays.
        UsageError: another file of that name is there.
        OSError: it cannot be read or written.
    """
    root = to / safe_part(artifact.file_name)
    if artifact.shares:
        if artifact.lacks or not artifact.sha256:
            why = lacking(artifact) or "is still on its way to its server or store"
            raise ArtifactError(f"{artifact.name} of step {artifact.step} {why}; nothing was written")
        return [
            _brought(file, _below(root, name), _source(share, file), fetch and fetch(share))
            for share, file, name in _placed(artifact.shares)
        ]
    content = fetch and fetch(artifact)
    if not artifact.files and not (artifact.path is not None and artifact.path.is_dir()):
        plain = ManifestFile(artifact.file_name, artifact.size, artifact.sha256, (artifact.file_name,))
        return [_brought(plain, root, artifact.path, content)]
    files = artifact.files or _files_in(artifact.path)
    if len(files) == 1 and files[0].name == artifact.file_name:  # one file, in parts
        return [_brought(files[0], root, artifact.path, content)]
    return [_brought(file, _below(root, file.name), _source(artifact, file), content) for file in files]


def _below(root: Path, name: str) -> Path:
    return root.joinpath(*map(safe_part, PurePosixPath(name).parts))


def _source(artifact: Artifact, file: ManifestFile) -> Path | None:
    return artifact.path / part_place(file.name) if artifact.path is not None else None


def lacking(artifact: Artifact) -> str:
    """Whose shares are not there, in words; "" if all are."""
    more = len(artifact.lacks) - SHOWN
    named = ", ".join(artifact.lacks[:SHOWN])
    return f"lacks {named}{f' and {more} more' if more > 0 else ''}" if named else ""


def safe_part(name: str) -> str:
    """A name as one part of a path, which leads nowhere else (G11)."""
    plain = name.replace("/", "_").replace("\0", "_")
    return f"_{plain}" if plain in ("", ".", "..") else plain


def _brought(file: ManifestFile, target: Path, source: Path | None, fetch: Content | None) -> ManifestFile:
    if target.exists():
        found = _checksum(_pieces(target))
        if found == file.sha256:
            return file
        raise UsageError(f"{target} is there already, with another content; name another folder with --to")
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{os.urandom(4).hex()}.part")
    try:
        digest = hashlib.sha256()
        with draft.open("xb") as written:
            for piece in _content(file, source, fetch):
                digest.update(piece)
                written.write(piece)
        if file.sha256 and digest.hexdigest() != file.sha256:
            raise ArtifactError(
                f"{file.name} has the checksum {digest.hexdigest()}, and was logged with {file.sha256}: what "
                "is kept of it was changed or damaged; nothing was written"
            )
        draft.replace(target)
    finally:
        with suppress(FileNotFoundError):
            draft.unlink()
    return msgspec.structs.replace(file, sha256=digest.hexdigest())


def _content(file: ManifestFile, source: Path | None, fetch: Content | None) -> Iterator[bytes]:
    if source is not None:
        yield from _pieces(source)
    elif fetch is not None:
        for name in file.objects:
            yield from fetch(name)


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece


def _checksum(pieces: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _files_in(path: Path | None) -> tuple[ManifestFile, ...]:
    """Of a folder that nothing lists: of a Run whose list is lost."""
    if path is None:
        return ()
    found = sorted(each for each in path.rglob("*") if each.is_file())
    return tuple(ManifestFile(each.relative_to(path).as_posix(), each.stat().st_size, "") for each in found)


def _logged(file: LoggedFile, entry: ledger.Entry | None, folders: list[Path], *, refused: bool) -> Artifact:
    where: Where = "refused" if refused else "spool"
    if entry is not None:
        where = entry.where
    elif file.path is not None and any(map(file.path.is_relative_to, folders)):
        where = "store"
    known = _of(entry, file.name) if entry is not None else None
    return Artifact(
        name=file.name,
        step=file.step,
        time=file.time,
        file_name=file.file_name,
        size=known.size if known else file.size,
        sha256=known.sha256 if known else "",
        where=where,
        files=known.files if known else (),
        path=file.path,
        shard=file.shard,
    )


def _refused(line: FileLine) -> Artifact:
    return Artifact(
        name=line.log_name,
        step=line.step,
        time=line.time,
        file_name=line.file_name,
        size=line.file_size,
        sha256="",
        where="refused",
        shard=line.shard,
    )


def listed_in(run: Path) -> list[Artifact]:
    """What the list of a Run's folder in the store has, under the names that it has there."""
    return [_of(entry, entry.name) for entry in ledger.entries(run)]


def _of(entry: ledger.Entry, name: str) -> Artifact:
    return Artifact(
        name=name,
        step=entry.step,
        time=entry.time,
        file_name=entry.file_name,
        size=entry.size,
        sha256=entry.sha256,
        where=entry.where,
        files=entry.files,
        shard=entry.shard,
    )


class _Notes(msgspec.Struct, frozen=True):
    sha256: str = ""


# What a Run's store lists (`backend.ledger`), what its streams name beside that, and what a server has: the
# rows of its files, and the manifests among them.


class ServerArtifacts:
    """Of one Run.

    Args:
        rows: of its files, as the server lists them.
        fetch: gives what is behind an address.

    Attributes:
        artifacts: by name and step; a folder without its manifest is not complete and not among them.
    """

    def __init__(self, rows: list[FileRow], fetch: Callable[[str], Iterator[bytes]]) -> None:
        self._fetch = fetch
        self._rows = {(row.log_name, row.file_name): row for row in rows}  # a repeated row is of one object
        self.artifacts = sorted(self._found(), key=lambda each: (each.name, each.step, each.time))

    @property
    def wholes(self) -> list[Artifact]:
        """All with what their manifests say, and shares joined."""
        return joined(map(self.whole, self.artifacts))

    def whole(self, artifact: Artifact) -> Artifact:
        """The artifact with what its manifest says.

        Raises:
            ArtifactError: the manifest cannot be read.
        """
        row = self._rows.get((artifact.name, artifact.file_name + MANIFEST))
        if row is None:
            return artifact
        try:
            body = b"".join(self._fetch(row.url))
            manifest = msgspec.json.decode(body, type=Manifest)
        except UNREADABLE as error:
            raise ArtifactError(f"the manifest of {artifact.file_name} cannot be read: {error}") from error
        return msgspec.structs.replace(
            artifact,
            files=manifest.files,
            sha256=digest_of(manifest.files),
            shard=manifest.shard or None,
            size=sum(file.size for file in manifest.files),
        )

    def content(self, artifact: Artifact) -> Callable[[str], Iterator[bytes]]:
        """For `artifacts.bring`."""

        def of(name: str) -> Iterator[bytes]:
            row = self._rows.get((artifact.name, name))
            if row is None:
                raise ArtifactError(f"the server has no object {name} of {artifact.name}")
            yield from self._fetch(row.url)

        return of

    def _found(self) -> Iterator[Artifact]:
        wholes = {key[0]: set[str]() for key in self._rows}
        for log_name, file_name in self._rows:
            if file_name.endswith(MANIFEST):
                wholes[log_name].add(file_name.removesuffix(MANIFEST))
        for (log_name, file_name), row in self._rows.items():
            part = _PART.search(file_name)
            if part is not None and file_name[: part.start()] in wholes[log_name]:
                continue
            yield Artifact(
                name=log_name,
                step=row.step,
                time=row.time,
                file_name=file_name.removesuffix(MANIFEST),
                size=row.file_size,
                sha256=_listed_checksum(row),
                where="server",
            )


def _listed_checksum(row: FileRow) -> str:
    if not row.annotations or row.file_name.endswith(MANIFEST):
        return ""
    try:
        return msgspec.json.decode(row.annotations, type=_Notes).sha256
    except UNREADABLE:
        return ""
