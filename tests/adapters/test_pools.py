"""Slow work in bulkheads: what hangs holds back only its own kind at its own place."""

from __future__ import annotations

import threading
from typing import Literal

from pluto_dist.coordinator.threads import Place, Pools, place_of
from pluto_dist.core.values.backend import BackendRun, OpenRequest, StreamKind
from pluto_dist.core.values.effects import BeatRun, OpenRun, Ship, WriteDocument
from pluto_dist.core.values.lifecycle import Target
from tests.patience import PATIENCE_S


def ship(kind: StreamKind, server: str, run: str = "r", mode: Literal["local", "pluto"] = "pluto") -> Ship:
    target = Target(mode=mode, store="/s", url_ingest=server)
    return Ship(
        target="run",
        run=BackendRun(run, target, 1, "p"),
        lease_id="a",
        folder="/f",
        stream=kind,
        kind=kind,
        segment=1,
        start=0,
        stop=None,
        limit_lines=1,
        known={},
        renamed=False,
    )


def test_kinds_and_servers_do_not_wait_for_each_other() -> None:
    """G6: a failing file upload never holds back metrics, a hanging server no other one."""
    target = Target(mode="pluto", store="/s", url_ingest="http://a")
    request = OpenRequest(key="r", target=target, want="create", project="p", name="n")
    effects = [
        *(ship(kind, "http://a") for kind in ("metrics", "data", "console", "files")),
        ship("metrics", "http://b"),
        BeatRun(run=BackendRun("r", target, 1, "p")),
        OpenRun(run="r", request=request),
        WriteDocument(run="r", store="/s", revision=1, body=b""),
        *(ship(kind, "", mode="local") for kind in ("metrics", "files")),
    ]
    assert len({place_of(effect).bulkhead for effect in effects}) == len(effects)


def test_a_bulkhead_that_hangs_holds_back_no_other() -> None:
    pools, hang, done = Pools(), threading.Event(), threading.Event()
    for _ in range(5):
        pools.submit(Place("files", 2, "r"), lambda: hang.wait(PATIENCE_S) and None)
    pools.submit(Place("metrics", 2, "r"), done.set)
    assert done.wait(PATIENCE_S)
    hang.set()
    assert pools.close(PATIENCE_S)


def test_runs_take_turns() -> None:
    """A Run with many streams does not keep another one waiting for all of them."""
    pools, gate, order = Pools(), threading.Event(), list[str]()
    pools.submit(Place("metrics", 1, "gate"), lambda: gate.wait(PATIENCE_S) and None)
    for run in ("big", "big", "big", "small", "big", "small"):
        pools.submit(Place("metrics", 1, run), lambda run=run: order.append(run))  # type: ignore[misc]
    last = threading.Event()
    pools.submit(Place("metrics", 1, "big"), last.set)
    gate.set()
    assert last.wait(PATIENCE_S)
    assert order == ["big", "small", "big", "small", "big", "big"]
    assert pools.close(PATIENCE_S)


def test_all_work_is_done_by_no_more_threads_than_a_bulkhead_has() -> None:
    pools, lock, state = Pools(), threading.Lock(), {"now": 0, "most": 0, "done": 0}
    finished = threading.Event()

    def work() -> None:
        with lock:
            state["now"] += 1
            state["most"] = max(state["most"], state["now"])
        with lock:
            state["now"] -= 1
            state["done"] += 1
            if state["done"] == 500:
                finished.set()

    for number in range(500):
        pools.submit(Place("metrics", 3, f"r{number % 7}"), work)
    assert finished.wait(PATIENCE_S)
    assert state["most"] <= 3
    assert pools.close(PATIENCE_S)


def test_the_end_drops_what_has_not_begun_and_says_what_goes_on() -> None:
    """G5"""
    pools, hang, begun, dropped = Pools(), threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        hang.wait(PATIENCE_S)

    pools.submit(Place("metrics", 1, "r"), work)
    pools.submit(Place("metrics", 1, "r"), dropped.set)
    assert begun.wait(PATIENCE_S)
    assert not pools.close(0.05)
    hang.set()
    assert pools.close(PATIENCE_S)
    assert not dropped.is_set()
