"""R14 at the side of a process: what it may publish, and what a loop does with the answers."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from pluto_dist.client import topics
from pluto_dist.client.notices import WarnOnce
from pluto_dist.client.topics import Checkpoint, Item, Subscription, bounds_of
from pluto_dist.core.values.lifecycle import ItemDone, Published, Unsubscribed
from pluto_dist.core.values.messages import TakeItem
from pluto_dist.errors import (
    ArgumentError,
    CoordinatorUnavailableError,
    InvalidRecordError,
    PlutoDistError,
    RunEndedError,
    VersionMismatchError,
    WaitTimeoutError,
)


class Link:
    """Answers the questions that were foreseen; none means that no answer comes in time."""

    def __init__(self) -> None:
        self.answers: list[dict[str, Any] | None] = []
        self.asked: list[TakeItem] = []
        self.fault: PlutoDistError | None = None
        run = SimpleNamespace(relay="", hands_over=False)
        self.view = SimpleNamespace(state="active", role="side", topics=True, run=run)

    def ask(self, make: Callable[[int], TakeItem], timeout_s: float) -> bytes | None:
        self.asked.append(make(len(self.asked) + 1))
        answer = self.answers.pop(0)
        return None if answer is None else json.dumps(answer).encode()


class Lease:
    """As much of a lease as a hand-over needs; what it says is kept."""

    def __init__(self, *, strict: bool = False) -> None:
        self.lease_id = "0" * 24
        self.end = ""
        self.here = self.named = True
        self.link = Link()
        self.settings = SimpleNamespace(strict=strict)
        self.files = SimpleNamespace(unsaid=False, lifecycle=SimpleNamespace(written=1))
        self.warn_once = WarnOnce()
        self.said: list[Any] = []

    def stamp(self) -> dict[str, Any]:
        return {"at": 1.0, "wall_ms": 2}

    def say(self, entry: Any) -> None:
        self.said.append(entry)
        self.files.lifecycle.written += 1

    change = say


def payload(lease: Lease) -> Any:
    (entry,) = lease.said
    assert isinstance(entry, Published)
    return msgspec.json.decode(bytes(entry.payload))


def item(number: int, payload: Any = None) -> dict[str, Any]:
    return {"number": number, "last": 9, "item": {"payload": payload, "at_ms": 2500, "by": "owner"}}


ENDED = {"ended": True, "status": "COMPLETED", "gone": 0}


def loop(lease: Any, **how: Any) -> Subscription[Item]:
    return Subscription(lease, "t", Item, bounds_of(*(how.get(n) for n in ("group",)), False, how.get("s")))


# --- what is published ----------------------------------------------------------------------------


def test_a_checkpoint_is_its_absolute_path_its_step_and_what_is_said_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease: Any = Lease()
    (tmp_path / "a.pt").touch()
    monkeypatch.chdir(tmp_path)
    topics.checkpoint(lease, Path("a.pt"), np.int64(7), {"loss": np.float32(0.5), "worst": float("nan")})  # type: ignore[arg-type] # numpy's step
    assert payload(lease) == {
        "path": str(tmp_path / "a.pt"), "step": 7, "info": {"loss": 0.5, "worst": None},
    }  # fmt: skip


def test_a_folder_is_a_checkpoint_too(tmp_path: Path) -> None:
    lease: Any = Lease()
    topics.checkpoint(lease, str(tmp_path), 0, {})
    assert payload(lease) == {"path": str(tmp_path), "step": 0}


def test_an_address_goes_on_as_it_is() -> None:
    lease: Any = Lease()
    topics.checkpoint(lease, "s3://bucket/a.pt", 0, {})
    assert payload(lease) == {"path": "s3://bucket/a.pt", "step": 0}


def unfit(tmp_path: Path) -> dict[str, str]:
    """Paths at which there is nothing to be read, and what is said of them."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    return {
        str(tmp_path / "missing"): "no such file or folder",
        str(tmp_path / "dangling"): "no such file or folder",
        str(tmp_path / "pipe"): "neither a file nor a folder",
        f"{tmp_path}/with\0nul": "cannot be looked at",
        f"{tmp_path}/{'a' * 300}": "cannot be looked at",
    }


