"""Arguments of public calls are checked before anything is opened or changed (G3, R1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pluto_dist as pluto
from pluto_dist.client.arguments import (
    LONGEST_WAIT_S,
    flag_of,
    fork_of,
    name_of,
    resume_of,
    run_of,
    seconds_of,
    whole_of,
)
from pluto_dist.client.lease import Lease
from pluto_dist.client.lease_files import LeaseFiles
from pluto_dist.coordinator.spools import LifecycleTail
from pluto_dist.core.values.ids import RunRef
from pluto_dist.core.values.lifecycle import Finished, Noted, TagsRemoved
from pluto_dist.errors import ArgumentError, ForkError, InvalidRecordError, SettingError
from pluto_dist.host.settings import Settings

BAD_OPENINGS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "name of another type": (lambda: pluto.init(name=5), ArgumentError, "name=5: pass a text"),
    "name without a form": (lambda: pluto.init(name=object()), ArgumentError, "type object"),
    "name that cannot be sent": (lambda: pluto.init(name="a\ud800"), ArgumentError, "surrogate"),
    "name too long": (lambda: pluto.init(name="x" * 256), ArgumentError, "255"),
    "resume as a number": (lambda: pluto.init(run_id="a", resume=1), ArgumentError, "resume=1: pass True"),
    "resume as a word": (lambda: pluto.init(run_id="a", resume="allow"), ArgumentError, "'allow'"),
    "resume of nothing": (lambda: pluto.init(resume=True, strict=True), ArgumentError, "run_id="),
    "fractional run_id": (lambda: pluto.init(run_id=1.5), ArgumentError, "run_id=1.5"),
    "run_id as a flag": (lambda: pluto.init(run_id=True), ArgumentError, "run_id=True"),
    "run_id of several": (lambda: pluto.init(run_id=np.zeros(3)), ArgumentError, "shape"),
    "inherit without a fork": (lambda: pluto.init(inherit_config=False), ForkError, "fork_run_id="),
    "inherit as a word": (lambda: pluto.init(inherit_tags="no"), ArgumentError, "'no'"),
    "fractional fork_step": (lambda: pluto.init(fork_run_id=1, fork_step=0.5), ForkError, "fork_step=0.5"),
    "role that is none": (lambda: pluto.init(role=["owner"]), ArgumentError, "roles are"),
    "settings as a text": (lambda: pluto.init(settings="x"), ArgumentError, "settings='x'"),
    "tags as a number": (lambda: pluto.init(tags=3), InvalidRecordError, "type int"),
    "attach for a negative time": (lambda: pluto.attach("a", timeout_s=-1), ArgumentError, "timeout_s=-1"),
    "attach for no time": (lambda: pluto.attach("a", timeout_s=None), ArgumentError, "timeout_s=None"),
    "attach for a word": (lambda: pluto.attach("a", timeout_s="5"), ArgumentError, "'5'"),
    "attach in another role": (lambda: pluto.attach("a", role="boss"), ArgumentError, "'boss'"),
    "finish of a code": (lambda: pluto.finish(1), ArgumentError, "by name: code="),
    "mode": (lambda: pluto.init(mode="foo"), SettingError, r"init\(mode=…\)"),
    "mode of attach": (lambda: pluto.attach(mode="foo"), SettingError, r"attach\(mode=…\)"),
    "setting of attach": (lambda: pluto.attach(settings={"foo": 3}), SettingError, r"attach\(settings="),
    "save_dir": (lambda: pluto.init(save_dir=7), SettingError, r"init\(save_dir=…\)"),
}


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a node on which nothing may be opened."""
    monkeypatch.setenv("PLUTO_DIST_HOME", str(tmp_path))
    for name in ("PLUTO_RUN_ID", "PLUTO_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "spool"


@pytest.mark.parametrize(("call", "error", "says"), BAD_OPENINGS.values(), ids=BAD_OPENINGS)
def test_a_call_that_cannot_be_meant_opens_nothing(
    spool: Path, call: Callable[[], Any], error: type[Exception], says: str
) -> None:
    """R1: a typed error with the value and the way out, before there is a lease."""
    with pytest.raises(error, match=says):
        call()
    assert not spool.exists()


def test_scalars_of_numpy_are_what_they_hold() -> None:
    """A step counter is often one; "a non-negative integer" would be no help."""
    assert fork_of(np.int64(7), np.int64(2), np.bool_(False), None) == fork_of(7, 2, False, None)
    assert run_of("run_id", np.int64(7)) == RunRef(id=7)
    assert whole_of("code", np.int64(1), 0, 5) == 1
    assert flag_of("resume", np.bool_(True)) is True
    assert seconds_of("timeout_s", np.float32(2.0)) == 2.0


def test_a_wait_without_end_is_a_long_one() -> None:
    """The platform's waits overflow; infinity is what people mean by for ever."""
    assert seconds_of("timeout_s", math.inf) == LONGEST_WAIT_S
    for bad in (math.nan, -0.1, True, "1", None):
        with pytest.raises(ArgumentError, match="timeout_s="):
            seconds_of("timeout_s", bad)


def test_where_no_run_is_named_there_is_none_to_go_on_with(caplog: pytest.LogCaptureFixture) -> None:
    """R5: as with the official client, `resume` without an id is a new Run; that is told."""
    assert not resume_of(True, None, strict=False)
    assert "this is a new Run" in caplog.text
    assert resume_of(True, RunRef(external_id="a"), strict=False)


def test_names_may_be_empty_and_in_any_script() -> None:
    assert [name_of(name) for name in (None, "", "модель 7", "x" * 255)] == [None, "", "модель 7", "x" * 255]


@pytest.mark.parametrize(
    "entry",
    [
        Noted(at=0.0, wall_ms=0, text=5),  # type: ignore[arg-type]
        Noted(at=0.0, wall_ms=0, text=object()),  # type: ignore[arg-type]
        Noted(at=0.0, wall_ms=0, text="\ud800"),
        TagsRemoved(at=0.0, wall_ms=0, tags=(3,)),  # type: ignore[arg-type]
        Finished(at=0.0, wall_ms=0, code="1"),  # type: ignore[arg-type]
    ],
    ids=["a number", "an object", "half a character", "no tag", "no code"],
)
def test_an_entry_that_nobody_could_read_is_not_written(tmp_path: Path, entry: Any) -> None:
    """R1: whatever a caller lets through, the stream on disk holds only what the coordinator can read."""
    files = LeaseFiles(tmp_path, segment_bytes=1 << 20, quota_bytes=None)
    with pytest.raises(ArgumentError, match=type(entry).__name__):
        files.say(entry)
    files.say(Noted(at=0.0, wall_ms=0, text="after"))
    ((number, read),) = LifecycleTail(str(files.folder)).read()
    assert (number, getattr(read, "text", "")) == (1, "after")


class _Link:
    """Nobody at the other end."""

    view = None

    def __init__(self) -> None:
        self.nudged = 0

    def nudge(self) -> None:
        self.nudged += 1


@pytest.mark.parametrize(
    "call",
    [
        lambda held: held.finish("1"),
        lambda held: held.finish(1.0),
        lambda held: held.finish(True),
        lambda held: held.finish(2**40),
        lambda held: held.finish(timeout_s="5"),
        lambda held: held.close(-1),
    ],
)
def test_a_refused_end_leaves_the_lease_as_it_was(tmp_path: Path, call: Callable[[Lease], None]) -> None:
    """G3, G7: nothing is written, so the next finish() still counts."""
    files = LeaseFiles(tmp_path, segment_bytes=1 << 20, quota_bytes=None)
    link: Any = _Link()
    held = Lease(files, link, Settings(), attached=False)
    with pytest.raises(ArgumentError):
        call(held)
    assert (held.end, files.lifecycle.written, link.nudged) == ("", 0, 0)


def test_evidence_with_a_file_name_of_another_encoding_is_written(tmp_path: Path) -> None:
    """R9: what an exception says may be no text at all; that it came is what counts."""
    files = LeaseFiles(tmp_path, segment_bytes=1 << 20, quota_bytes=None)
    link: Any = _Link()
    held = Lease(files, link, Settings(), attached=False)
    held.take_evidence(FileNotFoundError("caf\udce9.pt"))
    held.note("thread_exception", message="caf\udce9")
    assert files.lifecycle.written == 2
