"""Files from `log()` to the store and to object storage: whole, once, in nobody's way."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.patience import NEVER_S
from tests.process.harness import Node, look, wait_until
from tests.process.served import Served

STORAGE = {"service": "storage", "method": "PUT"}


def sha(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def uploaded(served: Served, run_id: str) -> dict[str, list[str]]:
    """Checksums of the objects of a Run by log name, in the order of their steps."""
    run = served.remote(run_id)
    objects = served.server.objects()
    found: dict[str, list[str]] = {}
    for row in sorted(served.server.files(run["id"]), key=lambda row: (row["step"], row["sample_index"])):
        if row["object_key"] in objects:
            assert objects[row["object_key"]]["size"] == row["file_size"]
            found.setdefault(row["log_name"], []).append(objects[row["object_key"]]["sha256"])
    return found


def blobs(node: Node) -> list[Path]:
    """What of files is in the spool."""
    return [path for path in look(node.home, "spool/leases/*/blobs/*") if path.is_file()]


def kept(node: Node) -> list[Path]:
    """Files in the store."""
    return [path for path in look(node.store, "runs/*/files/**/*") if path.is_file()]


def exported(node: Node, run: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in node.cli("export", run).splitlines()]


def test_values_of_all_kinds_reach_the_server_under_names_of_their_type(served: Served) -> None:
    """G6, G3: a file that is rewritten in place right after `log()` arrives as it was."""
    script = served.start("""
        import hashlib, numpy
        run = pluto.init(run_id="kinds")
        open("a.pt", "wb").write(b"one" * 1000)
        image = numpy.zeros((4, 5, 3), dtype="uint8")
        run.log({
            "loss": 1.0,
            "ckpt": pluto.Artifact("a.pt", metadata={"epoch": 1}),
            "notes/file": pluto.File("a.pt", name="model"),
            "text": pluto.Text("hello", caption="greeting"),
            "pictures": [pluto.Image(image, caption=f"n{n}") for n in range(3)],
            "sound": pluto.Audio(numpy.zeros(100), rate=8000),
            "clip": pluto.Video(b"film", format="webm"),
            "weights": pluto.Histogram([1.0, 2.0, 2.0], bins=2),
            "rows": pluto.Table([[1, "a"], [float("nan"), "b"]], columns=["n", "s"]),
        }, step=7)
        open("a.pt", "r+b").write(b"two")
        tell("logged")
    """)
    script.expect("logged")
    assert script.wait() == 0
    run = served.ended_remotely("kinds")
    assert run["status"] == "COMPLETED"
    assert run["logNames"] == {
        "loss": "METRIC",
        "ckpt": "ARTIFACT",
        "notes/file": "FILE",
        "text": "TEXT",
        "pictures": "IMAGE",
        "sound": "AUDIO",
        "clip": "VIDEO",
        "weights": "HISTOGRAM",
        "rows": "TABLE",
    }
    found = uploaded(served, "kinds")
    assert found["ckpt"] == found["notes/file"] == [sha(b"one" * 1000)]
    assert found["text"] == [sha(b"hello")]
    assert found["clip"] == [sha(b"film")]
    assert {name: len(each) for name, each in found.items()} == {
        **dict.fromkeys(("ckpt", "notes/file", "text", "sound", "clip"), 1),
        "pictures": 3,
    }
    rows = {(row["log_name"], row["sample_index"]): row for row in served.server.files(run["id"])}
    assert {row["step"] for row in rows.values()} == {7}
    assert [rows["pictures", n]["caption"] for n in range(3)] == ["n0", "n1", "n2"]
    assert json.loads(rows["ckpt", 0]["annotations"]) == {"epoch": 1, "sha256": sha(b"one" * 1000)}
    assert rows["notes/file", 0]["file_name"].startswith("model-7-")
    types = {"ckpt": "pt", "text": "txt", "sound": "wav", "clip": "webm"}
    assert {name: rows[name, 0]["file_type"] for name in types} == types
    data = {row["log_name"]: row for row in served.server.data(run["id"])}
    assert {name: row["data_type"] for name, row in data.items()} == {"weights": "histogram", "rows": "table"}
    assert json.loads(data["weights"]["data"])["freq"] == [1, 2]
    assert json.loads(data["rows"]["data"])["table"] == [[1, "a"], ["nan", "b"]]
    wait_until(lambda: not blobs(served), "the spool gives the files' room back")
    assert kept(served) == []
    assert served.document("kinds")["rejected"] == 0


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "expired_url", **STORAGE},
        {"kind": "latency", "seconds": NEVER_S, **STORAGE},
        {"kind": "status", "status": 503, "service": "ingest", "route": "/files"},
    ],
    ids=["refused", "slow", "no address"],
)
def test_storage_in_trouble_holds_back_neither_metrics_nor_the_status(
    served: Served, fault: dict[str, object]
) -> None:
    """G6, G5: what could not be uploaded is in the store, from where `sync` brings it over."""
    served.server.waive("6.3.2", text="/files*")  # files may be late; the server takes them in any status
    served.server.waive("6.3.5", text="*PUT /*")
    script = served.start("""
        run = pluto.init(run_id="stuck", settings={"exit_wait_s": 1})
        tell("ready")
        hear()
        for step in range(3):
            run.log({"ckpt": pluto.Artifact(b"%d" % step, caption="c")}, step=step)
            log(run, {"loss": float(step)}, step)
        tell("logged")
        hear()
        run.finish()
    """)
    script.expect("ready")
    served.server.add_fault(**fault)
    script.say()
    script.expect("logged")
    wait_until(lambda: served.missing("stuck") == [], "the metrics")
    script.say()
    assert script.wait() == 0
    assert served.ended_remotely("stuck")["status"] == "COMPLETED"
    wait_until(lambda: len(kept(served)) == 3, "the files are in the store")
    assert sorted(path.read_bytes() for path in kept(served)) == [b"0", b"1", b"2"]
    served.back()
    everything = {sha(b"0"), sha(b"1"), sha(b"2")}
    wait_until(lambda: set(uploaded(served, "stuck").get("ckpt", [])) == everything, "the files arrive")
    wait_until(lambda: not kept(served), "the copies go")
    assert served.document("stuck")["rejected"] == 0


def test_an_uploader_beside_a_training_loses_no_byte_when_the_coordinator_is_killed(served: Served) -> None:
    """G12, G3, G6: an address that was asked for by the dead coordinator is asked for again, and counted."""
    served.server.waive("6.3.4", text="second presign*")
    served.server.waive("6.3.4", text="presigned, never*")
    training = served.start('run = pluto.init(run_id="job"); tell("ready"); hear()')
    training.expect("ready")
    served.server.add_fault(kind="latency", seconds=0.5, **STORAGE)
    uploader = served.start("""
        import hashlib
        run = pluto.attach("job", label="uploader")
        for step in range(3):
            body = os.urandom(3_000_000 + step)
            open("model.pt", "wb").write(body)
            run.log({"checkpoint": pluto.Artifact("model.pt")}, step=step)
            os.unlink("model.pt")
            tell("shipped", hashlib.sha256(body).hexdigest())
            hear()
        run.close()
    """)
    sums = [uploader.expect("shipped")]
    for _ in range(2):
        uploader.say()
        sums.append(uploader.expect("shipped"))
        if len(sums) == 2:
            served.kill_coordinator()
    wait_until(lambda: set(uploaded(served, "job").get("checkpoint", [])) == set(sums), "all bytes")
    wait_until(lambda: not blobs(served), "the room is given back while the uploader lives")
    uploader.say()
    assert uploader.wait() == 0
    training.say()
    assert training.wait() == 0
    assert served.ended_remotely("job")["status"] == "COMPLETED"
    assert served.remote("job")["logNames"]["checkpoint"] == "ARTIFACT"


def test_large_files_are_not_copied_and_what_became_of_them_is_told(served: Served) -> None:
    """G3, G4: deleted, rotated away, written to, replaced, while the server is down."""
    script = served.start(
        """
        run = pluto.init(run_id="large", settings={"exit_wait_s": 1})
        tell("ready")
        hear()
        for name in ("deleted", "rotated", "written", "kept"):
            open(name, "wb").write(name.encode() * 1000)
            run.log({name: pluto.Artifact(name)}, step=0)
        os.unlink("deleted")
        open("new", "wb").write(b"else")
        os.rename("new", "rotated")
        open("written", "ab").write(b"more")
    """,
        env={"PLUTO_DIST_FILES_COPY": "100"},
    )
    script.expect("ready")
    served.cut_off()
    script.say()
    assert script.wait() == 0
    served.back()
    assert served.ended_remotely("large")["status"] == "COMPLETED"
    held = {name: [sha(name.encode() * 1000)] for name in ("deleted", "rotated", "kept")}
    wait_until(lambda: uploaded(served, "large") == held, "what the second link has held")
    document = wait_until(lambda: (found := served.document("large"))["rejected"] and found, "the other one")
    assert document["rejected"] == 1
    (why,) = (event["detail"]["why"] for event in document["events"] if event["name"] == "file_set_aside")
    assert why.startswith(
        f"{served.store.parent}/written was changed (it had 7,000 bytes when it was logged, and"
    )
    assert "written was changed" in served.cli("show", "large")
    listed = {each["name"]: each["where"] for each in json.loads(served.cli("artifacts", "large", "--json"))}
    assert listed == dict.fromkeys(held, "server") | {"written": "refused"}
    assert "has 'written' not any more" in served.cli("download", "large", "written", code=1)
    assert look(served.store, "runs/*/rejected/*") == []


def test_a_folder_that_ranks_have_written_is_one_artifact_also_when_coordinators_die(served: Served) -> None:
    """G12, G6: each object once, the manifest with the checksum of each file."""
    script = served.start(
        """
        run = pluto.init(run_id="sharded")
        tell("ready")
        hear()
        os.mkdir("step3")
        for rank in range(4):
            if (child := os.fork()) == 0:
                open(f"step3/rank{rank}.pt", "wb").write(b"%d" % rank * 3_000_000)
                os._exit(0)
            os.waitpid(child, 0)
        run.log({"ckpt": pluto.Artifact("step3", metadata={"world": 4})}, step=3)
        tell("logged")
        hear()
    """
    )
    script.expect("ready")
    served.server.add_fault(kind="latency", seconds=NEVER_S, count=2, **STORAGE)
    script.say()
    script.expect("logged")
    wait_until(lambda: len(served.server.files(served.remote("sharded")["id"])) == 4, "addresses")
    served.kill_coordinator()
    served.back()
    wait_until(lambda: len(uploaded(served, "sharded").get("ckpt", [])) == 5, "four files and the manifest")
    script.say()
    assert script.wait() == 0
    assert served.ended_remotely("sharded")["status"] == "COMPLETED"
    rows = served.server.files(served.remote("sharded")["id"])
    assert len(rows) == 5
    sums = [sha(b"%d" % rank * 3_000_000) for rank in range(4)]
    assert uploaded(served, "sharded")["ckpt"][:4] == sums
    body = base64.b64decode(served.server.object_base64(rows[4]["object_key"]))
    assert [(file["name"], file["sha256"]) for file in json.loads(body)["files"]] == [
        (f"rank{rank}.pt", sums[rank]) for rank in range(4)
    ]
    wait_until(lambda: not blobs(served), "the room is given back")


def test_two_participants_with_one_name_get_two_series_of_files(served: Served) -> None:
    """G10, R7"""
    owner = served.start("""
        run = pluto.init(run_id="two")
        run.log({"sample": pluto.Text("of the owner")}, step=0)
        tell("logged")
        hear()
    """)
    owner.expect("logged")
    side = served.start("""
        run = pluto.attach("two", label="eval")
        run.log({"sample": pluto.Text("of the eval")}, step=0)
        run.close()
    """)
    assert side.wait() == 0
    owner.say()
    assert owner.wait() == 0
    served.ended_remotely("two")
    expected = {"sample": [sha(b"of the owner")], "sample/eval": [sha(b"of the eval")]}
    wait_until(lambda: uploaded(served, "two") == expected, "both files")
    assert served.remote("two")["logNames"] == {"sample": "TEXT", "sample/eval": "TEXT"}


def test_a_killed_process_and_its_forked_child_leave_whole_files(node: Node) -> None:
    """G3: SIGKILL right after `log()`; a forked child has a chain of its own."""
    script = node.start("""
        run = pluto.init(run_id="killed")
        run.log({"f": pluto.Artifact(b"parent" * 1000)}, step=1)
        child = os.fork()
        if child == 0:
            run.log({"f": pluto.Artifact(b"child" * 1000)}, step=2)
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        tell("logged")
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    script.expect("logged")
    document = node.ended("killed")
    wait_until(lambda: len(kept(node)) == 2, "both files")
    assert sorted(path.read_bytes() for path in kept(node)) == [b"child" * 1000, b"parent" * 1000]
    assert document["status"] == "FAILED"