def test_a_path_that_nobody_could_read_is_one_warning_and_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """G4; with `strict` it raises."""
    lease, strict = Lease(), Lease(strict=True)
    for path, why in unfit(tmp_path).items():
        for _ in range(2):
            topics.checkpoint(lease, path, 1, {})  # type: ignore[arg-type] # as much of one as it needs
        (told,) = [each.message for each in caplog.records if path.partition("\0")[0] in each.message][-1:]
        assert why in told
        with pytest.raises(InvalidRecordError, match=why):
            topics.checkpoint(strict, path, 1, {})  # type: ignore[arg-type] # as above
    assert len(caplog.records) == 5, "each once"
    assert lease.said == strict.said == []


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (object(), "has no JSON form"),
        ({"a": {1, object}}, "has no JSON form"),
        (np.zeros(3), "not one element"),
        ({("a", "b"): 1}, "has no JSON form"),
        ("\ud800", "has no JSON form"),
        ("x" * 65535, "65537 bytes of JSON, the limit is 65536"),
    ],
)
def test_what_is_no_json_or_too_large_is_one_warning(
    given: object, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    lease: Any = Lease()
    topics.publish(lease, "t", given)
    topics.publish(lease, "t", given)
    (record,) = caplog.records
    assert why in record.message
    assert lease.said == []
    with pytest.raises(InvalidRecordError, match=why):
        topics.publish(Lease(strict=True), "t", given)  # type: ignore[arg-type] # as above


def test_the_largest_payload_goes(caplog: pytest.LogCaptureFixture) -> None:
    lease: Any = Lease()
    topics.publish(lease, "t", "x" * 65534)
    assert len(payload(lease)) == 65534


@pytest.mark.parametrize("topic", ["", "a b", "a/b", ".a", "a" * 65, 7, None, "checkpoints"])
def test_a_name_that_is_no_topic_raises_and_nothing_is_published(topic: Any) -> None:
    lease: Any = Lease()
    with pytest.raises(ArgumentError, match=r"topic|checkpoint\(path, step\)"):
        topics.publish(lease, topic, 1)
    assert lease.said == []


@pytest.mark.parametrize("step", [-1, 0.5, None, "a"])
def test_a_step_that_is_none_raises_as_with_log(step: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidRecordError, match="step"):
        topics.checkpoint(Lease(), tmp_path, step, {})  # type: ignore[arg-type] # as above


def test_an_older_coordinator_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """It would pass over the entry, and nobody would ever get it."""
    lease: Any = Lease()
    lease.link.view.topics = False
    topics.publish(lease, "t", 1)
    topics.publish(lease, "t", 2)
    (record,) = caplog.records
    assert "coordinator stop" in record.message


# --- the loop -------------------------------------------------------------------------------------


def test_to_take_the_next_one_says_that_the_last_one_is_done() -> None:
    lease: Any = Lease()
    lease.link.answers = [item(1, "a"), item(2, "b"), ENDED]
    found = [(each.number, each.payload, each.at, each.by) for each in loop(lease, group="g")]
    assert found == [(1, "a", 2.5, "owner"), (2, "b", 2.5, "owner")]
    assert [(entry.number, entry.group) for entry in lease.said] == [(1, "g"), (2, "g")]
    assert [asked.entries for asked in lease.link.asked] == [1, 2, 3], "not before that has taken effect"
    assert len({asked.member for asked in lease.link.asked}) == 1


def test_done_is_said_once() -> None:
    lease: Any = Lease()
    lease.link.answers = [item(1), ENDED]
    for each in loop(lease):
        each.done()
        each.done()
        assert [type(entry) for entry in lease.said] == [ItemDone]
    assert [type(entry) for entry in lease.said] == [ItemDone]


def test_a_loop_that_is_left_gives_back_what_it_has() -> None:
    lease: Any = Lease()
    lease.link.answers = [item(1)]
    for _ in loop(lease):
        break
    (entry,) = lease.said
    assert isinstance(entry, Unsubscribed)
    assert entry.member == lease.link.asked[0].member


def test_a_loop_that_ended_has_nothing_to_give_back() -> None:
    lease: Any = Lease()
    lease.link.answers = [ENDED]
    items = loop(lease)
    assert [*items] == [*items] == []
    items.close()
    assert lease.said == []


def test_a_wait_that_takes_too_long_raises_and_the_loop_may_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "SHORTEST_WAIT_S", 0.0)
    lease: Any = Lease()
    lease.link.answers = [None, item(1)]
    items = loop(lease, s=0.0)
    with pytest.raises(WaitTimeoutError, match="nothing new in 't' within 0 s"):
        next(items)
    assert next(items).number == 1


def test_without_a_time_it_asks_again() -> None:
    lease: Any = Lease()
    lease.link.answers = [None, None, item(1)]
    assert next(loop(lease)).number == 1


