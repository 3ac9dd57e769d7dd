"""A damaged store: commands say what cannot be read, in one line, and show the Runs beside it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import strategies as st

from pluto_dist.backend.local import LocalBackend
from pluto_dist.backend.local.store import Store
from pluto_dist.core.values.backend import OpenRequest, Refused, RunOpened, Unavailable
from pluto_dist.core.values.document import Document
from pluto_dist.core.values.lifecycle import Target
from pluto_dist.core.values.records import Run
from pluto_dist.spool.frames import encode_frame, segment_name
from tests.adapters.commandline import invoke
from tests.adapters.documents import document, lease, put_segment
from tests.fuzz.budget import fuzz
from tests.fuzz.damage import Damage, damaged, damages
from tests.fuzz.values import as_json, integers, plain_json, texts

LEASE = "a" * 24
LINE = b'{"time":1,"step":3,"data":{"loss":0.5}}\n'
COMMANDS = (("show", "ill"), ("export", "ill"), ("logs", "ill"))


@contextmanager
def two_runs() -> Iterator[Store]:
    """A store with a Run that will suffer, `ill`, and one that must not, `well`; found by their keys."""
    base = Path(tempfile.mkdtemp(prefix="pd"))
    store = Store(base / ".pluto")
    try:
        for number, key in enumerate(("ill", "well"), 1):
            found = document(lease(LEASE), key=key, number=number, store=str(store.root))
            store.write_document(key, msgspec.json.encode(found))
            put_segment(store, key, LEASE, segment_name("metrics", 1), encode_frame(LINE))
            put_segment(store, key, LEASE, segment_name("console", 1), encode_frame(b"{}\n"))
        yield store
    finally:
        shutil.rmtree(base, ignore_errors=True)


def command(store: Store, *arguments: str) -> tuple[int, str]:
    """Exit code and stdout; a traceback would be an exception here."""
    places = ["--home", str(store.root.parent / "h"), "--dir", str(store.root.parent)]
    done = invoke([*arguments, *places])
    return done.exit_code, done.stdout


def looks_well(store: Store) -> None:
    """The other Run is listed, shown and exported; no command falls over the ill one."""
    for arguments in COMMANDS:
        code, _ = command(store, *arguments)
        assert code in (0, 1, 2)
    code, listed = command(store, "runs", "--json")
    assert code == 0
    assert "well" in [each["key"] for each in json.loads(listed)]
    code, points = command(store, "export", "well")
    assert code == 0
    assert json.loads(points)["value"] == 0.5


@fuzz(4, changes=damages)
def test_a_damaged_document_hides_no_other_run(changes: list[Damage]) -> None:
    """Bits that flipped in `run.json`."""
    with two_runs() as store:
        path = store.run("ill") / "run.json"
        path.write_bytes(damaged(path.read_bytes(), changes))
        looks_well(store)


def with_value(field: str, value: Any) -> bytes:
    """The document with one field, or one below `restore.run`, of somebody else's making."""
    found = json.loads(msgspec.json.encode(document(lease(LEASE), key="ill", store="/nowhere/.pluto")))
    (found["restore"]["run"] if field.startswith("run.") else found)[field.removeprefix("run.")] = value
    return as_json(found)


FIELDS = [*Document.__struct_fields__, *(f"run.{name}" for name in Run.__struct_fields__)]
strange = st.one_of(
    st.binary(max_size=50),
    plain_json.map(as_json),
    st.builds(with_value, st.sampled_from(FIELDS), plain_json),
    st.integers(90_000, 99_999).map(lambda levels: b"[" * levels),
)


@fuzz(4, content=strange)
def test_a_document_of_somebody_else_hides_no_other_run(content: bytes) -> None:
    """JSON of another shape, of a newer version, or hostile values in the right shape."""
    with two_runs() as store:
        (store.run("ill") / "run.json").write_bytes(content)
        looks_well(store)


@fuzz(4, changes=damages, stream=st.sampled_from(["metrics", "console"]), line=plain_json.map(as_json))
def test_damaged_points_hide_no_other_run(changes: list[Damage], stream: str, line: bytes) -> None:
    """Copies of segments with damage, or with records that nobody of ours wrote."""
    with two_runs() as store:
        path = store.run("ill") / "streams" / LEASE / segment_name(stream, 1)
        path.write_bytes(damaged(path.read_bytes() + encode_frame(line), changes))
        looks_well(store)


KINDS = ("folder", "pipe", "dangling link", "loop", "unreadable name")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_hides_no_other_run(kind: str) -> None:
    """In the place of a document, and as a Run's folder."""
    with two_runs() as store:
        path = store.run("ill") / "run.json"
        path.unlink()
        match kind:
            case "folder":
                path.mkdir()
            case "pipe":
                os.mkfifo(path)
            case "dangling link":
                path.symlink_to("nowhere")
            case "loop":
                path.symlink_to("run.json")
            case "unreadable name":
                (store.root / "runs" / "caf\udce9").mkdir()
                (store.root / "runs" / "caf\udce9" / "run.json").write_bytes(b"{}")
        looks_well(store)


@fuzz(8, changes=damages, which=st.sampled_from(["document", "mark", "both"]))
def test_sync_uploads_the_others(changes: list[Damage], which: str) -> None:
    """A damaged document is left out, a damaged mark named: nobody knows what was uploaded."""
    from pluto_dist.backend.local.store import Mark, Marks
    from pluto_dist.sync.plan import plan

    target = Target("pluto", "", "http://api", "http://i", "http://p", "http://a", "key1")
    with two_runs() as store:
        Marks(store, "ill").put(Mark(url_api=target.url_api, key_id=target.key_id, offsets={}))
        paths = [] if which == "mark" else [store.run("ill") / "run.json"]
        paths += [] if which == "document" else list((store.run("ill") / "sync").glob("*.json"))
        for path in paths:
            path.write_bytes(damaged(path.read_bytes(), changes))
        items = {item.key: item for item in plan(store, target, force=True)}
        assert items["well"].state == "upload"
        ill = items.get("ill")
        assert ill is None or ill.state in ("upload", "unreadable", "up to date", "running", "elsewhere")


@fuzz(
    12,
    project=texts,
    external=texts | st.none(),
    number=integers | st.none(),
    display=st.none() | st.sampled_from(["DEM-1", "DEM-" + "9" * 5000, "A-٣"]) | texts,
    want=st.sampled_from(["create", "resume", "either"]),
    planted=st.sampled_from(["", "²", "caf\udce9", "9" * 30, "x"]),
)
def test_any_name_is_a_run_or_a_refusal_inside_of_the_store(
    project: str, external: str | None, number: Any, display: str | None, want: Any, planted: str
) -> None:
    """G11: no path comes out of a name; files of others among the numbers stop nobody."""
    with two_runs() as store:
        base = store.root.parent
        if planted:
            (store.root / "ids").mkdir()
            (store.root / "ids" / planted).write_bytes(b"\xff")
        request = OpenRequest(
            key="fresh",
            target=Target("local", str(store.root)),
            want=want,
            project=project,
            name="n",
            external_id=external,
            id=number,
            display_id=display,
        )
        found = LocalBackend(store.root).open(request)
        assert isinstance(found, RunOpened | Refused | Unavailable)
        assert [path.name for path in base.iterdir()] == [".pluto"]
        assert {path.name for path in store.root.iterdir()} <= {"runs", "ids", "projects"}
        if want == "create" and number is None and display is None:
            assert isinstance(found, RunOpened), found