def test_local_files_are_private_shown_exported_and_synced_once(served: Served) -> None:
    """G11, G6: with their own steps and times, and a second sync adds nothing."""
    script = served.start(
        """
        run = pluto.init(run_id="local")
        for step in (5, 6):
            counted = pluto.Histogram(([1, 2], [0, 1, 2]), None)
            run.log({"a/ckpt": pluto.Artifact(b"x" * step), "h": counted}, step)
            log(run, {"loss": 1.0}, step)
    """,
        env={"PLUTO_DIST_MODE": "local"},
    )
    assert script.wait() == 0
    served.ended("local")
    files = wait_until(lambda: len(kept(served)) == 2 and kept(served), "both files")
    assert [path.stat().st_mode & 0o777 for path in files] == [0o600, 0o600]
    assert [path.parent.relative_to(served.store).parts[2:] for path in files] == [("files", "a", "ckpt")] * 2
    wait_until(lambda: not blobs(served), "the spool is empty")
    points = exported(served, "local")
    places = [point["value"] for point in points if point["kind"] == "file"]
    run_folder = next(served.store.glob("runs/*"))
    assert [(run_folder / place).read_bytes() for place in places] == [b"x" * 5, b"x" * 6]
    assert [point["kind"] for point in points if point["name"] == "h"] == ["histogram"] * 2
    shown = served.cli("show", "local")
    assert places[1].rpartition("/")[2] in shown
    assert str(run_folder / "files") in shown
    for _ in range(2):
        served.cli("sync", str(served.store))
        assert uploaded(served, "local") == {"a/ckpt": [sha(b"x" * 5), sha(b"x" * 6)]}
        rows = served.server.files(served.remote("local")["id"])
        assert [row["step"] for row in rows] == [5, 6]
    times = [point["time"] for point in points if point["kind"] == "file"]
    assert [row["time"] for row in rows] == times
    assert len(kept(served)) == 2


