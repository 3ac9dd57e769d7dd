"""`pluto-dist upload` beside a training: complete files only, each once, whatever is killed."""

from __future__ import annotations

import hashlib
import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.patience import NEVER_S
from tests.process.harness import Node, wait_until
from tests.process.served import Served

STORAGE = {"service": "storage", "method": "PUT"}
TRAINING = 'run = pluto.init(run_id="job"); tell("ready"); hear(); run.finish()'


def upload(node: Node, *arguments: str) -> Any:
    """The command as a process of its own."""
    return node.start(f"""
        from pluto_dist.cli.main import app
        app({["upload", "job", *arguments]!r})
    """)


def content(step: int) -> bytes:
    return b"%04d" % step * 500_000


def save(folder: Path, step: int) -> str:
    """As a trainer saves: under another name first; its checksum."""
    folder.mkdir(exist_ok=True)
    (folder / "partial").write_bytes(content(step))
    (folder / "partial").rename(folder / f"step{step}.pt")
    return hashlib.sha256(content(step)).hexdigest()


def stored(served: Served) -> Counter[str]:
    """Checksums of the objects of the Run."""
    objects = served.server.objects()
    keys = {row["object_key"] for row in served.server.files(served.remote("job")["id"])}
    return Counter(objects[key]["sha256"] for key in keys if key in objects)


def puts(served: Served) -> Counter[str]:
    """How often storage took each object."""
    found = served.server.requests()
    return Counter(each["path"] for each in found if each["method"] == "PUT" and each["status"] == 200)


def test_a_watched_folder_arrives_once_whatever_dies(served: Served) -> None:
    """G12, G6: storage fails now and then, the coordinator and the uploader are killed in an upload."""
    served.server.waive("6.3.2", text="/files*")  # what was saved last may arrive behind the status
    checkpoints = served.store.parent / "checkpoints"
    sums = {save(checkpoints, 0)}
    training = served.start(TRAINING)
    training.expect("ready")
    watch = ("--watch", str(checkpoints), "--pattern", "*.pt", "--name", "ckpt")
    uploader = upload(served, *watch)
    wait_until(lambda: stored(served).keys() == sums, "the first")
    served.server.add_fault(kind="status", status=503, count=2, **STORAGE)
    sums.add(save(checkpoints, 1))
    wait_until(lambda: stored(served).keys() == sums, "in spite of errors")
    served.server.add_fault(kind="latency", seconds=NEVER_S, **STORAGE)
    sums |= {save(checkpoints, step) for step in (2, 3)}
    hung = len(served.server.files(served.remote("job")["id"]))
    wait_until(
        lambda: len(served.server.files(served.remote("job")["id"])) == 4, f"on their way, {hung} so far"
    )
    served.kill_coordinator()
    uploader.kill()
    with (checkpoints / "step4.pt").open("wb") as open_file:  # a trainer that writes in place
        open_file.write(content(4)[:1_000_000])
        open_file.flush()
        served.back()
        uploader = upload(served, *watch)
        wait_until(lambda: stored(served).keys() == sums, "those that were on their way")
        open_file.write(content(4)[1_000_000:])
    sums.add(hashlib.sha256(content(4)).hexdigest())
    wait_until(lambda: stored(served).keys() == sums, "the open one, when it was closed")
    sums.add(save(checkpoints, 5))
    training.say()
    assert training.wait() == 0
    assert uploader.wait() == 0
    assert stored(served) == dict.fromkeys(sums, 1)
    # What hung when the coordinator died has reached storage all the same; nobody was there for the answer.
    twice = {path for path, count in puts(served).items() if count > 1}
    assert all("/step2-2-" in path or "/step3-3-" in path for path in twice), puts(served)
    assert max(puts(served).values()) <= 2
    assert [row["step"] for row in served.server.files(served.remote("job")["id"])].count(5) == 1
    assert served.ended_remotely("job")["status"] == "COMPLETED"
    listed = json.loads(served.cli("artifacts", "job", "--json"))
    assert sorted((each["step"], each["sha256"]) for each in listed if each["name"] == "ckpt") == sorted(
        (step, hashlib.sha256(content(step)).hexdigest()) for step in range(6)
    )


