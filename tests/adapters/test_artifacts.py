"""Bringing artifacts back: from the store, from a server's rows, never out of the folder that was named."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from pluto_dist.backend.pluto.client import FileRow
from pluto_dist.cli.artifacts import Artifact, ServerArtifacts, bring, chosen, safe_part
from pluto_dist.core.rules.shipment import Manifest, ManifestFile
from pluto_dist.errors import ArtifactError, UsageError


def sha(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def artifact(name: str = "m", step: int = 1, **more: object) -> Artifact:
    fields = {"time": step, "file_name": f"f-{step}", "size": 1, "sha256": sha(b"x"), "where": "store"}
    return Artifact(name=name, step=step, **(fields | more))  # type: ignore[arg-type] # a test's own fields


def test_the_last_step_is_meant_where_none_is_named() -> None:
    found = [artifact(step=1), artifact(step=3), artifact(step=2), artifact("other", step=9)]
    newest, second = chosen(found, "m", None), chosen(found, "m", 2)
    assert newest is not None
    assert second is not None
    assert (newest.step, second.step) == (3, 2)
    assert chosen(found, "m", 9) is None


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "../x", "\0"])
def test_a_name_leads_nowhere_else(name: str, tmp_path: Path) -> None:
    """G11: whoever wrote the manifest."""
    place = tmp_path / safe_part(name)
    assert place.parent == tmp_path
    assert place != tmp_path


def rows(*files: tuple[str, bytes], checksum: bool = True) -> tuple[list[FileRow], dict[str, bytes]]:
    """As a server lists files, and what is behind their addresses."""
    contents = {f"http://{name}": body for name, body in files}
    notes = {name: f'{{"sha256":"{sha(body)}"}}' if checksum else None for name, body in files}
    listed = [
        FileRow(file_name=name, log_name="m", file_size=len(body), step=1, annotations=notes[name], url=url)
        for (name, body), url in zip(files, contents, strict=True)
    ]
    return listed, contents


def server(listed: list[FileRow], contents: dict[str, bytes]) -> ServerArtifacts:
    def fetch(url: str) -> Iterator[bytes]:
        yield contents[url]

    return ServerArtifacts(listed, fetch)


def manifest(*files: tuple[str, bytes, tuple[str, ...]]) -> bytes:
    return msgspec.json.encode(
        Manifest(tuple(ManifestFile(name, len(body), sha(body), objects) for name, body, objects in files))
    )


def test_a_folder_on_a_server_comes_back_by_its_manifest_and_stays_below_its_place(tmp_path: Path) -> None:
    """G11: a manifest may name anything."""
    listed = manifest(("../../evil", b"ab", ("s.00000-a", "s.00001-b")), ("sub/x", b"c", ("s.00002-c",)))
    found = server(
        *rows(("s.00000-a", b"a"), ("s.00001-b", b"b"), ("s.00002-c", b"c"), ("s.manifest.json", listed))
    )
    (one,) = found.artifacts
    whole = found.whole(one)
    assert (whole.file_name, whole.size, len(whole.files)) == ("s", 3, 2)
    to = tmp_path / "to"
    bring(whole, to, found.content(whole))
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == [
        "to/s/_../_../evil",
        "to/s/sub/x",
    ]
    assert (to / "s" / "_.." / "_.." / "evil").read_bytes() == b"ab"


def test_parts_without_their_manifest_are_files_of_their_own() -> None:
    """It is not complete, and nobody takes it for the whole."""
    assert [each.file_name for each in server(*rows(("s.00000-a", b"a"))).artifacts] == ["s.00000-a"]


def test_a_content_that_is_not_the_one_that_was_logged_is_not_written(tmp_path: Path) -> None:
    listed, contents = rows(("f", b"right"))
    found = server(listed, contents)
    contents["http://f"] = b"wrong"
    with pytest.raises(ArtifactError, match=f"was logged with {sha(b'right')}"):
        bring(found.artifacts[0], tmp_path, found.content(found.artifacts[0]))
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_another_client_has_no_checksum_and_comes_all_the_same(tmp_path: Path) -> None:
    found = server(*rows(("f", b"body"), checksum=False))
    (file,) = bring(found.artifacts[0], tmp_path, found.content(found.artifacts[0]))
    assert found.artifacts[0].sha256 == ""
    assert file.sha256 == sha(b"body")
    with pytest.raises(UsageError, match="another content"):
        bring(found.artifacts[0], tmp_path, found.content(found.artifacts[0]))


def test_a_manifest_that_cannot_be_read_or_lacks_an_object_is_told(tmp_path: Path) -> None:
    broken = server(*rows(("s.manifest.json", b"{")))
    with pytest.raises(ArtifactError, match="manifest of s cannot be read"):
        broken.whole(broken.artifacts[0])
    lacking = server(*rows(("s.manifest.json", manifest(("a", b"a", ("s.00000-a",))))))
    whole = lacking.whole(lacking.artifacts[0])
    with pytest.raises(ArtifactError, match=r"has no object s\.00000-a"):
        bring(whole, tmp_path, lacking.content(whole))
