"""Artifacts of a Run: which there are, where they lie, and bringing them back with their checksums looked at.

What a Run's store lists (`backend.ledger`), what its streams name beside that, and what a server has: the
rows of its files, and the manifests among them.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

import msgspec

from pluto_dist.backend import ledger
from pluto_dist.backend.ledger import digest_of
from pluto_dist.backend.local.files import part_place
from pluto_dist.backend.local.store import Store
from pluto_dist.core.rules.series import FinalNames
from pluto_dist.core.rules.shipment import MANIFEST, Manifest, ManifestFile
from pluto_dist.core.values.ids import UNREADABLE
from pluto_dist.errors import ArtifactError, UsageError
from pluto_dist.read.run import LoggedFile, Run

if TYPE_CHECKING:
    from pluto_dist.backend.pluto.client import FileRow  # whose package loads an HTTP client

PIECE = 1 << 20

Where = Literal["store", "server", "spool"]
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
        where: the store, the server only, or still on its way (`spool`).
        files: of a folder, or of a file that a server has in parts; () for a plain file.
        path: where it is on this machine, None if it is not.
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


Content = Callable[[str], Iterator[bytes]]  # of an object, by its file name


def artifacts_of(run: Run) -> list[Artifact]:
    """What is known on this machine, by name and step."""
    folders = [Store(run.store).run(key) for key in run.document.part_keys]
    listed = {entry.file_name: entry for folder in folders for entry in ledger.entries(folder)}
    logged = {file.file_name: file for file in run.files if file.kind in ledger.LISTED}
    found = [_logged(file, listed.get(file.file_name), folders) for file in logged.values()]
    names, participants = FinalNames(run.document), {each.lease_id: each.participant for each in run.leases}
    for entry in listed.values():
        if entry.file_name not in logged:
            own = entry.where == "store"  # a server's entries have their final names
            final = names.of(participants.get(entry.lease_id, ""), entry.name, "FILE") if own else entry.name
            found.append(_of(entry, final or entry.name))
    return sorted(found, key=lambda each: (each.name, each.step, each.time))


def chosen(artifacts: Iterable[Artifact], name: str, step: int | None) -> Artifact | None:
    """The artifact of a name and step; without a step the latest. None if there is none."""
    fitting = [each for each in artifacts if each.name == name and step in (None, each.step)]
    return max(fitting, key=lambda each: (each.step, each.time), default=None)


def bring(artifact: Artifact, to: Path, fetch: Content | None = None) -> list[ManifestFile]:
    """Puts an artifact into a folder, under its file name; files that are there with that content stay.

    Args:
        artifact: from the store, or with `fetch` from a server.
        to: the folder; it is made.
        fetch: gives an object's content.

    Returns:
        The files, with the checksums that they have.

    Raises:
        ArtifactError: the content is not the one that was logged; nothing of it stays.
        UsageError: another file of that name is there.
        OSError: it cannot be read or written.
    """
    if not artifact.files and not (artifact.path is not None and artifact.path.is_dir()):
        plain = ManifestFile(artifact.file_name, artifact.size, artifact.sha256, (artifact.file_name,))
        return [_brought(plain, to / safe_part(artifact.file_name), artifact.path, fetch)]
    files = artifact.files or _files_in(artifact.path)
    if len(files) == 1 and files[0].name == artifact.file_name:  # one file, in parts
        return [_brought(files[0], to / safe_part(files[0].name), artifact.path, fetch)]
    root = to / safe_part(artifact.file_name)
    return [
        _brought(
            file,
            root.joinpath(*map(safe_part, PurePosixPath(file.name).parts)),
            artifact.path / part_place(file.name) if artifact.path is not None else None,
            fetch,
        )
        for file in files
    ]


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


def _logged(file: LoggedFile, entry: ledger.Entry | None, folders: list[Path]) -> Artifact:
    where: Where = "server"
    if file.path is not None:
        where = "store" if any(map(file.path.is_relative_to, folders)) else "spool"
    known = _of(entry, file.name) if entry is not None else None
    return Artifact(
        name=file.name,
        step=file.step,
        time=file.time,
        file_name=file.file_name,
        size=file.size,
        sha256=known.sha256 if known else "",
        where=where,
        files=known.files if known else (),
        path=file.path,
    )


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
    )


class _Notes(msgspec.Struct, frozen=True):
    sha256: str = ""


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
