"""Metrics of several streams of one Run in one request: what goes together, and what spoils nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pluto_dist.coordinator.threads import TOGETHER_BYTES, Background, Together
from pluto_dist.coordinator.worker import Worker, may_go_together
from pluto_dist.core.rules.stream import MAX_LINES
from pluto_dist.core.values.backend import BackendRun, Batch, Delivered, Outcome, Rejected, Retry, StreamKind
from pluto_dist.core.values.effects import Ship
from pluto_dist.core.values.events import Event, NamesFound, Shipped
from pluto_dist.core.values.lifecycle import Target
from pluto_dist.spool.frames import encode_frame, segment_name

RUN = BackendRun("r", Target(mode="pluto", store="/s", url_ingest="http://a"), 1, "p")
BAD = b'"bad"'


class Server:
    """Refuses a request that holds a bad line, whole."""

    def __init__(self) -> None:
        self.requests: list[tuple[bytes, ...]] = []
        self.answer: Outcome = Delivered()

    def deliver(self, run: BackendRun, batch: Batch) -> Outcome:
        self.requests.append(batch.lines)
        return Rejected("a bad line") if any(BAD in line for line in batch.lines) else self.answer


class Later:
    """Stands for the bulkheads: work is done when the test says so."""

    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []

    def submit(self, place: object, work: Callable[[], None]) -> None:
        self.work.append(work)

    def run(self) -> None:
        """Does it all."""
        while self.work:
            self.work.pop(0)()


def line(value: int, name: str = "loss") -> bytes:
    return b'{"time":1,"step":%d,"data":{"%b":%d}}\n' % (value, name.encode(), value)


def spooled(folder: Path, lease: str, *lines: bytes, run: BackendRun = RUN, **fields: Any) -> Ship:
    """The effect for a stream with these lines."""
    place = folder / lease
    place.mkdir(mode=0o700)
    data = b"".join(encode_frame(each, sequence=number) for number, each in enumerate(lines))
    (place / segment_name("metrics", 1)).write_bytes(data)
    kind: StreamKind = "metrics"
    given: dict[str, Any] = {
        "target": "run",
        "run": run,
        "lease_id": lease,
        "folder": str(place),
        "stream": "metrics",
        "kind": kind,
        "segment": 1,
        "start": 0,
        "stop": len(data),
        "limit_lines": MAX_LINES,
        "known": {"loss": "loss"},
        "renamed": False,
    }
    return Ship(**given | fields)


def carried_out(server: Server, *ships: Ship) -> dict[str, Event]:
    """What comes of effects that wait at the same time, by lease."""
    backend: Any = server
    background, later = Background(Worker(lambda target: backend), lambda: True), Later()
    pools: Any = later
    background._pools = pools
    for ship in ships:
        background.submit(ship)
    later.run()
    events: Any = list(background.collect())
    assert len(events) == len(ships)
    return {event.lease_id: event for event in events}


def test_streams_of_one_run_share_a_request(tmp_path: Path) -> None:
    """G6: in order per stream; each has its own answer, with its own end."""
    server = Server()
    first, second = (
        spooled(tmp_path, "a", line(1), line(2)),
        spooled(tmp_path, "b", line(3), known={"loss": "loss/b"}, renamed=True),
    )
    events = carried_out(server, first, second)
    assert server.requests == [(line(1), line(2), line(3, "loss/b"))]
    for ship, lines in ((first, 2), (second, 1)):
        event = events[ship.lease_id]
        assert isinstance(event, Shipped)
        assert (event.outcome, event.end, event.lines) == (Delivered(), ship.stop, lines)


def test_what_the_server_refuses_is_told_to_its_own_stream_alone(tmp_path: Path) -> None:
    """G6: a failing stream holds back no other."""
    server = Server()
    bad = b'{"time":1,"step":1,"data":{"loss":%b}}\n' % BAD
    events = carried_out(
        server, *(spooled(tmp_path, name, text) for name, text in (("a", line(1)), ("b", bad)))
    )
    assert server.requests[1:] == [(line(1),), (bad,)]
    a, b = events["a"], events["b"]
    assert isinstance(a, Shipped)
    assert isinstance(b, Shipped)
    assert (a.outcome, b.outcome) == (Delivered(), Rejected("a bad line"))


def test_a_stream_that_cannot_be_read_spoils_no_other(tmp_path: Path) -> None:
    """G6"""
    server, lost = Server(), spooled(tmp_path, "b", line(2))
    (tmp_path / "b" / segment_name("metrics", 1)).unlink()
    events = carried_out(server, spooled(tmp_path, "a", line(1)), lost)
    assert server.requests == [(line(1),)]
    a, b = events["a"], events["b"]
    assert isinstance(a, Shipped)
    assert isinstance(b, Shipped)
    assert a.outcome == Delivered()
    assert isinstance(b.outcome, Retry)


def test_new_names_hold_back_their_own_stream_alone(tmp_path: Path) -> None:
    """R7"""
    server = Server()
    events = carried_out(server, spooled(tmp_path, "a", line(1)), spooled(tmp_path, "b", line(2, "new")))
    assert server.requests == [(line(1),)]
    assert isinstance(events["b"], NamesFound)


def test_a_failure_is_that_of_all_that_were_in_the_request(tmp_path: Path) -> None:
    """G6: none of the cursors moves."""
    server = Server()
    server.answer = Retry("503")
    events = carried_out(server, spooled(tmp_path, "a", line(1)), spooled(tmp_path, "b", line(2)))
    assert len(server.requests) == 1
    assert {event.outcome for event in events.values() if isinstance(event, Shipped)} == {Retry("503")}


def test_a_request_has_no_more_lines_than_one_stream_may_send(tmp_path: Path) -> None:
    """The server's contract: about 10,000 lines."""
    server, short = Server(), line(1)
    some = [short] * (MAX_LINES // 3)
    backend: Any = server
    worker = Worker(lambda target: backend)
    assert worker.ship_together([spooled(tmp_path, name, *some) for name in "abcd"]) is not None
    assert [len(lines) for lines in server.requests] == [3 * len(some), len(some)]


def test_only_whole_batches_of_metrics_for_one_server_run_go_together(tmp_path: Path) -> None:
    """G6: what is searched for a bad record goes alone, and so does what must not be repeated unseen."""
    local = BackendRun("r", Target(mode="local", store="/s"), 1, "p")
    assert may_go_together(spooled(tmp_path, "a", line(1)))
    assert not may_go_together(spooled(tmp_path, "b", line(1), limit_lines=MAX_LINES // 2))
    assert not may_go_together(spooled(tmp_path, "c", line(1), kind="data"))
    assert not may_go_together(spooled(tmp_path, "d", line(1), run=local))


def test_each_is_taken_once_and_no_more_than_fits(tmp_path: Path) -> None:
    """A Run that was opened anew is another one on the server."""
    reopened = BackendRun("r", RUN.target, 2, "p")
    first = spooled(tmp_path, "a", line(1))
    large = spooled(tmp_path, "b", line(1), stop=TOGETHER_BYTES)
    small = spooled(tmp_path, "c", line(1))
    other = spooled(tmp_path, "d", line(1), run=reopened)
    together = Together()
    for ship in (first, large, small, other):
        together.add(ship)
    assert [ship.lease_id for ship in together.take(small)] == ["c", "a"]
    assert together.take(first) == []
    assert [ship.lease_id for ship in together.take(large)] == ["b"]
    assert [ship.lease_id for ship in together.take(other)] == ["d"]
    assert together.take(other) == []
