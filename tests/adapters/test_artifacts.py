"""Bringing artifacts back: from the store, from a server's rows, never out of the folder that was named."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from pluto_dist.backend.pluto.client import FileRow
from pluto_dist.cli.artifacts import Artifact, ServerArtifacts, bring, chosen, joined, lacking, safe_part
from pluto_dist.core.rules.shipment import Manifest, ManifestFile, Shard
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
    bring(whole, to, found.content)
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
        bring(found.artifacts[0], tmp_path, found.content)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_another_client_has_no_checksum_and_comes_all_the_same(tmp_path: Path) -> None:
    found = server(*rows(("f", b"body"), checksum=False))
    (file,) = bring(found.artifacts[0], tmp_path, found.content)
    assert found.artifacts[0].sha256 == ""
    assert file.sha256 == sha(b"body")
    with pytest.raises(UsageError, match="another content"):
        bring(found.artifacts[0], tmp_path, found.content)


def test_a_manifest_that_cannot_be_read_or_lacks_an_object_is_told(tmp_path: Path) -> None:
    broken = server(*rows(("s.manifest.json", b"{")))
    with pytest.raises(ArtifactError, match="manifest of s cannot be read"):
        broken.whole(broken.artifacts[0])
    lacking = server(*rows(("s.manifest.json", manifest(("a", b"a", ("s.00000-a",))))))
    whole = lacking.whole(lacking.artifacts[0])
    with pytest.raises(ArtifactError, match=r"has no object s\.00000-a"):
        bring(whole, tmp_path, lacking.content)


def share(number: int, *files: tuple[str, bytes], of: int = 2, at: int = 1, **more: object) -> Artifact:
    """What a rank gave of `ckpt`."""
    listed = tuple(ManifestFile(name, len(body), sha(body), (f"r{number}.{name}",)) for name, body in files)
    shard = Shard("ckpt", number, of, group="first")
    fields = {"time": at, "files": listed, "sha256": "known", "shard": shard}
    return artifact(shard.log_name, **(fields | more))


def test_shares_are_one_artifact_that_says_whose_is_lacking() -> None:
    (whole,) = joined([share(1, ("b", b"bb")), share(0, ("a", b"a"))])
    assert (whole.name, whole.file_name, whole.size, whole.lacks) == ("ckpt", "ckpt-1", 3, ())
    assert [file.name for file in whole.files] == ["a", "b"]
    assert whole.sha256
    (part,) = joined([share(number, of=20) for number in range(20) if number % 2])
    assert part.lacks[:2] == ("rank 0", "rank 2")
    assert lacking(part).endswith("rank 14 and 2 more")
    with pytest.raises(ArtifactError, match=r"ckpt of step 1 lacks rank 0, rank 2.*nothing was written"):
        bring(part, Path("nowhere"))


def test_a_share_that_was_refused_is_lacking_and_stands_beside_the_rest() -> None:
    """It is not on its way any more: nobody waits for it."""
    found = joined([share(0, ("a", b"a")), share(1, sha256="", where="refused")])
    assert [(each.name, each.where, each.lacks) for each in found] == [
        ("ckpt", "store", ("rank 1",)),
        ("ckpt/rank1", "refused", ()),
    ]
    assert chosen(found, "ckpt/rank1", None) is None


def test_the_same_file_of_two_is_there_once_and_another_one_of_its_name_beside_it() -> None:
    """Ranks on a filesystem of all nodes give the same; ranks with folders of their own do not."""
    (whole,) = joined([share(0, ("a", b"1"), ("same", b"s")), share(1, ("a", b"2"), ("same", b"s"))])
    assert [file.name for file in whole.files] == ["a", "same", "rank1/a"]


def test_a_share_is_joined_only_by_those_of_its_step_launch_and_attempt() -> None:
    """A job that starts again saves the same step again: half of each would be no checkpoint."""
    again = msgspec.structs.replace(
        share(0, ("a", b"2"), at=5), shard=Shard("ckpt", 0, 2, group="second"), file_name="again"
    )
    found = joined([share(0, ("a", b"1")), share(1, ("b", b"1")), again])
    assert [each.lacks for each in found] == [(), ("rank 1",)]
    newest = chosen(found, "ckpt", 1)
    assert newest is not None
    assert newest.lacks == ()
    (twice,) = joined([share(0, ("a", b"1")), share(1), share(0, ("a", b"2"), at=5)])
    assert [file.sha256 for file in twice.files] == [sha(b"2")]


def test_shares_come_back_into_one_folder_each_from_its_own_place(tmp_path: Path) -> None:
    contents = {"r0.a": b"a", "r1.b": b"bb"}

    def of(one: Artifact) -> Callable[[str], Iterator[bytes]]:
        return lambda name: iter([contents[name] if name.startswith(f"r{one.name[-1]}") else b"wrong"])

    (whole,) = joined([share(0, ("a", b"a")), share(1, ("b", b"bb"))])
    bring(whole, tmp_path, of)
    assert {path.name: path.read_bytes() for path in (tmp_path / "ckpt-1").iterdir()} == {
        "a": b"a",
        "b": b"bb",
    }
    (early,) = joined([share(0, ("a", b"a")), share(1, sha256="")])
    with pytest.raises(ArtifactError, match="still on its way"):
        bring(early, tmp_path, of)