def test_without_room_a_file_is_dropped_counted_and_told_and_training_goes_on(node: Node) -> None:
    """G4: value, limit and way out in the message; records have a quota of their own."""
    node.set(PLUTO_DIST_FILES_QUOTA="1000")
    script = node.start("""
        run = pluto.init(run_id="full")
        run.log({"big": pluto.Artifact(b"x" * 1001), "loss": 1.0}, step=0)
        log(run, {"loss": 2.0}, 1)
        run.log({"gone": pluto.File("nothing here")}, step=2)
        try:
            os.mkfifo("pipe")
            run.log({"pipe": pluto.File("pipe")}, step=3)
        finally:
            tell("logged")
    """)
    script.expect("logged")
    assert script.wait() == 0
    document = node.ended("full")
    assert document["status"] == "COMPLETED"
    assert document["dropped"] == 1
    assert document["rejected"] == 2
    assert node.lost("full") == []
    assert look(node.home, "spool/leases/*/blobs/*") == []
    assert "it has 1,001 bytes" in script.stderr
    assert "1,000" in script.stderr
    assert "files_quota" in script.stderr
    assert "No such file" in script.stderr
    assert "no regular file" in script.stderr


def test_files_leave_room_on_the_disk_for_records(node: Node) -> None:
    """G4: content that would fill the disk is dropped, before records have to be; a file is where it is."""
    if not node.mount("size=160m"):
        pytest.skip("tmpfs cannot be mounted here")
    node.set(PLUTO_DIST_FILES_QUOTA="1G")
    script = node.start("""
        run = pluto.init(run_id="full")
        open("large", "wb").truncate(60 << 20)
        run.log({"large": pluto.File("large"), "bytes": pluto.Artifact(bytes(60 << 20))}, step=0)
        log(run, {"loss": 1.0}, 1)
    """)
    assert script.wait() == 0
    assert node.ended("full")["dropped"] == 1
    assert node.lost("full") == []
    assert "kept for records" in script.stderr
    assert [path.stat().st_size for path in kept(node)] == [60 << 20]


