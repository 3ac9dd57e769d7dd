"""Artifacts that a server has: from the rows of its files, and the manifests among them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import msgspec

from pluto_dist.backend.ledger import digest_of
from pluto_dist.backend.pluto.client import FileRow
from pluto_dist.core.rules.shipment import MANIFEST, Manifest
from pluto_dist.core.values.ids import UNREADABLE
from pluto_dist.errors import ArtifactError
from pluto_dist.read.artifacts import Artifact

_PART = re.compile(r"\.\d{5}-[A-Za-z0-9_.-]+")  # what stands behind an artifact's file name in that of a part


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
                sha256=_checksum(row),
                where="server",
            )


def _checksum(row: FileRow) -> str:
    if not row.annotations or row.file_name.endswith(MANIFEST):
        return ""
    try:
        return msgspec.json.decode(row.annotations, type=_Notes).sha256
    except UNREADABLE:
        return ""