def test_what_is_uploaded_is_deleted_and_what_was_written_since_is_not(node: Node) -> None:
    folder = node.store.parent / "out"
    save(folder, 1)
    (folder / "sub").mkdir()
    (folder / "sub" / "x").write_bytes(b"x")
    training = node.start(TRAINING)
    training.expect("ready")
    uploader = upload(node, str(folder / "step1.pt"), str(folder / "sub"), "--delete-after", "--step", "7")
    assert uploader.wait() == 0
    assert "sub uploaded: 1 B in" in uploader.stderr
    assert list(folder.iterdir()) == []
    again = upload(node, str(folder / "step1.pt"))
    assert again.wait() == 2
    assert "step1.pt does not exist; nothing was uploaded" in again.stderr
    listed = json.loads(node.cli("artifacts", "job", "--json"))
    assert [(each["name"], each["step"]) for each in listed] == [("step", 7), ("sub", 7)]
    training.say()
    assert training.wait() == 0


def test_ctrl_c_leaves_a_state_that_goes_on(served: Served) -> None:
    """What was handed over arrives without the command; the same command adds nothing."""
    folder = served.store.parent / "out"
    sums = [save(folder, step) for step in (1, 2)]
    training = served.start(TRAINING)
    training.expect("ready")
    fault = served.server.add_fault(kind="latency", seconds=NEVER_S, **STORAGE)
    uploader = upload(served, str(folder / "*.pt"), "--name", "ckpt")
    wait_until(lambda: len(served.server.files(served.remote("job")["id"])) == 2, f"addresses ({fault})")
    uploader.signal(signal.SIGINT)
    assert uploader.wait() == 130
    assert "1 on their way, which the coordinator goes on with" in uploader.stderr
    served.server.waive("6.3.4", text="second presign*")
    served.kill_coordinator()
    served.back()
    assert upload(served, str(folder / "*.pt"), "--name", "ckpt").wait() == 0
    again = upload(served, str(folder / "*.pt"), "--name", "ckpt")
    assert again.wait() == 0
    assert "*.pt was uploaded before: 4.0 MB, sha256" in again.stderr
    wait_until(lambda: set(sums) <= stored(served).keys(), "both files")
    assert len(served.server.files(served.remote("job")["id"])) == 3  # with the manifest
    training.say()
    assert training.wait() == 0


def test_what_the_server_refuses_is_told_and_the_exit_code_says_so(served: Served) -> None:
    folder = served.store.parent / "out"
    save(folder, 1)
    training = served.start(TRAINING)
    training.expect("ready")
    served.server.add_fault(kind="status", status=400, service="ingest", route="/files", count=1)
    uploader = upload(served, str(folder / "step1.pt"))
    assert uploader.wait() == 1
    assert "step1.pt was refused: " in uploader.stderr
    training.say()
    assert training.wait() == 0


def test_what_goes_while_it_is_waited_for_holds_up_no_other_file(node: Node) -> None:
    folder = node.store.parent / "out"
    save(folder, 1)
    training = node.start(TRAINING)
    training.expect("ready")
    with (folder / "open.pt").open("wb"):
        uploader = upload(node, str(folder / "open.pt"), str(folder / "step1.pt"))
        wait_until(lambda: "is being written: waiting" in uploader.stderr, "it is waited for")
        (folder / "open.pt").unlink()
        assert uploader.wait() == 1
    assert "open.pt cannot be uploaded: it is gone" in uploader.stderr
    assert "step1.pt uploaded: 2.0 MB" in uploader.stderr
    training.say()
    assert training.wait() == 0


@pytest.mark.parametrize("pattern", ["", "/etc/*"])
def test_a_pattern_that_means_no_names_of_the_folder_is_a_wrong_call(
    pattern: str, node: Node, tmp_path: Path
) -> None:
    told = node.cli("upload", "job", "--watch", str(tmp_path), "--pattern", pattern, code=2)
    assert f"--pattern {pattern!r} means no name below {tmp_path}" in told
