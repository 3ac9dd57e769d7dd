"""One sample of the node, written for each of its Runs: a metrics stream like any other (G3, G6).

The folder of such a stream lies among the leases, but no process holds it: there is no lifecycle stream and
no lock. Steps go on behind the last record on the disk or the last that was delivered, whichever is higher;
on the disk there may also be a former stream of the same Run that the server has not taken yet.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from pluto_dist.core.effects import NodeFeed
from pluto_dist.node import spools
from pluto_dist.node.system.sensors import Sensors, disk_used
from pluto_dist.spool.space import Space
from pluto_dist.spool.writer import Limits, StreamWriter

FRESH_S = 0.5  # Runs that are due within this time share one sample
SEGMENT_BYTES = 1 << 20

_to_json = msgspec.json.Encoder().encode


class _Stream:
    """The open stream of one Run."""

    def __init__(self, feed: NodeFeed) -> None:
        folder = Path(feed.folder)
        folder.mkdir(mode=0o700, exist_ok=True)
        space = Space(str(folder.parent.parent))
        self.writer = StreamWriter(feed.folder, "metrics", Limits(segment_bytes=SEGMENT_BYTES), space=space)
        known = map(spools.next_step, (feed.folder, *feed.earlier))
        self.step = max(feed.first_step, *known)


class NodeRecorder:
    """Samples and writes; may be called by several threads. `end` never waits for a sensor.

    Args:
        sensors: of this node.
        monotonic: seconds.
        wall_ms: epoch milliseconds.
    """

    def __init__(
        self,
        sensors: Sensors | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._sensors = sensors or Sensors()
        self._monotonic = monotonic
        self._wall_ms = wall_ms
        self._streams: dict[str, _Stream] = {}
        self._ended: set[str] = set()
        self._sampling = threading.Lock()
        self._turn = threading.Lock()
        self._sampled_at = float("-inf")
        self._values: dict[str, float] = {}

    def record(self, feeds: Iterable[NodeFeed]) -> None:
        """Writes one record for each feed; none while a sample is being taken, because a sensor may hang.

        Raises:
            OSError: a folder cannot be made; the feeds before it were written.
        """
        if not self._sampling.acquire(blocking=False):
            return
        try:
            values = self._sample()
            for feed in feeds:
                self._write(feed, {**values, **disk_used(feed.store)})
        finally:
            self._sampling.release()

    def end(self, lease_id: str) -> None:
        """The Run has ended: nothing more will be written for it."""
        with self._turn:
            self._ended.add(lease_id)
            stream = self._streams.pop(lease_id, None)
            if stream is not None:
                stream.writer.close()

    def _sample(self) -> dict[str, float]:
        now = self._monotonic()
        if now >= self._sampled_at + FRESH_S:
            self._values, self._sampled_at = self._sensors.sample(now), now
        return self._values

    def _write(self, feed: NodeFeed, values: dict[str, float]) -> None:
        prefix = f"sys/{feed.host}/" if feed.host else "sys/"
        data = {prefix + name: value for name, value in values.items()}
        with self._turn:
            if not data or feed.lease_id in self._ended:
                return
            stream = self._streams.get(feed.lease_id)
            if stream is None:
                stream = self._streams[feed.lease_id] = _Stream(feed)
            line = {"time": self._wall_ms(), "step": stream.step, "data": data}
            stream.step += stream.writer.append(_to_json(line) + b"\n")