def test_what_keeps_a_loop_from_its_items_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    lease: Any = Lease()
    lease.link.answers = [None, None, item(1)]
    lease.link.fault = CoordinatorUnavailableError("no coordinator can run here")
    assert next(loop(lease)).number == 1
    assert [each.message for each in caplog.records] == ["no items come: no coordinator can run here"]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"end": "closed"}, RunEndedError),
        ({"here": False}, RunEndedError),
        ({"link.view.topics": False}, VersionMismatchError),
    ],
)
def test_where_nothing_can_come_the_loop_says_so(change: dict[str, Any], error: type[PlutoDistError]) -> None:
    lease: Any = Lease()
    for path, value in change.items():
        *parents, name = path.split(".")
        place = lease
        for parent in parents:
            place = getattr(place, parent)
        setattr(place, name, value)
    with pytest.raises(error):
        next(loop(lease))


def test_an_item_that_cannot_be_read_is_passed_over_with_a_line(caplog: pytest.LogCaptureFixture) -> None:
    lease: Any = Lease()
    lost = {"number": 1, "last": 3, "item": None}
    lease.link.answers = [lost, item(2, "no checkpoint"), item(3, {"path": "/a", "step": 4}), ENDED]
    found = Subscription(lease, "checkpoints", Checkpoint, bounds_of(None, False, None))
    assert [(each.path, each.step, each.info) for each in found] == [("/a", 4, {})]
    assert [entry.number for entry in lease.said] == [1, 2, 3]
    assert [each.message.partition(" of ")[0] for each in caplog.records] == ["item 1", "item 2"]


def test_what_was_handed_over_too_long_ago_is_told(caplog: pytest.LogCaptureFixture) -> None:
    lease: Any = Lease()
    lease.link.answers = [ENDED | {"gone": 12}]
    with caplog.at_level(logging.WARNING):
        assert [*loop(lease)] == []
    assert "12 items of 't' were handed over long ago" in caplog.text


def test_on_a_node_that_does_not_own_the_run_it_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """R14: hand-over is of one node."""
    lease: Any = Lease()
    lease.link.view.run.relay = "node1"
    topics.publish(lease, "t", 1)
    lease.link.answers = [ENDED]
    assert [*loop(lease)] == []
    (record,) = caplog.records
    assert "stays here" in record.message


@pytest.mark.parametrize(("group", "told"), [(None, 1), ("g", 0)])
def test_without_a_label_it_is_told_that_nothing_remembers_where_it_stopped(
    group: str | None, told: int, caplog: pytest.LogCaptureFixture
) -> None:
    lease: Any = Lease()
    lease.named = False
    lease.link.answers = [item(1), ENDED]
    assert len([*loop(lease, group=group)]) == 1
    assert len(caplog.records) == told


@pytest.mark.parametrize("group", ["", 7, "a\nb", "a" * 101])
def test_a_group_without_a_name_raises(group: Any) -> None:
    with pytest.raises(ArgumentError, match="group="):
        bounds_of(group, False, None)


def test_a_path_of_another_host_that_is_not_here_is_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With a cluster store; the item goes on as it is, and the eval decides."""
    lease: Any = Lease()
    (tmp_path / "there").touch()
    paths = [str(tmp_path / "there"), "s3://bucket/a.pt", "/of/the/trainer/a.pt", "/of/the/trainer/b.pt"]
    for number, path in enumerate(paths, 1):
        answer = item(number, {"path": path, "step": number})
        answer["item"]["host"] = "gpu-a"
        lease.link.answers.append(answer)
    checkpoints = Subscription(lease, "checkpoints", Checkpoint, bounds_of(None, False, None))
    with caplog.at_level(logging.WARNING, "pluto_dist"):
        assert [next(checkpoints).path for _ in paths] == paths
    (said,) = [record.message for record in caplog.records]
    assert "checkpoint 3: /of/the/trainer/a.pt is not on this host" in said
    assert "owner on gpu-a has handed it over" in said


def test_who_hands_over_to_other_nodes_is_not_told_of_an_end_at_the_node(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for shared in (True, False):
        lease: Any = Lease()
        lease.link.view.run = SimpleNamespace(relay="node1", hands_over=shared)
        caplog.clear()
        with caplog.at_level(logging.WARNING, "pluto_dist"):
            topics.publish(lease, "t", 1)
        assert ["stays here" in record.message for record in caplog.records] == [True] * (not shared)