def test_files_of_a_node_that_is_gone_are_in_the_store_and_there_after_sync(served: Served) -> None:
    """G3, R11: the server is away, the last process leaves, everything is killed, home and spool go."""
    script = served.start(
        """
        run = pluto.init(run_id="gone")
        tell("ready")
        hear()
        for step in range(3):
            run.log({"ckpt": pluto.Artifact(b"%d" % step * 100_000), "loss": 1.0}, step=step)
    """,
        env={"PLUTO_DIST_EXIT_WAIT_S": "1"},
    )
    script.expect("ready")
    served.cut_off()
    script.say()
    assert script.wait() == 0
    segments = wait_until(
        lambda: served.document("gone")["verdict"] and look(served.store, "runs/*/streams/*/files-*"),
        "copies",
    )
    assert len(segments) == 1
    assert len(kept(served)) == 3
    served.stop()
    shutil.rmtree(served.home)
    served.back()
    served.cli("sync", str(served.store))
    assert uploaded(served, "gone") == {"ckpt": [sha(b"%d" % step * 100_000) for step in range(3)]}
    assert served.remote("gone")["status"] == "COMPLETED"
    assert kept(served) == []


def test_a_file_that_the_server_refuses_is_kept_aside_and_its_neighbours_arrive(served: Served) -> None:
    """G6: readable, with its reason, and its room in the spool is given back."""
    script = served.start("""
        run = pluto.init(run_id="refused")
        tell("ready")
        hear()
        run.log({"ckpt": pluto.Artifact(b"bad")}, step=0)
        run.flush()
        run.log({"ckpt": pluto.Artifact(b"good")}, step=1)
        run.flush()
        tell("flushed")
        hear()
    """)
    script.expect("ready")
    served.server.add_fault(kind="status", status=400, service="ingest", route="/files", count=1)
    script.say()
    script.expect("flushed")
    assert uploaded(served, "refused") == {"ckpt": [sha(b"good")]}
    assert [path.read_bytes() for path in served.store.glob("runs/*/rejected/*")] == [b"bad"]
    record = json.loads(next(served.store.glob("runs/*/rejected.jsonl")).read_text())
    assert json.loads(record["record"])["step"] == 0
    wait_until(lambda: not blobs(served), "the room is given back while the process lives")
    script.say()
    assert script.wait() == 0
    assert served.document("refused")["rejected"] == 1


def test_files_keep_the_names_that_numbers_may_have(served: Served) -> None:
    """Whatever becomes of the name in a path: at the server, in the store, and from there at the server."""
    names = ["/image/nice", "train//x", "val/", "a/../b", "."]
    body = """
        run = pluto.init(run_id="odd", project=sys.argv[1])
        for name in ["/image/nice", "train//x", "val/", "a/../b", "."]:
            run.log({name: pluto.Text(name)}, 0)
        run.finish()
    """
    assert served.start(body, "there").wait() == 0
    expected = {name: [sha(name.encode())] for name in names}
    assert (
        wait_until(lambda: len(uploaded(served, "odd")) == 5 and uploaded(served, "odd"), "all") == expected
    )
    local = served.start(body.replace('"odd"', '"odd-later"'), "later", env={"PLUTO_DIST_MODE": "local"})
    assert local.wait() == 0
    assert len(kept(served)) == 5
    assert {point["name"] for point in exported(served, "odd-later")} == set(names)
    served.cli("sync", "odd-later")
    assert uploaded(served, "odd-later") == expected
