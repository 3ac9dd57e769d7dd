"""Artifacts in the store and on a server: listed, and brought back with their checksums looked at."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from tests.process.harness import Node, wait_until
from tests.process.served import Served

SCRIPT = """
    run = pluto.init(run_id="job", project="p")
    for step in (1, 2):
        open("model.pt", "wb").write(b"%d" % step * 2_000_000)
        run.log({"model": pluto.Artifact("model.pt")}, step=step)
        run.flush()
    os.makedirs("step2/opt")
    open("step2/rank0.pt", "wb").write(b"shard 0")
    open("step2/opt/rank1.pt", "wb").write(b"2" * 2_000_000)
    run.log({"shards": pluto.Artifact("step2")}, step=2)
    run.log({"picture": pluto.Image(b"png")}, step=2)
"""


def sha(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def test_artifacts_without_a_server_are_kept_once_listed_and_brought_back(node: Node) -> None:
    """G3: by name and step; what was damaged since is told, and not written."""
    assert node.start(SCRIPT).wait() == 0
    node.ended("job")
    listed = wait_until(
        lambda: len(found := json.loads(node.cli("artifacts", "job", "--json"))) == 3 and found
    )
    assert [(each["name"], each["step"], each["where"], each["size"]) for each in listed] == [
        ("model", 1, "store", 2_000_000),
        ("model", 2, "store", 2_000_000),
        ("shards", 2, "store", 2_000_007),
    ]
    assert [each["sha256"] for each in listed][:2] == [sha(b"1" * 2_000_000), sha(b"2" * 2_000_000)]
    assert {each["name"]: each["sha256"] for each in listed[2]["files"]} == {
        "rank0.pt": sha(b"shard 0"),
        "opt/rank1.pt": sha(b"2" * 2_000_000),
    }
    objects = [path for path in node.store.glob("objects/*/*") if path.stat().st_nlink == 3]
    assert [path.name for path in objects] == [sha(b"2" * 2_000_000)]  # the second model, and rank 1's shard
    assert "artifact model: 2, the last of step 2, 2.0 MB" in node.cli("show", "job")
    to = node.store.parent / "back"
    told = json.loads(node.cli("download", "job", "model", "--step", "1", "--to", str(to), "--json"))
    assert Path(told["path"]).read_bytes() == b"1" * 2_000_000
    assert told["checked"]
    for _ in range(2):  # what is there already stays
        out = node.cli("download", "job", "shards", "--to", str(to))
    assert "2 files; its checksum fits" in out
    folder = to / listed[2]["file_name"]
    assert (folder / "opt" / "rank1.pt").read_bytes() == b"2" * 2_000_000
    assert (folder / "rank0.pt").read_bytes() == b"shard 0"
    (folder / "rank0.pt").write_bytes(b"mine")
    assert "is there already, with another content" in node.cli(
        "download", "job", "shards", "--to", str(to), code=2
    )
    with Path(listed[1]["path"]).open("r+b") as file:
        file.write(b"x")
    damaged = node.cli("download", "job", "model", "--to", str(to), code=1)
    assert f"was logged with {listed[1]['sha256']}" in damaged
    assert not (to / listed[1]["file_name"]).exists()
    assert "has 'model' of the steps 1, 2, and none of 7" in node.cli(
        "download", "job", "model", "--step", "7", code=1
    )
    assert "its artifacts: model, shards" in node.cli("download", "job", "none", code=1)


@pytest.mark.parametrize("way", ["live", "sync"])
def test_artifacts_of_a_server_come_back_on_another_machine(served: Served, way: str) -> None:
    """From what the server lists, by the manifest and the checksums beside its files."""
    env = {"PLUTO_DIST_MODE": "local"} if way == "sync" else {}
    assert served.start(SCRIPT, env=env).wait() == 0
    if way == "sync":
        served.ended("job")
        served.cli("sync", str(served.store))
    run = served.ended_remotely("job")
    wait_until(lambda: len(served.server.objects()) == 6, "all objects")
    wait_until(
        lambda: {each["where"] for each in json.loads(served.cli("artifacts", "job", "--json"))} != {"spool"},
        "the list",
    )
    elsewhere = served.store.parent / "elsewhere"
    at = ("--dir", str(elsewhere), "--home", str(elsewhere / "home"))
    if way == "live":  # its own store knows the names and checksums, and has no content
        own = json.loads(served.cli("artifacts", "job", "--json"))
        assert [(each["name"], each["where"], each["path"]) for each in own][2:] == [
            ("shards", "server", None)
        ]
        assert [each["sha256"] for each in own][:1] == [sha(b"1" * 2_000_000)]
    listed = json.loads(served.cli("artifacts", run["displayId"], *at, "--json"))
    assert (
        json.loads(
            served.cli("artifacts", "job", *at, "--project", served.document("job")["project"], "--json")
        )
        == listed
    )
    assert "that with --project" in served.cli("artifacts", "job", *at, code=2)
    assert "has this id" in served.cli("artifacts", "job", *at, "--project", "other", code=1)
    artifacts = {(each["name"], each["step"]): each for each in listed if each["name"] != "picture"}
    assert sorted(artifacts) == [("model", 1), ("model", 2), ("shards", 2)]
    assert artifacts["model", 1]["sha256"] == sha(b"1" * 2_000_000)
    assert len(artifacts["shards", 2]["files"]) == 2
    told = served.cli("download", run["displayId"], "model", *at, "--to", str(elsewhere))
    assert "its checksum fits" in told
    path = elsewhere / artifacts["model", 2]["file_name"]
    assert path.read_bytes() == b"2" * 2_000_000
    served.cli("download", run["displayId"], "shards", *at, "--to", str(elsewhere))
    folder = elsewhere / artifacts["shards", 2]["file_name"]
    assert (folder / "opt" / "rank1.pt").read_bytes() == b"2" * 2_000_000
